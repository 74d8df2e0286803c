"""A small phantom head, and images on disk, for the tests of the brain side."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

AFFINE = np.array([[4.0, 0, 0, -90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
SHAPE = (46, 55, 46)


@pytest.fixture(scope="session")
def brain():
    """nilearn's template at 2 mm, smoothed a little: data (0 to 1) and affine."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    return gaussian_filter(np.asarray(image.dataobj, np.float32), 0.8), image.affine


@pytest.fixture(scope="session")
def moved(brain):
    """A function: the brain on the 4 mm grid after a rigid world motion, times 1000."""
    data, affine = brain

    def make(matrix: np.ndarray) -> np.ndarray:
        pull = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ AFFINE
        return 1000 * affine_transform(data, pull[:3, :3], pull[:3, 3], output_shape=SHAPE, order=1)

    return make


@pytest.fixture(scope="session")
def grid():
    """Shape and affine of the phantom's BOLD grid."""
    return SHAPE, AFFINE


@pytest.fixture
def save(tmp_path):
    """Save an array as NIfTI below the test's folder."""

    def write(name: str, data: np.ndarray, affine: np.ndarray = AFFINE, tr: float | None = None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(data, affine)
        if tr is not None:
            image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        nib.save(image, path)
        return path

    return write


def head_phantom(voxel_mm: float, seed: int = 0):
    """A T1w-like head: template brain, dark CSF and skull, bright scalp, neck; turned, scaled, warped, biased.

    Returns
    -------
    data, affine, mask
        The image, its affine, and where the brain truly is.
    """
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    image = load_mni152_template(resolution=2)
    pad = 20
    brain = np.pad(np.asarray(image.dataobj, np.float32), pad)
    inside = np.pad(np.asarray(load_mni152_brain_mask(resolution=2).dataobj) > 0, pad)
    affine = image.affine.copy()
    affine[:3, 3] -= 2 * pad
    distance = 2 * distance_transform_edt(~inside)
    head = brain.copy()
    for near, far, value in ((0, 4, 0.15), (4, 8, 0.05), (8, 13, 1.1)):
        head[(distance > near) & (distance <= far)] = value
    x, y, z = (np.indices(head.shape).T @ affine[:3, :3].T + affine[:3, 3]).T
    head[(x**2 / 60**2 + (y + 25) ** 2 / 65**2 < 1) & (z < -55) & (distance > 6)] = 0.7

    count = int(240 / voxel_mm)
    grid = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    grid[:3, 3] = [-105, -150, -95]
    subject = np.eye(4)
    subject[:3, :3] = Rotation.from_euler("xyz", [-10, 4, -5], degrees=True).as_matrix() @ np.diag(
        [0.95, 1.04, 0.97]
    )
    subject[:3, 3] = [12, -18, 9]
    points = np.indices((count,) * 3).reshape(3, -1)
    back = np.linalg.inv(subject) @ grid
    where = back[:3, :3] @ points + back[:3, 3:]
    for axis in range(3):
        bend = gaussian_filter(rng.normal(size=(count,) * 3), 20 / voxel_mm).ravel()
        where[axis] += 2.5 * bend / bend.std()
    pull = np.linalg.inv(affine)
    index = pull[:3, :3] @ where + pull[:3, 3:]
    shape = (count,) * 3
    bias = np.exp(0.3 * (points[0] / count - 0.5) + 0.2 * (points[2] / count - 0.5)).reshape(shape)
    data = map_coordinates(head, index, order=1).reshape(shape) * bias * 500 + rng.normal(scale=8, size=shape)
    mask = map_coordinates(inside.astype(np.float32), index, order=1).reshape(shape) > 0.5
    return np.maximum(data, 0).astype(np.int16), grid, mask
