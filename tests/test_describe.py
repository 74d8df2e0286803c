"""`neuroalign info` names what each of our files is, and says clearly what it cannot read."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest

from neuroalign.describe import describe
from neuroalign.errors import UserError
from neuroalign.evaluation.scores import SubjectScores, write_scores
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.io import provenance, write_json, write_tsv
from neuroalign.pairs.store import BrainWindows, VideoWindows, write_brain, write_video
from neuroalign.video.shards import Embedding, write_embedding

LABELS = {"early": ["a", "b"]}


def series(path):
    levels = {"early": np.zeros((5, 2), np.float32)}
    run = RoiSeries(levels, LABELS, np.arange(5.0), np.ones(5, bool), {"subject": "01", "tr": 2.0})
    write_series(path, run, provenance({"units": "parcels"}))


def quality(path):
    with h5py.File(path, "w") as file:
        file["carpet"], file["keep"] = np.zeros((4, 5)), np.ones(5, bool)


def embedding(path):
    write_embedding(path, Embedding({"fine": np.zeros((3, 2), np.float32)}, np.arange(3.0)))


def features(path):
    with h5py.File(path, "w") as file:
        file["features"], file["times"] = np.zeros((3, 2)), np.arange(3.0)


def brain(path):
    data = {"early": np.zeros((3, 4, 2), np.float32)}
    windows = BrainWindows(np.arange(3), data, np.zeros((3, 4)), np.ones((3, 4), bool), LABELS, False)
    write_brain(path, windows, provenance())


def video(path):
    steps = np.arange(4.0, dtype=np.float32)
    write_video(path, VideoWindows(["a"], {"fine": np.zeros((1, 4, 2), np.float32)}, steps), provenance())


def scores(path):
    item = SubjectScores(np.arange(2), ["a"], {"score": np.zeros((2, 1), np.float32)})
    write_scores(path, {"01": item}, provenance())


def unknown(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (series, "ROI series of a run"),
        (quality, "quality record of a run"),
        (embedding, "embedding of a stimulus"),
        (features, "features of a stimulus"),
        (brain, "fMRI windows of a subject"),
        (video, "video windows of a paired dataset"),
        (scores, "scores of a method on the test set"),
        (unknown, "HDF5 file of an unknown kind"),
    ],
)
def test_each_of_our_files_is_named(tmp_path, make, kind):
    path = tmp_path / "file.h5"
    make(path)
    first, *lines = describe(path).splitlines()
    assert first == f"{path}: {kind}"
    assert lines


def test_a_file_says_its_content_and_what_made_it(tmp_path):
    series(tmp_path / "run.h5")
    text = describe(tmp_path / "run.h5")
    for pattern in (
        r"/levels/early/data +\(5, 2\) float32",
        "subject: 01",
        "made by neuroalign",
        '"units": "parcels"',
    ):
        assert re.search(pattern, text), pattern


def test_tables_and_records_are_shown(tmp_path):
    write_tsv(tmp_path / "a.tsv", pd.DataFrame({"x": [1, 2], "y": [3, 4]}))
    write_json(tmp_path / "a.json", {"stage": "vq"})
    assert describe(tmp_path / "a.tsv").endswith("table of 2 rows\ncolumns: x, y")
    assert json.loads(describe(tmp_path / "a.json").split("\n", 1)[1]) == {"stage": "vq"}


def test_a_results_folder_lists_its_models_and_headline_numbers(tmp_path):
    write_json(tmp_path / "models/seed-0/vq/model.json", {"stage": "vq", "seed": 0})
    row = {
        **{"model": "neuroalign", "seed": 0, "subject": "all", "direction": "fmri_to_video", "gallery": "full"},
        **{"gallery_size": 44, "exclude_s": 0.0, "metric": "top1", "value": 0.25, "ci_low": 0.2, "ci_high": 0.3},
        **{"chance": 1 / 44, "p_value": 0.001, "n_queries": 88},
    }  # fmt: skip
    others = [{"subject": "01"}, {"metric": "top5"}, {"gallery": "20-way"}, {"exclude_s": 10.0}]
    write_tsv(tmp_path / "evaluation/metrics.tsv", pd.DataFrame([row, *(row | other for other in others)]))
    assert describe(tmp_path).splitlines()[1:] == [
        "model models/seed-0/vq: stage vq, seed 0",
        "neuroalign seed 0 fmri_to_video: top-1 25.0% of 44 (interval 20.0% to 30.0%, chance 2.3%)",
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.h5", None, "does not exist"),
        ("none", None, "does not exist"),
        ("none.tsv", None, "does not exist"),
        ("bad.h5", b"no", "is not a readable HDF5 file"),
        ("bad.tsv", b"\xff\xfe\x81", "is not a readable TSV table"),
        ("empty.tsv", b"", "is not a readable TSV table"),
        ("bad.json", b"{", "is not valid JSON"),
        ("report.html", b"<html>", "is no .h5, .tsv or .json file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} {sentence}"):
        describe(path)


def test_a_folder_without_results_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds neither a model nor an evaluation"):
        describe(tmp_path)
