"""Units are selected by how alike they answer to training clips shown again, and by nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway

from neuroalign.config.fmri import Hrf, Selection
from neuroalign.config.pairs import Split
from neuroalign.errors import UserError
from neuroalign.pairs.reliability import intraclass, select_units, unit_reliability, unrepeated
from neuroalign.pairs.store import read_pairs

HOLD_OUT = Split(by="stimulus", hold_out={"stimulus": ["film-6"]})
RELIABLE = Selection(method="reliability", minimum_r=0.2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shown=st.lists(st.integers(1, 4), min_size=3, max_size=12).filter(lambda n: sum(k > 1 for k in n) > 1),
    steps=st.integers(1, 4),
)
def test_reliability_equals_the_analysis_of_variance(seed, shown, steps):
    """Against scipy's F, unit by unit, with as many presentations of each clip as it pleases."""
    rng = np.random.default_rng(seed)
    contents = rng.permutation(np.repeat(np.arange(len(shown)), shown))
    signal = rng.standard_normal((len(shown), steps, 5)) * np.array([0, 0.3, 1, 3, 10])
    data = (signal[contents] + rng.standard_normal((len(contents), steps, 5)) + 3.0).astype(np.float32)
    found = intraclass(data, contents)
    counts = np.array([k for k in shown if k > 1 for _ in range(steps)], float)
    k0 = (counts.sum() - np.square(counts).sum() / counts.sum()) / (len(counts) - 1)
    for unit in range(5):
        groups = [
            data[contents == c, t, unit].astype(float)
            for c, k in enumerate(shown)
            if k > 1
            for t in range(steps)
        ]
        f = f_oneway(*groups).statistic
        assert found[unit] == pytest.approx((f - 1) / (f - 1 + k0), abs=1e-4)


def test_it_estimates_the_correlation_of_two_presentations():
    rng = np.random.default_rng(0)
    contents = np.repeat(np.arange(4000), 2)
    signal = rng.standard_normal((4000, 1, 3)) * np.sqrt([0.0, 1 / 3, 3.0])
    data = signal[contents] + rng.standard_normal((8000, 1, 3))
    pairwise = [np.corrcoef(data[::2, 0, u], data[1::2, 0, u])[0, 1] for u in range(3)]
    np.testing.assert_allclose(intraclass(data, contents), pairwise, atol=0.01)
    np.testing.assert_allclose(intraclass(data, contents), [0, 0.25, 0.75], atol=0.04)


def test_constant_units_and_single_presentations_have_none():
    data = np.random.default_rng(0).standard_normal((10, 4, 2)).astype(np.float32)
    data[..., 1] = 7.0
    assert intraclass(data, np.repeat(np.arange(5), 2))[1] == 0
    assert np.isnan(intraclass(data, np.arange(10))).all()


@pytest.mark.parametrize("hrf", [Hrf(), Hrf(method="shift"), Hrf(method="shift", shift_s="sweep")])
def test_units_that_answer_are_kept_and_deaf_ones_are_not(make, hrf):
    dataset = make(
        {"early": 4.5, "high": 6.0}, repeats={"film-1": 2, "film-2": 3}, deaf={"early": 3, "high": 5}
    )
    pairs = read_pairs(dataset.build(hrf=hrf, split=HOLD_OUT, selection=RELIABLE))
    for windows in pairs.brain.values():
        assert windows.unit_labels["early"] == [f"early@{i},0,0" for i in range(5)]
        assert windows.unit_labels["high"] == [f"high@{i},0,0" for i in range(3)]
        assert windows.levels["early"].shape[2] == 5
        assert windows.levels["high"].shape[2] == 3
    assert pairs.same_units


def test_selected_windows_are_columns_of_all_windows(make):
    dataset = make({"early": 4.5}, repeats={"film-1": 2}, deaf={"early": 3})
    whole = read_pairs(dataset.build("whole", split=HOLD_OUT))
    part = read_pairs(dataset.build("part", split=HOLD_OUT, selection=RELIABLE))
    np.testing.assert_array_equal(
        part.brain["01"].levels["early"], whole.brain["01"].levels["early"][..., :5]
    )
    with h5py.File(dataset.root / "part" / "sub-01.h5") as file:
        level = file["levels/early"]
        assert level["data"].shape[2] == level["reliability"].shape[1] == 8
        stored = level["reliability"][0]
    np.testing.assert_allclose(stored, unit_reliability(whole)["01"]["early"], atol=1e-6)
    assert stored[:5].min() > 0.3 > 0.2 > stored[5:].max()


def test_reliability_in_test_clips_selects_nothing(make):
    """Units that answer to the test film only, however often it is shown, are left out."""
    dataset = make({"early": 4.5}, repeats={"film-1": 2, "film-6": 4}, deaf={"early": 3})
    response = np.random.default_rng(5).standard_normal((200, 3)).astype(np.float32)

    def plant(data: np.ndarray) -> np.ndarray:
        data[:, 5:] = 50 * response[: len(data)]
        return data

    dataset.change_runs_of({"film-6"}, plant)
    folder = dataset.build(split=HOLD_OUT, selection=RELIABLE)
    assert read_pairs(folder).brain["01"].unit_labels["early"] == [f"early@{i},0,0" for i in range(5)]
    other = Split(by="stimulus", hold_out={"stimulus": ["film-5"]}, seed=2)
    seen = dataset.build("seen", split=other, selection=RELIABLE)
    assert set(read_pairs(seen).clips.query("stimulus == 'film-6'")["split"]) == {"train"}
    assert len(read_pairs(seen).brain["01"].unit_labels["early"]) == 8, "as training clips they do count"


def test_every_fold_selects_by_its_own_training_clips(make):
    dataset = make(
        {"early": 4.5}, repeats=dict.fromkeys([f"film-{i}" for i in range(1, 7)], 2), deaf={"early": 3}
    )
    folder = dataset.build(split=Split(by="stimulus", folds=3), selection=RELIABLE)
    pairs = [read_pairs(folder, fold) for fold in range(3)]
    with h5py.File(folder / "sub-02.h5") as file:
        stored = file["levels/early/reliability"][()]
    whole = dataset.build("whole", split=Split(by="stimulus", folds=3))
    for fold in range(3):
        expected = unit_reliability(read_pairs(whole, fold))["02"]["early"]
        np.testing.assert_allclose(stored[fold], expected, atol=1e-6)
        assert pairs[fold].brain["02"].unit_labels["early"] == [f"early@{i},0,0" for i in range(5)]
    assert len({tuple(row) for row in stored.round(4)}) == 3


def test_units_of_ones_own_are_selected_for_everyone_alone(make):
    dataset = make({"early": 4.5}, repeats={"film-1": 3}, own_labels=True, deaf={"early": 2})
    folder = dataset.build(
        split=HOLD_OUT, selection=Selection(method="reliability", minimum_r=None, keep=0.5)
    )
    pairs = read_pairs(folder)
    assert not pairs.same_units
    for subject, windows in pairs.brain.items():
        with h5py.File(folder / f"sub-{subject}.h5") as file:
            order = np.argsort(-file["levels/early/reliability"][0])
        best = {f"s{subject}_early@{i},0,0" for i in order[:4]}
        assert set(windows.unit_labels["early"]) == best


def test_same_units_are_selected_together_by_the_mean():
    values = {"01": {"a": np.array([0.5, 0.1, 0.3])}, "02": {"a": np.array([0.1, 0.1, 0.3])}}
    config = Selection(method="reliability", minimum_r=0.25)
    kept = select_units(values, config, same_units=True, fold=0)
    assert kept["01"]["a"].tolist() == kept["02"]["a"].tolist() == [True, False, True]
    alone = select_units(values, config, same_units=False, fold=0)
    assert alone["02"]["a"].tolist() == [False, False, True]
    values["03"] = {"a": np.full(3, np.nan)}
    assert select_units(values, config, same_units=True, fold=0)["03"]["a"].tolist() == [True, False, True]
    with pytest.raises(UserError, match="subject 03"):
        select_units(values, config, same_units=False, fold=0)


@pytest.mark.parametrize(("keep", "count"), [(0.5, 2), (3, 3), (10, 4)])
def test_at_most_so_many_are_kept(keep, count):
    values = {"01": {"a": np.array([0.4, 0.2, 0.3, 0.1])}}
    config = Selection(method="reliability", minimum_r=None, keep=keep)
    kept = select_units(values, config, same_units=True, fold=0)["01"]["a"]
    assert kept.sum() == count
    assert values["01"]["a"][kept].min() >= max([0, *values["01"]["a"][~kept]])


def test_without_repeats_in_training_there_is_a_sentence(make):
    dataset = make({"early": 4.5}, repeats={"film-6": 3})
    sentence = r"training clips of fold 0 were shown more than once to subject 01, 02; set"
    with pytest.raises(UserError, match=sentence):
        dataset.build(split=HOLD_OUT, selection=RELIABLE)
    # The clip table alone says so, before anything is computed.
    clips = read_pairs(dataset.build(split=HOLD_OUT)).clips
    assert re.search(sentence, next(unrepeated(clips, 1)))
    folds = read_pairs(dataset.build(split=Split(by="stimulus", folds=3))).clips
    lacking = [
        k for k in range(3) if not (folds.query("stimulus == 'film-6'")[f"split_{k}"] == "train").any()
    ]
    assert lacking
    assert [int(re.search(r"fold (\d)", text).group(1)) for text in unrepeated(folds, 3)] == lacking


def test_a_level_without_reliable_units_is_named(make):
    dataset = make({"early": 4.5, "high": 6.0}, repeats={"film-1": 2}, deaf={"high": 8})
    with pytest.raises(
        UserError, match=r"level 'high' has a reliability of 0.2 .*lower fmri.selection.minimum_r"
    ):
        dataset.build(split=HOLD_OUT, selection=RELIABLE)


@pytest.mark.parametrize("wrong", [{"keep": 2.5}, {"keep": 0}, {"minimum_r": None}, {"minimum_r": 1.5}])
def test_an_impossible_selection_is_refused(wrong):
    with pytest.raises(ValueError, match=r"keep|minimum_r"):
        Selection(method="reliability", **wrong)


def test_each_presentation_is_a_row_of_its_own(make):
    """Without training clips of a subject nothing is measured, and nothing else is touched."""
    pairs = read_pairs(make({"early": 4.5}, repeats={"film-1": 2}).build(split=HOLD_OUT))
    nobody = replace(pairs, clips=pairs.clips.assign(split="test"))
    assert all(np.isnan(r["early"]).all() for r in unit_reliability(nobody).values())
