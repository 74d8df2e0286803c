"""The ideal observer of the hard simulated setting: analytic cases, and a model of windows that fits what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from neuroalign.simulate.features import LEVELS
from neuroalign.simulate.hrf import STEP_S as HRF_STEP_S
from neuroalign.simulate.hrf import convolve
from neuroalign.simulate.observer import evidence, ideal_scores, window_model
from neuroalign.simulate.regional_noise import NoiseSource, noise_covariance, noise_parts
from neuroalign.simulate.responses import (
    BEFORE_S,
    STEP_S,
    Responses,
    make_world,
    response_matrix,
    response_to,
    sample_times,
    volume_times,
)

SMALL = Responses(people=2, train_films=1, test_films=1, film_s=120.0, units=3, features=4, noise=2.0)


def test_two_clips_are_told_apart_as_often_as_theory_says():
    """Two known means in correlated Gaussian noise: a share of Phi(d'/2), d'² = Δ' S⁻¹ Δ, is told apart."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    covariance = root @ root.T + np.eye(5)
    means = rng.standard_normal((2, 5))
    gap = means[1] - means[0]
    expected = norm.cdf(0.5 * np.sqrt(gap @ np.linalg.solve(covariance, gap)))
    truth = rng.integers(2, size=20000)
    windows = means[truth] + rng.multivariate_normal(np.zeros(5), covariance, len(truth))
    scores = evidence(windows, means, covariance, covariance + np.eye(5))
    assert 0.6 < expected < 0.95
    assert (scores.argmax(1) == truth).mean() == pytest.approx(expected, abs=0.01)


def test_evidence_is_the_difference_of_two_log_densities():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    root = rng.standard_normal((2, 4, 4))
    covariance, marginal = root @ root.transpose(0, 2, 1) + np.eye(4)
    windows, means = rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
    found = evidence(windows, means, covariance, marginal)
    for i, y in enumerate(windows):
        for j, mean in enumerate(means):
            expected = multivariate_normal.logpdf(y, mean, covariance) - multivariate_normal.logpdf(
                y, np.zeros(4), marginal
            )
            assert found[i, j] == pytest.approx(expected)


def test_noise_has_the_covariance_that_the_observer_assumes():
    rng = np.random.default_rng(2)
    parts = noise_parts(rng, 4, 1.5)
    source = NoiseSource(parts, 6, 2.0)
    drawn = np.stack([source.draw(rng, 5) for _ in range(3000)]).reshape(3000, -1)
    expected = noise_covariance(parts, np.arange(5) * 2.0)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(drawn.T @ drawn / len(drawn) - expected).max() < 0.08 * scale.max()


def test_response_agrees_with_the_convolution_of_the_demo():
    """Features held for a quarter of a second, convolved on the fine clock of `simulate.hrf`."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((len(sample_times(60.0)), 2))
    fine = np.repeat(features, 5, axis=0)  # 0.05 s
    at = np.arange(2.0, 60.0, 2.0)
    expected = convolve(fine, 5.5, STEP_S / 5)[np.round((at + BEFORE_S) / (STEP_S / 5)).astype(int)]
    found = response_matrix(5.5, at, sample_times(60.0)) @ features
    assert HRF_STEP_S > STEP_S / 5
    np.testing.assert_allclose(found, expected, atol=0.03 * expected.std())


@pytest.fixture(scope="module")
def worlds():
    return [make_world(Responses(**{**vars(SMALL), "seed": seed, "film_s": 240.0})) for seed in range(4)]


def test_windows_have_the_mean_and_covariance_that_the_observer_assumes(worlds):
    """Whitened by the model, what is left of every window has unit variance: given the clip, and without it."""
    given, free, off = [], [], []
    for world in worlds:
        for subject, person in world.people.items():
            for film in world.settings.films:
                series, onset = world.series[subject, film], world.onsets[subject, film]
                times = volume_times(world.settings, len(series)) - onset
                used = (times >= 0) & (times < 16)
                readers, covariance, marginal = window_model(world, person, times[used], 4.0)
                for start in range(0, 220, 16):
                    shown = (times >= start) & (times < start + 16)
                    window = series[shown].ravel()
                    first = round((BEFORE_S + start) / STEP_S)
                    mean = np.concatenate(
                        [
                            readers[level]
                            @ world.films[film][level][first : first + 16]
                            @ person.weights[level]
                            for level in LEVELS
                        ],
                        axis=1,
                    ).ravel()
                    left = window - mean
                    given.append(left @ np.linalg.solve(covariance, left) / len(left))
                    free.append(window @ np.linalg.solve(marginal, window) / len(left))
                    off.append(window @ np.linalg.solve(covariance, window) / len(left))
    assert np.mean(given) == pytest.approx(1, abs=0.03)
    assert np.mean(free) == pytest.approx(1, abs=0.03)
    # The mean matters: without it the same windows are too large for the covariance.
    assert np.mean(off) > np.mean(given) + 0.05


def test_the_mean_is_the_response_where_the_clip_is_all_there_is(worlds):
    """A clip that lasts as long as the memory of the response leaves nothing to fill in."""
    world = worlds[0]
    person, film = world.people["01"], world.films[world.settings.films[0]]
    at = np.array([95.0, 97.0])
    readers, covariance, marginal = window_model(world, person, at, 100.0)
    inside = {level: x[round(BEFORE_S / STEP_S) :][: round(100 / STEP_S)] for level, x in film.items()}
    for level in LEVELS:
        np.testing.assert_allclose(
            readers[level] @ inside[level] @ person.weights[level],
            response_to(person, film, level, at),
            atol=1e-6,
        )
    np.testing.assert_allclose(covariance, noise_covariance(person.noise, at), atol=1e-8)
    assert np.trace(marginal) > np.trace(covariance)


def test_scores_find_the_clips_when_there_is_little_noise():
    world = make_world(Responses(**{**vars(SMALL), "noise": 0.3, "units": 8}))
    clips = [(world.settings.test[0], 4.0 * i) for i in range(30)]
    scores = ideal_scores(world, "01", clips, clips, 4.0, (0.0, 12.0))
    assert (scores.argmax(1) == np.arange(30)).mean() > 0.95
    assert (scores.argmax(0) == np.arange(30)).mean() > 0.95
    # Candidates are independent of each other: half a gallery gives the same evidence.
    half = ideal_scores(world, "01", clips, clips[::2], 4.0, (0.0, 12.0))
    np.testing.assert_allclose(half, scores[:, ::2], rtol=1e-6)


def test_the_same_settings_give_the_same_world():
    first, again, other = (make_world(Responses(**{**vars(SMALL), "seed": s})) for s in (5, 5, 6))
    key = ("01", SMALL.films[0])
    assert np.array_equal(first.series[key], again.series[key])
    assert not np.array_equal(first.series[key], other.series[key])
