"""Checks that nothing of the test set reaches training: of the split, of the windows, of the contents and of a model.

=============================================================  =============================================
leak                                                           found by
=============================================================  =============================================
a clip (or a repeat of it, in any run) on two sides            `check_split`
stimulus time on two sides, or nearer than the guard           `check_split`
a test window that shares volumes with a training window       `check_windows`
the same content under two names on two sides                  `check_contents`
a scaler that was not fitted on the training windows alone     `check_model`
a model trained, or chosen, on other windows than these        `check_model`
training code that asks for test windows                       `pairs.blind`: there are none
anything that the above do not know of                         the retrained controls (`evaluation.retrained`)
=============================================================  =============================================
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuroalign.errors import MOST_SENTENCES, Problems
from neuroalign.pairs.blind import learned_from

if TYPE_CHECKING:
    from neuroalign.models.trained import TrainedModel
    from neuroalign.pairs.store import PairedDataset

SIDES = ("train", "validation", "test")
LEARNED = SIDES[:2]
_SLACK_S = 1e-3
# Of the standard deviation: means in another order of summing differ by less, those of other windows by far more.
_SAME_MEAN = 1e-3


def check_pairs(pairs: PairedDataset, guard_s: float = 0.0) -> None:
    """Every check of the pairs of one fold.

    Raises
    ------
    Problems
        Everything found.
    """
    problems: list[str] = []
    for check in (
        lambda: check_split(pairs.clips, guard_s),
        lambda: check_windows(pairs),
        lambda: check_contents(pairs),
    ):
        try:
            check()
        except Problems as error:
            problems += error.problems
    if problems:
        raise Problems(problems)


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
    if not _by_subject(used):
        sides = used.groupby("clip_id")["split"].nunique()
        for clip in sides.index[sides > 1][:MOST_SENTENCES]:
            both = " and ".join(sorted(used.loc[used["clip_id"] == clip, "split"].unique()))
            problems.append(f"Clip '{clip}' is in {both}; give every presentation of a clip the same split.")
        contents = used.drop_duplicates(["clip_id", "split"])
        problems += _too_close(contents, ["stimulus"], "start_s", guard_s, "stimulus")
    problems += _too_close(used, ["subject", "session", "task", "run"], "onset_s", guard_s, "run")
    if problems:
        raise Problems(problems)


def check_windows(pairs: PairedDataset) -> None:
    """Refuse test windows that hold volumes of windows the model learns from.

    A window of unaligned data reaches beyond its clip, by `hrf.window_s`: a guard between *clips* that is shorter lets
    the same volumes into both sides.

    Raises
    ------
    Problems
        One sentence per run in which a test window overlaps a training or validation window, with the guard that is needed.
    """
    side, onset = pairs.clips["split"].to_numpy(str), pairs.clips["onset_s"].to_numpy(float)
    run = pairs.clips[["session", "task", "run"]].astype(str).agg(" ".join, axis=1).to_numpy(str)
    problems = []
    for subject, windows in pairs.brain.items():
        if windows.aligned or not len(windows.rows):
            continue
        first = onset[windows.rows] + np.where(windows.valid, windows.times, np.inf).min(axis=1)
        last = onset[windows.rows] + np.where(windows.valid, windows.times, -np.inf).max(axis=1)
        clip_end = onset + pairs.clips["duration_s"].to_numpy(float)
        for name in dict.fromkeys(run[windows.rows]):
            here = run[windows.rows] == name
            test = np.flatnonzero(here & (side[windows.rows] == "test"))
            other = np.flatnonzero(here & np.isin(side[windows.rows], LEARNED))
            if not len(test) or not len(other):
                continue
            shared = np.minimum(last[test][:, None], last[other]) - np.maximum(
                first[test][:, None], first[other]
            )
            i, j = np.unravel_index(np.argmax(shared), shared.shape)
            if shared[i, j] < -_SLACK_S:
                continue
            a, b = windows.rows[test[i]], windows.rows[other[j]]
            gap = max(onset[a], onset[b]) - min(clip_end[a], clip_end[b])
            problems.append(
                f"In run '{' '.join(f'{subject} {name}'.split())}', the brain windows of clips "
                f"'{pairs.clips['clip_id'].iloc[a]}' (test) and '{pairs.clips['clip_id'].iloc[b]}' ({side[b]}) hold the same "
                f"volumes; set split.guard_s above {gap + max(shared[i, j], 0.0):.3g} or shorten hrf.window_s."
            )
    if problems:
        raise Problems(problems[:MOST_SENTENCES])


def check_contents(pairs: PairedDataset) -> None:
    """Refuse the same film material under two names on two sides, as a copy of a stimulus file makes it.

    Features that do not change during a clip (black, a still) may be equal without being a copy, and are left out.

    Raises
    ------
    Problems
        Naming the clips.
    """
    used = pairs.clips[pairs.clips["split"].isin(SIDES)]
    if _by_subject(used):
        return
    side = used.drop_duplicates("clip_id").set_index("clip_id")["split"]
    known: dict[bytes, str] = {}
    problems = []
    for row, clip in enumerate(pairs.video.clip_ids):
        if clip not in side.index:
            continue
        parts = [data[row] for data in pairs.video.levels.values()]
        if not any((part != part[:1]).any() for part in parts):
            continue
        mark = hashlib.blake2b(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()
        other = known.setdefault(mark, clip)
        if side[other] != side[clip] and "test" in (side[other], side[clip]):
            problems.append(
                f"Clips '{other}' ({side[other]}) and '{clip}' ({side[clip]}) have exactly the same features: the same film under "
                "two names; give both one stimulus file in events.tsv, or leave one out."
            )
    if problems:
        raise Problems(problems[:MOST_SENTENCES])


def check_model(model: TrainedModel, pairs: PairedDataset) -> None:
    """Refuse to score with a model that learned from other windows than the training and validation windows of these pairs.

    Parameters
    ----------
    model : TrainedModel
    pairs : PairedDataset
        Of the fold that is scored; of a variant, changed as for its training.

    Raises
    ------
    Problems
        If the model was trained or chosen on other windows (another fold, a split that has changed), or a scaler's mean is not
        that of the training windows.

    Notes
    -----
    Scalers are not believed: their means are computed again. A scaler that has seen test windows too has another mean.
    """
    problems = []
    now, then = learned_from(pairs), model.meta.get("learned_from", {})
    for part, told in (("train", "trained"), ("validation", "chosen")):
        if part in then and then[part] != now[part]:
            problems.append(
                f"The model was {told} on other windows than the {part} windows of these pairs (another fold, or a split that has "
                "changed since), which may hold test clips; train it again."
            )
    if not problems:
        problems += _scaler_problems(model, pairs)
    if problems:
        raise Problems(problems)


def _scaler_problems(model: TrainedModel, pairs: PairedDataset) -> list[str]:
    found, rows = [], []
    for subject in model.network.architecture.subjects:
        if subject not in pairs.brain:
            continue
        windows, contents = pairs.of(subject, "train")
        rows.append(contents)
        for level, data in windows.levels.items():
            scaler = model.scalers.brain.get((subject, level))
            if scaler is None or not windows.valid.any():
                continue
            if not _same_mean(data[windows.valid], scaler):
                found.append(_scaler_sentence(f"brain level '{level}' of subject {subject}"))
    if rows:
        contents = np.unique(np.concatenate(rows))
        for level, data in pairs.video.levels.items():
            if level in model.scalers.video and not _same_mean(
                data[contents].reshape(-1, data.shape[-1]), model.scalers.video[level]
            ):
                found.append(_scaler_sentence(f"video level '{level}'"))
    return found[:MOST_SENTENCES]


def _same_mean(samples: np.ndarray, scaler) -> bool:
    mean = samples.mean(axis=0, dtype=np.float64)
    if len(mean) != len(scaler.mean):
        return True
    scale = np.maximum(np.asarray(scaler.std, float), 1e-12) + 1e-6 * np.abs(mean)
    return bool((np.abs(mean - scaler.mean) <= _SAME_MEAN * scale + 1e-7).all())


def _scaler_sentence(what: str) -> str:
    return (
        f"The scaler of {what} was not fitted on the training windows alone: its mean is another, so that it may have seen "
        "test windows; train the model again."
    )


def _by_subject(used: pd.DataFrame) -> bool:
    """Whether people, not contents, are on different sides."""
    return used["subject"].nunique() > 1 and not (used.groupby("subject")["split"].nunique() > 1).any()


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
