"""Planted leaks are found."""

import re
from types import SimpleNamespace

import pytest

from neuroalign.config.train import Encoder
from neuroalign.errors import Problems
from neuroalign.evaluation.leakage import (
    check_contents,
    check_model,
    check_pairs,
    check_split,
    check_windows,
)
from neuroalign.models.scaling import z_score
from neuroalign.pairs.blind import learned_from
from neuroalign.training.data import fit_scalers


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


def test_a_repeat_in_another_run_belongs_to_the_clip(pairs):
    """The second showing of a test clip, in a run of its own, put into training."""
    clips = pairs.clips.copy()
    repeats = clips.index[(clips["split"] == "test") & (clips["repeat"] == 1)]
    assert set(clips.loc[repeats, "run"]).isdisjoint(clips.loc[clips["repeat"] == 0, "run"])
    clips.loc[repeats, "split"] = "train"
    with pytest.raises(Problems, match="give every presentation of a clip the same split"):
        check_split(clips)


def test_a_test_window_may_not_hold_volumes_of_a_training_window(make):
    """Windows reach beyond their clips: clips 4 s apart do not overlap, their windows of 14 s do."""
    unaligned = make(aligned=False)
    check_windows(unaligned)
    clips = unaligned.clips
    near = (clips["stimulus"] == "test") & (clips["start_s"] < 12)
    clips.loc[near, "split"] = "train"
    clips.loc[(clips["stimulus"] == "test") & (clips["start_s"] == 12), "split"] = "guard"
    check_split(clips, 4.0)
    with pytest.raises(Problems, match=r"hold the same volumes; set split.guard_s above 9 "):
        check_windows(unaligned)
    with pytest.raises(Problems, match="In run '02 test 1'"):
        check_pairs(unaligned, 4.0)


def test_aligned_windows_end_with_their_clips(make):
    aligned = make()
    aligned.clips.loc[(aligned.clips["stimulus"] == "test") & (aligned.clips["start_s"] < 12), "split"] = (
        "train"
    )
    check_windows(aligned)


def test_the_same_film_under_two_names_is_found(make):
    copied = make()
    names = copied.video.clip_ids
    source, copy = names.index("train@8.000+4.000"), names.index("test@20.000+4.000")
    for data in copied.video.levels.values():
        data[copy] = data[source]
    with pytest.raises(Problems, match=r"'train@8.000\+4.000' \(train\) and 'test@20.000\+4.000' \(test\)"):
        check_contents(copied)
    for data in copied.video.levels.values():
        data[[source, copy]] = 0.0
    check_contents(copied)  # two black clips are not a copy


def test_training_and_validation_may_not_be_of_another_fold_than_the_test(make):
    """A model of fold 1 scored on fold 0: its validation clips are the test clips here."""
    here, there = make(), make()
    swap = {"test": "validation", "validation": "test"}
    there.clips["split"] = [swap.get(s, s) for s in there.clips["split"]]
    model = stand_in(there)
    check_model(model, there)
    with pytest.raises(Problems, match="chosen on other windows than the validation windows"):
        check_model(model, here)


@pytest.mark.parametrize(
    ("side", "named"), [("brain", "brain level 'high' of subject 02"), ("video", "video level 'b'")]
)
def test_a_scaler_that_saw_test_windows_is_found(make, side, named):
    pairs = make()
    check_model(stand_in(pairs), pairs)
    with pytest.raises(Problems, match=f"scaler of {named} was not fitted on the training windows alone"):
        check_model(stand_in(pairs, leaky=side), pairs)


def stand_in(pairs, leaky: str = ""):
    """What `check_model` looks at of a trained model; a scaler of one side fitted on all windows if `leaky`."""
    scalers = fit_scalers(pairs, Encoder(whiten=False))
    if leaky == "brain":
        windows = pairs.brain["02"]
        scalers.brain["02", "high"] = z_score(windows.levels["high"][windows.valid])
    if leaky == "video":
        data = pairs.video.levels["b"]
        scalers.video["b"] = z_score(data.reshape(-1, data.shape[-1]))
    network = SimpleNamespace(architecture=SimpleNamespace(subjects=pairs.subjects))
    return SimpleNamespace(network=network, scalers=scalers, meta={"learned_from": learned_from(pairs)})
