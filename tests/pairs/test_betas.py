"""Betas of single clips are those of nilearn's own general linear model, one design per clip."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn import signal
from nilearn.glm.first_level import (
    FirstLevelModel,
    compute_regressor,
    make_first_level_design_matrix,
    run_glm,
)

from neuroalign.config.fmri import Clean, Hrf
from neuroalign.fmri.clean import clean_series, nuisance_space
from neuroalign.fmri.preprocess.confounds import cosines
from neuroalign.fmri.series import RoiSeries, read_series, write_series
from neuroalign.pairs.betas import clip_response, least_squares_separate, separate_betas
from neuroalign.pairs.windows import brain_window


def make_series(data: np.ndarray, tr: float, keep: np.ndarray | None = None, start: float = 0.0) -> RoiSeries:
    times = start + (np.arange(len(data)) + 0.5) * tr
    keep = np.ones(len(data), bool) if keep is None else keep
    return RoiSeries(
        {"a": data.astype(np.float32)}, {"a": [str(i) for i in range(data.shape[1])]}, times, keep, {"tr": tr}
    )


def separate_design(onsets: np.ndarray, i: int, duration: float, times: np.ndarray) -> pd.DataFrame:
    """nilearn's design with this clip and all others as the two conditions."""
    kind = np.where(np.arange(len(onsets)) == i, "clip", "others")
    events = pd.DataFrame({"onset": onsets, "duration": duration, "trial_type": kind})
    return make_first_level_design_matrix(times, events, hrf_model="spm", drift_model=None, oversampling=200)


SPACED = np.array([7.3, 25.1, 44.8, 61.9, 90.0])
OVERLAPPING = np.array([7.3, 9.1, 11.3, 15.3, 19.3, 40.2, 44.2])


@pytest.mark.parametrize("onsets", [SPACED, OVERLAPPING], ids=["spaced", "overlapping"])
@pytest.mark.parametrize("censored", [False, True], ids=["whole", "censored"])
def test_betas_equal_run_glm(onsets, censored):
    rng = np.random.default_rng(0)
    data, tr = rng.standard_normal((90, 4)), 1.7
    keep = rng.uniform(size=90) > 0.1 if censored else np.ones(90, bool)
    series = make_series(data, tr, keep)
    betas, usable = separate_betas(series, onsets, 3.0)
    assert usable.all()
    for i in range(len(onsets)):
        design = separate_design(onsets, i, 3.0, series.times)
        labels, results = run_glm(series.levels["a"][keep], design.to_numpy()[keep], noise_model="ols")
        expected = results[labels[0]].theta[design.columns.get_loc("clip")]
        # nilearn rounds onsets to a part of the repetition time; we do not.
        np.testing.assert_allclose(betas["a"][i, 0], expected, atol=0.02 * np.abs(expected).max())


def test_betas_equal_a_first_level_model_of_an_image():
    rng = np.random.default_rng(1)
    volumes, tr = 80, 1.5
    image = nib.Nifti1Image(rng.standard_normal((2, 2, 1, volumes)).astype(np.float32) + 100, np.eye(4))
    mask = nib.Nifti1Image(np.ones((2, 2, 1), np.uint8), np.eye(4))
    series = make_series(image.get_fdata().reshape(4, volumes).T, tr)
    betas, _ = separate_betas(series, SPACED, 3.0)
    for i in (0, 3):
        design = separate_design(SPACED, i, 3.0, series.times)
        model = FirstLevelModel(mask_img=mask, noise_model="ols", signal_scaling=False, minimize_memory=True)
        model.fit(image, design_matrices=design)
        expected = model.compute_contrast("clip", output_type="effect_size").get_fdata().ravel()
        np.testing.assert_allclose(betas["a"][i, 0], expected, atol=0.02 * np.abs(expected).max())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 9), volumes=st.integers(20, 60))
def test_the_closed_form_equals_a_loop_of_least_squares(seed, clips, volumes):
    rng = np.random.default_rng(seed)
    single = np.abs(rng.standard_normal((volumes, clips)))
    data = 5 + rng.standard_normal((volumes, 6)).astype(np.float32)
    betas, apart = least_squares_separate(single, data)
    assert apart.all()
    for i in range(clips):
        others = single.sum(1) - single[:, i]
        design = np.column_stack([single[:, i], others, np.ones(volumes)])
        np.testing.assert_allclose(betas[i], np.linalg.lstsq(design, data, rcond=None)[0][0], atol=1e-8)


def test_what_cannot_be_told_apart_is_said():
    """Two copies of one regressor: each is the sum of the others."""
    one = np.random.default_rng(0).standard_normal((30, 1))
    betas, apart = least_squares_separate(np.hstack([one, one]), one)
    assert not apart.any()
    assert (betas == 0).all()
    assert not least_squares_separate(np.ones((30, 1)), one)[1].any()


@settings(max_examples=10, deadline=None)
@given(duration=st.floats(0.5, 8), tr=st.floats(0.7, 3), onset=st.floats(0, 40))
def test_the_response_is_nilearns_at_the_middle_of_each_volume(duration, tr, onset):
    times = (np.arange(int(90 / tr)) + 0.5) * tr
    seconds, response = clip_response(duration)
    mine = np.interp(times - onset, seconds, response, left=0.0, right=0.0)
    theirs = compute_regressor(np.array([[onset], [duration], [1.0]]), "spm", times, oversampling=200)[0][
        :, 0
    ]
    assert np.abs(mine - theirs).max() < 0.02 * np.abs(theirs).max()


def test_sub_tr_onsets_give_exact_amplitudes():
    """Clips between volumes, amplitudes known: read on the wrong clock (starts of volumes) they would be off."""
    rng = np.random.default_rng(3)
    tr, volumes = 2.0, 200
    onsets = np.arange(8.0, 370.0, 24.0) + rng.uniform(0, tr, 16)
    times = (np.arange(volumes) + 0.5) * tr
    amplitude = rng.uniform(0.5, 2, (len(onsets), 3))
    regressors = [
        compute_regressor(np.array([[o], [4.0], [1.0]]), "spm", times, oversampling=200)[0] for o in onsets
    ]
    data = sum(r * a for r, a in zip(regressors, amplitude, strict=True))
    betas, usable = separate_betas(make_series(data, tr), onsets, 4.0)
    late, _ = separate_betas(make_series(data, tr, start=-tr / 2), onsets, 4.0)
    error, wrong = (np.abs(b["a"][usable, 0] - amplitude[usable]).mean() for b in (betas, late))
    assert error < 0.05
    assert wrong > 3 * error


def test_repeats_in_a_run_have_betas_of_their_own():
    onsets, tr = np.array([10.0, 40.0, 70.0]), 1.5
    times = (np.arange(80) + 0.5) * tr
    strength = (1.0, 3.0, -2.0)
    data = sum(
        s * compute_regressor(np.array([[o], [4.0], [1.0]]), "spm", times)[0]
        for o, s in zip(onsets, strength, strict=True)
    )
    cut = brain_window(make_series(data, tr), onsets, 4.0, 1.0, Hrf(method="glm"))
    assert cut.levels["a"].shape == (3, 1, 1)
    np.testing.assert_allclose(cut.levels["a"][:, 0, 0], strength, atol=0.15)


def test_a_response_outside_the_run_or_in_censored_volumes_is_not_usable():
    keep = np.ones(100, bool)
    keep[32:44] = False
    series = make_series(np.random.default_rng(0).standard_normal((100, 2)), 1.5, keep)
    onsets = np.array([10.0, 47.0, 80.0, 147.0, 400.0, -40.0])
    cut = brain_window(series, onsets, 4.0, 1.0, Hrf(method="glm"))
    assert cut.usable.tolist() == [True, False, True, False, False, False]
    assert (cut.levels["a"][~cut.usable] == 0).all()


def test_a_run_that_is_censored_whole_has_no_betas():
    series = make_series(np.ones((30, 2)), 1.5, np.zeros(30, bool))
    cut = brain_window(series, np.array([3.0, 10.0]), 4.0, 1.0, Hrf(method="glm"))
    assert not cut.usable.any()
    assert np.isfinite(cut.levels["a"]).all()


def drifting(seed: int, keep: np.ndarray, tr: float, soa: float, confounds: pd.DataFrame):
    """Clips of known amplitudes every `soa` seconds, slow drifts, confounds and noise: raw data, onsets, amplitudes."""
    rng = np.random.default_rng(seed)
    times = (np.arange(len(keep)) + 0.5) * tr
    onsets = np.arange(5.0, times[-1] - 30, soa) + rng.uniform(0, 0.5)
    amplitude = rng.uniform(0.5, 2, (len(onsets), 20))
    seconds, response = clip_response(3.0)
    single = np.interp(times[:, None] - onsets, seconds, response, left=0.0, right=0.0)
    slow = np.cumsum(rng.standard_normal((len(times), 20)), axis=0) * 0.3 + 50
    noise = 0.5 * rng.standard_normal(slow.shape)
    data = (
        single @ amplitude
        + slow
        + noise
        + confounds.to_numpy() @ rng.standard_normal((confounds.shape[1], 20))
    )
    return data, onsets, amplitude, single


def a_run(volumes: int, censored: float = 0.0) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(11)
    keep = rng.uniform(size=volumes) >= censored
    motion = np.cumsum(rng.standard_normal((volumes, 6)), axis=0)
    return keep, pd.DataFrame(motion, columns=list("abcdef"))


@pytest.mark.parametrize("censored", [0.0, 0.15], ids=["whole", "censored"])
@pytest.mark.parametrize("high_pass_hz", [None, 0.01], ids=["trend", "cosines"])
@pytest.mark.parametrize("with_confounds", [False, True], ids=["no confounds", "confounds"])
def test_betas_of_cleaned_series_are_those_of_a_joint_model_of_uncleaned_ones(
    with_confounds, high_pass_hz, censored
):
    tr = 1.0
    keep, columns = a_run(300, censored)
    data, onsets, _, single = drifting(0, keep, tr, 8.0, columns)
    clean = Clean(high_pass_hz=high_pass_hz, standardize=False)
    used = columns if with_confounds else None
    series = make_series(clean_series(data, keep, tr, clean, used, "run"), tr, keep)
    series.nuisance, series.band_hz = nuisance_space(keep, tr, clean, used)
    assert series.band_hz is None
    betas, usable = separate_betas(series, onsets, 3.0)
    assert usable.sum() > 10
    kept = keep.sum()
    nuisance = [np.ones((kept, 1)), np.linspace(-1, 1, kept)[:, None]]
    if high_pass_hz:
        nuisance.append(cosines(300, tr, 1 / high_pass_hz)[keep])
    if with_confounds:
        nuisance.append(columns.to_numpy()[keep])
    for i in np.flatnonzero(usable):
        design = np.column_stack([single[:, i], single.sum(1) - single[:, i]])[keep]
        design = np.column_stack([design, *nuisance])
        expected = np.linalg.lstsq(design, data[keep], rcond=None)[0][0]
        np.testing.assert_allclose(betas["a"][i, 0], expected, atol=2e-4)


def test_betas_after_a_band_pass_are_those_of_filtered_regressors():
    """nilearn filters data and design as one; the joint model of what comes out has the same coefficients."""
    tr = 1.0
    keep, columns = a_run(300, 0.1)
    keep[[0, 1, -1]] = False
    data, onsets, _, single = drifting(0, keep, tr, 8.0, columns)
    clean = Clean(high_pass_hz=0.01, low_pass_hz=0.15, standardize=False)
    series = make_series(clean_series(data, keep, tr, clean, columns, "run"), tr, keep)
    series.nuisance, series.band_hz = nuisance_space(keep, tr, clean, columns)
    assert series.band_hz == (0.01, 0.15)
    betas, usable = separate_betas(series, onsets, 3.0)
    filtered = signal.clean(
        np.column_stack([data, single, columns.to_numpy()]),
        **{"standardize": None, "sample_mask": np.flatnonzero(keep), "t_r": tr, "extrapolate": False},
        **{"filter": "butterworth", "high_pass": 0.01, "low_pass": 0.15},
    )
    assert usable.sum() > 10
    n = single.shape[1]
    data, single, nuisance = filtered[:, :20], filtered[:, 20 : 20 + n], filtered[:, 20 + n :]
    for i in np.flatnonzero(usable):
        design = np.column_stack([single[:, i], single.sum(1) - single[:, i], np.ones(len(data)), nuisance])
        expected = np.linalg.lstsq(design, data, rcond=None)[0][0]
        np.testing.assert_allclose(betas["a"][i, 0], expected, atol=2e-4)


@pytest.mark.parametrize("low_pass_hz", [None, 0.15])
def test_nothing_of_the_nuisance_is_left_in_cleaned_series(low_pass_hz):
    """Nor of the basis twice, with collinear confounds far from zero."""
    keep, columns = a_run(200, 0.1)
    columns = columns.assign(g=1e4 + 2 * columns["a"], h=columns["b"], i=1.0)
    clean = Clean(low_pass_hz=low_pass_hz)
    data = np.random.default_rng(0).standard_normal((200, 30))
    cleaned = clean_series(data, keep, 1.0, clean, columns, "run")
    nuisance, _ = nuisance_space(keep, 1.0, clean, columns)
    assert nuisance.shape[1] == (6 if low_pass_hz else 6 + 1 + 4)
    assert (nuisance[~keep] == 0).all()
    np.testing.assert_allclose(nuisance.T @ nuisance, np.eye(nuisance.shape[1]), atol=1e-5)
    np.testing.assert_allclose(nuisance[keep].T @ cleaned[keep], 0, atol=1e-3)  # columns have norm 13


@pytest.mark.parametrize(("soa", "least"), [(4.0, 0.03), (8.0, 0.015)])
def test_cleaning_the_design_brings_betas_nearer_to_the_truth(soa, least):
    """All clips are responded to, each with a strength of its own; the run drifts more slowly than 0.01 Hz."""
    rng, tr, keep = np.random.default_rng(0), 1.0, np.ones(600, bool)
    times, onsets = np.arange(600) + 0.5, np.arange(5.3, 570, soa)
    amplitude = rng.uniform(0.5, 2, (len(onsets), 50))
    seconds, response = clip_response(3.0)
    data = np.interp(times[:, None] - onsets, seconds, response, left=0.0, right=0.0) @ amplitude
    data += 100 + cosines(600, tr, 128) @ rng.normal(0, 20, (9, 50)) + 0.2 * rng.standard_normal(data.shape)
    clean = Clean(high_pass_hz=0.01, standardize=False)
    series = make_series(clean_series(data, keep, tr, clean, None, "run"), tr)
    agreement = []
    for series.nuisance in (None, nuisance_space(keep, tr, clean, None)[0]):
        betas, usable = separate_betas(series, onsets, 3.0)
        found, truth = betas["a"][usable, 0], amplitude[usable]
        agreement.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, truth.T, strict=True)]))
    assert agreement[1] > agreement[0] + least


def test_a_clip_within_the_nuisance_has_no_beta():
    tr, keep = 1.0, np.ones(100, bool)
    seconds, response = clip_response(3.0)
    onsets = np.array([10.0, 50.0])
    one = np.interp((np.arange(100) + 0.5) - onsets[0], seconds, response, left=0.0, right=0.0)
    series = make_series(np.random.default_rng(0).standard_normal((100, 2)), tr)
    series.nuisance, _ = nuisance_space(keep, tr, Clean(high_pass_hz=None), pd.DataFrame({"a": one}))
    betas, usable = separate_betas(series, onsets, 3.0)
    assert usable.tolist() == [False, True]
    assert (betas["a"][0] == 0).all()


def test_the_nuisance_is_kept_in_the_file(tmp_path):
    keep, columns = a_run(120, 0.1)
    series = make_series(np.random.default_rng(0).standard_normal((120, 3)), 1.0, keep)
    for clean in (Clean(), Clean(low_pass_hz=0.2), Clean(high_pass_hz=None)):
        series.nuisance, series.band_hz = nuisance_space(keep, 1.0, clean, columns)
        write_series(tmp_path / "run.h5", series)
        again = read_series(tmp_path / "run.h5")
        np.testing.assert_array_equal(again.nuisance, series.nuisance)
        assert again.band_hz == series.band_hz
    series.nuisance = series.band_hz = None
    write_series(tmp_path / "run.h5", series)
    again = read_series(tmp_path / "run.h5")
    assert again.nuisance is None
    assert again.band_hz is None


def test_memory_beside_the_betas_does_not_grow_with_voxels():
    """Two levels of 20 000 voxels: double-precision copies of all of them would take 128 MB."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((200, 40_000), dtype=np.float32)
    whole = make_series(data[:, :3], 1.5)
    labels = [""] * 20_000
    series = RoiSeries(
        {"a": data[:, :20_000], "b": data[:, 20_000:]},
        {"a": labels, "b": labels},
        whole.times,
        whole.keep,
        {"tr": 1.5},
    )
    tracemalloc.start()
    betas, _ = separate_betas(series, SPACED, 3.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    some = separate_betas(make_series(data[:, 20_000:][:, [0, 2047, 2048, -1]], 1.5), SPACED, 3.0)[0]["a"]
    np.testing.assert_allclose(betas["b"][..., [0, 2047, 2048, -1]], some, atol=1e-5)
