"""Confidence intervals by block bootstrap, and paired tests between methods by swapping blocks.

The unit that is resampled is a *block*: a stretch of one stimulus longer than the autocorrelation of
brain and film. All queries on that stretch, of every subject, stay together, because they share the film. The
intervals speak about other clips for these people; they do not speak about other people.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t

from neuroalign.evaluation.retrieval import LOWER_IS_BETTER


def block_of(stimulus: np.ndarray, start_s: np.ndarray, block_s: float) -> np.ndarray:
    """The block each clip belongs to.

    Parameters
    ----------
    stimulus : array of str, shape (clips,)
    start_s : float array of shape (clips,)
        Start of the clip in its stimulus.
    block_s : float
        Length of a block in seconds.

    Returns
    -------
    block : int array of shape (clips,)
        Numbered from 0.
    """
    number = np.floor(np.asarray(start_s, float) / block_s + 1e-9).astype(int)
    names = [f"{name}\t{n}" for name, n in zip(stimulus, number, strict=True)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def resample_weights(blocks: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each block is drawn in each resample: int array of shape (resamples, blocks)."""
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)


def bootstrap_distribution(
    metric: str, values: np.ndarray, block: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The statistic in each resample.

    Parameters
    ----------
    metric : str
        Its mean over queries, or the median for `median_rank`.
    values : float array of shape (queries,)
    block : int array of shape (queries,)
        From `block_of`, contiguous from 0.
    weights : int array of shape (resamples, blocks)
        From `resample_weights`; the same weights for two methods make their difference paired.

    Returns
    -------
    distribution : float array of shape (resamples,)
    """
    if metric in LOWER_IS_BETTER:
        return _weighted_median(values, block, weights)
    sums = np.bincount(block, values, minlength=weights.shape[1])
    counts = np.bincount(block, minlength=weights.shape[1])
    return (weights @ sums) / (weights @ counts)


def _weighted_median(values: np.ndarray, block: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The median of the values repeated as often as their block was drawn (mean of the middle two)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    total = np.cumsum(weights[:, block[order]], axis=1)
    n = total[:, -1]
    lower = (total >= ((n + 1) // 2)[:, None]).argmax(axis=1)
    upper = (total >= (n // 2 + 1)[:, None]).argmax(axis=1)
    return (ordered[lower] + ordered[upper]) / 2


def interval(distribution: np.ndarray, blocks: int, confidence: float) -> tuple[float, float]:
    """The expanded percentile interval of a bootstrap distribution.

    Plain percentile intervals are too narrow for few blocks; the expansion (Hesterberg 2015, *What teachers
    should know about the bootstrap*, The American Statistician 69, section 4) uses the quantiles that give the
    t interval its coverage, and keeps the interval inside the range of the statistic.

    Returns
    -------
    low, high : float
        NaN with fewer than two blocks, where nothing can be said.
    """
    if blocks < 2:
        return float("nan"), float("nan")
    tail = norm.cdf(np.sqrt(blocks / (blocks - 1)) * t.ppf((1 - confidence) / 2, blocks - 1))
    low, high = np.quantile(distribution, [tail, 1 - tail])
    return float(low), float(high)


def swap_test(
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    block: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Two-sided p-value of a paired difference, by exchanging the two methods block by block.

    If both methods are equally good, which of them made the better hits on a block is a coin toss. All 2^blocks
    exchanges are used where that is no more than `permutations`, random ones otherwise.

    Parameters
    ----------
    first, second : float arrays of shape (seeds, queries)
        Values of the two methods for the same queries; the statistic is the mean over seeds. The number of seeds
        may differ where the metric is a mean.
    block : int array of shape (queries,)
    permutations : int
    rng : Generator

    Returns
    -------
    p : float
        (1 + number at least as large) / (1 + number of exchanges), the identity not counted twice.
    """
    blocks = int(block.max()) + 1
    if blocks < 2:
        return float("nan")
    if 2 ** min(blocks, 40) <= permutations:
        codes = np.arange(1, 2**blocks)
        swap = (codes[:, None] >> np.arange(blocks)) & 1
    else:
        swap = rng.integers(0, 2, size=(permutations, blocks))
    if metric in LOWER_IS_BETTER:
        seeds = min(len(first), len(second))
        chosen = swap[:, block].astype(bool)
        null = np.zeros(len(swap))
        observed = 0.0
        for a, b in zip(first[:seeds], second[:seeds], strict=True):
            null += np.median(np.where(chosen, b, a), axis=1) - np.median(np.where(chosen, a, b), axis=1)
            observed += float(np.median(a) - np.median(b))
    else:
        difference = np.bincount(block, first.mean(axis=0) - second.mean(axis=0), minlength=blocks)
        null = (1 - 2 * swap) @ difference
        observed = difference.sum()
    extreme = np.abs(null) >= abs(observed) - 1e-12
    return float((1 + extreme.sum()) / (1 + len(null)))
