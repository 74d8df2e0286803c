r"""The haemodynamic lag, swept on validation clips: at which delay does the film predict the brain best?

Ridge regression from features to units is fitted on the training clips of a fold at every lag, and judged on its
validation clips by the correlation of predicted and measured responses, as encoding models are (Naselaris et al. 2011, NeuroImage
56:400). Test clips are never read. Identification of clips, the criterion of other choices, is of less use here: it
saturates where a level tells clips apart, and then every lag near the right one looks alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.pairs.linear import RidgeFactors, fit_scale, flat, ridge_factors, scaled
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.windows import on_steps

log = logging.getLogger(__name__)
ALL = "all levels"
"""Name of the curve of all levels read at one lag; no level can be named so, because of the blank."""

_ALPHAS = (1.0, 10.0, 100.0)
_ROUND_TOP_S = 1.5


def lag_curve(pairs: PairedDataset, lags_s: Sequence[float]) -> pd.DataFrame:
    """How well the brain of validation clips is predicted at each lag.

    Parameters
    ----------
    pairs : PairedDataset
        Unaligned windows; only the training and validation clips are read.
    lags_s : sequence of float
        Lags in seconds.

    Returns
    -------
    DataFrame
        `level` (every brain level, and ``all levels`` for all units together), `lag_s` and `r`: the correlation of predicted and
        measured responses over the steps of the validation clips, averaged over units and subjects. No rows where there is
        nothing to judge.

    Notes
    -----
    Each subject has a map of its own. One without training clips (``split.by: subject``) is predicted by the map of all others
    together where the units are the same in everyone, and is left out otherwise. The penalty is the one with the highest
    curve of all levels.
    """
    video = np.concatenate(list(pairs.video.levels.values()), axis=2)
    seen = {s: pairs.contents(s, "train") for s in pairs.subjects}
    checked = {s: pairs.contents(s, "validation") for s in pairs.subjects}
    trained = [s for s in pairs.subjects if len(seen[s])]
    if not trained:
        raise UserError("No subject has training windows; check the split (pairs/clips.tsv).")
    everything = np.concatenate([seen[s] for s in trained])
    video = scaled(video, fit_scale(video[np.unique(everything)]))
    judged = [s for s in pairs.subjects if len(np.unique(checked[s])) > 1]
    levels = list(next(iter(pairs.brain.values())).levels)
    rows = []

    def judge(subject: str, lag: float, shared: _Map, projected: np.ndarray, left: np.ndarray) -> None:
        windows, contents = pairs.of(subject, "validation")
        measured = flat(on_steps(windows, pairs.video.step_times, lag))
        edges = np.cumsum([d.shape[2] for d in windows.levels.values()])[:-1]
        _, place = np.unique(contents, return_inverse=True)
        for alpha in _ALPHAS:
            predicted = shared.factors.predict(left, projected, alpha)
            predicted = predicted.reshape(-1, pairs.steps, predicted.shape[1])[place]
            r = _correlation(flat(predicted), measured)
            for level, values in zip([ALL, *levels], [r, *np.split(r, edges)], strict=True):
                rows.append((level, float(lag), alpha, values.mean()))

    # Only the brain changes with the lag: inputs are decomposed once, and again only for other clips.
    own = None
    for subject in judged:
        if subject not in trained:
            continue
        if own is None or not own.serves(seen[subject]):
            own = _Map(video, seen[subject])
        left = own.factors.left(flat(video[np.unique(checked[subject])]))
        for lag in lags_s:
            judge(subject, lag, own, own.projected(pairs, [subject], lag), left)
    unseen = [s for s in judged if s not in trained] if pairs.same_units else []
    if unseen:
        pooled = _Map(video, everything)
        lefts = {s: pooled.factors.left(flat(video[np.unique(checked[s])])) for s in unseen}
        for lag in lags_s:
            projected = pooled.projected(pairs, trained, lag)
            for subject in unseen:
                judge(subject, lag, pooled, projected, lefts[subject])
    curves = pd.DataFrame(rows, columns=["level", "lag_s", "alpha", "r"])
    curves = curves.groupby(["alpha", "level", "lag_s"], sort=False, as_index=False)["r"].mean()
    whole = curves[curves["level"] == ALL]
    if len(whole):
        curves = curves[curves["alpha"] == whole.loc[whole["r"].idxmax(), "alpha"]]
    parts = [curves.loc[curves["level"] == level, ["level", "lag_s", "r"]] for level in [ALL, *levels]]
    return pd.concat(parts, ignore_index=True)


class _Map:
    """Ridge regression from the clips of training windows, without outputs yet.

    Parameters
    ----------
    video : array of shape (contents, T, inputs)
    contents : int array of shape (n,)
        Row of `video` of every training window, repeats included.
    """

    def __init__(self, video: np.ndarray, contents: np.ndarray):
        self.contents = np.sort(contents)
        self.unique, counts = np.unique(contents, return_counts=True)
        steps = video.shape[1]
        self.factors: RidgeFactors = ridge_factors(flat(video[self.unique]), np.repeat(counts, steps))

    def serves(self, contents: np.ndarray) -> bool:
        """Whether these training windows show the same clips, each as often."""
        return np.array_equal(self.contents, np.sort(contents))

    def projected(self, pairs: PairedDataset, subjects: Sequence[str], lag: float) -> np.ndarray:
        """The subjects' training windows at a lag, z-scored one subject at a time; see `RidgeFactors.project`."""
        units = sum(d.shape[2] for d in pairs.brain[subjects[0]].levels.values())
        total = np.zeros((len(self.unique), pairs.steps, units), np.float32)
        for subject in subjects:
            windows, contents = pairs.of(subject, "train")
            data = on_steps(windows, pairs.video.step_times, lag)
            data = scaled(data, fit_scale(data))
            place = np.searchsorted(self.unique, contents)
            if len(np.unique(place)) == len(place):
                total[place] += data
            else:  # several times slower, but it counts repeats
                np.add.at(total, place, data)
        return self.factors.project(flat(total))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of columns (samples, units); 0 for a constant one."""
    a, b = (x - x.mean(axis=0, dtype=np.float64) for x in (a, b))
    size = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(axis=0), size, out=np.zeros_like(size), where=size > 1e-12)


def best_lag(curves: pd.DataFrame, level: str = ALL) -> float | None:
    """The lag at the top of a level's curve; None where nothing was judged.

    The top is that of a parabola through the points around the highest one: a response is several seconds wide, so that
    what makes one point stand out from its neighbours is noise.
    """
    curve = curves[curves["level"] == level]
    if not len(curve):
        return None
    lags, r = curve["lag_s"].to_numpy(), curve["r"].to_numpy()
    highest = lags[r.argmax()]
    near = np.abs(lags - highest) <= _ROUND_TOP_S
    if near.sum() > 3:
        bend, slope, _ = np.polyfit(lags[near] - highest, r[near], 2)
        if bend < 0:
            highest = np.clip(highest - slope / (2 * bend), lags[near].min(), lags[near].max())
    return float(lags[np.abs(lags - highest).argmin()])


def clear_levels(curves: pd.DataFrame, samples: int) -> set[str]:
    """Levels whose curve says something about their lag.

    Parameters
    ----------
    curves : DataFrame
        Of `lag_curve`.
    samples : int
        Clip steps of the validation windows of all subjects.

    Returns
    -------
    set of str
        Those whose height is above two standard errors of one correlation over so many samples. Neighbouring steps are alike,
        which makes the error larger, but it is the mean over many units, which makes it smaller.
    """
    height = curves.groupby("level")["r"].max()
    return set(height[height > 2.0 / np.sqrt(samples)].index)


def sweep(pairs: PairedDataset, splits: Sequence[str], lags_s: Sequence[float]) -> pd.DataFrame:
    """Choose a lag per level in every fold, each by its own validation clips.

    Parameters
    ----------
    pairs : PairedDataset
        Unaligned windows of all clips.
    splits : sequence of str
        Column of the clip table that holds the split of each fold.
    lags_s : sequence of float

    Returns
    -------
    DataFrame
        `fold, level, lag_s, r, own, chosen`: the curves of `lag_curve`; `own` is false where a level's curve is too flat to
        go by, `chosen` marks the lag at which a level is read.

    Raises
    ------
    UserError
        If a fold has no validation clips to judge by.

    Notes
    -----
    The response peaks later in higher areas, so every level has a lag of its own, as the delays that ``adaptive``
    learns; it is the same for all subjects, of whom each has too few validation clips. A level that the film does not
    predict says nothing about its lag and is read at that of all levels together.
    """
    found = []
    for fold, column in enumerate(splits):
        part = replace(pairs, clips=pairs.clips.assign(split=pairs.clips[column]))
        curves = lag_curve(part, lags_s)
        common = best_lag(curves)
        if common is None:
            raise UserError(
                f"The lag cannot be swept: no subject of fold {fold} has training clips and two validation clips; "
                "raise split.validation, or set hrf.shift_s to a number."
            )
        clear = clear_levels(curves, int((part.clips["split"] == "validation").sum()) * pairs.steps)
        chosen = {k: best_lag(curves, k) if k in clear else common for k in curves["level"].unique()}
        log.info("fold %d: lags %s", fold, ", ".join(f"{k} {v:g} s" for k, v in chosen.items()))
        at = curves["level"].map(chosen)
        curves = curves.assign(fold=fold, own=curves["level"].isin(clear), chosen=curves["lag_s"] == at)
        found.append(curves)
    return pd.concat(found, ignore_index=True)[["fold", "level", "lag_s", "r", "own", "chosen"]]
