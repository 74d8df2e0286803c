"""The paired dataset with something taken from it, for ablations and for controls that train the whole model again.

What is learned from changed pairs is tested on the same test windows and clips as the model itself: rows, clip ids and the
split stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from neuroalign.errors import UserError, nearest
from neuroalign.pairs.store import BrainWindows, PairedDataset

_TIME_WIDTH_S = 60.0


def change_pairs(pairs: PairedDataset, change: str | None, seed: int) -> PairedDataset:
    """The pairs of a variant.

    Parameters
    ----------
    pairs : PairedDataset
        Of one fold.
    change : str, optional
        ``merged``, ``shuffled``, ``shifted`` or ``time_only``; None changes nothing.
    seed : int
        Of the shuffle.

    Raises
    ------
    UserError
        Unknown change.
    """
    if change is None:
        return pairs
    known: dict[str, Callable[[PairedDataset], PairedDataset]] = {
        "merged": merged,
        "shuffled": lambda p: shuffled(p, seed),
        "shifted": shifted,
        "time_only": time_only,
    }
    if change not in known:
        raise UserError(f"Pairs cannot be changed by '{change}'{nearest(change, known)}.")
    return known[change](pairs)


def merged(pairs: PairedDataset) -> PairedDataset:
    """One brain level and one video level, which hold what all of them held."""
    brain = {}
    for subject, windows in pairs.brain.items():
        labels = [f"{level} {unit}" for level, units in windows.unit_labels.items() for unit in units]
        data = np.concatenate(list(windows.levels.values()), axis=2)
        brain[subject] = replace(windows, levels={"all": data}, unit_labels={"all": labels}, lags_s={})
    return replace(pairs, brain=brain, video=pairs.video.merged())


def shuffled(pairs: PairedDataset, seed: int) -> PairedDataset:
    """Training and validation windows dealt out anew among the clips of the same subject and part.

    A single cycle through the windows in random order, so that none keeps its place. Test windows keep theirs: a method that
    looks at them while it learns does better than chance.
    """
    sides = pairs.clips["split"].to_numpy()
    brain = {}
    for number, (subject, windows) in enumerate(pairs.brain.items()):
        rng = np.random.default_rng([seed, 7, number])
        source = np.arange(len(windows.rows))
        for side in ("train", "validation"):
            cycle = rng.permutation(np.flatnonzero(sides[windows.rows] == side))
            source[cycle] = np.roll(cycle, 1)
        brain[subject] = _taken(windows, source)
    return replace(pairs, brain=brain)


def shifted(pairs: PairedDataset) -> PairedDataset:
    """Every clip with the brain window of half a run later, in a circle, in every run and whatever its part of the split.

    The series stays as autocorrelated as it was, and so does what it shares with the film *slowly*: a drift over the run, say.
    What is above chance here is not the moment that was seen.
    """
    table = pairs.clips
    runs = table[["session", "task", "run"]].astype(str).agg("\t".join, axis=1).to_numpy()
    onset = table["onset_s"].to_numpy(float)
    brain = {}
    for subject, windows in pairs.brain.items():
        source = np.arange(len(windows.rows))
        for run in np.unique(runs[windows.rows]):
            where = np.flatnonzero(runs[windows.rows] == run)
            order = where[np.argsort(onset[windows.rows[where]], kind="stable")]
            source[order] = np.roll(order, -(len(order) // 2))
        brain[subject] = _taken(windows, source)
    return replace(pairs, brain=brain)


def time_only(pairs: PairedDataset) -> PairedDataset:
    """The same pairs with clip time in place of the brain.

    Gaussian bumps every 60 s over time in the stimulus and over time in the run: they say *when*, smoothly, and nothing
    of what was shown or measured.
    """
    table = pairs.clips
    axes = [table["start_s"].to_numpy(float), table["onset_s"].to_numpy(float)]
    centres = [np.arange(a.min(), a.max() + _TIME_WIDTH_S, _TIME_WIDTH_S) for a in axes]
    steps = np.asarray(pairs.video.step_times, float)
    brain = {}
    for subject, windows in pairs.brain.items():
        bumps = [
            np.exp(-0.5 * (((axis[windows.rows][:, None] + steps)[..., None] - c) / _TIME_WIDTH_S) ** 2)
            for axis, c in zip(axes, centres, strict=True)
        ]
        data = np.concatenate(bumps, axis=2).astype(np.float32)
        brain[subject] = BrainWindows(
            windows.rows,
            {"time": data},
            np.tile(pairs.video.step_times, (len(data), 1)),
            np.ones(data.shape[:2], bool),
            {"time": [f"bump-{i}" for i in range(data.shape[2])]},
            True,
        )
    return replace(pairs, brain=brain)


def _taken(windows: BrainWindows, source: np.ndarray) -> BrainWindows:
    """Windows in which row i holds what row ``source[i]`` measured."""
    return replace(windows.select(source), rows=windows.rows)
