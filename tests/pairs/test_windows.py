"""Windows are cut where a naive reading of the clock says, through every haemodynamic method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Hrf
from neuroalign.fmri.series import RoiSeries
from neuroalign.pairs.store import BrainWindows
from neuroalign.pairs.windows import brain_window, on_steps, step_times, video_steps, video_surround
from neuroalign.video.shards import Embedding


def make_series(
    volumes: int = 60, tr: float = 1.5, start: float = 0.0, keep: np.ndarray | None = None
) -> RoiSeries:
    times = start + (np.arange(volumes) + 0.5) * tr
    # The signal *is* the time, so that a value says when it was measured.
    data = np.stack([times, 2 * times], 1).astype(np.float32)
    return RoiSeries(
        {"early": data, "high": data[:, :1]},
        {"early": ["a", "b"], "high": ["c"]},
        times,
        np.ones(volumes, bool) if keep is None else keep,
        {"tr": tr},
    )


@settings(max_examples=60, deadline=None)
@given(
    onset=st.floats(0, 50),
    tr=st.floats(0.5, 3),
    start=st.floats(-2, 2),
    last=st.floats(1, 14),
    first=st.floats(0, 4),
)
def test_adaptive_windows_hold_exactly_the_volumes_of_their_interval(onset, tr, start, last, first):
    series = make_series(80, tr, start)
    hrf = Hrf(method="adaptive", window_s=(first, first + last))
    cut = brain_window(series, onset, 4.0, 1.0, hrf)
    inside = (series.times >= onset + first) & (series.times < onset + 4.0 + first + last)
    np.testing.assert_allclose(cut.times[0][cut.valid[0]], series.times[inside] - onset, atol=1e-4)
    np.testing.assert_allclose(cut.levels["early"][0, cut.valid[0], 0], series.times[inside], rtol=1e-5)


def test_censored_volumes_are_never_valid():
    keep = np.ones(60, bool)
    keep[[10, 11, 12]] = False
    series = make_series(keep=keep)
    cut = brain_window(series, np.array([12.0]), 4.0, 1.0, Hrf(method="adaptive"))
    censored = series.times[10:13] - 12.0
    shown = cut.times[0][cut.valid[0]]
    assert not np.isin(np.round(shown, 4), np.round(censored, 4)).any()
    assert (cut.levels["early"][0][~cut.valid[0]] == 0).all()


def test_windows_with_too_few_volumes_are_not_usable():
    series = make_series(volumes=20)  # 30 s
    cut = brain_window(series, np.array([2.0, 27.0, 40.0]), 4.0, 1.0, Hrf(method="adaptive"))
    assert cut.usable.tolist() == [True, False, False]


@pytest.mark.parametrize(("method", "lag"), [("none", 0.0), ("shift", 5.0)])
def test_interpolation_reads_the_brain_at_the_lag(method, lag):
    series = make_series()
    onsets = np.array([10.0, 20.25])
    cut = brain_window(series, onsets, 4.0, 1.0, Hrf(method=method, shift_s=5.0))
    expected = onsets[:, None] + step_times(4.0, 1.0) + lag
    np.testing.assert_allclose(cut.levels["high"][..., 0], expected, rtol=1e-5)


def test_one_censored_volume_is_bridged_but_a_gap_is_not():
    keep = np.ones(60, bool)
    keep[10] = False
    keep[30:33] = False
    series = make_series(keep=keep)
    onsets = np.array([series.times[10] - 2, series.times[31] - 2])
    cut = brain_window(series, onsets, 4.0, 1.0, Hrf(method="none"))
    assert cut.usable.tolist() == [True, False]
    np.testing.assert_allclose(cut.levels["high"][0, :, 0], onsets[0] + step_times(4.0, 1.0), rtol=1e-5)


def test_separate_betas_find_the_amplitudes_of_a_simulated_design():
    from nilearn.glm.first_level import compute_regressor

    times = (np.arange(200) + 0.5) * 1.5
    onsets = np.arange(12.0, 270.0, 18.0)
    amplitude = np.random.default_rng(0).normal(size=(len(onsets), 3))
    signal = sum(
        compute_regressor(np.array([[o], [4.0], [1.0]]), "spm", times)[0] * a
        for o, a in zip(onsets, amplitude, strict=True)
    )
    series = RoiSeries(
        {"early": signal.astype(np.float32)},
        {"early": ["a", "b", "c"]},
        times,
        np.ones(200, bool),
        {"tr": 1.5},
    )
    cut = brain_window(series, onsets, 4.0, 1.0, Hrf(method="glm"))
    ok = cut.usable
    assert ok.sum() >= len(onsets) - 1
    assert np.corrcoef(cut.levels["early"][ok, 0].ravel(), amplitude[ok].ravel())[0, 1] > 0.95


@settings(max_examples=60, deadline=None)
@given(start=st.floats(0, 20), stride=st.sampled_from([0.25, 0.5, 1.0, 2.0]), steps=st.integers(1, 6))
def test_video_steps_equal_a_loop_over_embeddings(start, stride, steps):
    times = (np.arange(int(40 / stride)) + 0.5) * stride
    data = np.random.default_rng(1).normal(size=(len(times), 3)).astype(np.float32)
    levels, low_level, covered = video_steps(Embedding({"a": data}, times), start, float(steps), 1.0)
    assert covered.all()
    assert low_level is None
    for t in range(steps):
        low, high = start + t - 1e-6, start + t + 1 - 1e-6
        inside = (times >= low) & (times < high)
        if inside.any():
            expected = data[inside].mean(0)
        else:
            expected = [np.interp(start + t + 0.5, times, data[:, d]) for d in range(3)]
        np.testing.assert_allclose(levels["a"][0, t], expected, rtol=1e-4, atol=1e-5)


def test_video_that_ends_too_early_is_not_covered():
    embedding = Embedding({"a": np.zeros((10, 2), np.float32)}, np.arange(10) + 0.5)
    assert video_steps(embedding, np.array([0.0, 6.0, 8.0]), 4.0, 1.0)[2].tolist() == [True, True, False]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(0, 8))
def test_on_steps_equals_numpy_interp(seed, shift):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 16, (5, 9)), axis=1).astype(np.float32)
    valid = rng.uniform(size=(5, 9)) < 0.7
    valid[:, 0] = True
    data = rng.normal(size=(5, 9, 4)).astype(np.float32)
    windows = BrainWindows(
        np.arange(5), {"a": data[..., :1], "b": data[..., 1:]}, times, valid, {}, aligned=False
    )
    steps = step_times(4.0, 1.0)
    result = on_steps(windows, steps, shift)
    for n in range(5):
        for unit in range(4):
            expected = np.interp(steps + shift, times[n, valid[n]], data[n, valid[n], unit])
            np.testing.assert_allclose(result[n, :, unit], expected, atol=2e-4)


@pytest.mark.parametrize("said", [1.5, "", None])
def test_the_repetition_time_is_the_files_or_the_median_between_volumes(said):
    times = np.array([1.0, 3.0, 5.0, 9.0])
    series = RoiSeries({"a": np.zeros((4, 1))}, {"a": ["x"]}, times, np.ones(4, bool), {"tr": said})
    assert series.repetition_time == (said or 2.0)


def test_the_surround_is_the_mean_of_the_film_around_a_clip():
    times = np.arange(0.25, 60, 0.5)
    data = np.random.default_rng(0).standard_normal((len(times), 3)).astype(np.float32)
    film = Embedding({"a": data}, times)
    levels, share = video_surround(film, [0.0, 20.0, 56.0], 4.0, 10.0)
    for row, begin in enumerate((0.0, 20.0, 56.0)):
        near = (times >= begin - 10) & (times < begin + 14)
        np.testing.assert_allclose(levels["a"][row], data[near].mean(0), rtol=1e-5, atol=1e-6)
        assert share[row] == pytest.approx(near.sum() * 0.5 / 24)
    assert share[1] == 1.0
