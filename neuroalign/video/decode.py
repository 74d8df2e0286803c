"""Reading mezzanines with decord, in order, batch by batch, never a film in memory.

Only films that `normalise` wrote are read here: decord may hang on, or misread, others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neuroalign.errors import UserError
from neuroalign.video.files import check_file
from neuroalign.video.windows import exact_rate


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
    reader = FilmReader(path)
    height, width = reader.read([0]).shape[1:3]
    return Film(len(reader), reader.fps, width, height)


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
    reader = FilmReader(path, size, threads)
    for first in range(0, len(reader), batch):
        index = np.arange(first, min(first + batch, len(reader)))
        yield index / reader.fps, reader.read(index)


class FilmReader:
    """Frames of a mezzanine by number.

    Parameters
    ----------
    path : path
        A film written by `normalise`.
    size : tuple of int, optional
        Width and height in pixels to which frames are scaled while they are decoded; as stored by default.
    threads : int
        Threads that decode.

    Attributes
    ----------
    fps : float
        Frames per second.

    Raises
    ------
    UserError
        If the file is missing or cannot be decoded.
    """

    def __init__(self, path: str | os.PathLike, size: tuple[int, int] | None = None, threads: int = 1):
        import decord

        check_file(path)
        self._path = path
        width, height = size or (-1, -1)
        try:
            self._reader = decord.VideoReader(
                os.fspath(path), ctx=decord.cpu(0), width=width, height=height, num_threads=threads
            )
            if len(self._reader) == 0:
                raise RuntimeError("no frames")
            first = self._reader[0].asnumpy()
            self._reader.seek(0)
        except (decord.DECORDError, RuntimeError) as error:
            raise UserError(
                f"{path} is not a normalised video that can be decoded; normalise it again."
            ) from error
        self.fps = float(exact_rate(self._reader.get_avg_fps()))
        # decord pads rows to a multiple of its alignment, and where the padded row is a multiple of the width (48 and
        # 72 pixels, for instance) takes the padding for a fourth channel.
        self._padded = first.shape[2] != 3
        self._width = first.shape[1]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._reader)

    def read(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames by number, ideally ascending: uint8 of shape (n, height, width, 3).

        Raises
        ------
        UserError
            If one of them cannot be decoded.
        """
        import decord

        try:
            if not self._padded:
                return self._reader.get_batch(index).asnumpy()
            frames = [self._reader[int(i)].asnumpy() for i in index]
        except decord.DECORDError as error:
            raise UserError(
                f"{self._path} cannot be decoded near second {index[0] / self.fps:.1f}; normalise it again."
            ) from error
        return np.stack([f.reshape(len(f), -1, 3)[:, : self._width] for f in frames])
