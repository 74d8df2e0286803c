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
from neuroalign.text import described
from neuroalign.text.blip2 import Blip2Captioner
from neuroalign.text.brought import caption_from_table
from neuroalign.text.captions import read_captions
from neuroalign.text.described import caption_from_film, middle_frames
from neuroalign.text.embedding import TextEmbedder
from neuroalign.text.progress import Progress
from neuroalign.video.decode import FilmReader, iterate_frames
from neuroalign.video.windows import window_grid

TABLE = "onset\tduration\tcaption\n0\t3\ta dog runs\n2\t1.5\ta man\n8\t0.5\tthe cat sits\n"


def _config(**more):
    return Text(source="blip2", device="cpu", beams=2, max_tokens=6, **more)


@pytest.fixture(scope="module")
def folders(blip2_folder, sentence_folder):
    return blip2_folder, sentence_folder


def _content(path):
    """Everything in an HDF5 file, to compare."""
    found = {}
    with h5py.File(path) as file:
        found["/"] = dict(file.attrs)
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tolist()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def test_blip2_describes_every_window(folders, mezzanine, tmp_path):
    config = _config(window_s=2, stride_s=1.5, batch_size=4)
    caption_from_film(mezzanine, tmp_path / "film.h5", config, *folders)
    found = read_captions(tmp_path / "film.h5")
    # By hand: of windows of 2 s every 1.5 s, the frames 8, 20, 32 … of 8 a second, one picture at a time. The last
    # window has only its first second in the film.
    np.testing.assert_allclose(found.times, 1 + 1.5 * np.arange(7))
    frames = np.concatenate([frames for _, frames in iterate_frames(mezzanine)])
    captioner, embedder = (
        Blip2Captioner.from_folder(folders[0], config),
        TextEmbedder.from_folder(folders[1], config),
    )
    expected = [captioner(frames[k : k + 1])[0] for k in (*range(8, 69, 12), 76)]
    assert found.captions == expected
    assert len(set(expected)) > 2
    for caption, vector in zip(expected, found.features, strict=True):
        np.testing.assert_allclose(vector, embedder([caption])[0] if caption else 0, atol=1e-3)
    assert found.attributes["backbone"] == f"{folders[0]} + {folders[1]}"
    assert found.attributes["revision"].count("@sha256:") == 2
    assert (found.attributes["window_s"], found.attributes["stride_s"]) == (2.0, 1.5)
    with h5py.File(tmp_path / "film.h5") as file:
        made_by = json.loads(file.attrs["provenance"])
    assert made_by["config"]["beams"] == 2
    assert set(made_by["inputs"]) == {"film"}
    assert [p.name for p in tmp_path.iterdir()] == ["film.h5"]


def test_a_window_is_shown_by_the_frame_at_its_centre():
    grid = window_grid(80, 8.0, 1.0, 1.0)
    np.testing.assert_array_equal(middle_frames(grid), np.arange(4, 80, 8))
    # One frame per window; and a last window that reaches past the film.
    np.testing.assert_array_equal(middle_frames(window_grid(3, 8.0, 0.125, 0.125)), [0, 1, 2])
    assert middle_frames(window_grid(7, 8.0, 1.0, 1.0)).max() < 7


class _Killed(BaseException):
    """What no code here catches."""


def test_a_killed_job_goes_on_and_gives_the_same_file(folders, mezzanine, tmp_path, monkeypatch):
    config = _config(batch_size=3)
    caption_from_film(mezzanine, tmp_path / "whole.h5", config, *folders)
    calls = []
    real = Blip2Captioner.__call__

    def counted(self, frames):
        calls.append(len(frames))
        if len(calls) == 3:
            raise _Killed
        return real(self, frames)

    monkeypatch.setattr(Blip2Captioner, "__call__", counted)
    with pytest.raises(_Killed):
        caption_from_film(mezzanine, tmp_path / "film.h5", config, *folders)
    side_file = tmp_path / "film.partial.jsonl"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.partial.jsonl", "whole.h5"]
    # Killed in the middle of a line, too.
    with side_file.open("ab") as file:
        file.write(b'["half a capt')
    caption_from_film(mezzanine, tmp_path / "film.h5", config, *folders)
    assert calls == [3, 3, 3, 3, 1]
    assert _content(tmp_path / "film.h5") == _content(tmp_path / "whole.h5")
    assert not side_file.exists()


def test_a_job_killed_between_words_and_vectors_keeps_the_words(folders, mezzanine, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(described, "build_captions", killed)
        with pytest.raises(_Killed):
            caption_from_film(mezzanine, tmp_path / "film.h5", _config(), *folders)
    monkeypatch.setattr(Blip2Captioner, "__call__", killed)
    caption_from_film(mezzanine, tmp_path / "film.h5", _config(), *folders)
    assert [p.name for p in tmp_path.iterdir()] == ["film.h5"]


def test_other_settings_do_not_go_on_from_there(tmp_path):
    side_file = tmp_path / "film.partial.jsonl"
    with Progress(side_file, {"beams": 1}) as progress:
        progress.add(["a", "b"])
    with Progress(side_file, {"beams": 1}) as progress:
        assert progress.done == ["a", "b"]
        progress.add(["c"])
    with Progress(side_file, {"beams": 1}) as progress:
        assert progress.done == ["a", "b", "c"]
    with Progress(side_file, {"beams": 2}) as progress:
        assert progress.done == []
        progress.add(["d"])
    with Progress(side_file, {"beams": 2}) as progress:
        assert progress.done == ["d"]
    progress.remove()
    assert not side_file.exists()


def _brought(folder, table=TABLE, **more):
    (folder / "table.tsv").write_text(table)
    return folder / "table.tsv", Text(source="tsv", captions_dir=str(folder), device="cpu", **more)


def test_captions_of_a_table(sentence_folder, mezzanine, tmp_path):
    table, config = _brought(tmp_path, window_s=2, stride_s=2)
    caption_from_table(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
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
    caption_from_table(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
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
    caption_from_table(table, tmp_path / "features.h5", tmp_path / "film.h5", config, sentence_folder)
    found = read_captions(tmp_path / "film.h5")
    np.testing.assert_allclose(found.times, 0.75 + 1.5 * np.arange(13))
    assert found.captions[5] == "the cat sits"


def test_captions_of_another_film_are_refused(sentence_folder, mezzanine, tmp_path):
    table, config = _brought(tmp_path, "onset\tduration\tcaption\n900\t3\ta dog runs\n")
    with pytest.raises(UserError, match="after the end of the film at 10 s"):
        caption_from_table(table, mezzanine, tmp_path / "film.h5", config, sentence_folder)
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
        "import neuroalign.text.brought\n"
        "assert 'neuroalign.text.blip2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
