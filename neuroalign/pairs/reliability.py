r"""Which units answer alike whenever the same clip is shown again, and the selection of units by it.

Reliability is the intraclass correlation of single presentations, ICC(1,1) of Shrout & Fleiss (1979, Psychological
Bulletin 86:420), over the steps of the clips that were shown more than once:

.. math:: r = \frac{MS_b - MS_w}{MS_b + (k_0 - 1)\, MS_w}

with the mean squares between and within clip steps, and k0 the (weighted) number of presentations. It estimates the share
of the variance that the stimulus explains, which is also the correlation expected between two presentations: signal power over
total power (Schoppe et al. 2016, Front Comput Neurosci 10:10), and 1 / (1 + 1/ncsnr²) of the noise ceilings of Allen
et al. (2022, Nat Neurosci 25:116). Only training clips of a fold are read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from neuroalign.config.fmri import Selection
from neuroalign.errors import UserError
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.windows import at_lags

log = logging.getLogger(__name__)

ByLevel = dict[str, np.ndarray]
# Windows whose delay the model learns are read at the peak of the canonical response (Glover 1999, NeuroImage 9:416). The
# same lag in every presentation cuts the same seconds of the response, so that its value matters little.
_PEAK_S = 5.0
# Fewer clips than this could agree by accident.
_FEWEST_CLIPS = 5
_BLOCK = 2048


def intraclass(responses: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """Intraclass correlation of single presentations.

    Parameters
    ----------
    responses : array of shape (n, T, units)
        One row per presentation.
    contents : int array of shape (n,)
        Which clip was shown; clips shown once are left out.

    Returns
    -------
    float32 array of shape (units,)
        At most 1, 0 in expectation without a response to the clips; 0 for a constant unit, NaN if fewer than two clip steps
        were shown more than once.
    """
    _, place, shown = np.unique(contents, return_inverse=True, return_counts=True)
    order = np.flatnonzero(shown[place] > 1)
    order = order[np.argsort(place[order], kind="stable")]
    shown = shown[shown > 1].astype(float)
    steps, units = responses.shape[1:]
    conditions, samples = len(shown) * steps, shown.sum() * steps
    if conditions < 2:
        return np.full(units, np.nan, np.float32)
    begins = np.concatenate([[0], np.cumsum(shown)[:-1]]).astype(int)
    weight = shown[:, None, None]
    k0 = (samples - steps * np.square(shown).sum() / samples) / (conditions - 1)
    result = np.zeros(units, np.float32)
    # In blocks: double-precision copies of all voxels at once would be the largest arrays of the stage.
    for begin in range(0, units, _BLOCK):
        x = responses[order, :, begin : begin + _BLOCK].astype(np.float64)
        x -= x.mean(axis=(0, 1))
        means = np.add.reduceat(x, begins, axis=0) / weight
        between = (weight * np.square(means)).sum(axis=(0, 1))
        within = np.maximum(np.square(x).sum(axis=(0, 1)) - between, 0.0) / (samples - conditions)
        between /= conditions - 1
        total = between + (k0 - 1) * within
        result[begin : begin + _BLOCK] = np.divide(
            between - within, total, out=np.zeros_like(total), where=total > 1e-12
        )
    return result


def unit_reliability(pairs: PairedDataset, lags_s: Mapping[str, float] | None = None) -> dict[str, ByLevel]:
    """Reliability of every unit of every subject over the training clips of a fold.

    Parameters
    ----------
    pairs : PairedDataset
        `clips` with the split of the fold.
    lags_s : mapping of level to float, optional
        Seconds at which windows that are not aligned are read; by default the peak of the canonical response.

    Returns
    -------
    dict of subject to dict of level to float32 array of shape (units,)
        NaN throughout for a subject with fewer than five training clips shown more than once.
    """
    found = {}
    for subject in pairs.subjects:
        windows, contents = pairs.of(subject, "train")
        _, place, shown = np.unique(contents, return_inverse=True, return_counts=True)
        enough = (shown > 1).sum() >= _FEWEST_CLIPS
        again = np.flatnonzero(shown[place] > 1) if enough else np.zeros(0, int)
        windows, contents = windows.select(again), contents[again]
        if not windows.aligned:
            lags = dict.fromkeys(windows.levels, _PEAK_S) | dict(lags_s or {})
            windows = at_lags(windows, pairs.video.step_times, lags)
        found[subject] = {level: intraclass(data, contents) for level, data in windows.levels.items()}
    return found


def select_units(
    reliability: Mapping[str, ByLevel], config: Selection, same_units: bool, fold: int
) -> dict[str, ByLevel]:
    """Which units to keep.

    Parameters
    ----------
    reliability : dict of subject to dict of level to array of shape (units,)
    config : Selection
    same_units : bool
        Whether the subjects' units are the same (by label). Then they stay so: everybody's are selected by the mean
        reliability over the subjects that have one.
    fold : int
        Named in messages.

    Returns
    -------
    dict of subject to dict of level to bool array of shape (units,)

    Raises
    ------
    UserError
        If no clip is repeated (for a subject whose units are their own), or a level keeps no unit.
    """
    measured = {s: all(np.isfinite(r).all() for r in levels.values()) for s, levels in reliability.items()}
    lacking = [s for s, ok in measured.items() if not ok]
    if lacking and not (same_units and any(measured.values())):
        raise UserError(_too_few(lacking, fold))
    if not same_units:
        return {s: _selected(levels, config, f" in subject {s}") for s, levels in reliability.items()}
    known = [s for s, ok in measured.items() if ok]
    mean = {level: np.mean([reliability[s][level] for s in known], axis=0) for level in reliability[known[0]]}
    return dict.fromkeys(reliability, _selected(mean, config, ""))


def _selected(reliability: ByLevel, config: Selection, whose: str) -> ByLevel:
    found = {}
    for level, values in reliability.items():
        keep = np.ones(len(values), bool)
        if config.minimum_r is not None:
            keep = values >= config.minimum_r
        if config.keep is not None:
            most = config.keep * len(values) if config.keep < 1 else config.keep
            best = np.argsort(-values, kind="stable")[: max(1, round(most))]
            keep &= np.isin(np.arange(len(values)), best)
        if not keep.any():
            raise UserError(
                f"No unit of level '{level}'{whose} has a reliability of {config.minimum_r:g} over the training clips "
                f"(the best has {values.max():.2f}): lower fmri.selection.minimum_r."
            )
        log.info("level %s%s: %d of %d units kept", level, whose, keep.sum(), len(keep))
        found[level] = keep
    return found


def unrepeated(clips: pd.DataFrame, folds: int) -> Iterator[str]:
    """What is wrong with a clip table for a selection by reliability: a sentence per fold in which nobody sees repeats.

    Parameters
    ----------
    clips : DataFrame
        A clip table with its split.
    folds : int
    """
    for fold in range(folds):
        train = clips[clips["split" if folds == 1 else f"split_{fold}"] == "train"]
        shown = train.groupby(["subject", "clip_id"]).size()
        again = (shown > 1).groupby("subject").sum()
        if not (again >= _FEWEST_CLIPS).any():
            yield _too_few(sorted(train["subject"].unique()), fold)


def _too_few(subjects: list[str], fold: int) -> str:
    return (
        f"Units cannot be selected by reliability: fewer than {_FEWEST_CLIPS} training clips of fold {fold} were shown more "
        f"than once to subject {', '.join(subjects)}; set fmri.selection.method to none, or split.hold_out so that "
        "repeated stimuli are in the training set."
    )
