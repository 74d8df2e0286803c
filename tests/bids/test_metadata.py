"""Sidecars and the inheritance principle."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from neuroalign.bids.metadata import applicable, repetition_time, sidecar
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
    assert repetition_time(bids.root / BOLD, bids.root) == 1.0


def test_padding_of_the_run_does_not_matter(bids):
    bids.file(BOLD.replace("run-01_bold.nii.gz", "run-1_bold.json"), {"RepetitionTime": 1.5})
    assert repetition_time(bids.root / BOLD, bids.root) == 1.5


def test_nothing_above_the_dataset_is_read(bids):
    (bids.root.parent / "bold.json").write_text('{"RepetitionTime": 9}')
    assert repetition_time(bids.root / BOLD, bids.root) is None


def test_the_nearest_events_table_comes_last(bids):
    bids.file("task-film_events.tsv").file(BOLD.replace("_bold.nii.gz", "_events.tsv"))
    names = [p.name for p in applicable(bids.root / BOLD, bids.root, "events", ".tsv")]
    assert names == ["task-film_events.tsv", "sub-01_ses-1_task-film_run-01_events.tsv"]


@pytest.mark.parametrize(
    ("unit", "zoom", "seconds"), [("sec", 1.35, 1.35), ("msec", 800.0, 0.8), ("unknown", 2.0, 2.0)]
)
def test_the_header_tells_where_the_sidecar_does_not(bids, unit, zoom, seconds):
    bids.file(BOLD)
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4))
    image.header.set_zooms((1, 1, 1, zoom))
    image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, bids.root / BOLD)
    assert repetition_time(bids.root / BOLD, bids.root) == seconds
    bids.file("bold.json", {"RepetitionTime": 3.0})
    assert repetition_time(bids.root / BOLD, bids.root) == 3.0


def test_an_unreadable_header_does_not_tell(bids):
    assert repetition_time(bids.file(BOLD, "no image").root / BOLD, bids.root) is None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(0, "is 0"), ("2.0", "is '2.0'"), (True, "is True"), (2000, "BIDS counts in seconds"), ([2.0], "is")],
)
def test_a_wrong_repetition_time_is_a_sentence(bids, value, sentence):
    bids.file("bold.json", {"RepetitionTime": value})
    with pytest.raises(UserError, match="RepetitionTime of .*" + sentence):
        repetition_time(bids.root / BOLD, bids.root)


def test_a_sidecar_must_be_an_object(bids):
    with pytest.raises(UserError, match=r"task-film_bold.json must hold a JSON object"):
        sidecar(bids.file("task-film_bold.json", [1]).root / BOLD, bids.root)
    with pytest.raises(UserError, match=r"task-film_bold.json is not valid JSON"):
        sidecar(bids.file("task-film_bold.json", "{,}").root / BOLD, bids.root)
