"""Writing the preprocessed series: volume by volume, as scaled int16, compressed by several threads."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from neuroalign.fmri.images import TEMPLATE
from neuroalign.io import atomic_path

logger = logging.getLogger(__name__)

_LEVEL = 1  # noise hardly compresses: higher levels take several times as long for a few percent
_LARGEST = 32767
_HEADROOM = 20.0  # leaves steps of 1/1600 of the brightest tissue, still below thermal noise
_BRIGHT_OF = 50
_GZIP_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"  # no name, no time: equal data give equal bytes


def write_series(
    path: str | os.PathLike,
    series: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    *,
    tr: float,
    start_s: float = 0.0,
    threads: int = 1,
) -> None:
    """Write a 4-D image (``.nii.gz``) from the series of the voxels in a mask, atomically.

    Only a few volumes are expanded to the whole grid at a time. Values are int16 with a scale factor, which is what
    scanners and fMRIPrep write: half the size of float32, with steps of 1/32767 of the largest value, far
    below the noise. A spike far above the brain would take the steps away from everything else: values beyond 20 times the
    brightest tissue are clipped, with a warning.

    Parameters
    ----------
    path : path
    series : array of shape (voxels, volumes)
        In the order of ``mask``'s true voxels.
    mask : bool array of shape (x, y, z)
    affine : array of shape (4, 4)
        Voxel to template coordinates, mm.
    tr, start_s : float
        Repetition time, and time of the first volume, seconds.
    threads : int
        Volumes compressed at the same time; the bytes do not depend on it.
    """
    volumes = series.shape[1]
    peak = max((float(np.abs(series[:, v]).max(initial=0)) for v in range(volumes)), default=0.0)
    limit = _HEADROOM * _bright(series)
    clipped = 0 < limit < peak
    if clipped:
        logger.warning(
            "%s: values up to %g are clipped at %g, %g times the brightest tissue.", Path(path).name, peak, limit, _HEADROOM
        )  # fmt: skip
        peak = limit
    slope = peak / _LARGEST if peak > 0 else 1.0

    def volume(index: int) -> bytes:
        whole = np.zeros(mask.shape, "<i2")
        steps = np.rint(series[:, index] / np.float32(slope))
        whole[mask] = np.clip(steps, -_LARGEST, _LARGEST) if clipped else steps
        return whole.tobytes(order="F")

    header = _header((*mask.shape, volumes), affine, tr, start_s, slope)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in _gzip(header, volume, volumes, threads):
            file.write(part)


def _bright(series: np.ndarray) -> float:
    """The 99.9th percentile of a typical volume: a spoiled volume, or a few voxels, have no say."""
    some = np.unique(np.linspace(0, series.shape[1] - 1, _BRIGHT_OF).astype(int))
    return float(np.median([np.percentile(np.abs(series[:, v]), 99.9) for v in some])) if series.size else 0.0


def _header(shape: tuple[int, ...], affine: np.ndarray, tr: float, start_s: float, slope: float) -> bytes:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype("<i2")
    header.set_data_shape(shape)
    header.set_qform(affine, code=TEMPLATE)
    header.set_sform(affine, code=TEMPLATE)
    header.set_zooms((*header.get_zooms()[:3], tr))
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(slope, 0.0)
    header["toffset"] = start_s
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def _gzip(first: bytes, block: Callable[[int], bytes], count: int, threads: int) -> Iterator[bytes]:
    """One gzip stream (RFC 1952) of `first` and `count` blocks, each deflated on its own and joined as by pigz."""

    def packed(index: int) -> tuple[bytes, bytes]:
        raw = block(index)
        return raw, _deflate(raw)

    yield _GZIP_HEADER
    yield _deflate(first)
    check, size = zlib.crc32(first), len(first)
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        batch = 4 * max(1, threads)
        for start in range(0, count, batch):
            for raw, small in pool.map(packed, range(start, min(start + batch, count))):
                check, size = zlib.crc32(raw, check), size + len(raw)
                yield small
    yield zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS).flush(zlib.Z_FINISH)
    yield struct.pack("<II", check, size & 0xFFFFFFFF)


def _deflate(raw: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(raw) + stream.flush(zlib.Z_SYNC_FLUSH)
