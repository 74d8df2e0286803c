"""The paired dataset left on disk: fMRI windows are read when they are asked for, a few rows at a time.

`open_pairs` gives a `PairedDataset` like `store.read_pairs` does, with `StoredWindows` in place of arrays: all windows of
hundreds of people with tens of thousands of voxels do not fit into memory, those of one person do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from neuroalign.io import open_hdf5
from neuroalign.pairs.store import BrainWindows, PairedDataset, read_brain, read_clips, read_video
from neuroalign.pairs.windows import lag_reader

# Rows further apart than this are read one by one; nearer ones with what lies between.
_GAP_BYTES = 1 << 16
# Numbers of rows and their windows to the windows as they are to be seen.
Align = Callable[[np.ndarray, np.ndarray], np.ndarray]


class StoredWindows:
    """The windows of one level of a shard, looking like a float32 array of shape (n, volumes, units).

    Indexing by rows reads those rows and nothing else. Files are opened at the first read, by the process that reads.

    Parameters
    ----------
    path : Path
        The shard.
    data : h5py.Dataset
        The windows of the level in it, in an open file.
    units : bool array, optional
        The units that are kept; None keeps all.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(
        self,
        path: Path,
        data: h5py.Dataset,
        units: np.ndarray | None = None,
    ):
        self.path, self.name, self.units = Path(path), data.name, units
        self.align: Align | None = None
        self._kept: np.ndarray | None = None
        self._stored = data.shape
        # Bytes of a contiguous dataset can be read without the library, which is slow for scattered rows.
        self._offset = data.id.get_offset() if data.dtype == "<f4" else None
        found = self.path.stat()
        self._version = (found.st_ino, found.st_mtime_ns)
        self.shape = (*self._stored[:2], self._stored[2] if units is None else int(units.sum()))

    def aligned(self, align: Align, steps: int) -> StoredWindows:
        """The same windows as `align` gives them, of so many steps."""
        other = copy(self)
        other.align, other.shape = align, (self.shape[0], steps, self.shape[2])
        return other

    def subset(self, keep: np.ndarray) -> StoredWindows:
        """The windows at `keep` (a boolean array), still on disk."""
        other = copy(self)
        other._kept = self._disk_rows(np.flatnonzero(keep))
        other.shape = (len(other._kept), *self.shape[1:])
        return other

    def _disk_rows(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._kept is None else self._kept[rows]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __getitem__(self, keep: Any) -> np.ndarray:
        """The windows at `keep`: a boolean array, an index array or a slice."""
        rows = self._disk_rows(np.atleast_1d(np.arange(len(self))[keep]))
        data = self._read(rows)
        if self.units is not None:
            data = data[..., self.units]
        return data if self.align is None else self.align(rows, data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self._stored[1:]), np.float32)
        if not out.size:
            return out
        if self._offset is None:
            with open_hdf5(self.path) as file:
                found, place = np.unique(rows, return_inverse=True)
                # A chunk holds several windows: one read of a stretch beats many of single rows.
                out[:] = file[self.name][found][place]
            return out
        width = out[0].nbytes
        order = np.argsort(rows, kind="stable")
        ends = np.flatnonzero(np.diff(rows[order]) * width > width + _GAP_BYTES) + 1
        for part in np.split(order, ends):
            first, last = int(rows[part[0]]), int(rows[part[-1]])
            if (np.diff(part) == 1).all() and (np.diff(rows[part]) == 1).all():
                block = out[part[0] : part[0] + len(part)]
                self._fill(block, first * width)
            else:
                block = np.empty((last - first + 1, *self._stored[1:]), np.float32)
                self._fill(block, first * width)
                out[part] = block[rows[part] - first]
        return out

    def _fill(self, block: np.ndarray, start: int) -> None:
        """Fill an array with the bytes that begin at `start`."""
        view, done = memoryview(block.reshape(-1)).cast("B"), 0
        file = _opened(self.path, self._version, os.getpid())
        while done < len(view):
            got = os.preadv(file.fileno(), [view[done:]], self._offset + start + done)
            if not got:
                raise OSError(f"{self.path} ends too early; make it again.")
            done += got


@lru_cache(maxsize=256)
def _opened(path: Path, version: tuple[int, int], process: int) -> BinaryIO:
    """An open file of this process; it closes itself when nobody reads it any more."""
    return path.open("rb", buffering=0)


def open_pairs(folder: str | os.PathLike, fold: int = 0, subjects: list[str] | None = None) -> PairedDataset:
    """The paired dataset of a folder with its fMRI windows left on disk.

    Everything that works person by person, through `PairedDataset.of`, holds one person's windows at a time.

    Parameters
    ----------
    folder, fold, subjects
        As of `store.read_pairs`, whose content it has.
    """
    folder = Path(folder)
    clips = read_clips(folder / "clips.tsv", fold)
    names = [s for s in dict.fromkeys(clips["subject"]) if subjects is None or s in subjects]
    video = read_video(folder / "video.h5")
    brain = {s: _open_brain(folder / f"sub-{s}.h5", fold, video.step_times) for s in names}
    return PairedDataset(clips, brain, video)


def _open_brain(path: Path, fold: int, steps: np.ndarray) -> BrainWindows:
    windows, lags = read_brain(path, fold, lambda data, units: StoredWindows(path, data, units))
    if not lags:
        return windows
    # As `windows.at_lags`, but of the rows that are read.
    clock = replace(windows, levels={})

    def align(lag: float) -> Align:
        return lambda rows, data: lag_reader(clock.select(rows), steps, lag)(data)

    shape = (len(windows.rows), len(steps))
    return replace(
        windows,
        levels={name: data.aligned(align(lags[name]), shape[1]) for name, data in windows.levels.items()},
        times=np.tile(np.asarray(steps, np.float32), (shape[0], 1)),
        valid=np.ones(shape, bool),
        aligned=True,
        lags_s=lags,
    )
