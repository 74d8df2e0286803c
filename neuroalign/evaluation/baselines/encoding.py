"""Encoding model: predict the brain from video features, and identify clips by the predicted pattern.

Ridge from features to units, per subject or pooled; predicted and measured patterns are multiplied by the inverse square root of
the noise covariance (residuals of the training set, shrunk towards their diagonal), and compared by correlation over
steps and units. As in Kay et al. 2008 (identification) with the noise whitening of Walther et al. 2016.
"""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._choose import (
    HOW,
    Parts,
    choose,
    choose_lags,
    fitted_folds,
    number,
)
from neuroalign.evaluation.baselines._data import Material, Part, require_same_units, score_test, together
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, fit_ridge, flat
from neuroalign.pairs.store import PairedDataset

ALPHAS = tuple(float(10.0**k) for k in np.arange(-1.0, 3.0, 0.5))
SHRINKAGES = (0.1, 0.2, 0.4, 0.8, 1.0)
# A full noise covariance of more units (voxels) would neither fit into memory nor be estimable.
_MOST_UNITS = 4000


def noise_whitener(residuals: np.ndarray, shrinkage: float) -> np.ndarray:
    """Inverse square root of the residual covariance, shrunk towards its diagonal.

    Parameters
    ----------
    residuals : array of shape (samples, units)
    shrinkage : float
        Weight of the diagonal; 1 scales units by their noise only.

    Returns
    -------
    whitener : array of shape (units, units), or (units,) where it is diagonal
    """
    residuals = residuals - residuals.mean(axis=0)
    diagonal = np.maximum(np.square(residuals).mean(axis=0), 1e-12)
    if shrinkage == 1:
        return diagonal**-0.5
    covariance = residuals.T @ residuals / len(residuals)
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * np.diag(diagonal))
    return (vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T


class _Encoder:
    """Ridge from features to the units of one person (or of all), with its noise at any penalty."""

    def __init__(self, data: Material, part: Part):
        self._part, self._video = part, data.video[part.contents]
        self.solve = fit_ridge(flat(self._video), flat(part.brain))
        self._whiteners: dict[tuple[float, float], np.ndarray] = {}

    def score(self, option: tuple[float, float], brain: np.ndarray, video: np.ndarray) -> np.ndarray:
        """Scores at a penalty and a shrinkage of the noise covariance."""
        predict = self.solve(option[0])
        if option not in self._whiteners:
            self._whiteners[option] = noise_whitener(flat(self._part.brain - predict(self._video)), option[1])
        white = self._whiteners[option]
        # A diagonal whitener is kept as the diagonal it is.
        measured, predicted = (x * white if white.ndim == 1 else x @ white for x in (brain, predict(video)))
        return cosine(measured, predicted)


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score, one model per subject or one for all. `seed` has no effect.

    The penalty is chosen first, with units scaled by their noise alone, then the shrinkage: a whitener costs a decomposition per
    penalty.
    """
    tried = 0

    def choice(data: Material) -> tuple[tuple[float, float], float]:
        nonlocal tried
        if pooled:
            require_same_units(data, "pooled_encoding")
        shrinkages = SHRINKAGES if sum(data.bands) <= _MOST_UNITS else (1.0,)
        tried += len(ALPHAS) + len(shrinkages) - 1
        folds = fitted_folds(data, lambda parts: _fit(data, parts, pooled))
        (alpha, _), _ = choose(data, _never, _score, [(a, 1.0) for a in ALPHAS], (1.0, 1.0), folds)
        default = (alpha, 0.4 if 0.4 in shrinkages else 1.0)
        return choose(data, _never, _score, [(alpha, k) for k in shrinkages], default, folds)

    data, lags, option, value, _ = choose_lags(pairs, choice)
    models = _fit(data, data.training(), pooled)
    people = data.subjects if pooled else models
    scores = score_test(data, lambda s, brain, video: models[s].score(option, brain, video), people)
    return scores, {
        "lags_s": list(lags),
        "alpha": option[0],
        "shrinkage": option[1],
        "quality": number(value),
        "options": tried,
        "chosen_by": HOW,
    }


def _fit(data: Material, parts: Parts, pooled: bool) -> dict[str, _Encoder]:
    if pooled:
        return dict.fromkeys(data.subjects, _Encoder(data, together(parts.values())))
    return {subject: _Encoder(data, part) for subject, part in parts.items()}


def _score(models: dict[str, _Encoder], subject: str, option: tuple, brain: np.ndarray, video: np.ndarray):
    return models[subject].score(option, brain, video)


def _never(parts: Parts) -> dict[str, _Encoder]:
    raise AssertionError("folds are fitted already")
