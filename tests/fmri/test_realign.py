"""Realignment against known motion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.fmri.preprocess.realign import realign, rigid_matrix, rigid_parameters

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


@pytest.mark.parametrize("refine", [True, False])
def test_known_motion_with_noise_and_drift_is_recovered(moved, grid, refine):
    rng = np.random.default_rng(0)
    shape, affine = grid
    steps = rng.normal(size=(14, 6)) * [0.15, 0.15, 0.15, 0.003, 0.003, 0.003]
    walk = np.cumsum(steps, axis=0)
    walk[9:] += [3, 0, -4, 0.05, 0, 0.03]  # a jump of a voxel
    true = np.array([rigid_matrix(parameters, CENTRE) for parameters in walk])
    data = np.stack(
        [moved(m) * (1 + 0.01 * i) + rng.normal(scale=10, size=shape) for i, m in enumerate(true)], axis=-1
    )
    mask = moved(np.eye(4)) > 100
    found = realign(data.astype(np.float32), affine, mask, refine_reference=refine)
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    error = displacement(found.matrices, true, points)
    assert error.mean() < 0.08
    assert error.max() < 0.15
    assert found.parameters.shape == (14, 6)


def test_change_of_brightness_is_not_motion(moved, grid):
    still = moved(np.eye(4))
    data = np.stack([still * scale + 20 for scale in np.linspace(0.8, 1.2, 6)], axis=-1).astype(np.float32)
    found = realign(data, grid[1], still > 100)
    assert np.abs(found.parameters[:, :3]).max() < 0.02


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_parameters_and_matrices_are_inverse(values):
    parameters = np.array(values) * [10, 10, 10, 1, 1, 1]
    matrix = rigid_matrix(parameters, CENTRE)
    np.testing.assert_allclose(rigid_parameters(matrix, CENTRE), parameters, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
