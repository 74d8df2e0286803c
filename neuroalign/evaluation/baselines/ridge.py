"""Ridge regression from brain to video features, one map per subject or one for all (pooled)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuroalign.evaluation.baselines._data import (
    Material,
    best,
    cosine,
    flat,
    lag_for,
    material,
    quality,
    require_same_units,
    score_test,
)
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.store import PairedDataset

ALPHAS = tuple(float(10.0**k) for k in np.arange(-2.0, 3.5, 0.5))


def fit_ridge(x: np.ndarray, y: np.ndarray) -> Callable[[float], Callable[[np.ndarray], np.ndarray]]:
    """Solve ridge regression for any penalty from one decomposition.

    Parameters
    ----------
    x : array of shape (samples, inputs)
    y : array of shape (samples, outputs)

    Returns
    -------
    at : callable
        ``at(alpha)`` gives ``predict``, which maps (..., inputs) to (..., outputs). `alpha` is in units of the mean
        eigenvalue of the Gram matrix, so that one grid suits any number of samples.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    dual = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if dual else x.T @ x)
    values = np.maximum(values, 0.0)
    unit = max(values.sum() / min(x.shape), 1e-12)
    projected = vectors.T @ (y if dual else x.T @ y)

    def at(alpha: float) -> Callable[[np.ndarray], np.ndarray]:
        weights = vectors @ (projected / (values + alpha * unit)[:, None])
        weights = x.T @ weights if dual else weights
        return lambda new: (new - mean_x) @ weights + mean_y

    return at


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score. `seed` has no effect: the solution is exact."""
    lags = lag_for(pairs)
    data = material(pairs, lags)
    scores, chosen = fit_and_score(data, pooled)
    return scores, {"lag_s": lags[0], **chosen}


def fit_and_score(
    data: Material, pooled: bool = False, contents: dict[str, dict[str, np.ndarray]] | None = None
) -> tuple[dict[str, SubjectScores], dict]:
    """Ridge on prepared material.

    Parameters
    ----------
    data : Material
    pooled : bool
        One map for everybody; else one per subject. The penalty is one for all subjects either way: a validation
        set of one subject is too small to choose it well.
    contents : dict of subject to dict of split to int array, optional
        Which content each window is paired with in training and validation (the shuffled-training control).
    """
    if pooled:
        require_same_units(data, "pooled_ridge")

    def paired(subject: str, name: str) -> np.ndarray:
        return contents[subject][name] if contents else data.subjects[subject][name].contents

    if pooled:
        train = data.pooled("train")
        solve = fit_ridge(flat(train.brain), flat(data.video[train.contents]))
        solvers = {subject: solve for subject in data.subjects}
    else:
        solvers = {
            s: fit_ridge(flat(data.subjects[s]["train"].brain), flat(data.video[paired(s, "train")]))
            for s in data.trained()
        }

    def criterion(alpha: float) -> float:
        found = [
            quality(solve(alpha)(data.subjects[s]["validation"].brain), data.video, paired(s, "validation"))
            for s, solve in solvers.items()
            if len(data.subjects[s]["validation"])
        ]
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")

    alpha, value = best(ALPHAS, criterion, default=1.0)
    maps = {s: solve(alpha) for s, solve in solvers.items()}
    scores = score_test(data, lambda s, brain, video: cosine(maps[s](brain), video), solvers)
    return scores, {"alpha": alpha, "validation": value, "options": len(ALPHAS)}
