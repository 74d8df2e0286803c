"""A censored volume never enters a clip: whatever it holds, nothing that is cut or fitted changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Clean, Hrf
from neuroalign.fmri.clean import clean_series
from neuroalign.fmri.series import RoiSeries
from neuroalign.fmri.timeseries import clean_ready, sort_into_levels
from neuroalign.pairs.store import BrainWindows
from neuroalign.pairs.windows import brain_window, on_steps, step_times

VOLUMES = 70
METHODS = ("adaptive", "shift", "none", "glm")


def series(data: np.ndarray, keep: np.ndarray, tr: float) -> RoiSeries:
    return RoiSeries(
        {"early": data[:, :2], "high": data[:, 2:]},
        {"early": ["a", "b"], "high": ["c"]},
        0.3 * tr + tr * np.arange(VOLUMES),
        keep,
        {"tr": tr},
    )


@st.composite
def censored(draw) -> np.ndarray:
    """Volumes to keep: single ones, blocks, and the two ends are censored."""
    keep = np.ones(VOLUMES, bool)
    keep[draw(st.lists(st.integers(0, VOLUMES - 1), min_size=1, max_size=8))] = False
    begin = draw(st.integers(0, VOLUMES - 6))
    keep[begin : begin + draw(st.integers(0, 6))] = False
    keep[: draw(st.sampled_from([0, 0, 3]))] = False
    keep[VOLUMES - draw(st.sampled_from([0, 0, 2])) :] = False
    return keep


def poisoned(data: np.ndarray, keep: np.ndarray, poison: float) -> np.ndarray:
    spoilt = data.copy()
    spoilt[~keep] = poison
    return spoilt


@settings(max_examples=60, deadline=None)
@given(
    keep=censored(),
    poison=st.sampled_from([1e30, -1e30, np.nan, np.inf]),
    method=st.sampled_from(METHODS),
    tr=st.sampled_from([0.8, 1.5, 2.0]),
    seed=st.integers(0, 99),
)
def test_no_window_and_no_beta_changes(keep, poison, method, tr, seed):
    data = np.random.default_rng(seed).normal(size=(VOLUMES, 3)).astype(np.float32)
    onsets = np.arange(0.0, VOLUMES * tr, 3.7 * tr)
    hrf = Hrf(method=method, window_s=(0, 6 * tr), shift_s=2.2 * tr)
    clean = brain_window(series(data, keep, tr), onsets, 3 * tr, tr, hrf)
    spoilt = brain_window(series(poisoned(data, keep, poison), keep, tr), onsets, 3 * tr, tr, hrf)
    for name in ("times", "valid", "usable"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(spoilt, name))
    for level in clean.levels:
        np.testing.assert_array_equal(clean.levels[level], spoilt.levels[level])
        assert np.isfinite(spoilt.levels[level]).all()


@settings(max_examples=40, deadline=None)
@given(keep=censored(), lag=st.floats(0, 6))
def test_interpolated_steps_bridge_one_censored_volume_and_no_more(keep, lag):
    tr = 1.5
    whole = series(np.zeros((VOLUMES, 3), np.float32), keep, tr)
    onsets = np.arange(0.0, VOLUMES * tr, 1.1)
    cut = brain_window(whole, onsets, 3.0, tr, Hrf(method="shift", shift_s=lag))
    kept = whole.times[keep]
    assume(len(kept) > 2)
    for onset, usable in zip(onsets, cut.usable, strict=True):
        targets = onset + step_times(3.0, tr) + lag
        inside = (targets >= kept[0] - 0.51 * tr) & (targets <= kept[-1] + 0.51 * tr)
        before = np.clip(np.searchsorted(kept, targets) - 1, 0, len(kept) - 2)
        gap = kept[before + 1] - kept[before]
        # Two censored volumes in a row leave a gap of three repetitions.
        assert usable == bool((inside & (gap < 2.5 * tr)).all())


@settings(max_examples=40, deadline=None)
@given(keep=censored(), lag=st.floats(0, 8))
def test_reading_adaptive_windows_at_a_lag_uses_valid_volumes_only(keep, lag):
    tr = 1.5
    data = np.random.default_rng(0).normal(size=(VOLUMES, 3)).astype(np.float32)
    onsets = np.arange(0.0, 60.0, 4.0)
    cut = brain_window(series(data, keep, tr), onsets, 4.0, 1.0, Hrf(method="adaptive"))
    usable = cut.usable & (cut.valid.sum(1) > 1)
    assume(usable.any())

    def read(fill: float) -> np.ndarray:
        levels = {k: np.where(cut.valid[..., None], v, fill)[usable] for k, v in cut.levels.items()}
        windows = BrainWindows(
            np.arange(usable.sum()), levels, cut.times[usable], cut.valid[usable], {}, aligned=False
        )
        return on_steps(windows, step_times(4.0, 1.0), lag)

    np.testing.assert_array_equal(read(0.0), read(1e30))


@settings(max_examples=25, deadline=None)
@given(
    keep=censored(),
    poison=st.sampled_from([1e6, -1e6]),
    options=st.sampled_from([{}, {"high_pass_hz": None}, {"standardize": False}]),
)
def test_cleaning_reads_kept_volumes_only(keep, poison, options):
    data = 1000 + np.random.default_rng(0).normal(size=(VOLUMES, 3)).astype(np.float32)
    config = Clean(strategy="none", **options)
    clean = clean_series(data, keep, 2.0, config, None, "run")
    spoilt = clean_series(poisoned(data, keep, poison), keep, 2.0, config, None, "run")
    np.testing.assert_allclose(clean, spoilt, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(keep=censored(), poison=st.sampled_from([1e30, -1e30]), standardize=st.booleans())
def test_ready_made_series_are_scaled_by_kept_volumes_only(keep, poison, standardize):
    data = np.random.default_rng(0).normal(size=(VOLUMES, 3))
    config = Clean(standardize=standardize)
    clean = clean_ready({"a": data}, keep, config)["a"]
    spoilt = clean_ready({"a": poisoned(data, keep, poison)}, keep, config)["a"]
    np.testing.assert_array_equal(clean, spoilt)
    assert np.abs(spoilt).max() < 20


def test_missing_rows_are_not_present():
    data = np.random.default_rng(0).normal(size=(VOLUMES, 2))
    data[[4, 5]] = np.nan
    levels, _, present = sort_into_levels(data, ["x1", "y1"], {"x": "x", "y": "y"}, "run")
    assert np.flatnonzero(~present).tolist() == [4, 5]
    assert levels["x"][4, 0] == pytest.approx(data[3, 0] * 2 / 3 + data[6, 0] / 3, abs=1e-6)
