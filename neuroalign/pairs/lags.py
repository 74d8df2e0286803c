r"""The haemodynamic lag, swept on validation clips: at which delay does the brain say most about the film?

At every lag a ridge regression from brain to features is fitted on the training clips of a fold and judged on
its validation clips by the criterion of all choices (`linear.quality`). Test clips are never read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.pairs.linear import fit_ridge, fit_scale, flat, quality, scaled
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.windows import on_steps

log = logging.getLogger(__name__)
ALL = "all"
"""The curve of all levels read at one lag."""

_ALPHA = 1.0


def lag_curve(pairs: PairedDataset, lags_s: Sequence[float], levels: bool = False) -> pd.DataFrame:
    """How well validation clips are identified at each lag.

    Parameters
    ----------
    pairs : PairedDataset
        Unaligned windows; only the training and validation clips are read.
    lags_s : sequence of float
        Lags in seconds.
    levels : bool
        Also one curve per brain level, from its units alone.

    Returns
    -------
    DataFrame
        `level` (``all`` for all levels together), `lag_s` and `quality`: the mean share of the validation clips
        that the true one beats (chance 0.5), averaged over subjects; NaN where fewer than two clips can be told apart.

    Notes
    -----
    Each subject has a map of its own. One without training clips (``split.by: subject``) is read by the map of all others
    together where the units are the same in everyone, and is left out otherwise.
    """
    video = np.concatenate(list(pairs.video.levels.values()), axis=2).astype(np.float32)
    parts = {s: [pairs.of(s, name) for name in ("train", "validation")] for s in pairs.subjects}
    trained = [s for s, (train, _) in parts.items() if len(train[1])]
    if not trained:
        raise UserError("No subject has training windows; check the split (pairs/clips.tsv).")
    video = scaled(video, fit_scale(video[np.unique(np.concatenate([parts[s][0][1] for s in trained]))]))
    unseen = pairs.same_units and any(len(v[1]) and not len(t[1]) for t, v in parts.values())
    rows = []
    for lag in lags_s:
        read = {
            s: [(on_steps(windows, pairs.video.step_times, lag), contents) for windows, contents in both]
            for s, both in parts.items()
        }
        for name, columns in _columns(pairs, levels).items():
            found = _judge(read, columns, video, trained, unseen)
            value = float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
            rows.append((name, float(lag), value))
    return pd.DataFrame(rows, columns=["level", "lag_s", "quality"])


def _columns(pairs: PairedDataset, levels: bool) -> dict[str, dict[str, slice]]:
    """Columns of each curve's units, by subject (voxels differ in number)."""
    columns: dict[str, dict[str, slice]] = {ALL: dict.fromkeys(pairs.subjects, slice(None))}
    for subject, windows in pairs.brain.items() if levels else ():
        edges = np.cumsum([0, *(data.shape[2] for data in windows.levels.values())])
        for i, level in enumerate(windows.levels):
            columns.setdefault(level, {})[subject] = slice(edges[i], edges[i + 1])
    return columns


def _judge(
    read: Mapping[str, list],
    columns: Mapping[str, slice],
    video: np.ndarray,
    trained: list[str],
    unseen: bool,
) -> np.ndarray:
    """Quality of every subject with validation clips."""
    brain, scales = {}, {}
    for subject in trained:
        data = read[subject][0][0][..., columns[subject]]
        scales[subject] = fit_scale(data)
        brain[subject] = scaled(data, scales[subject])
    contents = {s: read[s][0][1] for s in trained}
    everyone = None
    if unseen:
        everyone = _ridge(
            np.concatenate(list(brain.values())), video[np.concatenate(list(contents.values()))]
        )
        common = fit_scale(np.concatenate([read[s][0][0][..., columns[s]] for s in trained]))
    found = []
    for subject, (_, (check, truth)) in read.items():
        if not len(truth) or (subject not in trained and everyone is None):
            continue
        own = subject in trained
        predict = _ridge(brain[subject], video[contents[subject]]) if own else everyone
        scale = scales[subject] if own else common
        found.append(quality(predict(scaled(check[..., columns[subject]], scale)), video, truth))
    return np.array(found)


def _ridge(brain: np.ndarray, video: np.ndarray):
    return fit_ridge(flat(brain), flat(video))(_ALPHA)


def best_lag(curve: pd.DataFrame) -> float | None:
    """The lag of the highest quality in a curve; the middle one of several equal ones, None if nothing was judged."""
    judged = curve[np.isfinite(curve["quality"])]
    if not len(judged):
        return None
    top = judged.loc[judged["quality"] == judged["quality"].max(), "lag_s"].to_numpy()
    return float(top[(len(top) - 1) // 2])


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
        `fold, level, lag_s, quality, chosen`: the curves of `lag_curve`; `chosen` marks the lag at which a level is read.

    Raises
    ------
    UserError
        If the validation clips of a fold cannot be told apart.

    Notes
    -----
    The response peaks later in higher areas, so every level has a lag of its own, as the delays that ``adaptive``
    learns. A level that cannot identify validation clips better than chance says nothing about its lag and is read
    at that of all levels together.
    """
    found = []
    for fold, column in enumerate(splits):
        part = replace(pairs, clips=pairs.clips.assign(split=pairs.clips[column]))
        curves = lag_curve(part, lags_s, levels=True)
        contents = part.clips.loc[part.clips["split"] == "validation", "clip_id"].nunique()
        chosen = choose_lags(curves, contents)
        if chosen is None:
            raise UserError(
                f"The lag cannot be swept: fold {fold} has {contents} validation clip(s) that trained subjects saw; "
                "raise split.validation, or set hrf.shift_s to a number."
            )
        log.info("fold %d: lags %s", fold, ", ".join(f"{k} {v:g} s" for k, v in chosen.items()))
        at = curves["level"].map(chosen)
        found.append(curves.assign(fold=fold, chosen=curves["lag_s"] == at))
    return pd.concat(found, ignore_index=True)[["fold", "level", "lag_s", "quality", "chosen"]]


def choose_lags(curves: pd.DataFrame, contents: int) -> dict[str, float] | None:
    """The lag of every level (and of ``all``) from the curves of one fold; None if nothing was judged.

    Parameters
    ----------
    curves : DataFrame
        Of `lag_curve`.
    contents : int
        Different validation clips. A level's curve counts where its height is more than three standard errors of a mean of
        so many uniform ranks above chance.
    """
    common = best_lag(curves[curves["level"] == ALL])
    if common is None:
        return None
    chance = 0.5 + 3.0 / np.sqrt(12 * contents)
    chosen = {}
    for level, curve in curves.groupby("level", sort=False):
        lag = best_lag(curve) if curve["quality"].max() > chance else None
        chosen[str(level)] = common if lag is None else lag
    return chosen
