"""Ranks and metrics against naive loops and analytic cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.evaluation.retrieval import (
    METRICS,
    chance,
    near_clips,
    outranked,
    query_values,
    summarise,
    value_table,
)

TOP = {"top1": 1, "top5": 5, "top10": 10}


def naive_near(stimulus, start, duration, exclude_s):
    n = len(start)
    near = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            if i == j or stimulus[i] != stimulus[j] or exclude_s == 0:
                continue
            first, second = (i, j) if start[i] <= start[j] else (j, i)
            gap = max(0.0, start[second] - (start[first] + duration[first]))
            near[i, j] = gap < exclude_s
    return near


def naive_value(metric, scores, true, near, rng=None):
    """Expectation over tie breaking by trying every rank the true clip may take."""
    own = scores[true]
    others = [s for j, s in enumerate(scores) if j != true and not near[true, j]]
    higher, tied = sum(s > own for s in others), sum(s == own for s in others)
    ranks = range(higher + 1, higher + tied + 2)
    one = {
        "mrr": lambda r: 1 / r,
        "median_rank": float,
        **{name: (lambda r, k=k: float(r <= k)) for name, k in TOP.items()},
    }[metric]
    return np.mean([one(r) for r in ranks]), len(others) + 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(2, 14),
    st.integers(1, 6),
    st.sampled_from([0.0, 4.0, 10.0]),
    st.integers(0, 10**6),
)
def test_values_match_a_naive_loop_with_ties_and_exclusion(queries, candidates, levels, exclude_s, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (queries, candidates)).astype(np.float32)
    stimulus = rng.choice(["a", "b"], candidates)
    start, duration = 4.0 * rng.permutation(candidates), np.full(candidates, 4.0)
    near = near_clips(stimulus, start, duration, exclude_s)
    assert np.array_equal(near, naive_near(stimulus, start, duration, exclude_s))
    true = rng.integers(0, candidates, queries)
    counts = outranked(scores, near).at(np.arange(queries), true)
    for metric in METRICS:
        found = query_values(metric, *counts)
        expected = [naive_value(metric, scores[q], true[q], near) for q in range(queries)]
        assert found == pytest.approx([e[0] for e in expected])
        assert list(counts[2]) == [e[1] for e in expected]


def none_near(n):
    return np.zeros((n, n), bool)


def test_a_perfect_score_is_perfect():
    counts = outranked(np.eye(12), none_near(12)).at(np.arange(12), np.arange(12))
    for metric in METRICS:
        assert summarise(metric, query_values(metric, *counts)) == 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ways", [None, 2, 7])
def test_a_constant_score_gives_exactly_chance(metric, ways):
    counts = outranked(np.full((5, 20), 0.3), none_near(20)).at(np.arange(5), np.arange(5))
    value = summarise(metric, query_values(metric, *counts, ways=ways))
    assert value == pytest.approx(chance(metric, 20, ways))


def test_chance_is_analytic():
    assert chance("top5", 40) == pytest.approx(5 / 40)
    assert chance("top10", 4) == 1
    assert chance("mrr", 4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert chance("median_rank", 9) == 5
    assert chance("top1", np.array([10, 20])) == pytest.approx(0.075)
    assert chance("top1", np.array([60, 70]), ways=50) == pytest.approx(1 / 50)


def test_a_random_score_is_at_chance():
    rng = np.random.default_rng(0)
    n, m = 4000, 50
    counts = outranked(rng.random((n, m)), none_near(m)).at(np.arange(n), rng.integers(0, m, n))
    for metric, k in TOP.items():
        deviation = np.sqrt(k / m * (1 - k / m) / n)
        assert abs(query_values(metric, *counts).mean() - k / m) < 4 * deviation
    assert abs(summarise("median_rank", query_values("median_rank", *counts)) - 25.5) < 2


@pytest.mark.parametrize("metric", METRICS)
def test_n_way_expectation_agrees_with_drawing_distractors(metric):
    rng = np.random.default_rng(1)
    m, ways, draws = 30, 8, 4000
    scores = rng.random(m)
    true = int(np.argsort(-scores)[6])
    one = {"mrr": lambda r: 1 / r, "median_rank": float}
    ranks = []
    others = np.delete(scores, true)
    for _ in range(draws):
        ranks.append(1 + (rng.choice(others, ways - 1, replace=False) > scores[true]).sum())
    value = one.get(metric, lambda r: r <= TOP.get(metric, 0))
    drawn = np.array([value(r) for r in ranks], float)
    exact = value_table(metric, m, ways)[6]
    assert abs(drawn.mean() - exact) < 4 * max(drawn.std(), 1e-9) / np.sqrt(draws) + 1e-9
    sampled = value_table(metric, m, ways, draws=4000, seed=3)[6]
    assert abs(sampled - exact) < 4 * max(drawn.std(), 1e-9) / np.sqrt(draws) + 1e-9


def test_draws_change_the_estimate_and_zero_is_exact():
    assert not np.array_equal(value_table("mrr", 30, 8, draws=20), value_table("mrr", 30, 8))
    assert np.array_equal(
        value_table("mrr", 30, 8, draws=20, seed=1), value_table("mrr", 30, 8, draws=20, seed=1)
    )


def test_n_way_of_the_whole_gallery_is_the_full_gallery():
    for metric in METRICS:
        limit = value_table(metric, 12, 12)
        assert value_table(metric, 12, 12, draws=5) == pytest.approx(limit)
    with pytest.raises(ValueError, match="at least 13"):
        value_table("mrr", 12, 13)


def test_neighbours_leave_the_gallery_but_the_true_clip_stays():
    start, duration = np.arange(5) * 10.0, np.full(5, 10.0)
    near = near_clips(np.array(["f"] * 4 + ["g"]), start, duration, 10.0)
    assert near.astype(int).tolist()[1] == [1, 0, 1, 0, 0]
    scores = np.array([[9.0, 5.0, 8.0, 7.0, 1.0]])
    higher, tied, size = outranked(scores, near).at(np.array([0]), np.array([1]))
    assert (higher[0], tied[0], size[0]) == (1, 0, 3)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        outranked(np.array([[0.0, np.nan]]), none_near(2))
