"""The swept lag is the planted one, is chosen on validation clips alone, and is what windows are read at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config import parse_config
from neuroalign.config.fmri import Hrf
from neuroalign.config.pairs import Split
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries
from neuroalign.pairs.lags import ALL, best_lag, lag_curve, sweep
from neuroalign.pairs.linear import decompose, ridge_factors
from neuroalign.pairs.store import BrainWindows, read_pairs
from neuroalign.pairs.windows import at_lags, brain_window, on_steps, step_times
from neuroalign.simulate.hrf import STEP_S, convolve

SWEEP = Hrf(method="shift", shift_s="sweep")


def chosen(folder) -> pd.DataFrame:
    table = pd.read_csv(folder / "lag_sweep.tsv", sep="\t")
    return table[table["chosen"]].set_index(["fold", "level"])["lag_s"].unstack()


@pytest.mark.parametrize(
    ("tr", "delays"),
    [
        (0.8, {"early": 3.3, "high": 6.1}),
        (1.5, {"early": 4.0, "high": 5.25}),
        (2.0, {"early": 5.5, "high": 7.7}),
    ],
)
def test_a_plain_delay_is_found_whatever_the_repetition_time(make, tr, delays):
    """Delays between volumes are told apart, because films do not begin on volumes."""
    folder = make(delays, tr=tr, pure=True).build(hrf=SWEEP)
    lags = chosen(folder).loc[0]
    for level, delay in delays.items():
        assert abs(lags[level] - delay) <= min(0.5, tr / 2)
    assert min(delays.values()) - tr / 2 <= lags[ALL] <= max(delays.values()) + tr / 2


@pytest.mark.parametrize(
    ("tr", "delays"),
    [
        (1.5, {"early": 4.5, "intermediate": 5.5, "high": 7.0}),
        (2.0, {"early": 4.5, "intermediate": 5.5, "high": 7.0}),
    ],
)
def test_the_peak_of_the_simulated_response_is_found_within_half_a_volume(make, tr, delays):
    lags = chosen(make(delays, tr=tr, seed=3).build(hrf=SWEEP)).loc[0]
    for level, delay in delays.items():
        assert abs(lags[level] - delay) <= tr / 2, (level, lags[level])


def best_shift(delay: float) -> float:
    """The lag at which a shifted copy of an endless film resembles its noise-free response most.

    It lies a little after the peak, as the response falls more slowly than it rises.
    """
    seconds = np.random.default_rng(1).standard_normal(6000)
    fine = np.interp(np.arange(0, 5999, STEP_S), np.arange(6000), seconds)
    response = convolve(fine[:, None], delay)[:, 0]
    per_step = round(1.0 / STEP_S)
    steps = fine.reshape(-1, per_step).mean(1)[:5900]
    lags = np.arange(2.0, 9.0, STEP_S)
    centres = per_step * np.arange(5900) + per_step // 2
    return lags[
        np.argmax([np.corrcoef(steps, response[centres + round(lag / STEP_S)])[0, 1] for lag in lags])
    ]


def test_with_a_short_repetition_time_the_best_shift_is_found(make):
    delays = {"early": 4.4, "high": 6.2}
    fine = Hrf(method="shift", shift_s="sweep", sweep_s=(2.0, 9.0, 0.25))
    lags = chosen(make(delays, tr=1.0, seed=3).build(hrf=fine)).loc[0]
    for level, delay in delays.items():
        assert 0 <= best_shift(delay) - delay < 0.8
        assert abs(lags[level] - best_shift(delay)) <= 0.5


def test_every_fold_chooses_by_itself_and_never_by_its_test_clips(make):
    """Runs of the films that fold 0 tests become huge values at another delay: its curves stay, others' do not."""
    dataset = make({"early": 4.0, "high": 6.0}, pure=True)
    split = Split(by="stimulus", folds=3)
    before = dataset.build("before", hrf=SWEEP, split=split)
    clips = read_pairs(before, 0).clips
    films = set(clips.loc[clips["split"] == "test", "stimulus"])
    dataset.change_runs_of(films, lambda data: 1e4 * np.roll(data, 4, axis=0))
    after = dataset.build("after", hrf=SWEEP, split=split)
    old, new = (pd.read_csv(f / "lag_sweep.tsv", sep="\t") for f in (before, after))
    pd.testing.assert_frame_equal(old[old["fold"] == 0], new[new["fold"] == 0])
    for fold in (1, 2):
        assert not np.allclose(old.loc[old["fold"] == fold, "r"], new.loc[new["fold"] == fold, "r"])


def test_poisoned_test_windows_change_no_lag(make):
    """Noise in the test windows themselves, whatever run they lie in."""
    dataset = make({"early": 4.0, "high": 6.0}, pure=True, films=3)
    pairs = read_pairs(dataset.build(hrf=Hrf(window_s=(0.0, 14.0)), split=Split(by="time", guard_s=8)))
    split = pairs.clips["split"].to_numpy()
    curves = sweep(pairs, ["split"], (3.0, 4.0, 5.0, 6.0, 7.0))
    for windows in pairs.brain.values():
        tested = split[windows.rows] == "test"
        assert tested.any()
        for data in windows.levels.values():
            data[tested] = 1e6 * np.random.default_rng(0).standard_normal(data[tested].shape)
    pd.testing.assert_frame_equal(sweep(pairs, ["split"], (3.0, 4.0, 5.0, 6.0, 7.0)), curves)
    assert set(curves.loc[curves["chosen"] & curves["level"].isin(["early", "high"]), "lag_s"]) == {4.0, 6.0}


def test_a_fold_is_read_at_its_own_lags(make):
    dataset = make({"early": 4.2, "high": 6.1}, noise=3.0)
    folder = dataset.build(hrf=SWEEP, split=Split(by="stimulus", folds=3))
    lags = chosen(folder)
    for fold in range(3):
        pairs = read_pairs(folder, fold)
        for windows in pairs.brain.values():
            assert windows.aligned
            assert windows.lags_s == lags.loc[fold, ["early", "high"]].to_dict()
            assert windows.levels["early"].shape[1] == pairs.steps


def test_aligned_windows_are_those_of_that_fixed_lag(make):
    dataset = make({"early": 4.2, "high": 6.1})
    swept = read_pairs(dataset.build("swept", hrf=SWEEP))
    for level, lag in swept.brain["01"].lags_s.items():
        fixed = read_pairs(dataset.build("fixed", hrf=Hrf(method="shift", shift_s=lag)))
        key = ["subject", "run", "clip_id"]
        rows = fixed.clips.reset_index().merge(swept.clips.reset_index(), on=key)
        mine = rows[rows["subject"] == "02"]
        places = [
            np.searchsorted(item.brain["02"].rows, mine[f"index_{side}"].to_numpy())
            for item, side in ((fixed, "x"), (swept, "y"))
        ]
        assert len(mine) > 100
        np.testing.assert_allclose(
            swept.brain["02"].levels[level][places[1]], fixed.brain["02"].levels[level][places[0]], atol=2e-4
        )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tr=st.floats(0.5, 3),
    censored=st.floats(0, 0.5),
    sweep_s=st.sampled_from([(2.0, 9.0, 0.5), (0.0, 4.0, 1.0), (3.0, 3.7, 0.1)]),
)
def test_windows_for_the_sweep_hold_what_every_lag_needs(seed, tr, censored, sweep_s):
    """Reading the stored windows at any lag equals interpolating the run, and usable is usable at every lag."""
    rng = np.random.default_rng(seed)
    times = (np.arange(int(90 / tr)) + 0.5) * tr
    keep = rng.uniform(size=len(times)) >= censored
    data = rng.standard_normal((len(times), 2)).astype(np.float32)
    series = RoiSeries({"a": data}, {"a": ["x", "y"]}, times, keep, {"tr": tr})
    onsets = rng.uniform(-3, 85, 12)
    hrf = Hrf(method="shift", shift_s="sweep", sweep_s=sweep_s)
    cut = brain_window(series, onsets, 4.0, 1.0, hrf)
    rows = np.flatnonzero(cut.usable)
    stored = BrainWindows(rows, {"a": cut.levels["a"][rows]}, cut.times[rows], cut.valid[rows], {}, False)
    steps, usable = step_times(4.0, 1.0), np.ones(len(onsets), bool)
    for lag in hrf.lags_s:
        direct = brain_window(series, onsets, 4.0, 1.0, Hrf(method="shift", shift_s=lag))
        usable &= direct.usable
        np.testing.assert_allclose(
            at_lags(stored, steps, {"a": lag}).levels["a"], direct.levels["a"][rows], atol=1e-3
        )
        np.testing.assert_allclose(on_steps(stored, steps, lag), direct.levels["a"][rows], atol=1e-3)
    np.testing.assert_array_equal(cut.usable, usable)


def test_a_level_that_films_do_not_drive_takes_the_common_lag(make):
    folder = make({"early": 4.0, "high": 6.5}, pure=True, deaf={"high": 8}).build(hrf=SWEEP)
    table = pd.read_csv(folder / "lag_sweep.tsv", sep="\t")
    lags = chosen(folder).loc[0]
    assert lags["high"] == lags[ALL] == lags["early"] == 4.0
    assert not table.loc[table["level"] == "high", "own"].any()
    assert table.loc[table["level"] == "early", "own"].all()


def test_a_single_level_may_have_any_name(make):
    lags = chosen(make({"all": 4.0}, pure=True).build(hrf=SWEEP)).loc[0]
    assert lags["all"] == lags[ALL] == 4.0


def test_unseen_people_are_judged_by_the_map_of_the_others(make):
    dataset = make({"early": 5.0}, pure=True, subjects=4)
    folder = dataset.build(hrf=SWEEP, split=Split(by="subject", test=0.25, validation=0.25))
    clips = read_pairs(folder).clips
    assert not set(clips.query("split == 'train'")["subject"]) & set(
        clips.query("split == 'validation'")["subject"]
    )
    assert chosen(folder).loc[0, "early"] == 5.0


def test_without_validation_clips_there_is_a_sentence(make):
    pairs = read_pairs(make({"early": 4.0}, films=4).build())
    none = replace(pairs, clips=pairs.clips.assign(split=pairs.clips["split"].replace("validation", "guard")))
    assert not len(lag_curve(none, (4.0, 5.0)))
    assert best_lag(lag_curve(none, (4.0, 5.0))) is None
    with pytest.raises(UserError, match=r"raise split.validation, or set hrf.shift_s to a number"):
        sweep(none, ["split"], (4.0, 5.0))


def test_curves_equal_a_loop_over_units(make):
    """Ridge by the normal equations and numpy's correlation, unit by unit."""
    pairs = read_pairs(make({"early": 4.0, "high": 6.0}, films=4, subjects=1).build())
    curve = lag_curve(pairs, (4.0,)).set_index("level")["r"]
    train, check = pairs.of("01", "train"), pairs.of("01", "validation")
    video = pairs.video.levels["features"]
    seen = video[np.unique(train[1])].reshape(-1, video.shape[2])
    video = (video - seen.mean(0)) / seen.std(0)
    x, new = (video[rows].reshape(-1, video.shape[2]) for _, rows in (train, check))
    y, truth = (on_steps(w, pairs.video.step_times, 4.0).reshape(-1, 16) for w, _ in (train, check))
    y = (y - y.mean(0)) / y.std(0)
    centre = x - x.mean(0)
    found = []
    for alpha in (1.0, 10.0, 100.0):
        penalty = alpha * np.trace(centre.T @ centre) / x.shape[1] * np.eye(x.shape[1])
        weights = np.linalg.solve(centre.T @ centre + penalty, centre.T @ (y - y.mean(0)))
        predicted = (new - x.mean(0)) @ weights
        found.append([np.corrcoef(predicted[:, u], truth[:, u])[0, 1] for u in range(16)])
    best = max(found, key=np.mean)
    assert curve[ALL] == pytest.approx(np.mean(best), abs=1e-4)
    assert curve["early"] == pytest.approx(np.mean(best[:8]), abs=1e-4)
    assert curve["high"] == pytest.approx(np.mean(best[8:]), abs=1e-4)


@pytest.mark.parametrize("sweep_s", [(5.0, 4.0, 0.5), (2.0, 9.0, 0.0), (2.0, 25.0, 1.0), (0.0, 10.0, 0.01)])
def test_an_impossible_sweep_is_refused(sweep_s):
    with pytest.raises(ValueError, match="sweep_s"):
        Hrf(method="shift", shift_s="sweep", sweep_s=sweep_s)


@pytest.mark.parametrize("shift_s", [-1, 16, "swep", True, None, float("nan")])
def test_a_lag_that_is_none_is_one_sentence(shift_s):
    with pytest.raises(UserError, match="number of seconds from 0 to 15, or sweep") as error:
        parse_config({"dataset": {"simulate": {}}, "hrf": {"method": "shift", "shift_s": shift_s}})
    assert str(error.value).count("shift_s") <= 2


def test_the_lags_of_a_sweep_are_the_multiples_of_its_step():
    assert Hrf(sweep_s=(2.0, 3.0, 0.5)).lags_s == (2.0, 2.5, 3.0)
    assert Hrf(sweep_s=(0.1, 0.75, 0.2)).lags_s == (0.1, 0.3, 0.5, 0.7)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (12, 20)], ids=["samples", "inputs", "presentations"])
def test_ridge_factors_predict_as_ridge_of_every_presentation_does(shape):
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal(shape) + 2, rng.standard_normal((5, shape[1]))
    counts = rng.integers(1, 4, shape[0])
    y = rng.standard_normal((counts.sum(), 3)) + 1
    factors = ridge_factors(x, counts)
    summed = np.add.reduceat(y, np.cumsum(counts) - counts)
    for alpha in (0.1, 10.0):
        found = factors.predict(factors.left(new), factors.project(summed), alpha)
        expected = decompose(np.repeat(x, counts, axis=0))(y)(alpha)(new)
        np.testing.assert_allclose(found + y.mean(0), expected, atol=1e-5)
