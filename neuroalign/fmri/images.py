"""Reading NIfTI images so that a missing, dangling or damaged file is one clear sentence.

Small ones at once (`read_image`), series volume by volume in bounded memory (`VolumeReader`). Also the little
geometry that several modules share: grids, and nearest-neighbour transfer between them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_path

SCANNER, TEMPLATE = 1, 4  # NIfTI's NIFTI_XFORM_SCANNER_ANAT and NIFTI_XFORM_MNI_152
_DAMAGE = (EOFError, OSError, zlib.error, ValueError, nib.filebasedimages.ImageFileError)
_CHUNK = 2**20
_INFLATED = 2**22
_BLOCK = 2**23
_SAME_VOXELS = 1e-2
# Half a voxel, and what rounding adds to it.
_EDGE = 0.5 + 1e-6


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
    return sum(map(len, _pieces(path)))


def _pieces(path: Path) -> Iterator[bytes]:
    """The content of a file from its start, decompressed, in pieces of a few MB at most.

    zlib is fed directly: the `gzip` module hands it 8 kB at a time, which takes a quarter longer and would pass the
    interpreter lock to and fro thousands of times while another thread computes.
    """
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(_CHUNK), b"")
        yield from _inflate(chunks) if path.suffix in (".gz", ".mgz") else chunks


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip of one member or several; checksums are verified, a missing end is an `EOFError`."""
    member = zlib.decompressobj(wbits=31)
    begun = False
    for chunk in chunks:
        while chunk:
            if member.eof:
                chunk = chunk.lstrip(b"\0")  # padding is legal between members and after the last
                if not chunk:
                    break
                member = zlib.decompressobj(wbits=31)
            begun = True
            yield member.decompress(chunk, _INFLATED)
            chunk = member.unused_data if member.eof else member.unconsumed_tail
    while begun and not member.eof:
        rest = member.decompress(b"", _INFLATED)
        if not rest:
            break
        yield rest
    if not member.eof:
        raise EOFError("the compressed data end too early")


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


class VolumeReader:
    """A 4-D image read once from its first volume to its last, in blocks, in bounded memory.

    Compressed files are never rewound, and while one block is used the next is being decompressed in another thread
    (zlib works outside the interpreter lock).

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (x, y, z, volumes).
    affine : array of shape (4, 4)

    Raises
    ------
    UserError
        If the file is missing, a dangling link, no readable image, or has another number of dimensions than 4.
        `read` raises it when the content turns out to be truncated or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        problem = image_problem(path)
        if problem:
            raise UserError(problem)
        self.path = Path(path)
        image = nib.load(path)
        self._stored = image.dataobj
        self.shape: tuple[int, ...] = tuple(int(n) for n in image.shape)
        if len(self.shape) != 4:
            raise UserError(
                f"{path} has {len(self.shape)} dimensions where 4 are needed; check that it is the right image."
            )
        if self._stored.dtype.kind not in "iuf":
            raise UserError(
                f"{path} holds {self._stored.dtype} values; a BOLD series needs plain integers or floats."
            )
        self.affine = image.affine

    def read(self, voxels: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """All volumes in order.

        Parameters
        ----------
        voxels : int array of shape (n,), optional
            Which voxels, as positions in a volume with x running fastest (``order="F"``); None is all.

        Yields
        ------
        first : int
            Number of the first volume of the block.
        values : float64 array of shape (volumes of the block, n)
            Scaled as the header says; values that are not finite are 0.
        """
        with ThreadPoolExecutor(1) as reader:
            blocks = self._blocks()
            coming = reader.submit(next, blocks, None)
            first = 0
            while (block := coming.result()) is not None:
                coming = reader.submit(next, blocks, None)
                yield first, self._values(block if voxels is None else np.take(block, voxels, axis=1))
                first += len(block)

    def _values(self, stored: np.ndarray) -> np.ndarray:
        values = stored.astype(np.float64)
        if self._stored.slope != 1:
            values *= self._stored.slope
        if self._stored.inter != 0:
            values += self._stored.inter
        if stored.dtype.kind == "f" and not np.isfinite(values).all():
            np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return values

    def _blocks(self) -> Iterator[np.ndarray]:
        """Stored values, shape (volumes of the block, voxels); truncation is the sentence of `image_problem`."""
        dtype, volumes = self._stored.dtype, self.shape[3]
        voxels = int(np.prod(self.shape[:3]))
        each = max(1, _BLOCK // max(1, voxels * dtype.itemsize))
        try:
            pieces = _pieces(Path(self._stored.file_like))
            rest = _fill(memoryview(bytearray(self._stored.offset)), pieces, b"")
            for first in range(0, volumes, each):
                block = np.empty((min(each, volumes - first), voxels), dtype)
                rest = _fill(memoryview(block.reshape(-1).view(np.uint8)), pieces, rest)
                yield block
            for _ in pieces:  # the checksum stands at the end
                pass
        except _DAMAGE as error:
            raise UserError(_damaged(self.path, error)) from error


def _fill(target: memoryview, pieces: Iterator[bytes], rest: bytes | memoryview) -> memoryview:
    """Fill `target` with `rest` and further pieces; returns what is left of the last piece."""
    done, rest = 0, memoryview(rest)
    while done < len(target):
        if not rest:
            piece = next(pieces, None)
            if piece is None:
                raise EOFError(f"{len(target) - done} bytes are missing")
            rest = memoryview(piece)
        count = min(len(rest), len(target) - done)
        target[done : done + count] = rest[:count]
        done, rest = done + count, rest[count:]
    return rest


def write_image(path: str | os.PathLike, data: np.ndarray, affine: np.ndarray, *, code: int) -> None:
    """Write a NIfTI image atomically, with units and both forms of the affine set.

    Parameters
    ----------
    path : path
    data : array of shape (x, y, z) or (x, y, z, volumes)
        Stored in its own type (bool as uint8).
    affine : array of shape (4, 4)
        Voxel to scanner or template coordinates, mm.
    code : int
        Which of the two, as NIfTI's sform and qform code: `SCANNER` or `TEMPLATE`. Viewers and other programs lay images
        of one code over each other, so a wrong one puts a native image on the template.
    """
    image = nib.Nifti1Image(data.astype(np.uint8) if data.dtype == bool else data, affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    image.header.set_xyzt_units("mm", "sec")
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

    Returns
    -------
    array of shape `shape`
        Of the type of `data`. An outermost voxel reaches half an edge beyond its centre, as every voxel does; further out
        is 0. `data` itself where the grids agree to a hundredth of a voxel.
    """
    from scipy.ndimage import map_coordinates

    between = np.linalg.inv(affine) @ target
    if shape[:3] == data.shape and _same_grid(between, data.shape):
        return data
    values = data.astype(np.uint8) if data.dtype == bool else data
    moved = np.zeros(shape[:3], values.dtype)
    last = np.array(data.shape)[:, None] - 1
    plane = np.indices((1, *shape[1:3])).reshape(3, -1)
    for x in range(shape[0]):  # plane by plane: coordinates of a whole grid take many times its memory
        where = between[:3, :3] @ (plane + np.array([[x], [0], [0]])) + between[:3, 3:]
        inside = ((where >= -_EDGE) & (where <= last + _EDGE)).all(axis=0)
        found = map_coordinates(
            values, np.clip(where[:, inside], 0, last), order=order, output=values.dtype, mode="nearest"
        )
        moved[x].reshape(-1)[inside] = found
    return moved.astype(data.dtype)


def _same_grid(between: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a map from voxels to voxels moves no corner of the grid by more than a hundredth of a voxel."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return bool(np.abs(between[:3, :3] @ corners + between[:3, 3:] - corners).max() <= _SAME_VOXELS)
