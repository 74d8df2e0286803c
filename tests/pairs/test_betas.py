"""Betas of single clips are those of nilearn's own general linear model, one design per clip."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.glm.first_level import (
    FirstLevelModel,
    compute_regressor,
    make_first_level_design_matrix,
    run_glm,
)

from neuroalign.config.fmri import Hrf
from neuroalign.fmri.series import RoiSeries
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
