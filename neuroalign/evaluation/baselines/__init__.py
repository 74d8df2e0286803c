"""Baselines: other ways to the same score matrix, from the same pairs, the same split and the same choices.

One family per file; `run_baseline` finds them by the name that the configuration uses. Test windows decide
nothing: settings are chosen by cross-validation inside the training clips (`_choose`) or, for what is trained in steps, on
validation; scaling comes from training. docs/baselines.md has the budget of every method.
"""

from __future__ import annotations

import importlib
from typing import get_args

from neuroalign.config.evaluate import BaselineName
from neuroalign.errors import UserError, nearest
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.store import PairedDataset

# Modules are named, not imported: torch and himalaya are loaded by the baselines that need them.
_FAMILIES: dict[str, tuple[str, dict]] = {
    "ridge": ("ridge", {}),
    "pooled_ridge": ("ridge", {"pooled": True}),
    "banded_ridge": ("banded_ridge", {}),
    "pooled_banded_ridge": ("banded_ridge", {"pooled": True}),
    "cca": ("cca", {}),
    "pooled_cca": ("cca", {"pooled": True}),
    "encoding": ("encoding", {}),
    "pooled_encoding": ("encoding", {"pooled": True}),
    "linear_infonce": ("infonce", {}),
    "pooled_linear_infonce": ("infonce", {"pooled": True}),
    "mlp_infonce": ("infonce", {"hidden": True}),
    "pooled_mlp_infonce": ("infonce", {"hidden": True, "pooled": True}),
}
NAMES: tuple[str, ...] = get_args(BaselineName)


def run_baseline(name: str, pairs: PairedDataset, seed: int = 0) -> tuple[dict[str, SubjectScores], dict]:
    """Train a baseline and score the test windows of every subject it can speak about.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    pairs : PairedDataset
        Of one fold.
    seed : int
        Of what is random in it; closed-form baselines have nothing.

    Returns
    -------
    scores : dict of subject to SubjectScores
        One matrix, ``score``. Subjects without training windows are left out by baselines of one subject.
    chosen : dict
        What was chosen, how (`chosen_by`), and of how many settings (`options`); JSON-like.

    Raises
    ------
    UserError
        Unknown name, nobody to train on, or a pooled baseline on units that differ between subjects.
    """
    if name not in _FAMILIES:
        raise UserError(f"There is no baseline '{name}'{nearest(name, NAMES)}.")
    family, options = _FAMILIES[name]
    module = importlib.import_module(f"{__name__}.{family}")
    scores, chosen = module.run(pairs, seed=seed, **options)
    if not scores:
        raise UserError(
            f"Baseline '{name}' has nobody with both training and test windows; "
            "use its pooled variant for unseen subjects."
        )
    return scores, {"name": name, "seed": seed, **chosen}
