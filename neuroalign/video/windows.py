"""The time axis of an embedding: which frames of a constant-rate film make which window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
    """Windows over the frames of a film, or a part of them; window `k` takes in frames ``start[k] <= i < stop[k]``.

    Frames are counted from the film's beginning, whichever part of the windows this is.

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

    def part(self, first: int, last: int | None = None) -> WindowGrid:
        """Windows ``first <= k < last`` (to the end by default)."""
        rows = slice(first, last)
        return replace(self, times=self.times[rows], start=self.start[rows], stop=self.stop[rows])

    def parts(self, windows: int) -> list[WindowGrid]:
        """The grid cut into parts of so many windows; the last may have fewer."""
        return [self.part(first, first + windows) for first in range(0, len(self), windows)]

    def first_frame(self, past: int = 0) -> int:
        """The first frame that these windows need, with `past` frames before it as far as there are any."""
        return max(0, int(self.start[0]) - past)

    def end_frame(self, future: int = 0) -> int:
        """The frame after the last that these windows need, with `future` more as far as there are any."""
        return min(self.n_frames, int(self.stop[-1]) + future)


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

    Only the sums of windows that have begun and not ended are held, so a film may be of any length.

    Parameters
    ----------
    grid : WindowGrid
    dim : int
        Values per frame.
    first : int
        Number of the first frame that will be added, at most ``grid.start[0]``.

    Notes
    -----
    Sums are float64, so that the result does not depend on how the film is cut into batches.
    """

    def __init__(self, grid: WindowGrid, dim: int, first: int = 0):
        if first > grid.start[0]:
            raise ValueError(f"frames from {first} on cannot fill a window that begins at {grid.start[0]}")
        self._grid = grid
        self._seen = first
        self._done = 0
        self._open = np.zeros((0, dim))

    def add(self, values: np.ndarray) -> np.ndarray:
        """Take in the values of the next frames, and give the windows that they complete.

        Parameters
        ----------
        values : array of shape (frames, dim)

        Returns
        -------
        float64 array of shape (m, dim)
            Means of the next `m` windows; often none.
        """
        first, last = self._seen, self._seen + len(values)
        self._seen = last
        start, stop = self._grid.start, self._grid.stop
        # Windows are ordered, so those begun and not given yet are contiguous.
        begun, ended = np.searchsorted(start, last, side="left"), np.searchsorted(stop, last, side="right")
        new = np.zeros((max(0, begun - self._done - len(self._open)), self._open.shape[1]))
        self._open = np.concatenate([self._open, new])
        for row, k in enumerate(range(self._done, begun)):
            a, b = max(start[k], first) - first, min(stop[k], last) - first
            self._open[row] += values[a:b].sum(axis=0, dtype=np.float64)
        done = slice(self._done, ended)
        means = self._open[: ended - self._done] / (stop[done] - start[done])[:, None]
        self._open = self._open[ended - self._done :]
        self._done = int(ended)
        return means

    def close(self) -> None:
        """Check that every window was given.

        Raises
        ------
        ValueError
            If the frames ended before the windows did.
        """
        if self._done != len(self._grid):
            raise ValueError(
                f"frames ended at {self._seen}, and {len(self._grid) - self._done} windows lack some of theirs"
            )


def mean_over_windows(
    batches: Iterable[np.ndarray], grid: WindowGrid, dim: int, past: int = 0
) -> Iterator[np.ndarray]:
    """Average per-frame values into windows, while they come.

    Parameters
    ----------
    batches : iterable of array of shape (frames, dim)
        Values of successive frames from ``grid.first_frame(past)`` on.
    grid : WindowGrid
    dim : int
        Values per frame.
    past : int
        Frames before the first window's first that come as well.

    Yields
    ------
    array of shape (m, dim)
        Means of the next `m` windows, at least one.

    Raises
    ------
    ValueError
        If the frames end before the windows do.
    """
    mean = WindowMean(grid, dim, grid.first_frame(past))
    for values in batches:
        if len(rows := mean.add(values)):
            yield rows
    mean.close()
