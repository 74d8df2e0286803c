r"""The ideal observer: how well could anything tell clips from brain windows of a simulated world?

It knows what no method can: every person's maps and delays, the covariance of features and noise, and the features inside a clip
at full resolution. Of a brain window y and a clip c it computes the evidence

.. math:: s(y, c) = \log p(y \mid c) - \log p(y)

which no score of one window and one clip can beat: by Bayes' rule the candidate with the largest s is the most probable one, of clips
for a window and of windows for a clip. A window also holds the answer to what came before and after the clip, which such a score does not
know; it is a Gaussian like the noise, with mean and covariance given the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from neuroalign.simulate.features import LEVELS
from neuroalign.simulate.regional_noise import noise_covariance
from neuroalign.simulate.responses import (
    AFTER_S,
    BEFORE_S,
    STEP_S,
    Person,
    World,
    memory,
    response_matrix,
    volume_times,
)


def evidence(
    windows: np.ndarray, means: np.ndarray, covariance: np.ndarray, marginal: np.ndarray
) -> np.ndarray:
    r""":math:`\log N(y; \mu_c, S) - \log N(y; 0, S_0)` of every window and clip.

    Parameters
    ----------
    windows : array of shape (n, size)
        y.
    means : array of shape (m, size)
        Expected window of every clip.
    covariance, marginal : array of shape (size, size)
        S given a clip, and S_0 given none.

    Returns
    -------
    array of shape (n, m)
    """
    given, scale = _whitened(covariance, windows, means)
    free, free_scale = _whitened(marginal, windows)
    squares = (given[0] ** 2).sum(0)[:, None] - 2 * given[0].T @ given[1] + (given[1] ** 2).sum(0)[None]
    return -0.5 * squares - scale + (0.5 * (free[0] ** 2).sum(0) + free_scale)[:, None]


def _whitened(covariance: np.ndarray, *data: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Columns of unit covariance, and half the logarithm of the determinant."""
    factor = cholesky(covariance, lower=True)
    white = [solve_triangular(factor, x.T, lower=True) for x in data]
    return white, float(np.log(np.diag(factor)).sum())


def window_model(
    world: World, person: Person, at_s: np.ndarray, duration_s: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What a window says of a clip.

    Parameters
    ----------
    world : World
    person : Person
    at_s : array of shape (volumes,)
        Middle of each volume in seconds after clip start.
    duration_s : float

    Returns
    -------
    readers : dict of level to array of shape (volumes, samples)
        Expected response to the features inside the clip (`STEP_S` apart), those around it filled in by their expectation.
    covariance, marginal : array of shape (volumes·units, volumes·units)
        Of the window given the clip, and given none; units of all levels are side by side in every volume.
    """
    sampled = np.arange(-BEFORE_S, duration_s + AFTER_S, STEP_S) + STEP_S / 2
    inside = (sampled > 0) & (sampled < duration_s)
    marginal = noise_covariance(person.noise, at_s)
    covariance = marginal.copy()
    volumes, units = len(at_s), world.settings.units
    shape = (volumes, len(LEVELS), units, volumes, len(LEVELS), units)
    readers = {}
    for number, level in enumerate(LEVELS):
        answer = response_matrix(person.delays_s[level], at_s, sampled)
        prior = memory(level, sampled, sampled)
        fill = np.linalg.solve(prior[np.ix_(inside, inside)], prior[inside]).T
        readers[level] = answer @ fill
        over_units = person.weights[level].T @ world.feature_covariance[level] @ person.weights[level]
        for total, known in ((marginal, prior), (covariance, prior - fill @ prior[inside])):
            # The views are of contiguous arrays: adding to them adds in place.
            total.reshape(shape)[:, number, :, :, number, :] += np.einsum(
                "vw,ij->viwj", answer @ known @ answer.T, over_units
            )
    return readers, covariance, marginal


def ideal_scores(
    world: World,
    subject: str,
    clips: Sequence[tuple[str, float]],
    gallery: Sequence[tuple[str, float]],
    duration_s: float,
    window_s: tuple[float, float],
) -> np.ndarray:
    """Evidence of a person's windows for candidate clips.

    Parameters
    ----------
    world : World
    subject : str
    clips : sequence of (film, start in seconds)
        What was on the screen in each window.
    gallery : sequence of (film, start in seconds)
        Candidates.
    duration_s : float
        Length of a clip.
    window_s : (float, float)
        ``hrf.window_s``: which volumes belong to a window.

    Returns
    -------
    array of shape (windows, candidates)
    """
    person, settings = world.people[subject], world.settings
    seen = _inside(world, gallery, duration_s)
    scores = np.empty((len(clips), len(gallery)))
    # Windows with volumes at the same times after clip start share a covariance: with a stride of whole TRs, those of a run.
    groups: dict[tuple[float, ...], tuple[list[int], list[np.ndarray]]] = {}
    for row, (film, start) in enumerate(clips):
        series = world.series[subject, film]
        times = volume_times(settings, len(series)) - world.onsets[subject, film] - start
        # Half-open on the right, as `pairs.windows` cuts.
        used = (times >= window_s[0]) & (times < duration_s + window_s[1])
        rows, data = groups.setdefault(tuple(np.round(times[used], 6)), ([], []))
        rows.append(row)
        data.append(series[used].ravel())
    for times, (rows, data) in groups.items():
        readers, covariance, marginal = window_model(world, person, np.array(times), duration_s)
        means = np.concatenate(
            [readers[level] @ seen[level] @ person.weights[level] for level in LEVELS], axis=2
        )
        scores[rows] = evidence(np.array(data), means.reshape(len(gallery), -1), covariance, marginal)
    return scores


def _inside(
    world: World, gallery: Sequence[tuple[str, float]], duration_s: float
) -> Mapping[str, np.ndarray]:
    """Features inside clips: (clips, samples, features) per level."""
    count = round(duration_s / STEP_S)
    first = [round((BEFORE_S + start) / STEP_S) for _, start in gallery]
    return {
        level: np.stack(
            [world.films[film][level][i : i + count] for (film, _), i in zip(gallery, first, strict=True)]
        )
        for level in LEVELS
    }
