"""The time axis of an embedding: which frames of a constant-rate film make which window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from neuroalign.errors import UserError

# Rates and window lengths arrive as decimal fractions; a frame this close to an edge lies on it.
_EPSILON = 1e-6


def exact_rate(fps: float) -> Fraction:
    """The fraction that a decimal frame rate stands for: 29.97 is 30000/1001, 12.5 is 25/2.

    Parameters
    ----------
    fps : float
        Frames per second.
    """
    ntsc = Fraction(max(1, round(fps * 1.001)) * 1000, 1001)
    if abs(float(ntsc) - fps) < 0.004 and abs(fps - round(fps)) > 1e-9:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


@dataclass(frozen=True)
class WindowGrid:
    """Windows over the frames of a film; window `k` takes in frames ``start[k] <= i < stop[k]``.

    Attributes
    ----------
    times : array of shape (windows,)
        Centre of each window in seconds from stimulus start.
    start, stop : int array of shape (windows,)
    fps : float
        Frames per second.
    n_frames : int
        Frames of the film.
    """

    times: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    fps: float
    n_frames: int

    def __len__(self) -> int:
        return len(self.times)


def window_grid(n_frames: int, fps: float, window_s: float, stride_s: float) -> WindowGrid:
    """Lay windows over a film.

    Window `k` covers the seconds from ``k * stride_s`` to ``k * stride_s + window_s``. The last window may reach
    past the end of the film by up to half its length, so that a film of 3.98 s still has four windows of a second;
    a film shorter than half a window has one.

    Parameters
    ----------
    n_frames : int
        Frames of the film.
    fps : float
        Frames per second.
    window_s, stride_s : float
        Length of a window and distance between two, in seconds.

    Raises
    ------
    UserError
        If a window is shorter than a frame.
    """
    if n_frames < 1:
        raise ValueError("a film without frames has no windows")
    if window_s * fps < 1 - _EPSILON:
        raise UserError(
            f"video.window_s {window_s:g} is shorter than one frame at video.fps {fps:g}; "
            f"set it to at least {math.ceil(1000 / fps) / 1000:g}."
        )
    duration = n_frames / fps
    # The centre of every window lies in the film, or at its end.
    count = max(1, math.floor((duration - window_s / 2) / stride_s + _EPSILON) + 1)
    begin = np.arange(count) * stride_s
    start = np.ceil(begin * fps - _EPSILON).astype(np.int64)
    stop = np.ceil((begin + window_s) * fps - _EPSILON).astype(np.int64)
    start = np.minimum(start, n_frames - 1)
    return WindowGrid(begin + window_s / 2, start, np.clip(stop, start + 1, n_frames), float(fps), n_frames)


class WindowMean:
    """Averages values that come frame by frame, batch by batch, into windows.

    Parameters
    ----------
    grid : WindowGrid
    dim : int
        Values per frame.

    Notes
    -----
    Sums are float64, so that the result does not depend on how the film is cut into batches.
    """

    def __init__(self, grid: WindowGrid, dim: int):
        self._grid = grid
        self._sums = np.zeros((len(grid), dim))
        self._seen = 0

    def add(self, values: np.ndarray) -> None:
        """Take in the values of the next frames, an array of shape (frames, dim)."""
        first, last = self._seen, self._seen + len(values)
        self._seen = last
        # Windows are ordered, so those that touch this batch are contiguous.
        low = np.searchsorted(self._grid.stop, first, side="right")
        high = np.searchsorted(self._grid.start, last, side="left")
        for k in range(low, high):
            a, b = max(self._grid.start[k], first) - first, min(self._grid.stop[k], last) - first
            self._sums[k] += values[a:b].sum(axis=0, dtype=np.float64)

    def result(self) -> np.ndarray:
        """The means, an array of shape (windows, dim).

        Raises
        ------
        ValueError
            If not every frame of the film was added.
        """
        if self._seen != self._grid.n_frames:
            raise ValueError(f"{self._seen} of {self._grid.n_frames} frames were added")
        return self._sums / (self._grid.stop - self._grid.start)[:, None]


def mean_over_windows(batches: Iterable[np.ndarray], grid: WindowGrid, dim: int) -> np.ndarray:
    """Average batches of per-frame values of shape (frames, dim) into windows, (windows, dim)."""
    mean = WindowMean(grid, dim)
    for values in batches:
        mean.add(values)
    return mean.result()
