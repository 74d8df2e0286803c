"""Confounds: by hand, and through nilearn's reader."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from neuroalign.config.fmri import Clean
from neuroalign.errors import UserError
from neuroalign.fmri.clean import STRATEGIES, clean_series, interpolate, load_run_confounds
from neuroalign.fmri.preprocess.confounds import (
    confounds_table,
    cosines,
    dvars,
    framewise_displacement,
    non_steady_state,
    principal_components,
)
from neuroalign.io import read_json, write_json, write_tsv


def test_framewise_displacement_by_hand():
    parameters = np.array(
        [[0, 0, 0, 0, 0, 0], [0.1, -0.2, 0, 0.01, 0, 0], [0.1, 0, 0, 0.01, 0, -0.02]], float
    )
    found = framewise_displacement(parameters)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [0.1 + 0.2 + 0.5, 0.2 + 1.0])


def test_dvars_of_white_noise_is_one_when_standardised():
    rng = np.random.default_rng(0)
    series = 1000 + rng.normal(scale=10, size=(2000, 300))
    plain, standard = dvars(series)
    assert np.nanmean(plain) == pytest.approx(10 * np.sqrt(2), rel=0.02)
    assert np.nanmean(standard) == pytest.approx(1, rel=0.02)


def test_dvars_as_nipype_defines_it_voxel_by_voxel():
    rng = np.random.default_rng(1)
    series = (900 + rng.normal(scale=[[5]] * 40 + [[20]] * 40, size=(80, 60))).astype(np.float32)
    series[0] = 900.0  # never changes: left out
    scaled = series[1:].astype(float) / np.median(series) * 1000
    expected = []
    for voxel in scaled:
        spread = (np.percentile(voxel, 75) - np.percentile(voxel, 25)) / 1.349
        centred = voxel - voxel.mean()
        lag_one = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
        expected.append(np.sqrt(2 * (1 - lag_one)) * spread)
    change = np.sqrt((np.diff(scaled, axis=1) ** 2).mean(axis=0))
    plain, standard = dvars(series)
    np.testing.assert_allclose(plain[1:], change, rtol=1e-5)
    np.testing.assert_allclose(standard[1:], change / np.mean(expected), rtol=1e-5)


def test_components_are_those_of_a_plain_decomposition():
    rng = np.random.default_rng(2)
    waves = rng.normal(size=(3, 90))
    series = 500 + rng.normal(size=(200, 3)) @ waves * [4] + rng.normal(size=(200, 90))
    drift = cosines(90, 2.0)
    found, share = principal_components([series[:50], series[50:]], drift, np.arange(90) >= 2)
    kept = np.column_stack([np.ones(88), drift[2:]])
    left = series[:, 2:].T - kept @ np.linalg.lstsq(kept, series[:, 2:].T, rcond=None)[0]
    left = left / left.std(axis=0)
    u, s, _ = np.linalg.svd(left, full_matrices=False)
    assert np.abs(np.abs((found[2:, :3] * u[:, :3]).sum(axis=0)) - 1).max() < 1e-6
    np.testing.assert_allclose(share[:3], s[:3] ** 2 / (s**2).sum(), rtol=1e-6)
    assert (found[:2] == 0).all()


def test_components_of_a_large_region_take_little_memory():
    series = np.random.default_rng(0).normal(size=(100_000, 100)).astype(np.float32)
    tracemalloc.start()
    principal_components([series], cosines(100, 2.0), np.ones(100, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < series.nbytes


def test_bright_first_volumes_are_not_at_steady_state():
    signal = 1000 + np.random.default_rng(0).normal(size=60)
    assert non_steady_state(signal) == 0
    signal[:3] += [300, 120, 40]
    assert non_steady_state(signal) == 3
    assert non_steady_state(np.ones(20)) == 0
    noise_free = np.full(60, 1000.0)
    noise_free[:2] += [280, 60]
    assert non_steady_state(noise_free) == 2


def test_a_quiet_or_drifting_run_has_no_dummies():
    # Three parts in a thousand above a very quiet run; a slow fall; a first volume that lost its signal.
    quiet = 1000 + np.random.default_rng(0).normal(scale=0.2, size=200)
    quiet[0] += 3
    assert non_steady_state(quiet) == 0
    assert non_steady_state(np.linspace(1050, 950, 200)) == 0
    quiet[0] = 400
    assert non_steady_state(quiet) == 0


def test_lost_volumes_are_marked_and_seen_by_no_statistic(tmp_path):
    rng = np.random.default_rng(3)
    parameters = np.cumsum(rng.normal(scale=[0.02] * 3 + [2e-4] * 3, size=(80, 6)), axis=0)
    parameters[30:, 1] += 2.0  # moved while nothing was acquired
    brain = (1000 + rng.normal(scale=10, size=(300, 80))).astype(np.float32)
    lost = np.isin(np.arange(80), [20, 29, 79])
    spoiled, elsewhere = brain.copy(), parameters.copy()
    spoiled[:, lost] = [[0.0, 9e4, 0.0]]
    elsewhere[lost] += 40.0

    def table(series, motion):
        return confounds_table(motion, series, series[:60], series[60:100], tr=2.0, dummies=1, lost=lost)

    found, sidecar = table(spoiled, elsewhere)
    pd.testing.assert_frame_equal(found, table(brain, parameters)[0])
    for index, volume in enumerate([20, 29, 79]):
        assert np.flatnonzero(found[f"motion_outlier{index:02d}"]).tolist() == [volume]
        assert sidecar[f"motion_outlier{index:02d}"] == {
            "Description": "Volume that shows no head or fits poorly: censored",
            "Censored": True,
        }
    assert "motion_outlier03" not in found
    assert found.loc[lost, ["framewise_displacement", "dvars", "std_dvars"]].isna().all(axis=None)
    assert found["framewise_displacement"][30] == pytest.approx(
        framewise_displacement(parameters[[28, 30]])[1]
    )
    assert found["csf"][20] == pytest.approx((brain[60:100, 19] + brain[60:100, 21]).mean() / 2)
    assert found["trans_y"][29] == pytest.approx((parameters[28, 1] + parameters[30, 1]) / 2)
    assert found["white_matter"][79] == pytest.approx(brain[:60, 78].mean())
    np.testing.assert_allclose(
        found["dvars"][~lost].to_numpy(), dvars(brain[:, ~lost])[0], rtol=1e-6, equal_nan=True
    )
    assert (found.loc[lost, [f"a_comp_cor_{i:02d}" for i in range(6)]] == 0).all(axis=None)

    bold = tmp_path / "sub-1_task-a_space-X_desc-preproc_bold.nii.gz"
    bold.touch()
    write_tsv(tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv", found)
    write_json(tmp_path / "sub-1_task-a_desc-confounds_timeseries.json", sidecar)
    columns, mask = load_confounds(
        str(bold), strategy=("motion", "wm_csf", "scrub"), motion="full", wm_csf="full", scrub=0
    )
    assert columns.notna().all(axis=None)
    assert 30 not in mask
    assert 31 in mask


def test_a_tissue_out_of_view_has_no_columns_and_is_not_replaced_by_the_brain(run):
    bold, path, _ = run
    rng = np.random.default_rng(4)
    brain = 1000 + rng.normal(scale=10, size=(300, 80))
    none = brain[:0]

    def write(white_matter, csf):
        table, sidecar = confounds_table(np.zeros((80, 6)), brain, white_matter, csf, tr=2.0, dummies=0)
        write_tsv(path, table)
        write_json(path.with_suffix(".json"), sidecar)
        return table, sidecar

    table, sidecar = write(brain[:60], none)
    assert not [c for c in [*table, *sidecar] if c.startswith("csf")]
    found, _ = principal_components([brain[:60]], cosines(80, 2.0), np.ones(80, bool))
    np.testing.assert_allclose(table["a_comp_cor_00"], found[:, 0])
    with pytest.raises(UserError, match="choose another strategy"):
        load_run_confounds(bold, path, Clean(strategy="simple"), 80)
    assert load_run_confounds(bold, path, Clean(strategy="compcor"), 80)[0].shape == (80, 30)
    table, _ = write(none, none)
    assert not [c for c in table if c.startswith(("csf", "white_matter", "a_comp_cor"))]
    with pytest.raises(UserError, match="choose another strategy"):
        load_run_confounds(bold, path, Clean(strategy="compcor"), 80)


def test_cosines_are_orthonormal():
    basis = cosines(105, 2.0)
    assert basis.shape == (105, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(80, 6)) * np.array([0.02, 0.02, 0.02, 2e-4, 2e-4, 2e-4])
    parameters = np.cumsum(steps, axis=0)
    parameters[40:, 0] += 2.0  # one jump
    brain = 1000 + rng.normal(scale=10, size=(300, 80))
    table, sidecar = confounds_table(parameters, brain, brain[:60], brain[60:100], tr=2.0, dummies=1)
    write_tsv(tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv", table)
    write_json(tmp_path / "sub-1_task-a_desc-confounds_timeseries.json", sidecar)
    bold = tmp_path / "sub-1_task-a_space-X_desc-preproc_bold.nii.gz"
    bold.touch()
    return bold, tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv", table


def test_first_row_of_derivatives_is_missing(run):
    _, path, table = run
    assert table["trans_x_derivative1"].isna().tolist()[:2] == [True, False]
    assert "n/a" in path.read_text().splitlines()[1]


def test_nilearn_reads_them(run):
    columns, mask = load_confounds(
        str(run[0]), strategy=("motion", "high_pass", "wm_csf", "compcor"), motion="full", wm_csf="full",
        compcor="anat_combined", n_compcor=6,
    )  # fmt: skip
    assert columns.shape == (80, 24 + 2 + 8 + 6)
    assert 0 not in mask


@pytest.mark.parametrize(
    ("strategy", "count"), [("none", 0), ("motion", 24), ("simple", 26), ("scrubbing", 32), ("compcor", 30)]
)
def test_strategies(run, strategy, count):
    assert strategy in STRATEGIES
    columns, keep = load_run_confounds(run[0], run[1], Clean(strategy=strategy), 80)
    assert (0 if columns is None else columns.shape[1]) == count
    assert not keep[0]
    assert not keep[40]
    assert keep[1:35].all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_columns_marked_as_censored_leave_volumes_out_and_regress_nothing(run, strategy):
    bold, path, table = run
    config = Clean(strategy=strategy)
    columns, keep = load_run_confounds(bold, path, config, 80)
    outliers = {f"motion_outlier0{i}": (np.arange(80) == at).astype(float) for i, at in enumerate((15, 60))}
    write_tsv(path, table.assign(**outliers))
    again, unmarked = load_run_confounds(bold, path, config, 80)
    assert unmarked.tolist() == keep.tolist()  # fMRIPrep's own are for the strategy to judge
    sidecar = path.with_suffix(".json")
    marks = {"motion_outlier00": {"Censored": True}, "motion_outlier01": {"Censored": False}}
    write_json(sidecar, read_json(sidecar) | marks)
    again, marked = load_run_confounds(bold, path, config, 80)
    assert np.flatnonzero(keep & ~marked).tolist() == [15]
    assert (None if again is None else list(again)) == (None if columns is None else list(columns))


def test_missing_or_foreign_confounds_are_refused(run):
    with pytest.raises(UserError, match="rows"):
        load_run_confounds(run[0], run[1], Clean(), 79)
    with pytest.raises(UserError, match="strategy"):
        load_run_confounds(run[0], None, Clean(), 80)
    columns, keep = load_run_confounds(run[0], None, Clean(strategy="none"), 80)
    assert columns is None
    assert keep.all()
    table = run[2][["trans_x", "framewise_displacement"]]
    write_tsv(run[1], table)
    with pytest.raises(UserError, match="choose another strategy"):
        load_run_confounds(run[0], run[1], Clean(), 80)


def noisy_series(columns):
    rng = np.random.default_rng(2)
    clock = 2.0 * np.arange(80)
    series = (
        np.sin(2 * np.pi * 0.05 * clock)[:, None]
        + 100
        + 5 * columns.to_numpy()[:, :2]
        + 0.01 * clock[:, None]
    )
    series = np.c_[series + 0.1 * rng.normal(size=series.shape), np.full(80, 7.0)]
    series[40] += 50  # censored: may not leak
    return series


def test_cleaning_is_one_regression_over_the_kept_volumes(run):
    config = Clean(strategy="motion")
    columns, keep = load_run_confounds(run[0], run[1], config, 80)
    series = noisy_series(columns)
    found = clean_series(series, keep, 2.0, config, columns, "run")
    drift = np.cos(np.pi * (np.arange(80)[:, None] + 0.5) / 80 * np.arange(1, 4))  # 2 * 160 s * 0.01 Hz
    # nilearn's linear trend runs over the kept volumes.
    ramp = np.arange(float(keep.sum()))
    design = np.column_stack([np.ones_like(ramp), ramp, drift[keep], columns.to_numpy()[keep]])
    design /= np.linalg.norm(design, axis=0)  # squared rotations are minute: not to be taken for zero
    left = series[keep] - design @ np.linalg.lstsq(design, series[keep], rcond=None)[0]
    np.testing.assert_allclose(found[keep, :2], left[:, :2] / left[:, :2].std(axis=0, ddof=1), atol=1e-3)
    assert (found[:, 2] == 0).all()


def test_cleaning_in_parts_and_in_place_changes_nothing(run, monkeypatch):
    columns, keep = load_run_confounds(run[0], run[1], Clean(), 80)
    series = np.tile(noisy_series(columns), 5).astype(np.float32)
    whole = clean_series(series, keep, 2.0, Clean(), columns, "run")
    monkeypatch.setattr("neuroalign.fmri.clean._COLUMNS", 4)
    found = clean_series(series, keep, 2.0, Clean(), columns, "run", overwrite=True)
    assert found is series
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_band_pass_keeps_the_band_and_stays_finite(run):
    config = Clean(strategy="none", low_pass_hz=0.1)
    columns, keep = load_run_confounds(run[0], run[1], Clean(strategy="motion"), 80)
    rng = np.random.default_rng(3)
    wave = np.sin(2 * np.pi * 0.05 * 2.0 * np.arange(80))
    series = 100 + np.c_[wave, wave] + rng.normal(size=(80, 2))
    found = clean_series(series, keep, 2.0, config, None, "run")
    assert np.isfinite(found).all()
    assert (
        np.corrcoef(found[keep, 0], wave[keep])[0, 1] > np.corrcoef(series[keep, 0], wave[keep])[0, 1] + 0.05
    )
    with_columns = clean_series(noisy_series(columns), keep, 2.0, Clean(low_pass_hz=0.1), columns, "run")
    assert np.isfinite(with_columns).all()


def test_too_many_regressors_are_refused(run):
    columns, _ = load_run_confounds(run[0], run[1], Clean(), 80)
    keep = np.zeros(80, bool)
    keep[:28] = True
    with pytest.raises(UserError, match="regressors"):
        clean_series(np.random.default_rng(0).normal(size=(80, 2)), keep, 2.0, Clean(), columns, "run")


@pytest.mark.parametrize(("high", "shortest"), [(0.01, 34), (None, 19)])
def test_low_pass_of_a_short_run_is_refused_where_scipy_would(high, shortest):
    config = Clean(strategy="none", low_pass_hz=0.1, high_pass_hz=high)
    data = np.random.default_rng(0).normal(size=(60, 2))
    for length in (shortest, shortest - 1):
        keep = np.zeros(60, bool)
        keep[5 : 5 + length] = True
        keep[8] = False  # a gap is interpolated and counts
        if length == shortest:
            assert np.isfinite(clean_series(data, keep, 2.0, config, None, "run")).all()
        else:
            with pytest.raises(
                UserError, match=rf"needs more than {length} volumes.* there are {length}; set"
            ):
                clean_series(data, keep, 2.0, config, None, "run")


@pytest.mark.parametrize(("low", "cosines"), [(None, 16), (0.2, 0)])
def test_regressors_are_counted_as_they_are_fitted(low, cosines):
    rng = np.random.default_rng(0)
    config = Clean(low_pass_hz=low, high_pass_hz=0.1)
    most = 40 - 2 - 1 - 2 - cosines  # 40 volumes of 2 s; two left over; a constant and a trend
    for count, fits in ((most, True), (most + 1, False)):
        columns = pd.DataFrame(rng.normal(size=(40, count)))
        data, keep = rng.normal(size=(40, 2)), np.ones(40, bool)
        if fits:
            assert clean_series(data, keep, 2.0, config, columns, "run").shape == (40, 2)
        else:
            with pytest.raises(UserError, match=f"{count + 2 + cosines} regressors for 40 kept"):
                clean_series(data, keep, 2.0, config, columns, "run")


def test_interpolation_is_linear_between_and_held_at_the_ends():
    keep = np.array([False, True, False, False, True, False])
    np.testing.assert_allclose(interpolate(np.array([[1.0], [4.0]]), keep).ravel(), [1, 1, 2, 3, 4, 4])
