"""Splits keep content on one side and leave a guard, whatever the unit."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.pairs import Clips, Split
from neuroalign.errors import UserError
from neuroalign.pairs.clips import clip_duration, clip_table
from neuroalign.pairs.splits import assign_splits


def presentations(subjects=2, runs=((1, 2), (3, 4), (5, 6), (7, 8), (7, 8)), film_s=90.0) -> pd.DataFrame:
    rows = []
    for subject, (run, films) in itertools.product(range(1, subjects + 1), enumerate(runs, 1)):
        for place, film in enumerate(films):
            rows.append(
                {
                    "run_id": f"sub-{subject:02d}_task-film_run-{run}",
                    "subject": f"{subject:02d}",
                    "session": "",
                    "task": "film",
                    "run": str(run),
                    "onset": 6.3 + place * (film_s + 8),
                    "duration": film_s,
                    "stimulus": f"film-{film}",
                    "offset": 0.0,
                }
            )
    return pd.DataFrame(rows)


def table(clips=None, **kwargs) -> pd.DataFrame:
    shown = presentations(**kwargs)
    return clip_table(shown, dict.fromkeys(shown["stimulus"], 1e4), clips or Clips(strategy="fixed"))


def check(clips: pd.DataFrame, guard_s: float, content: bool = True) -> None:
    """A naive reading of the promise: pair by pair, no overlap of content and no neighbour in a run."""
    used = clips[clips["split"] != "guard"]
    for split, other in itertools.combinations(("train", "validation", "test"), 2):
        a, b = used[used["split"] == split], used[used["split"] == other]
        assert len(a), split
        assert len(b), other
        key = ("stimulus", "start_s"), ("run_id", "onset_s")
        for name, start in key if content else key[1:]:
            pairs = a.merge(b, on=name)
            gap = np.maximum(
                pairs[f"{start}_x"] - pairs[f"{start}_y"] - pairs["duration_s_y"],
                pairs[f"{start}_y"] - pairs[f"{start}_x"] - pairs["duration_s_x"],
            )
            assert not len(gap) or gap.min() >= guard_s - 1e-3, (name, split, other)


@pytest.mark.parametrize("by", ["run", "stimulus", "time"])
@pytest.mark.parametrize("seed", range(4))
def test_content_lies_on_one_side_with_a_guard(by, seed):
    clips = table(film_s=200.0)
    check(assign_splits(clips, Split(by=by, seed=seed, guard_s=15)), 15)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    stride=st.sampled_from([2.0, 3.0, 4.0]),
    guard=st.sampled_from([0.0, 8.0, 20.0]),
    by=st.sampled_from(["run", "stimulus", "time"]),
)
def test_overlapping_clips_keep_the_promise_too(seed, stride, guard, by):
    clips = table(Clips(strategy="fixed", stride_s=stride), film_s=240.0, subjects=1)
    check(assign_splits(clips, Split(by=by, seed=seed, guard_s=guard)), guard)


def test_folds_cover_every_clip_once():
    clips = assign_splits(table(film_s=300.0), Split(by="time", folds=4))
    tested = sum((clips[f"split_{k}"] == "test").astype(int) for k in range(4))
    assert (tested == 1).all()
    for fold in range(4):
        check(clips.assign(split=clips[f"split_{fold}"]), 20)


def test_runs_that_share_a_film_stay_together():
    clips = assign_splits(table(), Split(by="run", folds=4))
    linked = clips[clips["run"].isin(["4", "5"])]
    assert linked["group"].nunique() == 1
    assert clips["group"].nunique() == 4


def test_hold_out_by_stimulus_is_the_test_set_and_nothing_else():
    clips = assign_splits(table(), Split(hold_out={"stimulus": ["film-7", "film-8"]}))
    assert set(clips.loc[clips["split"] == "test", "stimulus"]) == {"film-7", "film-8"}
    assert not clips.loc[clips["split"] != "test", "stimulus"].isin(["film-7", "film-8"]).any()
    check(clips, 20)


def test_hold_out_of_one_presentation_guards_the_others_of_that_content():
    clips = assign_splits(table(), Split(hold_out={"run": ["05"]}))
    assert set(clips.loc[clips["run"] == "4", "split"]) == {"guard"}
    check(clips, 20)


def test_unseen_subject_shares_content_but_not_people():
    clips = assign_splits(table(subjects=4), Split(by="subject"))
    parts = clips[clips["split"] != "guard"].groupby("subject")["split"].nunique()
    assert (parts == 1).all()
    assert set(clips["split"]) >= {"train", "validation", "test"}
    check(clips, 20, content=False)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(hold_out={"task": ["flim"]}), "did you mean 'film'"),
        (Split(hold_out={"task": ["film"]}), "every clip"),
        (Split(by="run", folds=9), "only 4 groups"),
        (Split(by="time", guard_s=200), "guard_s"),
    ],
)
def test_impossible_splits_say_what_to_do(split, words):
    with pytest.raises(UserError, match=words):
        assign_splits(table(), split)


def test_one_film_for_all_is_no_unit_of_runs():
    with pytest.raises(UserError, match="one run group"):
        assign_splits(table(runs=((1,), (1,))), Split(by="run"))


def test_clip_ids_name_content_not_presentations():
    shown = presentations(subjects=1, runs=((1,), (1,)))
    shown.loc[1, "offset"] = 20.0
    shown.loc[1, "duration"] = 30.0
    clips = clip_table(shown, {"film-1": 90.0}, Clips(strategy="fixed"))
    again = clips[clips["run"] == "2"]
    assert set(again["clip_id"]) < set(clips.loc[clips["run"] == "1", "clip_id"])
    assert (again["repeat"] == 1).all()
    np.testing.assert_allclose(again["onset_s"] - 6.3, again["start_s"] - 20.0, atol=1e-9)


def test_event_clips_take_the_length_of_short_videos():
    shown = presentations(subjects=1, film_s=3.0)
    assert clip_duration(shown, Clips(strategy="events", duration_s=4)) == 3.0
    clips = clip_table(shown, dict.fromkeys(shown["stimulus"], 3.0), Clips(strategy="events"))
    assert len(clips) == len(shown)


def test_presentations_shorter_than_a_clip_are_one_sentence():
    shown = presentations(subjects=1, film_s=3.0)
    with pytest.raises(UserError, match="duration_s"):
        clip_table(shown, dict.fromkeys(shown["stimulus"], 3.0), Clips(strategy="fixed"))


def test_new_content_is_trained_on_by_nobody():
    clips = table(subjects=4)
    config = Split(
        by="subject", hold_out={"subject": ["01"]}, new_content={"stimulus": ["film-3"]}, guard_s=5
    )
    found = assign_splits(clips, config)
    used = found[found["split"].isin(["train", "validation"])]
    assert set(used["stimulus"]) == {f"film-{i}" for i in (1, 2, 4, 5, 6, 7, 8)}
    assert set(used["split"]) == {"train", "validation"}
    assert set(found.loc[found["subject"] == "01", "split"]) == {"test"}
    assert set(found.loc[found["stimulus"] == "film-3", "split"]) == {"test", "guard"}
    with pytest.raises(UserError, match=r"split\.new_content: no clip has stimulus 'c'"):
        assign_splits(clips, config.model_copy(update={"new_content": {"stimulus": ["c"]}}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"by": "run", "new_content": {"task": ["x"]}}, "splits by subject"),
        ({"by": "subject", "new_content": {"subject": ["01"]}}, "hold people out"),
        ({"by": "subject", "new_content": {"film": ["x"]}}, "new_content knows"),
    ],
)
def test_new_content_is_for_unseen_people(values, words):
    with pytest.raises(ValueError, match=words):
        Split(**values)
