"""From a film to its captions file, in both ways."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from neuroalign.config.text import Text
from neuroalign.errors import UserError
from neuroalign.io import read_json
from neuroalign.text import described
from neuroalign.text.blip2 import Blip2Captioner
from neuroalign.text.build import build_captions
from neuroalign.text.captions import read_captions
from neuroalign.text.described import describe, middle_frames
from neuroalign.text.embedding import TextEmbedder
from neuroalign.text.tsv import read_said
from neuroalign.video.decode import FilmReader, iterate_frames
from neuroalign.video.windows import window_grid

TABLE = "onset\tduration\tcaption\n0\t3\ta dog runs\n2\t1.5\ta man\n8\t0.5\tthe cat sits\n"


def _config(**more):
    return Text(source="blip2", device="cpu", beams=2, max_tokens=6, **more)


@pytest.fixture(scope="module")
def folders(blip2_folder, sentence_folder):
    return blip2_folder, sentence_folder


def test_blip2_describes_every_window(folders, mezzanine, tmp_path):
    config = _config(window_s=2, stride_s=1.5, batch_size=4)
    said, record = tmp_path / "film.tsv", tmp_path / "film.json"
    describe(mezzanine, said, record, config, folders[0])
    build_captions(said, mezzanine, tmp_path / "film.h5", config, folders[1], record=record)
    found = read_captions(tmp_path / "film.h5")
    # By hand: of windows of 2 s every 1.5 s, the frames 8, 20, 32 … of 8 a second, one picture at a time. The last
    # window has only its first second in the film.
    np.testing.assert_allclose(found.times, 1 + 1.5 * np.arange(7))
    frames = np.concatenate([frames for _, frames in iterate_frames(mezzanine)])
    captioner = Blip2Captioner.from_folder(folders[0], config)
    embedder = TextEmbedder.from_folder(folders[1], config)
    expected = [captioner(frames[k : k + 1])[0] for k in (*range(8, 69, 12), 76)]
    assert found.captions == expected
    assert len(set(expected)) > 2
    for caption, vector in zip(expected, found.features, strict=True):
        np.testing.assert_allclose(vector, embedder([caption])[0] if caption else 0, atol=1e-3)
    assert found.attributes["backbone"] == f"{folders[0]} + {folders[1]}"
    assert found.attributes["revision"].count("@sha256:") == 2
    assert (found.attributes["window_s"], found.attributes["stride_s"]) == (2.0, 1.5)
    assert read_json(record)["provenance"]["config"]["beams"] == 2
    assert set(read_json(record)["provenance"]["inputs"]) == {"film"}
    with h5py.File(tmp_path / "film.h5") as file:
        assert set(json.loads(file.attrs["provenance"])["inputs"]) == {"captions", "film"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.h5", "film.json", "film.tsv"]
    # The table is one that a user could bring.
    assert [row.caption for row in read_said(said)] == [caption for caption in expected if caption]


def test_words_come_through_the_table_as_they_are(folders, mezzanine, tmp_path, monkeypatch):
    words = ["None", 'a sign says "no"', "", '"exit"', "it's 3\u20444, é", "null", "n", "7", "nan", "the end"]
    monkeypatch.setattr(Blip2Captioner, "__call__", lambda self, frames: words[: len(frames)])
    said, record = tmp_path / "film.tsv", tmp_path / "film.json"
    assert describe(mezzanine, said, record, _config(), folders[0]) == words
    result = build_captions(said, mezzanine, tmp_path / "film.h5", _config(), folders[1], record=record)
    assert result.captions == words
    assert result.has_text.tolist() == [word != "" for word in words]
    config = _config(window_s=3, stride_s=3)
    with pytest.raises(UserError, match=r"line 3: no window of the film begins at 1 s"):
        build_captions(said, mezzanine, tmp_path / "film.h5", config, folders[1], record=record)


def test_a_window_is_shown_by_the_frame_at_its_centre():
    grid = window_grid(80, 8.0, 1.0, 1.0)
    np.testing.assert_array_equal(middle_frames(grid), np.arange(4, 80, 8))
    # One frame per window; and a last window that reaches past the film.
    np.testing.assert_array_equal(middle_frames(window_grid(3, 8.0, 0.125, 0.125)), [0, 1, 2])
    assert middle_frames(window_grid(7, 8.0, 1.0, 1.0)).max() < 7


class _Killed(BaseException):
    """What no code here catches."""


def test_a_killed_job_goes_on_and_gives_the_same_file(folders, mezzanine, tmp_path, monkeypatch):
    def run(name):
        files = tmp_path / f"{name}.tsv", tmp_path / f"{name}.json"
        describe(mezzanine, *files, _config(batch_size=3), folders[0])
        return [file.read_bytes() for file in files]

    whole = run("whole")
    calls = []
    real = Blip2Captioner.__call__

    def counted(self, frames):
        calls.append(len(frames))
        if len(calls) == 3:
            raise _Killed
        return real(self, frames)

    monkeypatch.setattr(Blip2Captioner, "__call__", counted)
    with pytest.raises(_Killed):
        run("film")
    side_file = tmp_path / ".film.tsv.partial"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".film.tsv.partial", "whole.json", "whole.tsv"]
    # Killed in the middle of a line, too.
    with side_file.open("ab") as file:
        file.write(b'["half a capt')
    assert run("film") == whole
    assert calls == [3, 3, 3, 3, 1]
    assert not side_file.exists()


def test_a_job_killed_before_its_table_is_written_keeps_the_words(folders, mezzanine, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise _Killed

    files = tmp_path / "film.tsv", tmp_path / "film.json"
    with monkeypatch.context() as patch:
        patch.setattr(described, "write_tsv", killed)
        with pytest.raises(_Killed):
            describe(mezzanine, *files, _config(), folders[0])
    monkeypatch.setattr(Blip2Captioner, "__call__", killed)
    describe(mezzanine, *files, _config(), folders[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.json", "film.tsv"]


def test_other_settings_do_not_go_on_from_there(folders, mezzanine, tmp_path, monkeypatch):
    calls = []
    real = Blip2Captioner.__call__

    def counted(self, frames):
        calls.append(len(frames))
        if len(calls) == 2:
            raise _Killed
        return real(self, frames)

    files = tmp_path / "film.tsv", tmp_path / "film.json"
    monkeypatch.setattr(Blip2Captioner, "__call__", counted)
    with pytest.raises(_Killed):
        describe(mezzanine, *files, _config(batch_size=6), folders[0])
    captions = describe(mezzanine, *files, _config(batch_size=6, prompt="a photo of"), folders[0])
    assert calls == [6, 4, 6, 4]
    captioner = Blip2Captioner.from_folder(folders[0], _config(prompt="a photo of"))
    frames = FilmReader(mezzanine).read(np.arange(4, 80, 8))
    assert captions == real(captioner, frames)


def _brought(folder, table=TABLE, **more):
    (folder / "table.tsv").write_text(table)
    return folder / "table.tsv", Text(source="tsv", captions_dir=str(folder), device="cpu", **more)


def test_captions_of_a_table(sentence_folder, mezzanine, tmp_path):
    table, config = _brought(tmp_path, window_s=2, stride_s=2)
    build_captions(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
    found = read_captions(tmp_path / "film.h5")
    np.testing.assert_allclose(found.times, [1, 3, 5, 7, 9])
    assert found.captions == ["a dog runs", "a dog runs a man", "", "", "the cat sits"]
    assert found.has_text.tolist() == [True, True, False, False, True]
    embedder = TextEmbedder.from_folder(sentence_folder, config)
    np.testing.assert_allclose(found.features[1], embedder(["a dog runs a man"])[0], atol=1e-3)
    assert not found.features[2:4].any()
    np.testing.assert_allclose(np.linalg.norm(found.features[found.has_text], axis=1), 1, atol=2e-3)
    assert found.attributes["backbone"] == f"tsv + {sentence_folder}"


def test_a_film_about_which_nothing_is_said(sentence_folder, mezzanine, tmp_path):
    table, config = _brought(tmp_path, "onset\tduration\tcaption\n")
    build_captions(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
    found = read_captions(tmp_path / "film.h5")
    assert found.features.shape == (10, 24)
    assert not found.has_text.any()


@pytest.mark.parametrize("attributes", [{"window_s": 2.0}, {}])
def test_where_only_features_are_at_hand_they_say_how_long_the_film_is(sentence_folder, tmp_path, attributes):
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["times"] = np.arange(1.0, 20, 2)
        file["features"] = np.zeros((10, 3), np.float32)
        file.attrs.update(attributes)
    table, config = _brought(tmp_path, window_s=1.5, stride_s=1.5)
    build_captions(table, tmp_path / "features.h5", tmp_path / "film.h5", config, sentence_folder)
    found = read_captions(tmp_path / "film.h5")
    np.testing.assert_allclose(found.times, 0.75 + 1.5 * np.arange(13))
    assert found.captions[5] == "the cat sits"


def test_captions_of_another_film_are_refused(sentence_folder, mezzanine, tmp_path):
    table, config = _brought(tmp_path, "onset\tduration\tcaption\n900\t3\ta dog runs\n")
    with pytest.raises(UserError, match="after the end of the film at 10 s"):
        build_captions(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
    assert not (tmp_path / "film.h5").exists()


def test_frames_by_number_are_those_of_a_player(mezzanine):
    """Frames picked out of a film are those that decoding it from its beginning gives."""
    every = np.concatenate([frames for _, frames in iterate_frames(mezzanine)])
    chosen = np.arange(4, 80, 8)
    np.testing.assert_array_equal(FilmReader(mezzanine).read(chosen), every[chosen])


def test_a_table_needs_no_captioner():
    script = (
        "import sys, neuroalign.text.tsv, neuroalign.text.captions\n"
        "assert not {'torch', 'transformers', 'decord', 'av'} & set(sys.modules)\n"
        "import neuroalign.text.build\n"
        "assert 'neuroalign.text.blip2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
