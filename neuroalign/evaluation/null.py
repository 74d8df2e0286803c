"""Statistics under the null of no relation: what a group's metrics are under every permutation, summed up run by run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neuroalign.evaluation import permutation, retrieval

_FULL_BINS, _WAYS_BINS = 2048, 512


@dataclass(frozen=True)
class Bins:
    """Ranks from 1 to `top` in `count` bins."""

    top: int
    count: int

    @property
    def scale(self) -> float:
        return (self.count - 1) / max(self.top - 1, 1)

    def codes(self, ranks: np.ndarray) -> np.ndarray:
        return np.rint((ranks - 1) * self.scale).astype(np.int64)

    def table(self, ranks: np.ndarray) -> np.ndarray:
        """Histogram of every row of ranks (n, m): int array of shape (n, count)."""
        codes = self.codes(ranks) + np.arange(len(ranks))[:, None] * self.count
        return np.bincount(codes.ravel(), minlength=len(ranks) * self.count).reshape(len(ranks), self.count)

    def median(self, histograms: np.ndarray) -> np.ndarray:
        """Median rank of every histogram (n, count)."""
        total = np.cumsum(histograms, axis=1)
        n = total[:, -1:]
        middle = [(total >= half).argmax(axis=1) for half in ((n + 1) // 2, n // 2 + 1)]
        return 1 + (middle[0] + middle[1]) / (2 * self.scale)


@dataclass(frozen=True)
class Variant:
    """A gallery with an exclusion: one set of rows of the table."""

    exclude_s: float
    gallery: str | int

    @property
    def ways(self) -> int | None:
        return None if isinstance(self.gallery, str) else int(self.gallery)

    @property
    def name(self) -> str:
        return str(self.gallery) if self.ways is None else f"{self.ways}-way"

    def bins(self, largest: int) -> Bins:
        if self.ways is not None:
            return Bins(self.ways, _WAYS_BINS)
        # Half ranks, where there is room for them.
        return Bins(largest, min(_FULL_BINS, 2 * largest - 1))


class Null:
    """The statistics of a group under every permutation, summed up trials by trials.

    Parameters
    ----------
    permutations : int
    largest : int
        Candidates of the largest gallery.
    """

    def __init__(self, permutations: int, largest: int):
        self.permutations, self.largest = permutations, largest
        self._sums: dict[tuple[Variant, str], np.ndarray] = {}
        self._queries: dict[tuple[Variant, str], int] = {}
        self._shifts: list[np.ndarray] = []
        self._found: dict[tuple[Variant, str], np.ndarray] = {}

    def used(self, shifts: Iterator[np.ndarray]) -> None:
        """Note the rotations of the runs of one trials."""
        self._shifts += shifts

    def add(self, variant: Variant, metric: str, tables: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add runs: the values under every rotation (rotations, presentations), and the rotation each permutation uses."""
        key = variant, metric
        median = metric in retrieval.LOWER_IS_BETTER
        bins = variant.bins(self.largest)
        if key not in self._sums:
            shape = (self.permutations, bins.count) if median else (self.permutations,)
            self._sums[key], self._queries[key] = np.zeros(shape, np.int32 if median else float), 0
        for values, shifts in tables:
            per_rotation = bins.table(values).astype(np.int32) if median else values.sum(axis=1)
            self._sums[key] += per_rotation[shifts]
            self._queries[key] += values.shape[1]

    def finish(self) -> None:
        """Turn sums into statistics of the permutations that are distinct."""
        usable = permutation.distinct(self._shifts)
        for (variant, metric), sums in self._sums.items():
            if metric in retrieval.LOWER_IS_BETTER:
                found = variant.bins(self.largest).median(sums[usable])
            else:
                found = sums[usable] / self._queries[variant, metric]
            self._found[variant, metric] = found
        self._sums.clear()

    def of(self, variant: Variant, metric: str) -> np.ndarray:
        """The null distribution."""
        return self._found[variant, metric]

    def binned(self, variant: Variant, metric: str, values: np.ndarray) -> float:
        """The statistic of these values, computed as the null was."""
        if metric not in retrieval.LOWER_IS_BETTER:
            return float(np.mean(values))
        bins = variant.bins(self.largest)
        return float(1 + np.median(bins.codes(values)) / bins.scale)


def rotation_tables(values: np.ndarray, runs: Sequence) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per run: its values under every rotation (n, n), and the rotation of each permutation."""
    begin = 0
    for _, (order, shifts) in runs:
        n = len(order)
        yield values[begin : begin + n * n].reshape(n, n), shifts
        begin += n * n


def true_values(values: np.ndarray, runs: Sequence) -> np.ndarray:
    """The values of the true pairs: those of no rotation, where there are runs."""
    if not runs:
        return values
    found = np.empty(sum(len(order) for _, (order, _) in runs), values.dtype)
    for (_, (order, _)), (table, _) in zip(runs, rotation_tables(values, runs), strict=True):
        found[order] = table[0]
    return found
