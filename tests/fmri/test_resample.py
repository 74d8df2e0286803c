"""One interpolation, against composing by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

from neuroalign.fmri.images import grid_points
from neuroalign.fmri.preprocess.realign import rigid_matrix
from neuroalign.fmri.preprocess.resample import Displacement, output_grid, resample_volumes


def test_composition_equals_one_affine_of_scipy(moved, grid):
    shape, affine = grid
    rng = np.random.default_rng(1)
    data = np.stack([moved(np.eye(4)) + rng.normal(size=shape) for _ in range(2)], axis=-1).astype(np.float32)
    motion = np.array(
        [rigid_matrix(p, np.zeros(3)) for p in ([1, 2, -1, 0.02, 0, 0.01], [0, -2, 0.5, 0, 0.03, 0])]
    )
    coreg = rigid_matrix(np.array([4, -3, 2, 0, 0.1, 0]), np.zeros(3))
    out_shape, out = output_grid((60, 70, 60), np.diag([3.0, 3, 3, 1]) + np.eye(4, k=3) * -90, 5.0)
    points = grid_points(out_shape, out) @ coreg[:3, :3].T + coreg[:3, 3]
    found = resample_volumes(data, affine, motion, points, order=1)
    for volume in range(2):
        pull = np.linalg.inv(affine) @ motion[volume] @ coreg @ out
        wanted = affine_transform(
            data[..., volume], pull[:3, :3], pull[:3, 3], output_shape=out_shape, order=1, mode="nearest"
        )
        np.testing.assert_allclose(found[:, volume], wanted.ravel(), atol=0.5)


def test_a_spline_keeps_what_linear_interpolation_blurs_and_threads_change_nothing(grid):
    shape, affine = grid
    wave = np.cos(np.indices(shape)[0] * 2 * np.pi / 5)
    data = np.repeat(wave[..., None], 3, axis=3).astype(np.float32)
    motion = np.array([rigid_matrix(np.array([x, 0, 0, 0, 0, 0]), np.zeros(3)) for x in (0.0, 1.0, 2.0)])
    inner = np.argwhere(np.ones(shape))[::7]
    inner = inner[((inner > 9) & (inner < np.array(shape) - 10)).all(axis=1)]
    points = inner @ affine[:3, :3].T + affine[:3, 3]
    wanted = np.cos((inner[:, :1] + np.array([0, 0.25, 0.5])) * 2 * np.pi / 5)
    spline, linear = (resample_volumes(data, affine, motion, points, order=o) for o in (3, 1))
    assert np.abs(spline - wanted).max() < 0.02
    assert np.abs(linear - wanted).max() > 0.15
    np.testing.assert_array_equal(spline, resample_volumes(data, affine, motion, points, threads=2))


def test_a_point_that_leaves_the_field_of_view_takes_the_edge(grid):
    shape, affine = grid
    data = np.indices(shape, np.float32)[2][..., None] + 100
    corner = affine[:3, :3] @ np.array([20, 20, shape[2] - 1]) + affine[:3, 3]
    beyond = rigid_matrix(np.array([0, 0, 5.0, 0, 0, 0]), np.zeros(3))
    for order in (1, 3):
        found = resample_volumes(data, affine, beyond[None], corner[None], order=order)
        assert abs(found[0, 0] - (100 + shape[2] - 1)) < 0.05


def test_output_grid_keeps_the_outer_edge():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = [-98, -134, -72]
    shape, grid = output_grid((197, 233, 189), affine, 4.0)
    assert shape == (50, 59, 48)
    np.testing.assert_allclose(grid[:3, 3] - 2.0, affine[:3, 3] - 0.5)


def test_displacement_field_survives_writing_in_itk_convention(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2, 2, 1])
    field = Displacement(rng.normal(size=(6, 7, 8, 3)).astype(np.float32), affine)
    field.write(tmp_path / "xfm.nii.gz", code=4)
    again = Displacement.read(tmp_path / "xfm.nii.gz")
    np.testing.assert_allclose(again.field, field.field)
    stored = nib.load(tmp_path / "xfm.nii.gz")
    assert stored.header.get_intent()[0] == "vector"
    np.testing.assert_allclose(np.asarray(stored.dataobj)[..., 0, 0], -field.field[..., 0])
    points = np.array([[2.0, 4.0, 6.0]])
    np.testing.assert_allclose(field(points), points + field.field[1, 2, 3], atol=1e-6)
