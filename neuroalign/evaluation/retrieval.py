"""Retrieval metrics from a score matrix: how many candidates outrank the true one, and what that is worth.

Everything here is exact: ties and random distractors enter as expectations, never as luck. The
module knows nothing of subjects, files or statistics; see `evaluation.trials` for those.

Conventions
-----------
Ties
    A metric is its *expectation under random tie breaking*. If `g` candidates score higher than the true one
    and `e` others score the same, the true one is equally likely at each of the ranks g+1 … g+e+1. A score that
    is constant therefore gives exactly chance, never rank 1. Top-k is thus the share of these ranks that are at most k
    (expected hits), MRR the mean of their inverses, and what enters the median rank is their mean, the mid-rank
    g + 1 + e/2.
Neighbours
    With `exclude_s` > 0, candidates of the same stimulus whose interval lies less than `exclude_s` seconds from
    the true clip's interval (gap between end of one and start of the other; touching or overlapping is 0) leave the
    gallery of that query. The true clip always stays. With 0 nothing is excluded.
N-way
    N - 1 distractors drawn without replacement from the gallery without the true clip. If `b` of the M - 1 possible
    distractors beat the true clip, the number drawn that do is hypergeometric(M - 1, b, N - 1), so the
    expectation over all draws is computed in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaln

TOP = {"top1": 1, "top5": 5, "top10": 10}
METRICS = (*TOP, "mrr", "median_rank")
LOWER_IS_BETTER = frozenset({"median_rank"})
# Numbers held at once while neighbours are taken out, or distractors drawn.
_GATHERED = 4_000_000


def near_clips(
    stimulus: np.ndarray, start_s: np.ndarray, duration_s: np.ndarray, exclude_s: float
) -> np.ndarray:
    """Which candidates leave the gallery when another one is the true clip.

    Parameters
    ----------
    stimulus : array of str, shape (candidates,)
    start_s, duration_s : float arrays of shape (candidates,)
        Position of each clip in its stimulus, seconds.
    exclude_s : float
        Gap in seconds below which two clips of one stimulus are neighbours.

    Returns
    -------
    near : bool array of shape (candidates, candidates)
        ``near[true, other]``; the diagonal is False.
    """
    stimulus = np.asarray(stimulus)
    start = np.asarray(start_s, float)
    end = start + np.asarray(duration_s, float)
    if exclude_s <= 0:
        return np.zeros((len(start), len(start)), bool)
    gap = np.maximum(start[:, None], start[None]) - np.minimum(end[:, None], end[None])
    near = (stimulus[:, None] == stimulus[None]) & (np.maximum(gap, 0.0) < exclude_s - 1e-6)
    np.fill_diagonal(near, False)
    return near


@dataclass(frozen=True)
class Outranked:
    """By how many candidates each candidate is beaten, for each query, were it the true one.

    Attributes
    ----------
    higher : int array of shape (queries, candidates)
        Candidates with a higher score.
    tied : int array of shape (queries, candidates)
        Other candidates with the same score.
    size : int array of shape (candidates,)
        Size of the gallery when this candidate is the true one (itself included, neighbours excluded).
    """

    higher: np.ndarray
    tied: np.ndarray
    size: np.ndarray

    def at(self, query: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`higher`, `tied` and `size` of the pairs (`query`, `candidate`), arrays of any equal shape."""
        return self.higher[query, candidate], self.tied[query, candidate], self.size[candidate]


def outranked(scores: np.ndarray, near: np.ndarray, stimulus: np.ndarray | None = None) -> Outranked:
    """Count, for every query and candidate, the candidates that score higher or the same.

    Parameters
    ----------
    scores : float array of shape (queries, candidates)
    near : bool array of shape (candidates, candidates)
        See `near_clips`.
    stimulus : array of str, shape (candidates,), optional
        If given, the gallery of a candidate is its own stimulus alone.

    Raises
    ------
    ValueError
        If a score is not finite: a rank would then depend on how NaN happens to sort.
    """
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("the score matrix holds values that are not finite")
    sizes = gallery_sizes(near, stimulus)
    if stimulus is None:
        return Outranked(*_counts(scores, near), sizes)
    higher, tied = (np.empty(scores.shape, np.int32) for _ in range(2))
    for name in np.unique(stimulus):
        own = np.flatnonzero(np.asarray(stimulus) == name)
        higher[:, own], tied[:, own] = _counts(scores[:, own], near[np.ix_(own, own)])
    return Outranked(higher, tied, sizes)


def gallery_sizes(near: np.ndarray, stimulus: np.ndarray | None = None) -> np.ndarray:
    """Size of the gallery when each candidate is the true one: int array of shape (candidates,)."""
    if stimulus is None:
        return len(near) - near.sum(axis=1)
    _, label, count = np.unique(stimulus, return_inverse=True, return_counts=True)
    # Neighbours are of the same stimulus.
    return count[label] - near.sum(axis=1)


def _counts(scores: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`higher` and `tied` of every query and candidate, all at once: runs of equal scores in sorted rows."""
    queries, candidates = scores.shape
    if not scores.size:
        return np.zeros(scores.shape, np.int32), np.zeros(scores.shape, np.int32)
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    place = np.broadcast_to(np.arange(candidates, dtype=np.int32), scores.shape)
    starts = np.ones(scores.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    left = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    ends = np.ones(scores.shape, bool)
    ends[:, :-1] = starts[:, 1:]
    right = np.minimum.accumulate(np.where(ends, place, candidates)[:, ::-1], axis=1)[:, ::-1]
    higher, tied = (np.empty(scores.shape, np.int32) for _ in range(2))
    np.put_along_axis(higher, order, candidates - 1 - right, axis=1)
    np.put_along_axis(tied, order, right - left, axis=1)
    true, other = np.nonzero(near)
    if not len(true):
        return higher, tied
    columns, first, count = np.unique(true, return_index=True, return_counts=True)
    # In groups of candidates, so that the gathered neighbours stay small beside the matrix.
    group = np.cumsum(count * queries) // _GATHERED
    for number in np.unique(group):
        own = group == number
        span = slice(first[own][0], first[own][-1] + count[own][-1])
        begins = first[own] - span.start
        others, truth = scores[:, other[span]], scores[:, true[span]]
        higher[:, columns[own]] -= np.add.reduceat(others > truth, begins, axis=1, dtype=np.int32)
        tied[:, columns[own]] -= np.add.reduceat(others == truth, begins, axis=1, dtype=np.int32)
    return higher, tied


# Bounded: a table has as many numbers as its gallery has candidates.
@lru_cache(maxsize=512)
def value_table(metric: str, size: int, ways: int, draws: int = 0, seed: int = 0) -> np.ndarray:
    """The value of a metric for a query whose true clip is beaten by b = 0 … size - 1 candidates.

    Parameters
    ----------
    metric : str
        One of `METRICS`. `median_rank` gives the (expected) rank; its median is taken over queries later.
    size : int
        Candidates in the gallery.
    ways : int
        Candidates in the comparison: `size` for the full gallery, or N <= size for N-way.
    draws : int
        0 for the expectation over all draws of distractors, else the mean of so many random draws.
    seed : int
        Seed of the draws.

    Returns
    -------
    values : float array of shape (size,)
    """
    if not 1 <= ways <= size:
        raise ValueError(f"{ways}-way retrieval needs a gallery of at least {ways}, not {size}")
    better = np.arange(size)
    if ways == size:
        return _value(metric, better)
    if draws:
        rng = np.random.default_rng([seed, size, ways])
        total, step = np.zeros(size), max(1, _GATHERED // size)
        for begin in range(0, draws, step):
            shape = (min(step, draws - begin), size)
            total += _value(metric, rng.hypergeometric(better, size - 1 - better, ways - 1, shape)).sum(
                axis=0
            )
        return total / draws
    if metric in TOP:
        return _chance_of_few(size, ways)[TOP[metric] - 1].copy()
    if metric == "median_rank":
        return 1 + better * (ways - 1) / (size - 1)
    # The mean of 1 / (x + 1) over a hypergeometric x: (x + 1) C(b + 1, x + 1) = (b + 1) C(b, x) turns the sum into one over
    # another hypergeometric, of which only its first term is missing: C(M - b - 1, N) / C(M, N).
    factorial = gammaln(np.arange(size + 1) + 1.0)
    left = size - better - 1
    none = np.where(left >= ways, factorial[left] - factorial[np.maximum(left - ways, 0)], -np.inf)
    none = np.exp(none - factorial[size] + factorial[size - ways])
    return size / (ways * (better + 1)) * (1 - none)


@lru_cache(maxsize=64)
def _chance_of_few(size: int, ways: int) -> np.ndarray:
    """Hypergeometric chances that at most x = 0 … 9 of b better candidates are drawn: shape (10, size)."""
    factorial = gammaln(np.arange(size + 1) + 1.0)

    def log_choose(n: np.ndarray, k: int) -> np.ndarray:
        if k < 0:
            return np.full(np.shape(n), -np.inf)
        return np.where(n >= k, factorial[n] - factorial[k] - factorial[np.maximum(n - k, 0)], -np.inf)

    better = np.arange(size)
    others = log_choose(np.array(size - 1), ways - 1)
    return np.cumsum(
        [
            np.exp(log_choose(better, x) + log_choose(size - 1 - better, ways - 1 - x) - others)
            for x in range(max(TOP.values()))
        ],
        axis=0,
    )


def _value(metric: str, better: np.ndarray) -> np.ndarray:
    """The metric of a true clip beaten by `better` candidates."""
    if metric in TOP:
        return (better < TOP[metric]).astype(float)
    if metric == "mrr":
        return 1.0 / (better + 1.0)
    if metric == "median_rank":
        return better + 1.0
    raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")


def query_values(
    metric: str,
    higher: np.ndarray,
    tied: np.ndarray,
    size: np.ndarray,
    ways: int | None = None,
    draws: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """The metric of each query, in expectation over tie breaking and distractors.

    Parameters
    ----------
    metric : str
    higher, tied, size : int arrays of equal shape
        From `Outranked.at`.
    ways : int, optional
        N of N-way retrieval; the full gallery if absent.
    draws, seed : int
        See `value_table`.

    Returns
    -------
    values : float array of the same shape
    """
    higher, tied, size = np.broadcast_arrays(higher, tied, size)
    values = np.empty(higher.shape)
    for gallery in np.unique(size):
        here = slice(None) if (size == gallery).all() else size == gallery
        table = value_table(metric, int(gallery), int(ways or gallery), draws, seed)
        first, ties = higher[here], tied[here]
        if not ties.any():
            values[here] = table[first]
            continue
        total = np.concatenate([[0.0], np.cumsum(table)])
        values[here] = (total[first + ties + 1] - total[first]) / (ties + 1)
    return values


def summarise(metric: str, values: np.ndarray) -> np.ndarray:
    """Reduce per-query values along the last axis: their mean, or the median for `median_rank`."""
    return np.median(values, axis=-1) if metric in LOWER_IS_BETTER else np.mean(values, axis=-1)


def chance(metric: str, size: np.ndarray | int, ways: int | None = None) -> float:
    """What guessing gives: k/n for top-k, H_n/n for MRR, (n + 1)/2 for the median rank.

    Parameters
    ----------
    metric : str
    size : int or int array of shape (queries,)
        Gallery of each query; the mean over queries is returned (their median for the median rank).
    ways : int, optional
        N of N-way retrieval, which then stands for n.
    """
    sizes = np.atleast_1d(np.asarray(size if ways is None else ways))
    return float(summarise(metric, np.array([_chance(metric, int(n)) for n in sizes])))


@lru_cache(maxsize=4096)
def _chance(metric: str, n: int) -> float:
    return (n + 1) / 2 if metric == "median_rank" else float(_value(metric, np.arange(n)).mean())
