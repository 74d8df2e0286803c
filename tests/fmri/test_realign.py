"""Realignment against known motion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d, gaussian_filter, map_coordinates, spline_filter

from neuroalign.fmri.preprocess.realign import realign, rigid_matrix, rigid_parameters
from neuroalign.fmri.preprocess.rigid import RigidFit, _at_knots, _spline_kernel

CENTRE = np.array([0.0, -20.0, 10.0])


def displacement(estimated, true, points):
    """Mean distance over the brain between where two series of matrices put it, relative to one volume."""
    middle = len(true) // 2
    home = np.c_[points, np.ones(len(points))]
    errors = []
    for one, other in zip(estimated, true, strict=True):
        apart = one @ np.linalg.inv(estimated[middle]) - other @ np.linalg.inv(true[middle])
        errors.append(np.linalg.norm((home @ apart.T)[:, :3], axis=1).mean())
    return np.array(errors)


@pytest.fixture(scope="module")
def run(moved, grid):
    """Fourteen volumes with a walk, a jump of more than a voxel, drift and noise: data, truth, mask, points."""
    rng = np.random.default_rng(0)
    shape, affine = grid
    steps = rng.normal(size=(14, 6)) * [0.15, 0.15, 0.15, 0.003, 0.003, 0.003]
    walk = np.cumsum(steps, axis=0)
    walk[9:] += [3, 0, -4, 0.05, 0, 0.03]
    true = np.array([rigid_matrix(parameters, CENTRE) for parameters in walk])
    data = np.stack(
        [moved(m) * (1 + 0.01 * i) + rng.normal(scale=10, size=shape) for i, m in enumerate(true)], axis=-1
    )
    mask = moved(np.eye(4)) > 100
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return np.asfortranarray(data.astype(np.float32)), true, mask, points


def test_known_motion_with_noise_and_drift_is_recovered(run, grid):
    data, true, mask, points = run
    found = realign(data, grid[1], mask)
    error = displacement(found.matrices, true, points)
    assert error.mean() < 0.05
    assert error.max() < 0.1
    assert found.parameters.shape == (14, 6)
    assert not found.outlier.any()


def test_the_result_does_not_depend_on_threads(run, grid):
    data, _, mask, _ = run
    one, two = (realign(data[..., :11], grid[1], mask, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.matrices, two.matrices)
    np.testing.assert_array_equal(one.reference, two.reference)


def test_spoiled_volumes_neither_spoil_the_reference_nor_their_neighbours(run, grid):
    data, true, mask, points = run
    spoiled = data.copy(order="F")
    bad = [0, 7, 10]
    for volume in bad[:2]:
        spoiled[:, :, 10:40:3, volume] *= 0.3  # every third slice lost its signal
    spoiled[..., 10] = 0.0  # nothing was acquired
    found = realign(spoiled, grid[1], mask)
    assert found.outlier[bad].all()
    assert not np.delete(found.outlier, bad).any()
    clean = realign(data, grid[1], mask)
    sound = np.delete(np.arange(14), bad)
    # Relative to volume 8: the middle one is spoiled.
    home = np.c_[points, np.ones(len(points))]
    for volume in [*sound, 0, 7]:
        one = found.matrices[volume] @ np.linalg.inv(found.matrices[8])
        other = true[volume] @ np.linalg.inv(true[8])
        apart = np.linalg.norm((home @ (one - other).T)[:, :3], axis=1).mean()
        assert apart < (0.1 if volume in sound else 0.3), volume
    np.testing.assert_allclose(found.parameters[10], found.parameters[[9, 11]].mean(axis=0))
    # Lost slices in the mean would be dips between their neighbours.
    profiles = [r[mask.any(axis=2)].mean(axis=0) for r in (found.reference, clean.reference)]
    dips = [p[13:37:3] / (p[12:36:3] + p[14:38:3]) for p in profiles]
    assert np.abs(dips[0] / dips[1] - 1).max() < 0.02


def test_blank_volumes_lie_between_their_neighbours_even_where_they_are_many(run, grid):
    data, true, mask, points = run
    spoiled = data.copy(order="F")
    blank = np.isin(np.arange(14), [1, 2, 3, 5, 6, 8, 11, 13])
    spoiled[..., blank] = 0.0
    found = realign(spoiled, grid[1], mask)
    np.testing.assert_array_equal(found.outlier, blank)
    np.testing.assert_allclose(found.parameters[8], found.parameters[[7, 9]].mean(axis=0))
    np.testing.assert_allclose(found.parameters[5], found.parameters[4] * 2 / 3 + found.parameters[7] / 3)
    np.testing.assert_allclose(found.matrices[8], rigid_matrix(found.parameters[8], found.centre), atol=1e-9)
    np.testing.assert_allclose(found.parameters[13], found.parameters[12])
    assert displacement(found.matrices[~blank], true[~blank], points).max() < 0.1


def test_change_of_brightness_is_not_motion(moved, grid):
    still = moved(np.eye(4))
    shape, _ = grid
    # Alike over the head, and brighter on one side than on the other.
    ramp = np.linspace(-0.05, 0.05, shape[0])[:, None, None]
    data = np.stack([still * (s + (s - 1) * ramp) + 20 for s in np.linspace(0.8, 1.2, 6)], axis=-1)
    found = realign(data.astype(np.float32), grid[1], still > 100)
    assert np.abs(found.parameters[:, :3]).max() < 0.02


def test_the_kernel_is_smoothing_then_scipys_spline_filter(moved):
    image = moved(np.eye(4)).astype(np.float32)
    sigma = 0.6
    kernel = _spline_kernel(sigma)
    found = image
    for axis in range(3):
        found = correlate1d(found, kernel, axis=axis, mode="mirror")
    wanted = spline_filter(gaussian_filter(image, sigma, truncate=2 / sigma, mode="mirror"), 3, mode="mirror")
    inner = (slice(8, -8),) * 3
    np.testing.assert_allclose(found[inner], wanted[inner], atol=2e-3 * np.abs(wanted).max())


def test_slopes_at_knots_are_those_of_scipys_spline():
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(9, 10, 11))
    place = np.array([4.0, 5.0, 6.0])

    def value(where):
        return map_coordinates(coefficients, where[:, None], order=3, mode="mirror", prefilter=False)[0]

    assert _at_knots(coefficients, None)[4, 5, 6] == pytest.approx(value(place))
    for axis, step in enumerate(1e-5 * np.eye(3)):
        slope = (value(place + step) - value(place - step)) / 2e-5
        assert _at_knots(coefficients, axis)[4, 5, 6] == pytest.approx(slope, abs=1e-6)


def test_a_blank_volume_is_no_estimate(moved, grid):
    still = moved(np.eye(4))
    fit = RigidFit(still, grid[1], still > 100)
    assert fit.estimate(np.zeros(grid[0], np.float32), np.eye(4)).residual == np.inf
    assert fit.estimate(still, np.eye(4)).residual < 1e-3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_parameters_and_matrices_are_inverse(values):
    parameters = np.array(values) * [10, 10, 10, 1, 1, 1]
    matrix = rigid_matrix(parameters, CENTRE)
    np.testing.assert_allclose(rigid_parameters(matrix, CENTRE), parameters, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
