"""One interpolation from raw volume to output grid: motion, coregistration and normalisation composed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

from neuroalign.fmri.images import grid_points, read_image, voxel_sizes
from neuroalign.io import atomic_path

_VECTOR_INTENT = 1007
_LPS = np.array([-1, -1, 1], np.float32)


@dataclass(frozen=True)
class Displacement:
    """A dense transform between world spaces: x → x + field(x).

    Attributes
    ----------
    field : array of shape (x, y, z, 3)
        Displacements in mm, world (RAS+) axes. Beyond the grid its outermost values hold.
    affine : array of shape (4, 4)
        Grid of the field: voxel to world, mm.
    """

    field: np.ndarray
    affine: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Transform world points, shape (points, 3)."""
        inverse = np.linalg.inv(self.affine)
        where = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
        moved = [map_coordinates(self.field[..., i], where, order=1, mode="nearest") for i in range(3)]
        return points + np.stack(moved, axis=1)

    def write(self, path: str | os.PathLike, *, code: int) -> None:
        """Write as an ITK displacement field (LPS vectors), usable with ``antsApplyTransforms``.

        Parameters
        ----------
        path : path
        code : int
            Space of the grid, as for `neuroalign.fmri.images.write_image`.
        """
        image = nib.Nifti1Image((self.field * _LPS)[:, :, :, None, :].astype(np.float32), self.affine)
        image.set_sform(self.affine, code=code)
        image.set_qform(self.affine, code=code)
        image.header.set_intent(_VECTOR_INTENT)
        image.header.set_xyzt_units("mm", "sec")
        with atomic_path(path) as temporary:
            nib.save(image, temporary)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Displacement:
        """Read an ITK displacement field."""
        data, image = read_image(path, ndim=5)
        return cls(field=data[:, :, :, 0, :] * _LPS, affine=image.affine)


def output_grid(
    template_shape: tuple[int, ...], template_affine: np.ndarray, resolution_mm: float
) -> tuple[tuple[int, int, int], np.ndarray]:
    """The template's field of view at another voxel size.

    Parameters
    ----------
    template_shape, template_affine
        Grid of the template.
    resolution_mm : float
        Edge of the wanted (cubic) voxels.

    Returns
    -------
    shape : tuple of 3 int
    affine : array of shape (4, 4)
        Axes along those of the template; outer edges of the first voxels coincide.
    """
    sizes = voxel_sizes(template_affine)
    shape = tuple(
        int(np.ceil(n * s / resolution_mm - 1e-6)) for n, s in zip(template_shape[:3], sizes, strict=True)
    )
    affine = np.array(template_affine, float)
    affine[:3, :3] *= resolution_mm / sizes
    affine[:3, 3] += (affine[:3, :3] - template_affine[:3, :3]).sum(axis=1) / 2
    return shape, affine


def resample_volumes(
    data: np.ndarray,
    affine: np.ndarray,
    motion: np.ndarray,
    points: np.ndarray,
    *,
    order: int = 3,
    threads: int = 1,
) -> np.ndarray:
    """Sample every volume at the same places of the head.

    Parameters
    ----------
    data : array of shape (x, y, z, volumes)
    affine : array of shape (4, 4)
        Voxel to world, mm.
    motion : array of shape (volumes, 4, 4)
        World matrices, reference → volume (`realign`).
    points : array of shape (points, 3)
        Where to sample, world coordinates of the BOLD reference, mm.
    order : int
        1 is linear; 3 a cubic spline. Linear interpolation blurs by an amount that changes with the head's
        position between voxels, so that it turns motion into signal.
    threads : int
        Volumes sampled at the same time; results do not depend on it.

    Returns
    -------
    array of shape (points, volumes)
        Float32, one volume after the other in memory. A point that motion carries out of the field of view takes the
        value at its edge.
    """
    inverse = np.linalg.inv(affine)
    flat = np.ascontiguousarray(points.T, np.float32)
    out = np.empty((data.shape[-1], len(points)), np.float32)

    def one(volume: int) -> None:
        pull = (inverse @ motion[volume]).astype(np.float32)
        where = pull[:3, :3] @ flat + pull[:3, 3:]
        source = np.ascontiguousarray(data[..., volume], np.float32)
        if order > 1:
            source = spline_filter(source, order=order, output=np.float32, mode="mirror")
            # A spline extrapolates; the edge is held instead.
            np.clip(where, 0, np.array(source.shape, np.float32)[:, None] - 1, out=where)
        map_coordinates(source, where, order=order, mode="nearest" if order < 2 else "mirror",
                        prefilter=False, output=out[volume])  # fmt: skip

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        list(pool.map(one, range(data.shape[-1])))
    return out.T


def sample(data: np.ndarray, affine: np.ndarray, points: np.ndarray, *, order: int = 1) -> np.ndarray:
    """A 3-D image at world points, shape (points,); 0 outside its field of view."""
    inverse = np.linalg.inv(affine)
    where = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    return map_coordinates(np.asarray(data, np.float32), where, order=order, mode="constant")


def pull_image(
    data: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...],
    target: np.ndarray,
    transform,
    *,
    order: int = 1,
) -> np.ndarray:
    """An image on a grid of another space.

    Parameters
    ----------
    data, affine
        The image to sample.
    shape, target
        The wanted grid.
    transform : callable
        World points of the wanted space, shape (points, 3) → world points of `data`.
    order : int
        0 for labels, 1 linear.
    """
    return sample(data, affine, transform(grid_points(shape, target)), order=order).reshape(shape[:3])
