"""Checks that a split lets nothing of the test set reach training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neuroalign.errors import Problems

SIDES = ("train", "validation", "test")


def check_split(clips: pd.DataFrame, guard_s: float = 0.0) -> None:
    """Refuse a clip table whose parts share content or stand too close in time.

    Parameters
    ----------
    clips : DataFrame
        The clip table, with the ``split`` of one fold. Only `SIDES` are looked at; ``guard`` clips are nobody's.
    guard_s : float
        Seconds that must separate clips of different sides, in the stimulus and in the run.

    Notes
    -----
    Splits by subject show the same content to both sides on purpose: there, content may be shared if no subject
    is on two sides. Everything else is checked on content.

    Raises
    ------
    Problems
        Every violation found: a ``clip_id`` on two sides, stimulus time shared by two sides, presentations of one
        run closer than `guard_s`.
    """
    used = clips[clips["split"].isin(SIDES)]
    problems = []
    if (used.groupby("subject")["split"].nunique() > 1).any() or used["subject"].nunique() < 2:
        sides = used.groupby("clip_id")["split"].nunique()
        for clip in sides.index[sides > 1][:5]:
            both = " and ".join(sorted(used.loc[used["clip_id"] == clip, "split"].unique()))
            problems.append(f"Clip '{clip}' is in {both}; give every presentation of a clip the same split.")
        contents = used.drop_duplicates(["clip_id", "split"])
        problems += _too_close(contents, ["stimulus"], "start_s", guard_s, "stimulus")
    problems += _too_close(used, ["subject", "session", "task", "run"], "onset_s", guard_s, "run")
    if problems:
        raise Problems(problems)


def _too_close(clips: pd.DataFrame, by: list[str], start: str, guard_s: float, what: str) -> list[str]:
    """One sentence per stimulus or run in which two sides overlap or stand closer than the guard."""
    found = []
    for name, group in clips.groupby(by, sort=False):
        if group["split"].nunique() < 2:
            continue
        begin = group[start].to_numpy(float)
        end = begin + group["duration_s"].to_numpy(float)
        side = group["split"].to_numpy(str)
        gap = np.maximum(begin[:, None], begin[None]) - np.minimum(end[:, None], end[None])
        gap[side[:, None] == side[None]] = np.inf
        first, second = np.unravel_index(np.argmin(gap), gap.shape)
        if gap[first, second] >= guard_s - 1e-6:
            continue
        ids = group["clip_id"].to_numpy(str)
        label = " ".join(str(part) for part in name if part)
        distance = (
            f"overlap by {-gap[first, second]:g} s"
            if gap[first, second] < -1e-6
            else f"are {max(gap[first, second], 0.0):g} s apart"
        )
        found.append(
            f"In {what} '{label}', clips '{ids[first]}' ({side[first]}) and '{ids[second]}' ({side[second]}) "
            f"{distance}, but parts must stand {guard_s:g} s apart; widen split.guard_s or choose other parts."
        )
    return found
