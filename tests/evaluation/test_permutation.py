"""Rotations of the pairing and their p-values."""

import numpy as np
import pytest

from neuroalign.evaluation.permutation import Rotations, distinct, p_value


def test_presentations_rotate_within_their_run_in_order_of_time():
    runs = ["a"] * 6 + ["b"] * 4
    onset = np.array([50.0, 10, 40, 20, 30, 0, 0, 1, 2, 3])
    source, shifts = Rotations(40, 0).rotate(runs, onset)
    for p in range(40):
        assert sorted(source[p, :6]) == list(range(6))
        assert sorted(source[p, 6:]) == list(range(6, 10))
        order = np.argsort(onset[:6])
        assert np.array_equal(source[p, order], np.roll(order, -shifts["a"][p]))


def test_equal_run_keys_rotate_together_and_others_do_not():
    rotations = Rotations(200, 0)
    onset = np.arange(20) * 4.0
    first, _ = rotations.rotate(["r1"] * 20, onset)
    again, _ = rotations.rotate(["r1"] * 20, onset)
    other, _ = rotations.rotate(["r2"] * 20, onset)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_few_rotations_limit_the_p_value():
    shifts = Rotations(1000, 0).rotate(["r"] * 4, np.arange(4) * 10.0)[1]["r"]
    assert len(distinct([shifts])) == 3
    other = Rotations(1000, 0).rotate(["s"] * 4, np.arange(4) * 10.0)[1]["s"]
    assert len(distinct([shifts, other])) == 15, "runs rotate independently: pairings multiply"
    assert len(distinct([np.zeros(10, int)])) == 0
    assert p_value(1.0, np.zeros(3)) == 0.25
    assert np.isnan(p_value(1.0, np.zeros(0)))
    assert p_value(2.0, np.array([1.0, 2.0, 3.0]), lower_is_better=True) == 0.75


@pytest.mark.slow
def test_p_values_are_uniform_on_autocorrelated_noise_where_shuffling_is_not():
    rng = np.random.default_rng(0)
    runs, onset = ["r1"] * 30 + ["r2"] * 30, np.tile(np.arange(30) * 4.0, 2)

    def smooth():
        noise = rng.standard_normal((2, 34, 3))
        kernel = np.hanning(7)[1:-1]
        return np.concatenate(
            [np.stack([np.convolve(c, kernel, "valid") for c in run.T], 1)[:30] for run in noise]
        )

    rotated, shuffled = [], []
    index = np.arange(60)
    for trial in range(500):
        scores = smooth() @ smooth().T
        source, shifts = Rotations(199, trial).rotate(runs, onset)
        null = scores[index, source[distinct(list(shifts.values()))]].mean(axis=1)
        rotated.append(p_value(scores[index, index].mean(), null))
        mixed = np.argsort(rng.random((199, 60)), axis=1)
        shuffled.append(p_value(scores[index, index].mean(), scores[index, mixed].mean(axis=1)))
    rotated, shuffled = np.array(rotated), np.array(shuffled)
    assert 0.02 < (rotated <= 0.05).mean() < 0.08
    assert abs(rotated.mean() - 0.5) < 0.06
    assert (shuffled <= 0.05).mean() > 0.10, "clip-wise shuffling must be seen to fail here"
