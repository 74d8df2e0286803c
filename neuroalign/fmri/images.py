"""Reading NIfTI images so that a missing, dangling or damaged file is one clear sentence.

Also the little geometry that several modules share: grids, and nearest-neighbour transfer between them.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_path

_DAMAGE = (EOFError, OSError, zlib.error, ValueError, nib.filebasedimages.ImageFileError)
_CHUNK = 2**20


def image_problem(path: str | os.PathLike, *, deep: bool = False) -> str | None:
    """What is wrong with a NIfTI file, as a sentence, or None.

    Parameters
    ----------
    path : path
    deep : bool
        Also decompress the whole file and compare its length with the header: notices truncation.
    """
    path = Path(path)
    get = f"get it with `datalad get {path}` or `git annex get {path.name}`"
    if not path.exists():
        if path.is_symlink():
            return f"{path} is a link to content that is not on this machine; {get}."
        return f"{path} does not exist; check the dataset is complete."
    with path.open("rb") as file:
        if file.read(64).lstrip().startswith(b"/annex/objects"):
            return f"{path} is a git-annex pointer, not an image; {get}."
    try:
        image = nib.load(path)
        needed = image.dataobj.offset + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if path.suffix != ".gz":
            found = path.stat().st_size
        elif deep:
            found = _inflated_size(path)
        else:
            found = needed
    except _DAMAGE as error:
        return _damaged(path, error)
    if found < needed:
        return _damaged(path, f"{found} of {needed} bytes")
    return None


def _inflated_size(path: Path) -> int:
    with gzip.open(path, "rb") as file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(_CHUNK), b""))


def _damaged(path: Path, detail: object) -> str:
    return f"{path} is truncated or no readable NIfTI image ({detail}); copy or download it again."


def read_image(
    path: str | os.PathLike, *, ndim: int | None = None, dtype: type | None = np.float32
) -> tuple[np.ndarray, nib.spatialimages.SpatialImage]:
    """Read a whole NIfTI image.

    Parameters
    ----------
    path : path
    ndim : int, optional
        Required number of dimensions (a trailing dimension of length 1 is dropped when 3 are required).
    dtype : type or None
        Type of the array; None keeps the stored one (labels).

    Returns
    -------
    data : array
        Voxel values, scaled as the header says; values that are not finite become 0 (floating types).
    image : nibabel image
        Its affine and header; the data are not loaded twice.

    Raises
    ------
    UserError
        If the file is missing, a dangling link, truncated, or has another number of dimensions.
    """
    problem = image_problem(path)
    if problem:
        raise UserError(problem)
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj) if dtype is None else np.asarray(image.dataobj, dtype=dtype)
    except _DAMAGE as error:
        raise UserError(_damaged(Path(path), error)) from error
    if ndim == 3 and data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if ndim is not None and data.ndim != ndim:
        raise UserError(
            f"{path} has {data.ndim} dimensions where {ndim} are needed; check that it is the right image."
        )
    if np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
        data = np.nan_to_num(data, copy=True, nan=0.0, posinf=0.0, neginf=0.0)
    return data, image


def write_image(
    path: str | os.PathLike,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    tr: float | None = None,
    start_s: float = 0.0,
) -> None:
    """Write a NIfTI image atomically, with units and both forms of the affine set.

    Parameters
    ----------
    path : path
    data : array of shape (x, y, z) or (x, y, z, volumes)
        Stored in its own type (bool as uint8).
    affine : array of shape (4, 4)
        Voxel to scanner or template coordinates, mm.
    tr, start_s : float
        Repetition time and time of the first volume in seconds, for series.
    """
    image = nib.Nifti1Image(data.astype(np.uint8) if data.dtype == bool else data, affine)
    image.set_sform(affine, code=4 if data.ndim == 3 or tr is not None else 1)
    image.set_qform(affine, code=4 if data.ndim == 3 or tr is not None else 1)
    image.header.set_xyzt_units("mm", "sec")
    if tr is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header["toffset"] = start_s
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def voxel_sizes(affine: np.ndarray) -> np.ndarray:
    """Edges of a voxel in mm, shape (3,)."""
    return np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))


def grid_points(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World coordinates (mm) of all voxels of a grid, C order, shape (voxels, 3)."""
    indices = np.indices(shape[:3]).reshape(3, -1).T
    return indices @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


def to_grid(
    data: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray, *, order: int = 0
) -> np.ndarray:
    """A 3-D image on another grid of the same space.

    Parameters
    ----------
    data : array of shape (x, y, z)
    affine : array of shape (4, 4)
        Of `data`.
    shape, target
        Shape and affine of the wanted grid.
    order : int
        0 is nearest neighbour (labels, masks), 1 linear.
    """
    from scipy.ndimage import affine_transform

    between = np.linalg.inv(affine) @ target
    if shape[:3] == data.shape and np.allclose(between, np.eye(4), atol=1e-4):
        return data
    values = data.astype(np.uint8) if data.dtype == bool else data
    moved = affine_transform(
        values, between[:3, :3], between[:3, 3], output_shape=tuple(shape[:3]), order=order, mode="constant"
    )
    return moved.astype(data.dtype)
