"""Registration of images by ANTs, in and out as plain arrays; the only module that imports ANTs.

World coordinates are RAS+ millimetres throughout (nibabel's convention); ITK's LPS stays inside this module.
All transforms *pull*: they take a point of the fixed image to the matching point of the moving image.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neuroalign.errors import UserError
from neuroalign.fmri.images import voxel_sizes

SEED = 1
_MARGIN_MM = 12.0
# Share of the voxels that are looked at, regularly spaced. A run's reference is small and noisy and needs all of them (a half
# moved it by 0.2 mm); between T1w images a quarter gives the affine of all within 0.02 mm in a quarter of the time.
_SAMPLING = {"Rigid": 1.0, "Affine": 0.25}
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def failures_name(image: str | os.PathLike) -> Iterator[None]:
    """Within it, a failure of ANTs is a `UserError` that names the image it was working on."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{image} could not be registered (ANTs: {reason}); check that it shows a whole head, its orientation and its "
            "intensities."
        ) from error


def _ants() -> Any:
    # ITK reads the variable once, at import. Sums over several threads differ in their last bits from run to
    # run, which an optimiser turns into visible differences: one thread makes equal inputs give equal bytes.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    return ants


def _to_ants(data: np.ndarray, affine: np.ndarray) -> Any:
    lps = _FLIP @ affine
    spacing = voxel_sizes(lps)
    return _ants().from_numpy(
        np.ascontiguousarray(data, np.float32),
        origin=tuple(lps[:3, 3]),
        spacing=tuple(spacing),
        direction=lps[:3, :3] / spacing,
    )


def _write_matrix(matrix: np.ndarray, path: Path) -> str:
    ants = _ants()
    lps = _FLIP @ matrix @ _FLIP
    transform = ants.create_ants_transform(
        transform_type="AffineTransform", dimension=3, matrix=lps[:3, :3], translation=lps[:3, 3]
    )
    ants.write_transform(transform, str(path))
    return str(path)


def _read_matrix(path: str) -> np.ndarray:
    transform = _ants().read_transform(path)
    values, centre = np.array(transform.parameters, float), np.array(transform.fixed_parameters, float)
    linear = values[:9].reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = linear
    lps[:3, 3] = values[9:] + centre - linear @ centre
    return _FLIP @ lps @ _FLIP


def linear(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    *,
    kind: str,
    start: np.ndarray,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Rigid or affine registration by mutual information.

    Parameters
    ----------
    fixed, moving : array of shape (x, y, z)
    fixed_affine, moving_affine : array of shape (4, 4)
    kind : {'Rigid', 'Affine'}
    start : array of shape (4, 4)
        World matrix to start from, fixed → moving.
    mask : array of shape (x, y, z), optional
        Where the fixed image counts.

    Returns
    -------
    array of shape (4, 4)
        World matrix, fixed → moving.
    """
    ants = _ants()
    with tempfile.TemporaryDirectory(prefix="neuroalign-") as folder:
        result = ants.registration(
            _to_ants(fixed, fixed_affine),
            _to_ants(moving, moving_affine),
            type_of_transform=kind,
            initial_transform=_write_matrix(start, Path(folder) / "start.mat"),
            outprefix=f"{folder}/",
            mask=None if mask is None else _to_ants(mask, fixed_affine),
            aff_iterations=(200, 200, 100),
            aff_shrink_factors=(4, 2, 1),
            aff_smoothing_sigmas=(2, 1, 0),
            aff_random_sampling_rate=_SAMPLING[kind],
            aff_sampling=32,
            random_seed=SEED,
        )
        return _read_matrix(result["fwdtransforms"][-1])


def diffeomorphic(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    *,
    start: np.ndarray,
    iterations: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric normalisation (SyN; Avants et al. 2008) after a known affine.

    Parameters
    ----------
    fixed, moving : array of shape (x, y, z)
        Brain-extracted images of the same contrast.
    fixed_affine, moving_affine : array of shape (4, 4)
    start : array of shape (4, 4)
        Affine world matrix, fixed → moving.
    iterations : tuple of int
        Per resolution, coarse to fine.

    Returns
    -------
    warp, inverse_warp : array of shape (x, y, z, 3)
        World (RAS+) displacements in mm on the fixed grid: x → start·(x + warp(x)), and back
        y → z + inverse_warp(z) with z = start⁻¹·y. Zero beyond 12 mm around the fixed brain.
    """
    ants = _ants()
    # Half of a template's grid is air, and time goes by voxels.
    part, part_affine = _around(fixed > 0, fixed_affine)
    with tempfile.TemporaryDirectory(prefix="neuroalign-") as folder:
        result = ants.registration(
            _to_ants(fixed[part], part_affine),
            _to_ants(moving, moving_affine),
            type_of_transform="SyNOnly",
            initial_transform=_write_matrix(start, Path(folder) / "start.mat"),
            outprefix=f"{folder}/",
            # Local correlation (CC) took about ten times as long at full iterations on a 3 mm phantom; mutual
            # information also does not mind the template's own contrast.
            syn_metric="mattes",
            syn_sampling=32,
            reg_iterations=iterations,
            random_seed=SEED,
        )
        warp = next(p for p in result["fwdtransforms"] if p.endswith(".nii.gz"))
        inverse = next(p for p in result["invtransforms"] if p.endswith(".nii.gz"))
        fields = np.zeros((2, *fixed.shape, 3), np.float32)
        fields[0][part], fields[1][part] = _read_field(warp), _read_field(inverse)
        return fields[0], fields[1]


def _around(brain: np.ndarray, affine: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box around a brain with a margin, and the affine of that part of the image."""
    margin = np.ceil(_MARGIN_MM / voxel_sizes(affine)).astype(int)
    voxels = np.argwhere(brain)
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + margin + 1, brain.shape)
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ low
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), shifted


def _read_field(path: str) -> np.ndarray:
    vectors = np.asarray(nib.load(path).dataobj, np.float32)[:, :, :, 0, :]
    return vectors * np.array([-1, -1, 1], np.float32)


def correct_bias(data: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The smooth bias field of an image by N4 (Tustison et al. 2010).

    Parameters
    ----------
    data : array of shape (x, y, z)
        Positive where `mask` is.
    affine : array of shape (4, 4)
    mask : bool array of shape (x, y, z)

    Returns
    -------
    array of shape (x, y, z)
        The field, about 1; divide the image by it.
    """
    field = _ants().n4_bias_field_correction(
        _to_ants(np.maximum(data, 0), affine),
        mask=_to_ants(mask, affine),
        shrink_factor=3,
        convergence={"iters": [20, 20, 20], "tol": 1e-5},
        return_bias_field=True,
    )
    values = field.numpy()
    return np.clip(values / np.median(values[mask]), 0.2, 5.0)
