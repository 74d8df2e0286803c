"""How baselines choose: cross-validation inside the training clips, as the model's linear start does.

The training content is cut into `FOLDS` contiguous parts. Each is judged in turn by maps fitted on the others, less the clips
of the same stimulus within `PURGE_S` of it, and the setting with the best mean `rank_quality` over parts and people is
taken. Nothing of validation or test is looked at; what is then fitted is fitted on all training clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from neuroalign.evaluation.baselines._data import Material, Part, lag_for, material
from neuroalign.pairs.quality import rank_quality
from neuroalign.pairs.store import PairedDataset

FOLDS = 4
PURGE_S = 20.0
# Read at several lags at once, the map weighs them (a finite impulse response).
STACKED_S = (3.0, 4.5, 6.0, 7.5)
# Of units times lags: stacking the voxels of several levels would not fit into memory.
_MOST_UNITS = 4000
_FEWEST_FIT, _FEWEST_JUDGED = 8, 4

Parts = dict[str, Part]
Model = TypeVar("Model")
HOW = f"{FOLDS}-fold cross-validation inside the training clips"


def training_folds(data: Material) -> Iterator[tuple[Parts, Parts]]:
    """Parts to fit and to judge, by subject, for each contiguous part of the training content.

    None where there are too few clips to choose by.
    """
    train = {s: data.subjects[s]["train"] for s in data.trained()}
    contents = np.unique(np.concatenate([part.contents for part in train.values()]))
    order = contents[np.lexsort((data.start_s[contents], data.stimulus[contents]))]
    made = []
    for held in np.array_split(order, FOLDS):
        near = (data.stimulus[order][:, None] == data.stimulus[held][None]) & (
            np.abs(data.start_s[order][:, None] - data.start_s[held][None]) <= PURGE_S
        )
        kept = order[~near.any(axis=1)] if len(held) else order
        if len(kept) < _FEWEST_FIT or len(held) < _FEWEST_JUDGED:
            return
        fit = {s: part.take(np.isin(part.contents, kept)) for s, part in train.items()}
        judged = {s: part.take(np.isin(part.contents, held)) for s, part in train.items()}
        if any(not len(part) for part in fit.values()):
            return
        made.append((fit, judged))
    yield from made


def choose(
    data: Material,
    fit: Callable[[Parts], Model],
    score: Callable[[Model, str, Any, np.ndarray, np.ndarray], np.ndarray],
    options: Sequence[Any],
    default: Any,
    folds: Iterable[tuple[Model, Parts]] | None = None,
) -> tuple[Any, float]:
    """The option with the best cross-validated retrieval.

    Parameters
    ----------
    data : Material
    fit : callable
        Parts by subject to a model that serves every option.
    score : callable
        (model, subject, option, brain (n, T, units), video (m, T, dim)) to a matrix (n, m).
    options : sequence
    default : option
        Taken where there are too few clips to choose by.
    folds : iterable of (model, judged parts), optional
        Fitted already (`fitted_folds`), for a choice in two steps.

    Returns
    -------
    option, quality : the choice and its criterion; NaN where the default was taken
    """
    found = np.zeros(len(options))
    count = 0
    for model, judged in fitted_folds(data, fit) if folds is None else folds:
        for subject, part in judged.items():
            gallery, truth = np.unique(part.contents, return_inverse=True)
            if len(gallery) < 2:
                continue
            count += 1
            for i, option in enumerate(options):
                matrix = score(model, subject, option, part.brain, data.video[gallery])
                found[i] += rank_quality(matrix, truth)
    if not count:
        return default, float("nan")
    best = int(np.round(found / count, 6).argmax())
    return options[best], float(found[best] / count)


def fitted_folds(data: Material, fit: Callable[[Parts], Model]) -> list[tuple[Model, Parts]]:
    """A model of each part, and what it is judged by."""
    return [(fit(kept), judged) for kept, judged in training_folds(data)]


def lag_options(pairs: PairedDataset) -> list[tuple[float, ...]]:
    """At which lags the brain may be read: aligned data as they are; others at the swept lag, or at several at once."""
    single = lag_for(pairs)
    units = sum(d.shape[2] for d in next(iter(pairs.brain.values())).levels.values())
    aligned = all(windows.aligned for windows in pairs.brain.values())
    return [single] if aligned or units * len(STACKED_S) > _MOST_UNITS else [single, STACKED_S]


def choose_lags(
    pairs: PairedDataset, choice: Callable[[Material], tuple[Any, float]]
) -> tuple[Material, tuple[float, ...], Any, float, int]:
    """Make the choice of a baseline at every lag option, and take the best.

    Returns
    -------
    data : Material
        At the chosen lags.
    lags : tuple of float
    option, quality : what `choice` returned for them
    tried : int
        Number of lag options.
    """
    found = []
    for lags in lag_options(pairs):
        data = material(pairs, lags)
        found.append((data, lags, *choice(data)))
    best = max(found, key=lambda item: item[3] if np.isfinite(item[3]) else -np.inf)
    return (*best, len(found))


def number(value: float) -> float | None:
    """A criterion for a JSON file: None where nothing could be judged."""
    return float(value) if np.isfinite(value) else None
