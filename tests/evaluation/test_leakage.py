"""Planted leaks are found."""

import re

import pytest

from neuroalign.errors import Problems
from neuroalign.evaluation.leakage import check_split


def test_a_clean_split_passes(pairs):
    check_split(pairs.clips, 20.0)


def test_a_clip_on_two_sides_is_named(pairs):
    clips = pairs.clips.copy()
    row = clips.index[(clips["split"] == "test") & (clips["repeat"] == 1)][0]
    clips.loc[row, "split"] = "train"
    with pytest.raises(Problems, match=re.escape(f"'{clips.loc[row, 'clip_id']}' is in test and train")):
        check_split(clips)


def test_overlapping_time_is_found(pairs):
    clips = pairs.clips.copy()
    row = clips.index[(clips["split"] == "test") & (clips["start_s"] == 40)]
    clips.loc[row, "split"] = "train"
    clips.loc[row, "duration_s"] = 6.0
    with pytest.raises(Problems, match="overlap by 2 s"):
        check_split(clips)


def test_the_guard_is_enforced_in_stimulus_and_run(pairs):
    clips = pairs.clips.copy()
    clips.loc[(clips["stimulus"] == "test") & (clips["start_s"] < 24), "split"] = "train"
    check_split(clips, 0.0)
    with pytest.raises(Problems, match=r"(?s)In stimulus 'test'.*0 s apart.*In run '01 test 1'"):
        check_split(clips, 20.0)
    clips.loc[(clips["stimulus"] == "test") & (clips["start_s"].between(4, 20)), "split"] = "guard"
    check_split(clips, 20.0)


def test_unseen_subjects_may_share_content(pairs):
    clips = pairs.clips.copy()
    clips["split"] = clips["subject"].map({"01": "train", "02": "test"})
    check_split(clips, 20.0)
