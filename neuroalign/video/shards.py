"""The embedding file: hierarchical features of one stimulus on a regular time grid.

The same format is the input of ``video.backbone: precomputed``, then also with a single ``/features``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_hdf5, open_hdf5, read_attributes, stamp

ATTRIBUTES = ("backbone", "revision", "window_s", "stride_s", "hrf_convolved")
LOW_LEVEL = ("luminance", "contrast", "motion")


@dataclass
class Embedding:
    """Features of one stimulus.

    Attributes
    ----------
    levels : dict of str to array of shape (windows, dim)
        Features per video level, ordered from early to late.
    times : array of shape (windows,)
        Centre of each window in seconds from stimulus start.
    low_level : array of shape (windows, 3), optional
        Mean luminance, contrast (standard deviation of luminance) and mean absolute frame difference of each
        window: the control that must not win.
    attributes : dict
        `backbone`, `revision`, `window_s`, `stride_s`, `hrf_convolved`.
    """

    levels: dict[str, np.ndarray]
    times: np.ndarray
    low_level: np.ndarray | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for level, data in self.levels.items():
            if data.ndim != 2 or len(data) != len(self.times):
                raise ValueError(f"level {level} has shape {data.shape}, expected ({len(self.times)}, dim)")


def write_embedding(
    path: str | os.PathLike, embedding: Embedding, made_by: Mapping[str, Any] | None = None
) -> None:
    """Write an embedding file atomically; float16 and float32 features keep their type."""
    levels = {
        level: (data.shape[1], np.float16 if data.dtype == np.float16 else np.float32)
        for level, data in embedding.levels.items()
    }
    whole = [(embedding.levels, embedding.low_level)]
    write_parts(path, levels, embedding.times, whole, embedding.attributes, made_by)


def write_parts(
    path: str | os.PathLike,
    levels: Mapping[str, tuple[int, Any]],
    times: np.ndarray,
    parts: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray | None]],
    attributes: Mapping[str, Any],
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Write an embedding file atomically, from parts that need not be in memory at once.

    Parameters
    ----------
    path : path
    levels : dict of str to (int, dtype)
        Dimension and type of each level, from early to late.
    times : array of shape (windows,)
        Centre of each window in seconds from stimulus start.
    parts : iterable of (levels, low_level)
        Successive windows: arrays of shape (m, dim) by level, and (m, 3) or None.
    attributes : mapping
        See `Embedding`.
    made_by : mapping, optional
        See `neuroalign.io.provenance`.
    """
    n = len(times)
    with atomic_hdf5(path) as file:
        data = {
            level: file.create_dataset(f"levels/{level}/data", (n, dim), dtype)
            for level, (dim, dtype) in levels.items()
        }
        # HDF5 lists groups alphabetically; the order of the hierarchy is kept beside them.
        file["levels"].attrs["order"] = list(levels)
        file.create_dataset("times", data=np.asarray(times, np.float64))
        row = 0
        for features, low_level in parts:
            rows = slice(row, row + len(next(iter(features.values()))))
            for level, values in features.items():
                data[level][rows] = values
            if low_level is not None:
                if "low_level" not in file:
                    file.create_dataset("low_level", (n, len(LOW_LEVEL)), np.float32)
                    file["low_level"].attrs["columns"] = list(LOW_LEVEL)
                file["low_level"][rows] = low_level
            row = rows.stop
        if row != n:
            raise ValueError(f"{row} of {n} windows were given")
        for name in ATTRIBUTES:
            file.attrs[name] = attributes.get(name, "")
        stamp(file, made_by or {})


def read_times(path: str | os.PathLike) -> np.ndarray:
    """The centre of every window of an embedding file in seconds, without its features."""
    with open_hdf5(path) as file:
        if "times" not in file:
            raise UserError(f"{path} is not an embedding file (it lacks /times); see docs/formats.md.")
        return file["times"][()].astype(np.float64)


def read_embedding(path: str | os.PathLike, rows: slice = slice(None)) -> Embedding:
    """Read an embedding file, ours or a user's own.

    A file with a single ``/features`` has one level, named ``features``.

    Parameters
    ----------
    path : path
    rows : slice, optional
        Which windows; all if absent.

    Raises
    ------
    UserError
        If the file is missing, damaged, lacks ``/times``, or lengths disagree.
    """
    with open_hdf5(path) as file:
        try:
            if "levels" in file:
                group = file["levels"]
                names = [str(n) for n in group.attrs.get("order", list(group))]
                levels = {n: group[n]["data"][rows] for n in names}
            else:
                levels = {"features": file["features"][rows]}
                names = []
            lengths = {n: len(file[f"levels/{n}/data"]) for n in names} or {"features": len(file["features"])}
            for level, length in lengths.items():
                # Of a part, the arrays would agree whatever the whole does.
                if length != len(file["times"]):
                    raise ValueError(f"level {level} has {length} windows, /times has {len(file['times'])}")
            embedding = Embedding(
                levels={n: np.asarray(d, np.float32) for n, d in levels.items()},
                times=file["times"][rows].astype(np.float64),
                low_level=file["low_level"][rows] if "low_level" in file else None,
                attributes=read_attributes(file, ATTRIBUTES),
            )
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not an embedding file ({error}); see docs/formats.md.") from error
    for level, data in embedding.levels.items():
        if not np.isfinite(data).all():
            raise UserError(f"{path}: level '{level}' holds values that are not finite; mend the features.")
    return embedding
