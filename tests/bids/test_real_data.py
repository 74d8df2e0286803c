"""Real datasets index as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuroalign.bids.index import build_index


def _config(root: Path, source: str, derivatives: str):
    from neuroalign.config import parse_config

    return parse_config(
        {
            "dataset": {"bids_dir": str(root), "derivatives": str(root / derivatives)},
            "fmri": {"source": source, "atlas": {"image": "atlas.nii.gz"}},
        }
    )


def test_movie_fmri_indexes_as_it_is(shared_data):
    index = build_index(_config(shared_data / "movie_fmri", "timeseries", "derivatives/xcp_d"))
    assert index.problems == []
    assert len(index.runs) == 28
    assert index.runs.groupby("task")["subject"].nunique().to_dict() == {"documentary": 14, "sitcomep1": 14}
    lengths = index.presentations.groupby("stimulus")["duration"].agg(["min", "max"])
    assert lengths.to_dict("index") == {
        "documentary": {"min": 1281.0, "max": 1281.0},
        "sitcomep1": {"min": 1486.0, "max": 1486.0},
    }


@pytest.mark.parametrize(("source", "runs"), [("raw", 13), ("fmriprep", 3)])
def test_boldmoments_indexes_as_it_is_and_reports_every_absent_image_once(shared_data, source, runs):
    root = shared_data / "boldmoments"
    index = build_index(_config(root, source, "derivatives/fmriprep"))
    assert len(index.runs) == runs
    absent = [p for p in index.problems if "is absent" in p]
    assert len(absent) == len(set(absent)) == runs
    assert all("datalad get" in p for p in absent)
    assert index.problems[runs:] == (
        [] if source == "fmriprep" else [p for p in index.problems if "T1w" in p]
    )
    np.testing.assert_array_equal(index.runs["tr"], 1.75)
    # One row per video clip: the events tables hold the oddballs besides.
    rows = sum(
        line.split("\t")[2] != "n/a"
        for e in index.runs["events"]
        for line in Path(e).read_text().splitlines()[1:]
    )
    assert len(index.presentations) == rows
    assert index.presentations["stimulus"].str.match(r"^(train|test)__\d{4}$").all()
    assert (index.presentations["duration"] == 3.0).all()
