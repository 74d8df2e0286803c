"""`neuroalign retrieve`: equal to the score of the API, fair over the gallery, and clear about wrong input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroalign
from neuroalign.cli import main
from neuroalign.config.fmri import Hrf
from neuroalign.config.train import Encoder
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, read_series, write_series
from neuroalign.gallery import Best, joined
from neuroalign.models.model import Architecture, NeuroAlign
from neuroalign.models.scaling import Scaler, Scalers
from neuroalign.models.score import Embedding as Clips
from neuroalign.models.score import Weights
from neuroalign.models.trained import TrainedModel
from neuroalign.retrieve import retrieve
from neuroalign.text.captions import Captions, read_captions, write_captions
from neuroalign.video.shards import Embedding, read_embedding, write_embedding

UNITS = {"early": [f"early_{i}" for i in range(6)], "high": [f"high_{i}" for i in range(5)]}
FEATURES = 7


@dataclass
class Files:
    """An untrained model, three films and two runs."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "models" / "seed-0"

    @property
    def films(self) -> Path:
        return self.root / "embeddings"

    @property
    def runs(self) -> Path:
        return self.root / "roi"

    @property
    def run(self) -> Path:
        return self.runs / "sub-01_task-film_timeseries.h5"


def scaler(units: int) -> Scaler:
    return Scaler(np.zeros(units, np.float32), np.ones(units, np.float32), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    files = Files(tmp_path_factory.mktemp("results"))
    write_model(files.model / "ntcl")
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((60, 31, 12)):
        times = np.arange(seconds) + 0.5
        data = {"features": rng.standard_normal((seconds, FEATURES)).astype(np.float32) + number}
        attributes = {"window_s": 1.0, "stride_s": 1.0, "hrf_convolved": False}
        write_embedding(files.films / f"film-{number}.h5", Embedding(data, times, attributes=attributes))
    for subject in ("01", "02"):
        levels = {name: rng.standard_normal((40, len(u))).astype(np.float32) for name, u in UNITS.items()}
        attributes = {"subject": subject, "task": "film", "tr": 1.5}
        series = RoiSeries(levels, UNITS, (np.arange(40) + 0.5) * 1.5, np.ones(40, bool), attributes)
        write_series(files.runs / f"sub-{subject}_task-film_timeseries.h5", series)
    (files.runs / "sub-01_task-film_qc.h5").touch()
    return files


def write_model(folder: Path, words: int = 0, hrf: Hrf | None = None) -> None:
    """An untrained model; one that learned from captions of `words` dimensions, if any."""
    torch.manual_seed(0)
    architecture = Architecture(
        brain_levels={level: len(labels) for level, labels in UNITS.items()},
        video_levels={"features": FEATURES},
        subjects=["01", "02"],
        shared_units=True,
        aligned=hrf is not None and hrf.aligned,
        step_times=[0.5, 1.5, 2.5],
        encoder=Encoder(dim=16, heads=2, depth=1).model_dump(mode="json"),
        text_levels={"text": words} if words else {},
    )
    subjects = ("", "01", "02")
    brain = {(s, level): scaler(len(labels)) for s in subjects for level, labels in UNITS.items()}
    network = NeuroAlign(architecture).eval()
    centres = {
        side: {"pooled": np.zeros(48, np.float32), "steps": np.zeros((3, 16), np.float32)}
        for side in ("brain", "video", *(["text"] if words else []))
    }
    geometry = {"duration_s": 3.0, "step_s": 1.0, "hrf": (hrf or Hrf()).model_dump(mode="json")}
    meta = {"stage": "ntcl", "seed": 0}
    scalers = Scalers(brain, {"features": scaler(FEATURES)}, {"text": scaler(words)} if words else {})
    weights = Weights(0.6, 0.0, 1, 0.75 if words else 0.0)
    TrainedModel(network, scalers, weights, centres, UNITS, geometry, meta).save(folder)


def all_clips(model: TrainedModel, films: Path) -> tuple[list[tuple[str, float]], object]:
    """Clips of all films embedded at once: windows are stacked, not embeddings."""
    names, windows = [], []
    for path in sorted(films.glob("*.h5")):
        film = read_embedding(path)
        for start in np.arange(0, len(film.times) - 2, 3.0):
            names.append((path.stem, start))
            windows.append(film.levels["features"][int(start) : int(start) + 3])
    return names, model.embed_video({"features": np.stack(windows)})


def test_clips_are_ranked_by_the_score_of_the_whole_gallery(files):
    model = neuroalign.load(files.model)
    names, clips = all_clips(model, files.films)
    expected = model.score(model.embed_fmri(read_series(files.run), "01", np.array([6.0, 20.0])), clips)
    table = retrieve(files.model, files.films, fmri=files.run, onsets=[6.0, 20.0], top=len(names))
    assert len(table) == 2 * len(names)
    for row, (_, found) in zip(expected, table.groupby("query_s"), strict=True):
        scores = {(r.file, r.start_s): r.score for r in found.itertuples()}
        np.testing.assert_allclose([scores[name] for name in names], row, atol=1e-5)
        assert found["rank"].tolist() == list(range(1, len(names) + 1))
        assert found["score"].is_monotonic_decreasing


def test_brain_windows_are_ranked_for_each_clip_on_its_own(files):
    film = files.films / "film-0.h5"
    model = neuroalign.load(files.model)
    alone = retrieve(files.model, files.runs, video=film, onsets=[9.0], top=50)
    among = retrieve(files.model, files.runs, video=film, onsets=list(np.arange(0, 45, 3.0)), top=50)
    among = among[among["query_s"] == 9.0].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among, check_exact=False, atol=1e-6)
    assert set(alone["file"]) == {"sub-01_task-film_timeseries", "sub-02_task-film_timeseries"}
    clip = model.embed_video(read_embedding(film), 9.0)
    for row in alone.head(5).itertuples():
        series = read_series(files.runs / f"{row.file}.h5")
        brain = model.embed_fmri(series, series.attributes["subject"], row.start_s)
        assert model.score(brain, clip)[0, 0] == pytest.approx(row.score, abs=1e-5)


def test_the_default_queries_lie_end_to_end_and_top_limits_results(files):
    table = retrieve(files.model, files.films / "film-1.h5", fmri=files.run, top=2)
    assert np.diff(table["query_s"].unique()).tolist() == [3.0] * (table["query_s"].nunique() - 1)
    assert set(table["rank"]) == {1, 2}
    assert set(table["file"]) == {"film-1"}


def test_a_subject_may_have_its_prefix_and_an_unknown_one_is_told(files, caplog):
    options = {"fmri": files.run, "onsets": [6.0], "top": 3}
    known = retrieve(files.model, files.films, subject="02", **options)
    pd.testing.assert_frame_equal(retrieve(files.model, files.films, subject="sub-02", **options), known)
    assert not caplog.records
    retrieve(files.model, files.films, subject="2", **options)
    assert "not trained on subject '2'" in caplog.text
    assert "did you mean '02'" in caplog.text


def regional_table(folder: Path, sidecar: object, value: object = None) -> Path:
    labels = [label for level in UNITS.values() for label in level]
    data = pd.DataFrame(np.random.default_rng(1).standard_normal((40, len(labels))), columns=labels)
    if value is not None:
        data[labels[0]] = value
    data.to_csv(folder / "run.tsv", sep="\t", index=False)
    if sidecar is not None:
        (folder / "run.json").write_text(json.dumps(sidecar))
    return folder / "run.tsv"


def test_a_table_of_regional_series_is_a_query(files, tmp_path):
    table = regional_table(tmp_path, {"RepetitionTime": 1.5})
    assert len(retrieve(files.model, files.films, fmri=table, onsets=[6.0], top=4)) == 4


@pytest.mark.parametrize(
    ("sidecar", "value", "sentence"),
    [
        (None, None, "needs a sidecar run.json with RepetitionTime"),
        ([1.5], None, "needs a sidecar run.json with RepetitionTime"),
        ({"RepetitionTime": "?"}, None, r"RepetitionTime is '\?'; it must be positive seconds"),
        ({"RepetitionTime": 1.5}, "high", "holds values that are not numbers"),
    ],
)
def test_a_table_that_cannot_be_used_is_a_sentence(files, tmp_path, sidecar, value, sentence):
    with pytest.raises(UserError, match=f"run.tsv:? {sentence}"):
        retrieve(files.model, files.films, fmri=regional_table(tmp_path, sidecar, value))


def test_another_atlas_is_named(files, tmp_path):
    table = regional_table(tmp_path, {"RepetitionTime": 1.5})
    table.write_text(table.read_text().replace("high_3", "elsewhere"))
    with pytest.raises(UserError, match="lacks region 'high_3' of level 'high'"):
        retrieve(files.model, files.films, fmri=table)


@pytest.fixture(scope="module")
def reader(files) -> Path:
    """A model that learned from captions."""
    write_model(files.root / "reader" / "ntcl", words=5)
    return files.root / "reader"


@pytest.fixture(scope="module")
def captions(files) -> Path:
    """Captions of two of the three films, the second with gaps."""
    folder, rng = files.root / "captions", np.random.default_rng(3)
    for number, seconds in ((0, 60), (1, 31)):
        said = ["a dog" if number == 0 or i % 3 else "" for i in range(seconds)]
        vectors = rng.standard_normal((seconds, 5)) * [[s != ""] for s in said]
        about = {"window_s": 1.0, "stride_s": 1.0, "hrf_convolved": False}
        item = Captions(said, vectors.astype(np.float32), np.arange(seconds) + 0.5, about)
        write_captions(folder / f"film-{number}.h5", item)
    return folder


def test_captions_of_a_gallery_change_its_ranking_as_the_score_says(files, reader, captions, caplog):
    options = {"fmri": files.run, "onsets": [6.0], "top": 100}
    table = retrieve(reader, files.films, captions=captions, **options)
    assert "1 of 3 films have no captions: their clips are ranked by video alone" in caplog.text
    model = neuroalign.load(reader)
    brain = model.embed_fmri(read_series(files.run), "01", np.array([6.0]))
    embedded = []
    for path in sorted(files.films.glob("*.h5")):
        film, words = read_embedding(path), captions / path.name
        starts = np.arange(0, len(film.times) - 2, 3.0)
        embedded.append(
            (
                path.stem,
                starts,
                model.embed_video(film, starts, read_captions(words) if words.exists() else None),
            )
        )
    pooled, steps = (np.concatenate([getattr(e, n) for *_, e in embedded]) for n in ("pooled", "steps"))
    # The vectors of a caption are added where there is one; both without their mean over the gallery.
    texts = [np.zeros_like(e.steps) if e.text is None else e.text.steps for *_, e in embedded]
    here = [np.zeros(e.steps.shape[:2], bool) if e.text is None else e.text.present for *_, e in embedded]
    text, here = np.concatenate(texts), np.concatenate(here)[..., None]
    text = np.where(here, text - (text * here).sum(0) / here.sum(0), 0)
    clip = pooled - pooled.mean(0) + 0.75 * text.reshape(len(pooled), -1)
    cosine = clip @ brain.pooled[0] / np.linalg.norm(clip, axis=1) / np.linalg.norm(brain.pooled[0])
    late = steps - steps.mean(0) + 0.75 * text
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    near = unit(brain.steps[0]) @ unit(late).transpose(0, 2, 1)
    reach = np.abs(np.subtract.outer(np.arange(3), np.arange(3))) <= 1
    expected = 0.6 * cosine + 0.4 * np.where(reach, near, -9).max(2).mean(1)
    names = [(stem, start) for stem, starts, _ in embedded for start in starts]
    found = {(r.file, r.start_s): r.score for r in table.itertuples()}
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-4)


def test_without_captions_a_model_that_learned_from_them_ranks_by_video_and_says_so(
    files, reader, captions, caplog
):
    options = {"fmri": files.run, "onsets": [6.0], "top": 100}
    table = retrieve(reader, files.films, **options)
    assert "3 of 3 films have no captions (none were given, see --captions)" in caplog.text
    other = retrieve(reader, files.films, captions=captions, **options)
    assert table["score"].tolist() != other["score"].tolist()
    caplog.clear()
    film = retrieve(reader, files.runs, video=files.films / "film-1.h5", captions=captions, onsets=[9.0])
    assert not caplog.records
    silent = retrieve(reader, files.runs, video=files.films / "film-1.h5", onsets=[9.0])
    assert film["score"].tolist() != silent["score"].tolist()


def test_clips_without_captions_have_no_code_of_text():
    def clips(n, text=None):
        arrays = (np.ones((n, 6)), np.ones((n, 3, 2)), np.ones((n, 3, 4)), np.zeros((n, 3, 1, 2), int))
        return Clips(*arrays, text)

    words = clips(2)
    words.present = np.ones((2, 3), bool)
    found = joined([clips(2, words), clips(4)]).text
    assert found.present.any(1).tolist() == [True] * 2 + [False] * 4
    assert (found.index[:2] == 0).all()
    assert (found.index[2:] == -1).all()
    assert not found.codes[2:].any()


def test_captions_for_a_model_without_text_are_left_alone(files, captions, caplog):
    options = {"fmri": files.run, "onsets": [6.0], "top": 3}
    table = retrieve(files.model, files.films, captions=captions, **options)
    assert "did not learn from captions" in caplog.text
    pd.testing.assert_frame_equal(table, retrieve(files.model, files.films, **options))


def test_captions_that_do_not_fit_are_named(files, reader, captions, tmp_path):
    options = {"fmri": files.run, "onsets": [6.0]}
    with pytest.raises(UserError, match=r"captions folder .*none does not exist"):
        retrieve(reader, files.films, captions=files.root / "none", **options)
    item = read_captions(captions / "film-0.h5")
    narrow = Captions(item.captions, item.features[:, :2], item.times, item.attributes)
    write_captions(tmp_path / "film-0.h5", narrow)
    with pytest.raises(UserError, match=r"film-0.h5: The captions have shape .*, 2\)"):
        retrieve(reader, files.films, captions=tmp_path, **options)


WRONG = {
    "no model": (lambda f: {"model": f.runs}, "holds no trained model"),
    "no gallery": (lambda f: {"gallery": f.root / "none"}, "gallery .*none does not exist"),
    "empty gallery": (lambda f: {"gallery": f.root}, "holds no .h5 file"),
    "gallery of the other side": (lambda f: {"gallery": f.runs}, "sub-01_task-film_timeseries.h5: .*lack level 'features'"),
    "no query": (lambda f: {"fmri": f.root / "none.h5"}, "none.h5 does not exist"),
    "a folder as query": (lambda f: {"fmri": f.runs}, "is no brain series"),
    "a film as brain": (lambda f: {"fmri": f.films / "film-0.h5"}, "film-0.h5 is not a ROI series file"),
    "a brain as film": (lambda f: {"fmri": None, "video": f.run, "gallery": f.runs}, "lack level 'features'"),
    "nothing asked for": (lambda f: {"top": 0}, "--top is 0: ask for at least one"),
    "two queries": (lambda f: {"video": f.films / "film-0.h5"}, "either fMRI or video"),
    "an onset too late": (lambda f: {"onsets": [1000.0]}, "task-film_timeseries.h5: .*too few usable volumes .* 1000 s"),
    "a start too late": (
        lambda f: {"fmri": None, "video": f.films / "film-2.h5", "gallery": f.runs, "onsets": [11.0]},
        "film-2.h5: .*does not cover the clip that starts at 11 s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence_that_names_it(files, case):
    changes, sentence = WRONG[case]
    arguments = {"model": files.model, "gallery": files.films, "fmri": files.run} | changes(files)
    with pytest.raises(UserError, match=sentence) as error:
        retrieve(arguments.pop("model"), arguments.pop("gallery"), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoken", [False, True])
def test_a_gallery_in_small_parts_on_disk_is_ranked_as_one_in_memory(
    files, reader, captions, monkeypatch, spoken
):
    import neuroalign.gallery
    import neuroalign.retrieve

    model, options = (reader, {"captions": captions}) if spoken else (files.model, {})
    whole = retrieve(model, files.films, fmri=files.run, top=50, **options)
    monkeypatch.setattr(neuroalign.retrieve, "_CLIPS", 3)
    monkeypatch.setattr(neuroalign.retrieve, "_WINDOWS", 2)
    monkeypatch.setattr(neuroalign.gallery, "_TOGETHER", 4)
    monkeypatch.setattr(neuroalign.gallery, "_QUERIES", 5)
    monkeypatch.setattr(neuroalign.gallery, "_IN_MEMORY", 1)
    parts = retrieve(model, files.films, fmri=files.run, top=50, **options)
    assert parts["file"].nunique() == 3
    pd.testing.assert_frame_equal(parts, whole, check_exact=False, atol=1e-6)
    best = retrieve(model, files.films, fmri=files.run, top=2, **options)
    pd.testing.assert_frame_equal(best, parts[parts["rank"] <= 2].reset_index(drop=True))
    back = {"video": files.films / "film-0.h5", "top": 5}
    small = retrieve(model, files.runs, **back)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(small, retrieve(model, files.runs, **back), check_exact=False, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.lists(st.integers(0, 7), max_size=6), st.integers(0, 10**6))
def test_the_best_of_parts_are_the_best_of_all_and_ties_stay_in_order(queries, top, sizes, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (queries, sum(sizes))).astype(np.float32)
    place = np.arange(sum(sizes))
    best, begin = Best(queries, top), 0
    for size in sizes:
        part = slice(begin, begin + size)
        best.add(scores[:, part], place[part] // 5, place[part] * 2.0)
        begin += size
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    assert np.array_equal(best.start, expected * 2.0)
    assert np.array_equal(best.file, expected // 5)
    assert np.array_equal(best.score, np.take_along_axis(scores, expected, axis=1))


def test_results_are_written_as_json_too(files, tmp_path):
    found = tmp_path / "found.json"
    arguments = ["retrieve", "--model", files.model, "--gallery", files.films, "--fmri", files.run]
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in (*arguments, "--onset", 6, "--top", 2, "--output", found)])
    assert not end.value.code
    rows = json.loads(found.read_text())
    assert [row["rank"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"query_s", "rank", "file", "start_s", "score"}


def test_a_temporary_folder_without_room_is_named(files, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(UserError, match=r"cannot hold the embeddings of the gallery .*TMPDIR"):
        retrieve(files.model, files.films, fmri=files.run, onsets=[6.0])


def test_betas_of_a_table_are_told_to_know_no_nuisance(files, tmp_path, caplog):
    write_model(tmp_path / "glm" / "ntcl", hrf=Hrf(method="glm"))
    table = regional_table(tmp_path, {"RepetitionTime": 1.5})
    retrieve(tmp_path / "glm", files.films, fmri=table, onsets=[6.0, 20.0], top=2)
    assert "does not say what was regressed out" in caplog.text
