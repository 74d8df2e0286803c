"""Retrieval metrics from a score matrix: how many candidates outrank the true one, and what that is worth.

Everything here is exact: ties and random distractors enter as expectations, never as luck. The
module knows nothing of subjects, files or statistics; see `evaluation.trials` for those.

Conventions
-----------
Ties
    A metric is its *expectation under random tie breaking*. If `g` candidates score higher than the true one
    and `e` others score the same, the true one is equally likely at each of the ranks g+1 … g+e+1. A score that
    is constant therefore gives exactly chance, never rank 1.
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
from scipy.stats import hypergeom

TOP = {"top1": 1, "top5": 5, "top10": 10}
METRICS = (*TOP, "mrr", "median_rank")
LOWER_IS_BETTER = frozenset({"median_rank"})


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


def outranked(scores: np.ndarray, near: np.ndarray) -> Outranked:
    """Count, for every query and candidate, the candidates that score higher or the same.

    Parameters
    ----------
    scores : float array of shape (queries, candidates)
    near : bool array of shape (candidates, candidates)
        See `near_clips`.

    Raises
    ------
    ValueError
        If a score is not finite: a rank would then depend on how NaN happens to sort.
    """
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("the score matrix holds values that are not finite")
    queries, candidates = scores.shape
    higher = np.empty((queries, candidates), np.int32)
    tied = np.empty((queries, candidates), np.int32)
    for row in range(queries):
        ordered = np.sort(scores[row])
        left = np.searchsorted(ordered, scores[row], "left")
        right = np.searchsorted(ordered, scores[row], "right")
        higher[row] = candidates - right
        tied[row] = right - left - 1
    for true in np.flatnonzero(near.any(axis=1)):
        others, own = scores[:, near[true]], scores[:, true, None]
        higher[:, true] -= (others > own).sum(axis=1, dtype=np.int32)
        tied[:, true] -= (others == own).sum(axis=1, dtype=np.int32)
    return Outranked(higher, tied, candidates - near.sum(axis=1))


@lru_cache(maxsize=4096)
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
        drawn = rng.hypergeometric(better, size - 1 - better, ways - 1, size=(draws, size))
        return _value(metric, drawn).mean(axis=0)
    if metric in TOP:
        return hypergeom.cdf(TOP[metric] - 1, size - 1, better, ways - 1)
    if metric == "median_rank":
        return 1 + better * (ways - 1) / (size - 1)
    drawn = np.arange(ways)
    chances = hypergeom.pmf(drawn[None], size - 1, better[:, None], ways - 1)
    return chances @ _value(metric, drawn)


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
