"""Reading mezzanines with decord, in order, batch by batch, never a film in memory.

Only films that `normalise` wrote are read here: decord may hang on, or misread, others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuroalign.errors import UserError
from neuroalign.video.probe import check_file
from neuroalign.video.windows import exact_rate

if TYPE_CHECKING:
    import decord


@dataclass(frozen=True)
class Film:
    """Size and rate of a mezzanine.

    Attributes
    ----------
    n_frames : int
    fps : float
        Frames per second; frame `i` is shown from ``i / fps`` on.
    width, height : int
        In pixels.
    """

    n_frames: int
    fps: float
    width: int
    height: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.fps


def film(path: str | os.PathLike) -> Film:
    """Size and rate of a mezzanine.

    Raises
    ------
    UserError
        If the file is missing or cannot be decoded.
    """
    reader = open_film(path)
    height, width = reader[0].shape[:2]
    return Film(len(reader), _rate(reader), width, height)


def iterate_frames(
    path: str | os.PathLike, size: tuple[int, int] | None = None, batch: int = 32, threads: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode a mezzanine from its first frame to its last.

    Parameters
    ----------
    path : path
        A film written by `normalise`.
    size : tuple of int, optional
        Width and height in pixels to which frames are scaled while they are decoded; as stored by default.
    batch : int
        Frames per batch; the last may have fewer.
    threads : int
        Threads that decode.

    Yields
    ------
    times : float64 array of shape (n,)
        Seconds from the film's beginning at which each frame appears.
    frames : uint8 array of shape (n, height, width, 3)
        RGB.
    """
    if batch < 1:
        raise ValueError(f"batch must be positive, got {batch}")
    reader = open_film(path, size, threads)
    fps = _rate(reader)
    for first in range(0, len(reader), batch):
        index = np.arange(first, min(first + batch, len(reader)))
        yield index / fps, reader.get_batch(index).asnumpy()


def open_film(
    path: str | os.PathLike, size: tuple[int, int] | None = None, threads: int = 1
) -> decord.VideoReader:
    """A decord reader on a mezzanine, scaling to `size` (width, height) if that is given.

    Raises
    ------
    UserError
        If the file is missing or cannot be decoded.
    """
    import decord

    check_file(path)
    width, height = size or (-1, -1)
    try:
        reader = decord.VideoReader(
            os.fspath(path), ctx=decord.cpu(0), width=width, height=height, num_threads=threads
        )
        if len(reader) == 0:
            raise RuntimeError("no frames")
    except (decord.DECORDError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a normalised video that can be decoded; normalise it again."
        ) from error
    return reader


def _rate(reader: decord.VideoReader) -> float:
    return float(exact_rate(reader.get_avg_fps()))
