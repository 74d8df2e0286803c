"""Encoding model: predict the brain from video features, and identify clips by the predicted pattern.

Ridge from features to units per subject; predicted and measured patterns are multiplied by the inverse square root of
the noise covariance (residuals of the training set, shrunk towards their diagonal), and compared by correlation over
steps and units. As in Kay et al. 2008 (identification) with the noise whitening of Walther et al. 2016.
"""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._data import best, lag_for, material, score_test
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, fit_ridge, flat, score_quality
from neuroalign.pairs.store import PairedDataset

ALPHAS = tuple(float(10.0**k) for k in np.arange(-1.0, 3.0, 0.5))
SHRINKAGES = (0.1, 0.4, 0.8, 1.0)


def noise_whitener(residuals: np.ndarray, shrinkage: float) -> np.ndarray:
    """Inverse square root of the residual covariance, shrunk towards its diagonal.

    Parameters
    ----------
    residuals : array of shape (samples, units)
    shrinkage : float
        Weight of the diagonal; 1 scales units by their noise only.

    Returns
    -------
    whitener : array of shape (units, units)
    """
    residuals = residuals - residuals.mean(axis=0)
    covariance = residuals.T @ residuals / len(residuals)
    diagonal = np.maximum(np.diag(covariance), 1e-12)
    if shrinkage == 1:
        return np.diag(diagonal**-0.5)
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * np.diag(diagonal))
    return (vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T


def run(pairs: PairedDataset, seed: int) -> tuple[dict[str, SubjectScores], dict]:
    """Train one model per subject and score; penalty and shrinkage are chosen on validation. `seed` has no effect."""
    lags = lag_for(pairs)
    data = material(pairs, lags)
    solvers = {
        s: fit_ridge(
            flat(data.video[data.subjects[s]["train"].contents]), flat(data.subjects[s]["train"].brain)
        )
        for s in data.trained()
    }

    def whiteners(alpha: float) -> dict[str, dict[float, np.ndarray]]:
        found = {}
        for subject, solve in solvers.items():
            train = data.subjects[subject]["train"]
            residuals = flat(train.brain - solve(alpha)(data.video[train.contents]))
            found[subject] = {k: noise_whitener(residuals, k) for k in SHRINKAGES}
        return found

    def score(subject, brain, video, alpha, whitener):
        return cosine(brain @ whitener, solvers[subject](alpha)(video) @ whitener)

    # The whitener costs a decomposition per penalty: choose the penalty first, without it, then the shrinkage.
    def criterion(alpha: float, whitening: dict | None, shrinkage: float | None) -> float:
        found = []
        for subject in solvers:
            part = data.subjects[subject]["validation"]
            gallery, truth = np.unique(part.contents, return_inverse=True)
            if len(gallery) > 1:
                white = whitening[subject][shrinkage] if whitening else np.eye(part.brain.shape[2])
                found.append(
                    score_quality(score(subject, part.brain, data.video[gallery], alpha, white), truth)
                )
        return float(np.mean(found)) if found else float("nan")

    alpha, _ = best(ALPHAS, lambda a: criterion(a, None, None), default=1.0)
    whitening = whiteners(alpha)
    shrinkage, value = best(SHRINKAGES, lambda k: criterion(alpha, whitening, k), default=0.4)
    scores = score_test(
        data, lambda s, brain, video: score(s, brain, video, alpha, whitening[s][shrinkage]), solvers
    )
    return scores, {
        "lag_s": lags[0],
        "alpha": alpha,
        "shrinkage": shrinkage,
        "validation": value,
        "options": len(ALPHAS) + len(SHRINKAGES),
    }
