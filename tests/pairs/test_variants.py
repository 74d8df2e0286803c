"""Changed pairs: what is taken away is gone, and everything else is as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from neuroalign.errors import UserError
from neuroalign.pairs.blind import blind, learned_from
from neuroalign.pairs.variants import change_pairs

_SOURCE = Path(__file__).resolve().parents[1] / "models" / "conftest.py"


@pytest.fixture(scope="module")
def pairs():
    spec = importlib.util.spec_from_file_location("synthetic_pairs", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_pairs(subjects=2, clips=(20, 8, 10))


def moved(before, after, side):
    """For each window of a part, whose data it holds now: position among all windows of the subject."""
    found = {}
    for subject, windows in before.brain.items():
        old, new = windows.levels["early"], after.brain[subject].levels["early"]
        rows = np.flatnonzero((before.clips["split"] == side).to_numpy()[windows.rows])
        found[subject] = (
            [int(np.flatnonzero([np.array_equal(new[r], x) for x in old])[0]) for r in rows],
            rows,
        )
    return found


@pytest.mark.parametrize("change", [None, "merged", "shuffled", "shifted", "time_only"])
def test_rows_clips_and_split_stay(pairs, change):
    changed = change_pairs(pairs, change, 0)
    assert changed.clips is pairs.clips
    assert changed.video.clip_ids == pairs.video.clip_ids
    for subject, windows in pairs.brain.items():
        assert np.array_equal(changed.brain[subject].rows, windows.rows)
        assert np.array_equal(changed.contents(subject, "test"), pairs.contents(subject, "test"))


def test_shuffling_leaves_no_training_window_and_every_test_window_in_place(pairs):
    changed = change_pairs(pairs, "shuffled", 3)
    for side in ("train", "validation"):
        for source, rows in moved(pairs, changed, side).values():
            assert sorted(source) == list(rows), "dealt out within the part"
            assert not (np.array(source) == rows).any()
    for source, rows in moved(pairs, changed, "test").values():
        assert source == list(rows)
    again = change_pairs(pairs, "shuffled", 4)
    assert moved(pairs, again, "train")["01"][0] != moved(pairs, changed, "train")["01"][0]


def test_shifting_moves_every_window_by_half_a_run(pairs):
    changed = change_pairs(pairs, "shifted", 0)
    windows = pairs.brain["01"]
    onset = pairs.clips["onset_s"].to_numpy()[windows.rows]
    order = np.argsort(onset)
    for subject in ("01",):
        new = changed.brain[subject].levels["early"]
        old = windows.levels["early"]
        assert np.array_equal(new[order], old[np.roll(order, -(len(order) // 2))])


def test_one_level_holds_all_units_and_features(pairs):
    changed = change_pairs(pairs, "merged", 0)
    assert list(changed.brain["01"].levels) == list(changed.video.levels) == ["all"]
    both = np.concatenate(list(pairs.brain["01"].levels.values()), axis=2)
    assert np.array_equal(changed.brain["01"].levels["all"], both)
    assert len(changed.brain["01"].unit_labels["all"]) == both.shape[2] == 60
    assert changed.same_units


def test_an_unknown_change_is_named(pairs):
    with pytest.raises(UserError, match="did you mean 'shuffled'"):
        change_pairs(pairs, "shufled", 0)


def test_training_finds_no_test_window_and_no_test_feature(pairs):
    seen = blind(pairs)
    hidden = {
        clip
        for clip, side in zip(pairs.clips["clip_id"], pairs.clips["split"], strict=True)
        if side == "test"
    }
    for subject in pairs.subjects:
        assert len(seen.of(subject, "test")[1]) == 0
        for side in ("train", "validation"):
            before, after = pairs.of(subject, side), seen.of(subject, side)
            assert np.array_equal(before[0].levels["high"], after[0].levels["high"])
            assert np.array_equal(before[1], after[1])
    for data in seen.video.levels.values():
        gone = np.isnan(data).all(axis=(1, 2))
        assert {seen.video.clip_ids[i] for i in np.flatnonzero(gone)} == hidden
    assert not any(np.isnan(data).any() for data in pairs.video.levels.values()), (
        "the pairs themselves are as they were"
    )


def test_what_was_learned_from_tells_parts_and_folds_apart(pairs):
    own = learned_from(pairs)
    assert own["train"] != own["validation"]
    assert learned_from(blind(pairs)) == own
    other = pairs.clips.copy()
    swap = {"test": "validation", "validation": "test"}
    other["split"] = [swap.get(s, s) for s in other["split"]]
    pairs_of_other = type(pairs)(other, pairs.brain, pairs.video)
    assert learned_from(pairs_of_other)["train"] == own["train"]
    assert learned_from(pairs_of_other)["validation"] != own["validation"]
