"""P-values by circular shifts of the pairing in time, run by run.

Brain and film are both autocorrelated, so shuffling clips one by one makes a null that is too narrow. Here all
presentations of a run are rotated together against their labels: the autocorrelation of both sides stays, their
pairing goes. Runs are shifted independently of each other, subjects who saw the same run together (their brains
share the film, so that their errors are not independent).

All rotations are used, near ones too: together they form a group, which is what makes the test valid (Winkler et al. 2015,
*Multi-level block permutation*, NeuroImage 123, on exchangeability). Leaving out rotations nearer than the
autocorrelation looks careful, but rejects up to three times too often on simulated noise when runs are short: what
is left is less like the true pairing than the true pairing is like itself. The price of the near ones is a little power.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


class Rotations:
    """Random rotations, one per run and permutation, shared by everything that uses the same run key.

    Parameters
    ----------
    permutations : int
        Number of random rotations of each run, no rotation among them.
    seed : int
    """

    def __init__(self, permutations: int, seed: int):
        self.permutations = permutations
        self._seed = seed
        self._draws: dict[Hashable, np.ndarray] = {}

    def _draw(self, key: Hashable) -> np.ndarray:
        """The draws of a run, uniform in [0, 1); they depend on the seed and the key, not on the order asked."""
        if key not in self._draws:
            letters = np.frombuffer(repr(key).encode(), np.uint8)
            rng = np.random.default_rng([self._seed, *letters.tolist()])
            self._draws[key] = rng.random(self.permutations)
        return self._draws[key]

    def rotate(
        self, runs: Sequence[Hashable], onset_s: np.ndarray
    ) -> tuple[np.ndarray, dict[Hashable, np.ndarray]]:
        """Whose label each presentation takes, in each permutation.

        Parameters
        ----------
        runs : sequence of hashable, length n
            Run key of each presentation; equal keys (of different subjects) rotate together.
        onset_s : float array of shape (n,)

        Returns
        -------
        source : int array of shape (permutations, n)
            Presentation i takes the label of presentation ``source[p, i]``, of the same run.
        shifts : dict of run key to int array of shape (permutations,)
            The rotations used, in positions; see `distinct`.
        """
        source = np.empty((self.permutations, len(onset_s)), np.int64)
        found = self.runs(runs, onset_s)
        for order, shifts in found.values():
            positions = (np.arange(len(order))[None] + shifts[:, None]) % len(order)
            source[:, order] = order[positions]
        return source, {run: shifts for run, (_, shifts) in found.items()}

    def runs(
        self, runs: Sequence[Hashable], onset_s: np.ndarray
    ) -> dict[Hashable, tuple[np.ndarray, np.ndarray]]:
        """The presentations of each run in order of time, and by how many places each permutation rotates them.

        Returns
        -------
        dict of run key to (order, shifts)
            Int arrays of shape (presentations of the run,) and (permutations,).
        """
        onset_s = np.asarray(onset_s, float)
        members: dict[Hashable, list[int]] = {}
        for i, run in enumerate(runs):
            members.setdefault(run, []).append(i)
        found = {}
        for run, where in members.items():
            order = np.array(where)[np.argsort(onset_s[where], kind="stable")]
            found[run] = order, (self._draw(run) * len(order)).astype(np.int64)
        return found


def distinct(shifts: Sequence[np.ndarray]) -> np.ndarray:
    """Indices of permutations that differ from each other and from no rotation at all.

    Short runs have few rotations; drawing the same one twice is no new evidence, and a p-value may not
    be smaller than one over the number of distinct pairings.

    Parameters
    ----------
    shifts : sequence of int arrays of shape (permutations,)
        One per run that enters the statistic.
    """
    table = np.stack(list(shifts), axis=1)
    _, first = np.unique(table, axis=0, return_index=True)
    return np.sort(first[table[first].any(axis=1)])


def p_value(observed: float, null: np.ndarray, lower_is_better: bool = False) -> float:
    """(1 + number of null values at least as good) / (1 + number of null values); NaN without any."""
    if len(null) == 0:
        return float("nan")
    tolerance = 1e-9 * max(1.0, abs(observed))
    good = null <= observed + tolerance if lower_is_better else null >= observed - tolerance
    return float((1 + good.sum()) / (1 + len(null)))
