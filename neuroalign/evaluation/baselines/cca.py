"""Regularised canonical correlation analysis, one per subject or one for all (pooled).

Both covariances are shrunk towards a multiple of the identity (as Ledoit & Wolf 2004, with a fixed weight);
the canonical directions are the singular vectors of the whitened cross-covariance. Projections are multiplied by
their canonical correlation before the cosine: directions that do not correlate then count little, instead of
as much as those that do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuroalign.evaluation.baselines._data import best, lag_for, material, require_same_units, score_test
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, flat, quality
from neuroalign.pairs.store import PairedDataset

SHRINKAGE = 0.3
DIMENSIONS = (10, 20, 40, 80)


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


def fit_cca(x: np.ndarray, y: np.ndarray, shrinkage: float = SHRINKAGE) -> Canonical:
    """Canonical directions of samples x (n, units) and y (n, dim), means removed."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    white_x, white_y = _whitener(x, shrinkage), _whitener(y, shrinkage)
    u, values, vt = np.linalg.svd(white_x @ (x.T @ y / len(x)) @ white_y, full_matrices=False)
    return Canonical(white_x @ u * values, white_y @ vt.T * values, values)


def _whitener(data: np.ndarray, shrinkage: float) -> np.ndarray:
    """Inverse square root of the shrunk covariance."""
    values, vectors = np.linalg.eigh(data.T @ data / len(data))
    values = (1 - shrinkage) * np.maximum(values, 0.0) + shrinkage * max(values.mean(), 1e-12)
    return (vectors / np.sqrt(values)) @ vectors.T


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score; the number of directions is chosen on validation. `seed` has no effect."""
    lags = lag_for(pairs)
    data = material(pairs, lags)
    if pooled:
        require_same_units(data, "pooled_cca")
        train = data.pooled("train")
        one = fit_cca(flat(train.brain), flat(data.video[train.contents]))
        models = dict.fromkeys(data.subjects, one)
    else:
        models = {
            s: fit_cca(flat(part["train"].brain), flat(data.video[part["train"].contents]))
            for s, part in data.subjects.items()
            if len(part["train"])
        }

    def criterion(dims: int) -> float:
        found = []
        for subject, model in models.items():
            part = data.subjects[subject]["validation"]
            if len(part):
                brain = part.brain @ model.brain[:, :dims]
                found.append(quality(brain, data.video @ model.video[:, :dims], part.contents))
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")

    available = min(len(m.correlation) for m in models.values())
    options = sorted({min(d, available) for d in DIMENSIONS})
    dims, value = best(options, criterion, default=min(40, available))

    def score(subject: str, brain: np.ndarray, video: np.ndarray) -> np.ndarray:
        model = models[subject]
        return cosine(brain @ model.brain[:, :dims], video @ model.video[:, :dims])

    return score_test(data, score, models), {
        "lag_s": lags[0],
        "shrinkage": SHRINKAGE,
        "dimensions": dims,
        "validation": value,
        "options": len(options),
    }
