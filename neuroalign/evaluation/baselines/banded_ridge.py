"""Banded ridge from brain to video features: one penalty per brain level (himalaya's group ridge).

The penalties are found by random search within the training set, on contiguous parts of it (Dupré la Tour et al. 2022,
*Feature-space selection with banded ridge regression*, NeuroImage 264); validation chooses the lag only.
"""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._data import lag_for, material, score_test
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine, flat, quality
from neuroalign.pairs.store import PairedDataset

CANDIDATES = 20
ALPHAS = np.logspace(0, 6, 10)
PARTS = 4


def run(pairs: PairedDataset, seed: int) -> tuple[dict[str, SubjectScores], dict]:
    """Train one model per subject and score.

    Parameters
    ----------
    pairs : PairedDataset
    seed : int
        Of the random search.
    """
    from himalaya.ridge import GroupRidgeCV
    from sklearn.model_selection import KFold

    lags = lag_for(pairs)
    data = material(pairs, lags)
    groups = np.repeat(np.arange(len(data.bands)), data.bands)
    models, found = {}, []
    for subject in data.trained():
        train, check = data.subjects[subject]["train"], data.subjects[subject]["validation"]
        model = GroupRidgeCV(
            groups=groups,
            solver="random_search",
            solver_params={
                "n_iter": CANDIDATES,
                "alphas": ALPHAS,
                "progress_bar": False,
                "warn": False,
                "n_targets_batch": 200,
            },
            # Rows are clip by clip in time, so unshuffled parts are contiguous.
            cv=KFold(min(PARTS, len(train))),
            fit_intercept=True,
            random_state=seed,
        )
        model.fit(flat(train.brain), flat(data.video[train.contents]))
        models[subject] = model
        if len(check):
            found.append(quality(_predict(model, check.brain), data.video, check.contents))
    scores = score_test(data, lambda s, brain, video: cosine(_predict(models[s], brain), video), models)
    return scores, {
        "lag_s": lags[0],
        "bands": len(data.bands),
        "validation": float(np.nanmean(found)) if np.isfinite(found).any() else None,
        "options": CANDIDATES * len(ALPHAS),
    }


def _predict(model, brain: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(flat(brain))).reshape(*brain.shape[:2], -1)
