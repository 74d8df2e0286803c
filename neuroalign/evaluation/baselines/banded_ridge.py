"""Banded ridge from brain to video features: one penalty per brain level (himalaya's group ridge), per subject or pooled.

The penalties are found by random search within the training set, on contiguous parts of it (Dupré la Tour et al. 2022,
*Feature-space selection with banded ridge regression*, NeuroImage 264), by the explained variance of each feature. Where the
brain is read at several lags, each level at each lag is a band.
"""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._choose import HOW, choose_lags, number, training_folds
from neuroalign.evaluation.baselines._data import Material, Part, require_same_units, score_test, together
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, flat
from neuroalign.pairs.store import PairedDataset

CANDIDATES = 20
ALPHAS = np.logspace(0, 6, 10)


def run(pairs: PairedDataset, seed: int, pooled: bool = False) -> tuple[dict[str, SubjectScores], dict]:
    """Train one model per subject, or one for all, and score.

    Parameters
    ----------
    pairs : PairedDataset
    seed : int
        Of the random search.
    pooled : bool
    """

    def choice(data: Material) -> tuple[dict, float]:
        if pooled:
            require_same_units(data, "pooled_banded_ridge")
            every = _fit(data, together(data.training().values()), seed)
            return dict.fromkeys(data.subjects, every), _explained([every])
        models = {subject: _fit(data, part, seed) for subject, part in data.training().items()}
        return models, _explained(list(models.values()))

    data, lags, models, value, tried = choose_lags(pairs, choice)
    scores = score_test(data, lambda s, brain, video: cosine(_predict(models[s], brain), video), models)
    return scores, {
        "lags_s": list(lags),
        "bands": len(data.bands),
        "explained": number(value),
        "options": tried * CANDIDATES * len(ALPHAS),
        "chosen_by": HOW,
    }


def _fit(data: Material, part: Part, seed: int):
    from himalaya.ridge import GroupRidgeCV

    model = GroupRidgeCV(
        groups=np.repeat(np.arange(len(data.bands)), data.bands),
        solver="random_search",
        solver_params={
            "n_iter": CANDIDATES,
            "alphas": ALPHAS,
            "progress_bar": False,
            "warn": False,
            "n_targets_batch": 200,
        },
        cv=_splits(data, part),
        fit_intercept=True,
        random_state=seed,
    )
    return model.fit(flat(part.brain), flat(data.video[part.contents]))


def _splits(data: Material, part: Part) -> list[tuple[np.ndarray, np.ndarray]] | int:
    """The parts of `training_folds` as rows of the flattened samples; two halves where clips are too few for them."""
    steps = part.brain.shape[1]
    found = []
    for fit, judged in training_folds(data):
        sides = [np.unique(np.concatenate([p.contents for p in side.values()])) for side in (fit, judged)]
        rows = [np.flatnonzero(np.isin(part.contents, side)) for side in sides]
        if all(len(r) for r in rows):
            found.append(tuple((r[:, None] * steps + np.arange(steps)).ravel() for r in rows))
    return found or 2


def _explained(models: list) -> float:
    """Best cross-validated explained variance, averaged over features and models."""
    return float(np.mean([np.max(model.cv_scores_, axis=0).mean() for model in models]))


def _predict(model, brain: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(flat(brain))).reshape(*brain.shape[:2], -1)
