"""Minutes of one person's data: the first so many of them, what is tested after them, and which content others saw.

Time is never shuffled: a new person comes with the first minutes of a recording, and is tested on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuroalign.errors import UserError

_FOLDS = 4
_PURGE_S = 20.0
_FEWEST_JUDGED = 20
_FEWEST_FITTED = 4
RUN = ["subject", "session", "task", "run"]
CONTENTS = ("known", "new")
"""The two questions of an unseen person: clips of content that others were trained on, and clips of content that nobody was."""


def seconds_until(clips: pd.DataFrame) -> np.ndarray:
    """Seconds of stimulation up to the end of each clip, in table order; overlapping clips of a run count once.

    Parameters
    ----------
    clips : DataFrame
        Rows of the clip table of one subject, in its order (by session, run and onset).

    Returns
    -------
    array of shape (clips,)
    """
    end = (clips["onset_s"] + clips["duration_s"]).to_numpy(float)
    begin = clips["onset_s"].to_numpy(float)
    run = clips.groupby(RUN, sort=False, dropna=False).ngroup().to_numpy()
    before = np.concatenate([[-np.inf], end[:-1]])
    before[1:][run[1:] != run[:-1]] = -np.inf
    return np.cumsum(end - np.clip(np.maximum(begin, before), None, end))


def first_minutes(clips: pd.DataFrame, rows: np.ndarray, minutes: float | None) -> np.ndarray:
    """The rows of the first minutes among some rows of one subject (all of them without `minutes`)."""
    rows = np.sort(np.asarray(rows, np.int64))
    if minutes is None:
        return rows
    return rows[seconds_until(clips.iloc[rows]) <= 60 * minutes + 1e-6]


def adaptation_parts(
    clips: pd.DataFrame, subject: str, minutes: Sequence[float], test: float, guard_s: float
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Divide what an unseen person saw into minutes to adapt on and clips to test on.

    Parameters
    ----------
    clips : DataFrame
        The clip table of one fold.
    subject : str
    minutes : sequence of float
        Wanted points of the learning curve.
    test : float
        Share of the person's time, the last of it, that is kept for the test at least.
    guard_s : float
        Clips this near to an adaptation clip, in the run or in the stimulus, are used for nothing.

    Returns
    -------
    minutes : list of float
        Those of `minutes` that there is time for, rising.
    adaptation, tested : int arrays
        Rows of the clip table. All points of the curve are tested on the same clips, so that they can be compared; the
        points take the first of `adaptation` (`first_minutes`).

    Raises
    ------
    UserError
        If nothing is left to test.
    """
    rows = np.flatnonzero(((clips["subject"] == subject) & (clips["split"] == "test")).to_numpy())
    if not len(rows):
        raise UserError(f"Subject {subject} has no test clip to adapt on; set split.by to subject.")
    until = seconds_until(clips.iloc[rows])
    longest = (1 - test) * until[-1]
    possible = sorted(m for m in set(minutes) if 60 * m <= longest + 1e-6)
    adaptation = first_minutes(clips, rows, possible[-1] if possible else 0.0)
    part = np.zeros(len(rows), bool)
    part[: len(adaptation)] = True
    own = clips.iloc[rows]
    near = near_in_run(own, part, guard_s) | near_in_content(own, own[part], guard_s)
    tested = rows[~part & ~near]
    if not len(tested):
        raise UserError(
            f"Subject {subject}: the first {possible[-1]:g} minutes leave no clip to test on (split.guard_s {guard_s:g} s, "
            "repeats of adaptation clips left out); lower adapt.minutes or raise adapt.test."
        )
    return possible, adaptation, tested


def question_of(
    clips: pd.DataFrame, rows: np.ndarray, guard_s: float, subjects: Sequence[str] | None = None
) -> np.ndarray:
    """Whether clips are of content that others were trained on.

    Parameters
    ----------
    clips : DataFrame
        The clip table of one fold.
    rows : int array of shape (n,)
    guard_s : float
    subjects : sequence of str, optional
        Whose training and validation clips count; everybody's by default.

    Returns
    -------
    array of str, shape (n,)
        ``known``: overlaps training or validation content. ``new``: stands `guard_s` away from all of it. Empty: between.
    """
    used = clips[clips["split"].isin(("train", "validation"))]
    if subjects is not None:
        used = used[used["subject"].isin(subjects)]
    used, asked = used.drop_duplicates("clip_id"), clips.iloc[rows]
    known, near = near_in_content(asked, used, 0.0), near_in_content(asked, used, guard_s)
    return np.where(known, "known", np.where(near, "", "new"))


def contiguous_folds(clips: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows to fit and to judge, for contiguous parts of some minutes; none where there are too few for a choice.

    Parameters
    ----------
    clips : DataFrame
        Rows of the clip table of one subject, in its order. Clips within 20 s of a judged one, in the run or in the stimulus, take no
        part in its fit.
    """
    n, found = len(clips), []
    if n < _FEWEST_JUDGED:
        return []
    for judged in np.array_split(np.arange(n), _FOLDS):
        part = np.isin(np.arange(n), judged)
        near = near_in_run(clips, part, _PURGE_S) | near_in_content(clips, clips[part], _PURGE_S)
        fit = np.flatnonzero(~near & ~part)
        if len(fit) < _FEWEST_FITTED:
            return []
        found.append((fit, judged))
    return found


def near_in_run(clips: pd.DataFrame, part: np.ndarray, guard_s: float) -> np.ndarray:
    """Which clips begin or end within `guard_s` of those of `part` (bool array) in the same run."""
    return _near(clips, clips[part], RUN, "onset_s", guard_s)


def near_in_content(clips: pd.DataFrame, others: pd.DataFrame, guard_s: float) -> np.ndarray:
    """Which clips overlap `others` in the time of their stimulus, or lie within `guard_s` of them."""
    return _near(clips, others, ["stimulus"], "start_s", guard_s)


def _near(clips: pd.DataFrame, others: pd.DataFrame, by: list[str], start: str, guard_s: float) -> np.ndarray:
    near = np.zeros(len(clips), bool)
    theirs = dict(list(others.groupby(by, sort=False, dropna=False)))
    place = clips.reset_index(drop=True).groupby(by, sort=False, dropna=False).indices
    for name, group in theirs.items():
        # pandas names the groups of one column by tuples in a loop, but by the value alone in `indices`.
        here = place.get(name[0] if len(by) == 1 else name)
        if here is None:
            continue
        mine = clips.iloc[here]
        gap = np.maximum.outer(mine[start].to_numpy(float), group[start].to_numpy(float)) - np.minimum.outer(
            (mine[start] + mine["duration_s"]).to_numpy(float),
            (group[start] + group["duration_s"]).to_numpy(float),
        )
        near[here] |= (gap < guard_s - 1e-6).any(axis=1)
    return near
