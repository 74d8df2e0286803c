"""What training is given: the paired dataset without its test windows.

Training code that would fit a scaler on test windows, or choose an epoch by them, finds none: brain windows of other parts are
gone, and features of contents that are neither for training nor for validation are not a number, so that whatever uses them
is not one either. `learned_from` says which windows were left, for `evaluation.leakage` to compare when the model is scored.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd

from neuroalign.pairs.store import BrainWindows, PairedDataset

LEARNED = ("train", "validation")
_KEYS = ("subject", "session", "task", "run", "onset_s", "clip_id")


def blind(pairs: PairedDataset) -> PairedDataset:
    """The pairs with nothing but training and validation windows; rows, clips and subjects keep their numbers.

    Parameters
    ----------
    pairs : PairedDataset
        Of one fold.
    """
    sides = pairs.clips["split"].to_numpy()
    brain = {s: _fewer(w, np.isin(sides[w.rows], LEARNED)) for s, w in pairs.brain.items()}
    shown = pairs.clips["clip_id"].to_numpy()
    kept = {clip for windows in brain.values() for clip in shown[windows.rows]}
    hidden = np.array([clip not in kept for clip in pairs.video.clip_ids], bool)
    levels = {name: _without(data, hidden) for name, data in pairs.video.levels.items()}
    video = replace(pairs.video, levels=levels)
    if video.surround is not None:
        video.surround = {name: _without(data, hidden) for name, data in video.surround.items()}
    if video.text is not None:
        video.text = np.where(hidden[:, None, None], np.float32(0), video.text)
        video.has_text = video.has_text & ~hidden[:, None]
    return replace(pairs, brain=brain, video=video)


def _fewer(windows: BrainWindows, keep: np.ndarray) -> BrainWindows:
    """As `BrainWindows.select`, but what is on disk stays there."""
    left = {name: x.subset(keep) for name, x in windows.levels.items() if hasattr(x, "subset")}
    others = {name: x for name, x in windows.levels.items() if name not in left}
    chosen = replace(windows, levels=others).select(keep)
    return replace(chosen, levels={name: left.get(name, chosen.levels.get(name)) for name in windows.levels})


def _without(data: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    if not hidden.any():
        return data
    data = data.copy()
    data[hidden] = np.nan
    return data


def learned_from(pairs: PairedDataset) -> dict[str, str]:
    """A digest of the windows of each part that is learned from: equal digests, equal windows of the same clips.

    Returns
    -------
    dict of part (``train``, ``validation``) to hexadecimal digest
    """
    rows = np.sort(np.concatenate([windows.rows for windows in pairs.brain.values()]))
    table = pairs.clips.iloc[rows]
    return {part: _digest(table[table["split"] == part]) for part in LEARNED}


def _digest(table: pd.DataFrame) -> str:
    values = table[list(_KEYS)].astype({"onset_s": float})
    lines = sorted("\t".join(map(str, row)) for row in values.itertuples(index=False))
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=12).hexdigest()
