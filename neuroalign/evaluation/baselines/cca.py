"""Regularised canonical correlation analysis, one per subject or one for all (pooled).

Both covariances are shrunk towards a multiple of the identity (as Ledoit & Wolf 2004, with one weight for both sides);
the canonical directions are the singular vectors of the whitened cross-covariance. Projections are multiplied by
their canonical correlation before the cosine: directions that do not correlate then count little, instead of
as much as those that do. The weight and the number of directions are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from neuroalign.evaluation.baselines._choose import HOW, Parts, choose, choose_lags, number
from neuroalign.evaluation.baselines._data import Material, require_same_units, score_test, together
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, flat
from neuroalign.pairs.store import PairedDataset

SHRINKAGES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
DIMENSIONS = (10, 20, 40, 80)
_DEFAULT = (0.3, 40)


@dataclass(frozen=True)
class Canonical:
    """Canonical directions of brain and video, each times its canonical correlation.

    Attributes
    ----------
    brain : array of shape (units, directions)
    video : array of shape (dim, directions)
    correlation : array of shape (directions,)
        Singular values of the whitened cross-covariance, falling.
    """

    brain: np.ndarray
    video: np.ndarray
    correlation: np.ndarray


class Analysis:
    """Canonical correlation analysis of samples x (n, units) and y (n, dim), means removed, for any shrinkage."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        self._x, self._y = x - x.mean(axis=0), y - y.mean(axis=0)
        self._made: dict[float, Canonical] = {}

    @cached_property
    def _parts(self) -> tuple:
        spectra = [np.linalg.eigh(side.T @ side / len(side)) for side in (self._x, self._y)]
        return *spectra, self._x.T @ self._y / len(self._x)

    def at(self, shrinkage: float) -> Canonical:
        """The directions at one shrinkage."""
        if shrinkage not in self._made:
            first, second, cross = self._parts
            white_x, white_y = _whitener(*first, shrinkage), _whitener(*second, shrinkage)
            u, values, vt = np.linalg.svd(white_x @ cross @ white_y, full_matrices=False)
            self._made[shrinkage] = Canonical(white_x @ u * values, white_y @ vt.T * values, values)
        return self._made[shrinkage]


def _whitener(values: np.ndarray, vectors: np.ndarray, shrinkage: float) -> np.ndarray:
    """Inverse square root of the shrunk covariance with these eigenvalues and eigenvectors."""
    values = (1 - shrinkage) * np.maximum(values, 0.0) + shrinkage * max(values.mean(), 1e-12)
    return (vectors / np.sqrt(values)) @ vectors.T


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score; shrinkage and number of directions are chosen. `seed` has no effect."""
    options = tuple(product(SHRINKAGES, DIMENSIONS))

    def choice(data: Material) -> tuple[tuple[float, int], float]:
        if pooled:
            require_same_units(data, "pooled_cca")
        return choose(data, lambda parts: _fit(data, parts, pooled), _score, options, _DEFAULT)

    data, lags, option, value, tried = choose_lags(pairs, choice)
    models = _fit(data, data.training(), pooled)
    people = data.subjects if pooled else models
    scores = score_test(data, lambda s, brain, video: _score(models, s, option, brain, video), people)
    return scores, {
        "lags_s": list(lags),
        "shrinkage": option[0],
        "dimensions": option[1],
        "quality": number(value),
        "options": tried * len(options),
        "chosen_by": HOW,
    }


def _fit(data: Material, parts: Parts, pooled: bool) -> dict[str, Analysis]:
    if pooled:
        every = together(parts.values())
        return dict.fromkeys(data.subjects, Analysis(flat(every.brain), flat(data.video[every.contents])))
    return {s: Analysis(flat(p.brain), flat(data.video[p.contents])) for s, p in parts.items()}


def _score(
    models: dict[str, Analysis],
    subject: str,
    option: tuple[float, int],
    brain: np.ndarray,
    video: np.ndarray,
) -> np.ndarray:
    shrinkage, dims = option
    model = models[subject].at(shrinkage)
    return cosine(brain @ model.brain[:, :dims], video @ model.video[:, :dims])
