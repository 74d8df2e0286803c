"""Confidence intervals by block bootstrap, and paired tests between methods by swapping blocks.

The unit that is resampled is a *block*: a stretch of one stimulus longer than the autocorrelation of
brain and film. All queries on that stretch, of every subject, stay together, because they share the film. Alone, such
intervals speak about other clips for these people. Where subjects are resampled too, every resample draws blocks and,
independently, people, and a query counts as often as its block times as often as its person was drawn (the pigeonhole
bootstrap; Owen 2007, *The pigeonhole bootstrap*, Annals of Applied Statistics 1): the intervals then speak about other clips and
other people. It never understates the variance; what is of neither block nor person alone it counts up to three times.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm, t

from neuroalign.evaluation.retrieval import LOWER_IS_BETTER

# Numbers held at once by medians.
_HELD = 4_000_000


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
    metric: str,
    values: np.ndarray,
    block: np.ndarray,
    weights: np.ndarray,
    subject: np.ndarray | None = None,
    subject_weights: np.ndarray | None = None,
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
    subject : int array of shape (queries,), optional
        Whose query it is, contiguous from 0.
    subject_weights : int array of shape (resamples, subjects), optional
        How often each person is drawn. A resample in which the people drawn have no query on the blocks drawn is the
        statistic of all queries.

    Returns
    -------
    distribution : float array of shape (resamples,)
    """
    if subject is None or subject_weights is None:
        subject, subject_weights = np.zeros(len(values), np.int64), np.ones((len(weights), 1), np.int64)
    if metric in LOWER_IS_BETTER:
        return _weighted_median(values, block, weights, subject, subject_weights)
    shape = subject_weights.shape[1], weights.shape[1]
    cell = subject * shape[1] + block
    sums = np.bincount(cell, values, minlength=shape[0] * shape[1]).reshape(shape)
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    total = ((subject_weights @ sums) * weights).sum(axis=1)
    queries = ((subject_weights @ counts) * weights).sum(axis=1)
    return np.where(queries > 0, total / np.maximum(queries, 1), np.mean(values))


def _weighted_median(
    values: np.ndarray,
    block: np.ndarray,
    weights: np.ndarray,
    subject: np.ndarray,
    subject_weights: np.ndarray,
) -> np.ndarray:
    """The median of the values repeated as often as they were drawn (mean of the middle two)."""
    levels, level = np.unique(values, return_inverse=True)
    cells, cell = np.unique(subject * weights.shape[1] + block, return_inverse=True)
    person, stretch = np.divmod(cells, weights.shape[1])
    # How often each value occurs in each cell: few of the many combinations do.
    shape = len(levels), len(cells)
    occurs = csr_array((np.ones(len(values), np.int64), (level, cell)), shape=shape)
    found = np.empty(len(weights))
    step = max(1, _HELD // max(shape))
    for begin in range(0, len(weights), step):
        rows = slice(begin, begin + step)
        drawn = weights[rows][:, stretch] * subject_weights[rows][:, person]
        found[rows] = _median_of_counts((occurs @ drawn.T).T, levels, float(np.median(values)))
    return found


def _median_of_counts(counts: np.ndarray, levels: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Median of sorted `levels` (m,) that occur as often as every row of `counts` (n, m) says; `empty` where none does."""
    total = np.cumsum(counts, axis=1)
    n = total[:, -1]
    lower = (total >= ((n + 1) // 2)[:, None]).argmax(axis=1)
    upper = (total >= (n // 2 + 1)[:, None]).argmax(axis=1)
    return np.where(n > 0, (levels[lower] + levels[upper]) / 2, empty)


def effective_units(sources: Mapping[str, tuple[np.ndarray, int]]) -> float:
    """How many independent units an interval rests on, where several kinds are resampled together.

    Parameters
    ----------
    sources : mapping of name to (distribution, units)
        The statistic when that kind alone is resampled, and how many of them there are.

    Returns
    -------
    units : float
        One more than the degrees of freedom of a sum of variances (Satterthwaite 1946, *An approximate distribution of
        estimates of variance components*, Biometrics Bulletin 2); 1 where a kind has a single unit.
    """
    if any(units < 2 for _, units in sources.values()):
        return 1.0
    variances = np.array([np.var(distribution) for distribution, _ in sources.values()])
    freedom = np.array([units - 1 for _, units in sources.values()], float)
    if variances.sum() <= 0:
        return float(freedom.min() + 1)
    return float(variances.sum() ** 2 / (variances**2 / freedom).sum() + 1)


def interval(distribution: np.ndarray, blocks: float, confidence: float) -> tuple[float, float]:
    """The expanded percentile interval of a bootstrap distribution.

    Plain percentile intervals are too narrow for few blocks; the expansion (Hesterberg 2015, *What teachers
    should know about the bootstrap*, The American Statistician 69, section 4) uses the quantiles that give the
    t interval its coverage, and keeps the interval inside the range of the statistic.

    Parameters
    ----------
    distribution : float array of shape (resamples,)
    blocks : float
        Independent units that were resampled; see `effective_units`.
    confidence : float

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
        null, observed = np.zeros(len(swap)), 0.0
        for a, b in zip(first[:seeds], second[:seeds], strict=True):
            observed += float(np.median(a) - np.median(b))
            levels, level = np.unique(np.concatenate([a, b]), return_inverse=True)
            own, other = (
                np.bincount(block * len(levels) + part, minlength=blocks * len(levels)).reshape(blocks, -1)
                for part in np.split(level, 2)
            )
            step = max(1, _HELD // len(levels))
            for begin in range(0, len(swap), step):
                rows = slice(begin, begin + step)
                moved = swap[rows].astype(float) @ (other - own).astype(float)
                kept, given = own.sum(axis=0) + moved, other.sum(axis=0) - moved
                null[rows] += _median_of_counts(kept, levels) - _median_of_counts(given, levels)
    else:
        difference = np.bincount(block, first.mean(axis=0) - second.mean(axis=0), minlength=blocks)
        null = (1 - 2 * swap) @ difference
        observed = difference.sum()
    extreme = np.abs(null) >= abs(observed) - 1e-12
    return float((1 + extreme.sum()) / (1 + len(null)))
