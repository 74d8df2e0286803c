"""Block bootstrap and swap test."""

import numpy as np
import pytest

from neuroalign.evaluation.bootstrap import (
    block_of,
    bootstrap_distribution,
    interval,
    resample_weights,
    swap_test,
)


def test_blocks_are_stretches_of_one_stimulus():
    block = block_of(np.array(["a", "a", "a", "b", "a"]), np.array([0.0, 29.0, 30.0, 0.0, 1.0]), 30.0)
    assert block[0] == block[1] == block[4]
    assert len({block[0], block[2], block[3]}) == 3


@pytest.mark.parametrize("metric", ["top1", "median_rank"])
def test_weights_repeat_whole_blocks(metric):
    rng = np.random.default_rng(0)
    values, block = rng.integers(1, 30, 40).astype(float), rng.integers(0, 6, 40)
    weights = resample_weights(6, 50, rng)
    assert (weights.sum(axis=1) == 6).all()
    found = bootstrap_distribution(metric, values, block, weights)
    for b in range(50):
        repeated = np.concatenate([np.repeat(values[block == k], weights[b, k]) for k in range(6)])
        expected = np.median(repeated) if metric == "median_rank" else repeated.mean()
        assert found[b] == pytest.approx(expected)


def test_one_block_has_no_interval():
    assert np.isnan(interval(np.ones(100), 1, 0.95)).all()
    assert np.isnan(
        swap_test("top1", np.ones((1, 3)), np.zeros((1, 3)), np.zeros(3, int), 100, np.random.default_rng(0))
    )


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Hits that depend within blocks (Beta-binomial): about 95 % of the intervals hold the true rate."""
    rng = np.random.default_rng(0)
    blocks, size, rate, trials = 15, 6, 0.3, 600
    weights = resample_weights(blocks, 500, rng)
    block = np.repeat(np.arange(blocks), size)
    covered = single = 0
    for _ in range(trials):
        p = rng.beta(rate * 4, (1 - rate) * 4, blocks)
        hits = rng.random(blocks * size) < np.repeat(p, size)
        low, high = interval(bootstrap_distribution("top1", hits.astype(float), block, weights), blocks, 0.95)
        covered += low <= rate <= high
        half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
        single += abs(hits.mean() - rate) <= half
    assert 0.91 < covered / trials < 0.985
    assert single < covered, "an interval that ignores the blocks must cover less"


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["top1", "median_rank"])
def test_swap_test_is_uniform_where_methods_are_equal(metric):
    rng = np.random.default_rng(1)
    block = np.repeat(np.arange(12), 5)
    found = []
    for _ in range(300):
        shared = rng.standard_normal(12)[block]
        a, b = (shared + rng.standard_normal(60) + rng.standard_normal(12)[block] for _ in range(2))
        found.append(swap_test(metric, a[None], b[None], block, 199, rng))
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09
    assert abs(np.mean(found) - 0.5) < 0.06


def test_swap_test_finds_a_difference_and_counts_exchanges():
    rng = np.random.default_rng(2)
    block = np.repeat(np.arange(5), 4)
    better, worse = np.ones((2, 20)), np.zeros((1, 20))
    p = swap_test("top1", better, worse, block, 1000, rng)
    assert p == pytest.approx(2 / 32), "the identity and its mirror image of 2^5 exchanges"
