"""Ridge regression from brain to video features, one map per subject or one for all (pooled)."""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._data import (
    Material,
    best,
    lag_for,
    material,
    require_same_units,
    score_test,
)
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, fit_ridge, flat, quality
from neuroalign.pairs.store import PairedDataset

ALPHAS = tuple(float(10.0**k) for k in np.arange(-2.0, 3.5, 0.5))


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score. `seed` has no effect: the solution is exact."""
    lags = lag_for(pairs)
    data = material(pairs, lags)
    scores, chosen = fit_and_score(data, pooled)
    return scores, {"lag_s": lags[0], **chosen}


def fit_and_score(data: Material, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Ridge on prepared material.

    Parameters
    ----------
    data : Material
    pooled : bool
        One map for everybody; else one per subject. The penalty is one for all subjects either way: a validation
        set of one subject is too small to choose it well.
    """
    if pooled:
        require_same_units(data, "pooled_ridge")
        train = data.pooled("train")
        solve = fit_ridge(flat(train.brain), flat(data.video[train.contents]))
        solvers = dict.fromkeys(data.subjects, solve)
    else:
        parts = {s: data.subjects[s]["train"] for s in data.trained()}
        solvers = {s: fit_ridge(flat(p.brain), flat(data.video[p.contents])) for s, p in parts.items()}

    def criterion(alpha: float) -> float:
        checks = {s: data.subjects[s]["validation"] for s in solvers}
        found = [
            quality(solvers[s](alpha)(part.brain), data.video, part.contents)
            for s, part in checks.items()
            if len(part)
        ]
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")

    alpha, value = best(ALPHAS, criterion, default=1.0)
    maps = {s: solve(alpha) for s, solve in solvers.items()}
    scores = score_test(data, lambda s, brain, video: cosine(maps[s](brain), video), solvers)
    return scores, {"alpha": alpha, "validation": value, "options": len(ALPHAS)}
