"""Sidecars and the inheritance principle."""

from __future__ import annotations

import pytest

from neuroalign.bids.metadata import applicable, sidecar
from neuroalign.errors import UserError

BOLD = "sub-01/ses-1/func/sub-01_ses-1_task-film_run-01_bold.nii.gz"


def test_all_levels_are_merged_and_the_nearest_wins(bids):
    bids.file("bold.json", {"A": 0, "B": 0, "C": 0, "D": 0})
    bids.file("task-film_bold.json", {"B": 1, "C": 1, "D": 1})
    bids.file("sub-01/sub-01_bold.json", {"C": 2, "D": 2})
    bids.file("sub-01/ses-1/sub-01_ses-1_task-film_bold.json", {"D": 3})
    bids.file("task-rest_bold.json", {"A": -1}).file("task-film_events.json", {"A": -1})
    bids.file("sub-01/ses-1/func/sub-01_ses-1_task-film_run-2_bold.json", {"A": -1})
    bids.file("sub-02/sub-02_bold.json", {"A": -1})
    assert sidecar(bids.root / BOLD, bids.root) == {"A": 0, "B": 1, "C": 2, "D": 3}


def test_a_more_specific_name_wins_within_a_folder(bids):
    bids.file("task-film_bold.json", {"RepetitionTime": 1}).file("bold.json", {"RepetitionTime": 2})
    assert sidecar(bids.root / BOLD, bids.root) == {"RepetitionTime": 1}


def test_padding_of_the_run_does_not_matter(bids):
    bids.file(BOLD.replace("run-01_bold.nii.gz", "run-1_bold.json"), {"RepetitionTime": 1.5})
    assert sidecar(bids.root / BOLD, bids.root) == {"RepetitionTime": 1.5}


def test_nothing_above_the_dataset_is_read(bids):
    (bids.root.parent / "bold.json").write_text('{"RepetitionTime": 9}')
    assert sidecar(bids.root / BOLD, bids.root) == {}


def test_the_nearest_events_table_comes_last(bids):
    bids.file("task-film_events.tsv").file(BOLD.replace("_bold.nii.gz", "_events.tsv"))
    names = [p.name for p in applicable(bids.root / BOLD, bids.root, "events", ".tsv")]
    assert names == ["task-film_events.tsv", "sub-01_ses-1_task-film_run-01_events.tsv"]


def test_a_sidecar_must_be_an_object(bids):
    with pytest.raises(UserError, match=r"task-film_bold.json must hold a JSON object"):
        sidecar(bids.file("task-film_bold.json", [1]).root / BOLD, bids.root)
    with pytest.raises(UserError, match=r"task-film_bold.json is not valid JSON"):
        sidecar(bids.file("task-film_bold.json", "{,}").root / BOLD, bids.root)
