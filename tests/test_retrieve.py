"""`neuroalign retrieve`: equal to the score of the API, fair over the gallery, and clear about wrong input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import neuroalign
from neuroalign.config.fmri import Hrf
from neuroalign.config.train import Encoder
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, read_series, write_series
from neuroalign.models.model import Architecture, NeuroAlign
from neuroalign.models.scaling import Scaler, Scalers
from neuroalign.models.score import Weights
from neuroalign.models.trained import TrainedModel
from neuroalign.retrieve import retrieve
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
    torch.manual_seed(0)
    architecture = Architecture(
        brain_levels={level: len(labels) for level, labels in UNITS.items()},
        video_levels={"features": FEATURES},
        subjects=["01", "02"],
        shared_units=True,
        aligned=False,
        step_times=[0.5, 1.5, 2.5],
        encoder=Encoder(dim=16, heads=2, depth=1).model_dump(mode="json"),
    )
    subjects = ("", "01", "02")
    brain = {(s, level): scaler(len(labels)) for s in subjects for level, labels in UNITS.items()}
    network = NeuroAlign(architecture).eval()
    centres = {
        side: {"pooled": np.zeros(48, np.float32), "steps": np.zeros((3, 16), np.float32)}
        for side in ("brain", "video")
    }
    geometry = {"duration_s": 3.0, "step_s": 1.0, "hrf": Hrf().model_dump(mode="json")}
    meta = {"stage": "ntcl", "seed": 0}
    scalers = Scalers(brain, {"features": scaler(FEATURES)})
    TrainedModel(network, scalers, Weights(0.6, 0.0, 1), centres, UNITS, geometry, meta).save(
        files.model / "ntcl"
    )
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
