"""Ridge regression from brain to video features, one map per subject or one for all (pooled)."""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._choose import HOW, Parts, choose, choose_lags, number
from neuroalign.evaluation.baselines._data import Material, require_same_units, score_test, together
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, fit_ridge, flat
from neuroalign.pairs.store import PairedDataset

ALPHAS = tuple(float(10.0**k) for k in np.arange(-2.0, 3.5, 0.5))
_DEFAULT = 1.0


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score. `seed` has no effect: the solution is exact."""
    data, lags, alpha, value, tried = choose_lags(pairs, lambda found: choose_alpha(found, pooled))
    return fit_and_score(data, pooled, alpha)[0], {
        "lags_s": list(lags),
        "alpha": alpha,
        "quality": number(value),
        "options": tried * len(ALPHAS),
        "chosen_by": HOW,
    }


def choose_alpha(data: Material, pooled: bool = False) -> tuple[float, float]:
    """The penalty and its cross-validated quality.

    One for all subjects either way: the training clips of one subject are too few to choose it well.
    """
    if pooled:
        require_same_units(data, "pooled_ridge")
    return choose(
        data,
        lambda parts: _solvers(data, parts, pooled),
        lambda solvers, subject, alpha, brain, video: cosine(solvers[subject](alpha)(brain), video),
        ALPHAS,
        _DEFAULT,
    )


def fit_and_score(
    data: Material, pooled: bool = False, alpha: float | None = None
) -> tuple[dict[str, SubjectScores], dict]:
    """Ridge on prepared material.

    Parameters
    ----------
    data : Material
    pooled : bool
        One map for everybody; else one per subject.
    alpha : float, optional
        Chosen by `choose_alpha` if absent.
    """
    if alpha is None:
        alpha, _ = choose_alpha(data, pooled)
    solvers = _solvers(data, data.training(), pooled)
    maps = {s: solvers[s](alpha) for s in (data.subjects if pooled else solvers)}
    return score_test(data, lambda s, brain, video: cosine(maps[s](brain), video), maps), {"alpha": alpha}


def _solvers(data: Material, parts: Parts, pooled: bool) -> dict:
    """Ridge for any penalty, by subject."""
    if pooled:
        every = together(parts.values())
        return dict.fromkeys(data.subjects, fit_ridge(flat(every.brain), flat(data.video[every.contents])))
    return {s: fit_ridge(flat(p.brain), flat(data.video[p.contents])) for s, p in parts.items()}
