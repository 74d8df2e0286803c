"""What the page of a stimulus says of its features: how they change, how long they stay alike. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# What is drawn: no screen shows more.
ROWS, COLUMNS, CELLS = 90, 1000, 300
_ORDERING_ROWS, _ORDERING_COLUMNS = 270, 300
_MOST_LAGS = 60


@dataclass
class LevelCourse:
    """The features of one level over time.

    Parameters
    ----------
    name : str
    data : array of shape (windows, dim)
    """

    name: str
    data: np.ndarray

    @cached_property
    def varying(self) -> np.ndarray:
        """Which features are not the same in all windows: bool, (dim,)."""
        spread = np.ptp(self.data, axis=0)
        return spread > 1e-6 * np.abs(self.data).max(axis=0)

    @property
    def drawable(self) -> bool:
        """Whether there is anything to draw over time: two windows that differ."""
        return len(self.data) > 1 and bool(self.varying.any())

    @property
    def comparable(self) -> bool:
        """Whether windows can be correlated with each other: three of them, and three features that vary."""
        return len(self.data) >= 3 and int(self.varying.sum()) >= 3

    @cached_property
    def z(self) -> np.ndarray:
        """Features that vary, each with mean 0 and standard deviation 1 over the film: float32, (windows, varying)."""
        data = self.data[:, self.varying]
        return ((data - data.mean(axis=0)) / data.std(axis=0)).astype(np.float32)

    @cached_property
    def patterns(self) -> np.ndarray:
        """`z` with every window's mean 0 and length 1, so that products are correlations."""
        centred = self.z - self.z.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return centred / np.where(length > 1e-6, length, np.inf)

    @cached_property
    def change(self) -> np.ndarray:
        """One minus the correlation of every window with the one before: (windows,), NaN for the first."""
        steps = 1 - (self.patterns[1:] * self.patterns[:-1]).sum(axis=1)
        return np.concatenate([[np.nan], steps])

    def alike(self, lags: np.ndarray) -> np.ndarray:
        """Mean correlation of windows that lie so many windows apart: (lags,)."""
        u = self.patterns
        return np.array([float((u[lag:] * u[: len(u) - lag]).sum(axis=1).mean()) for lag in lags])

    def carpet(self) -> np.ndarray:
        """`z` as a picture, features in rows: those that go together side by side, at most `ROWS` x `COLUMNS`.

        Rows are in the order of the angle between their loadings on the first two principal components.
        """
        rows = np.unique(
            np.linspace(0, self.z.shape[1] - 1, min(_ORDERING_ROWS, self.z.shape[1])).astype(int)
        )
        chosen = self.z[:, rows]
        first, second = _two_components(chosen[:: -(-len(chosen) // _ORDERING_COLUMNS)])
        order = np.argsort(np.arctan2(second, first), kind="stable")
        return shrink(shrink(chosen[:, order].T, ROWS, axis=0), COLUMNS, axis=1)

    def similarity(self) -> np.ndarray:
        """Correlation of every window (or stretch of windows, `CELLS` at most) with every other."""
        u = shrink(self.patterns, CELLS, axis=0)
        length = np.linalg.norm(u, axis=1, keepdims=True)
        u = u / np.where(length > 1e-6, length, np.inf)
        return np.clip(u @ u.T, -1, 1)


def _two_components(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loadings of every column on the first two principal components, each with a positive sum: two of (columns,)."""
    # By the smaller of the two matrices of products: in milliseconds what the decomposition of `sample` takes a tenth of
    # a second for.
    wide = sample.shape[0] < sample.shape[1]
    _, vectors = np.linalg.eigh(sample @ sample.T if wide else sample.T @ sample)
    found = (sample.T @ vectors if wide else vectors)[:, ::-1][:, :2].T
    found = [c * (1 if c.sum() >= 0 else -1) for c in found]
    return found[0], found[1] if len(found) > 1 else np.zeros_like(found[0])


def shrink(data: np.ndarray, most: int, axis: int) -> np.ndarray:
    """Means of neighbours along an axis, so that at most so many are left; equal groups but for the last."""
    step = -(-data.shape[axis] // most)
    if step <= 1:
        return data
    starts = np.arange(0, data.shape[axis], step)
    counts = np.diff(np.append(starts, data.shape[axis]))
    shape = [1] * data.ndim
    shape[axis] = -1
    return np.add.reduceat(data, starts, axis=axis) / counts.reshape(shape)


def lags_of(windows: int) -> np.ndarray:
    """Distances in windows at which likeness is asked: up to half of the film, 60 at most."""
    return np.arange(0, min(_MOST_LAGS, windows // 2) + 1)


def step_s(times: np.ndarray) -> float:
    """Seconds from window to window; NaN for one window."""
    return float(np.median(np.diff(times))) if len(times) > 1 else float("nan")


def half_life(lags_s: np.ndarray, alike: np.ndarray) -> float:
    """Seconds after which the likeness has first fallen to a half; NaN if it does not."""
    below = np.flatnonzero(alike <= 0.5)
    if not len(below):
        return float("nan")
    k = int(below[0])
    if k == 0:
        return 0.0
    share = (alike[k - 1] - 0.5) / (alike[k - 1] - alike[k])
    return float(lags_s[k - 1] + share * (lags_s[k] - lags_s[k - 1]))


def change_at(change: np.ndarray, times: np.ndarray, cuts_s: np.ndarray) -> tuple[float, float, int]:
    """Median change from window to window where a cut lies between their centres, and where none does.

    Parameters
    ----------
    change : array of shape (windows,)
        See `LevelCourse.change`.
    times : array of shape (windows,)
        Centres, seconds.
    cuts_s : array
        Seconds at which shots begin.

    Returns
    -------
    across, within : float
        NaN where there are no such windows.
    n : int
        Steps with a cut.
    """
    cut = np.zeros(len(times), bool)
    place = np.searchsorted(times, cuts_s)
    cut[place[(place > 0) & (place < len(times))]] = True
    known = np.isfinite(change)
    across, within = change[known & cut], change[known & ~cut]
    return (
        float(np.median(across)) if len(across) else float("nan"),
        float(np.median(within)) if len(within) else float("nan"),
        len(across),
    )
