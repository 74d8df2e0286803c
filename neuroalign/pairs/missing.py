"""Seconds that films lack: nothing that needs them becomes a clip, and what that costs is told.

A film may be kept up to where it breaks (``video.on_damage: truncate``). The record beside its mezzanine says so; the
seconds after the break are censored here like the volumes of a moving head, not filled in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.io import read_json
from neuroalign.video.shards import Embedding

log = logging.getLogger(__name__)
_EPSILON = 1e-6
# Events are rounded to volumes or to whole seconds; what they say beyond a film's end by more than this is a mistake of somebody's.
_ROUNDING_S = 1.0
_MOST_NAMED = 3


@dataclass(frozen=True)
class Break:
    """Where a film breaks.

    Attributes
    ----------
    at_s : float
        Seconds from its beginning.
    reason : str
        What is wrong there.
    kept_s : float
        Seconds of whole pictures before.
    claimed_s : float or None
        How long the film should last, if its file says so.
    """

    at_s: float
    reason: str
    kept_s: float
    claimed_s: float | None


def read_breaks(records: Mapping[str, Path], on_damage: str) -> dict[str, Break]:
    """The breaks of the films that have one.

    Parameters
    ----------
    records : mapping of str to path
        What the normalise stage wrote, by stimulus.
    on_damage : {'error', 'truncate'}
        As in ``video.on_damage``.

    Raises
    ------
    UserError
        If a film was cut short while that was wanted, and is not any more.
    """
    found = {}
    for stimulus, path in records.items():
        record = read_json(path)
        if damage := record.get("damage"):
            kept, claimed = record["mezzanine"]["duration_s"], record["source"]["end_s"]
            found[stimulus] = Break(damage["at_s"], damage["reason"], kept, claimed)
    if found and on_damage == "error":
        told = ", ".join(
            f"'{name}' at second {item.at_s:.1f}" for name, item in list(found.items())[:_MOST_NAMED]
        )
        raise UserError(
            f"{len(found)} of {len(records)} films were cut short where they break ({told}) and video.on_damage is error: copy "
            "these files again or repair them, or set video.on_damage to truncate."
        )
    return found


def whole_windows(embedding: Embedding, kept_s: float) -> Embedding:
    """The windows of an embedding that end before `kept_s`; there may be none.

    The last window of a film may reach past its end by up to half its length, which is rounding where a film is whole and
    invention where it goes on.
    """
    whole = embedding.times + float(embedding.attributes.get("window_s") or 0) / 2 <= kept_s + _EPSILON
    return replace(
        embedding,
        levels={level: data[whole] for level, data in embedding.levels.items()},
        times=embedding.times[whole],
        low_level=None if embedding.low_level is None else embedding.low_level[whole],
    )


def wanted_lengths(
    presentations: pd.DataFrame, lengths: Mapping[str, float], breaks: Mapping[str, Break]
) -> dict[str, float]:
    """Seconds that stimuli would have if none was broken: what the file claims, else what was shown.

    Parameters
    ----------
    presentations : DataFrame
    lengths : mapping of str to float
        Seconds that have features.
    breaks : mapping of str to Break
    """
    shown = (presentations["offset"] + presentations["duration"]).groupby(presentations["stimulus"]).max()
    wanted = dict(lengths)
    for stimulus, found in breaks.items():
        claimed = found.claimed_s if found.claimed_s is not None else shown.get(stimulus, np.nan)
        wanted[stimulus] = float(np.nanmax([claimed, lengths[stimulus]]))
    return wanted


def leave_out(
    clips: pd.DataFrame, lengths: Mapping[str, float], breaks: Mapping[str, Break]
) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Leave out the clips that need seconds which are missing.

    Parameters
    ----------
    clips : DataFrame
        The clips of whole films (see `wanted_lengths`).
    lengths : mapping of str to float
        Seconds that have features.
    breaks : mapping of str to Break

    Returns
    -------
    clips : DataFrame
        Those that are left, numbered anew.
    missing : dict of str to dict
        For every broken stimulus `at_s`, `reason` and `clips`, how many were left out.

    Raises
    ------
    UserError
        If none is left.
    """
    ends = clips["start_s"] + clips["duration_s"]
    broken = clips["stimulus"].isin(breaks)
    lost = broken & (ends > clips["stimulus"].map(lengths) + _EPSILON)
    missing = {}
    for stimulus, found in breaks.items():
        count = int((lost & (clips["stimulus"] == stimulus)).sum())
        missing[stimulus] = {"at_s": found.at_s, "reason": found.reason, "clips": count}
        log.warning(
            "'%s' is damaged: it breaks at second %.1f (%s); %d clips that need what comes after are left out",
            *(stimulus, found.at_s, found.reason, count),
        )
    if lost.all():
        told = ", ".join(f"'{name}' at second {found.at_s:.1f}" for name, found in breaks.items())
        raise UserError(
            f"No clip is left: all need seconds that damaged films lack ({told} breaks); repair the films, or make "
            "clips.duration_s shorter."
        )
    clips = clips[~lost].reset_index(drop=True)
    clips["repeat"] = clips.groupby(["subject", "clip_id"]).cumcount()
    return clips, missing


def shorter_than_shown(presentations: pd.DataFrame, lengths: Mapping[str, float]) -> dict[str, dict]:
    """Find films that last less long than the events say they were shown, and say so.

    That is how a wrong file, a wrong rate, or a film that was shown in a loop looks.

    Parameters
    ----------
    presentations : DataFrame
        Rows of ``presentations.tsv``.
    lengths : mapping of str to float
        Seconds that films have (broken ones: that they should have).

    Returns
    -------
    dict of str to dict
        For every such stimulus `lasts_s`, `shown_to_s` (its last second by the events) and `presentations`, how many go past its end.
    """
    ends = presentations["offset"] + presentations["duration"]
    past = ends > presentations["stimulus"].map(lengths) + _ROUNDING_S
    found = {
        str(stimulus): {
            "lasts_s": float(lengths[stimulus]),
            "shown_to_s": float(group.max()),
            "presentations": len(group),
        }
        for stimulus, group in ends[past].groupby(presentations["stimulus"][past])
    }
    if found:
        told = "; ".join(
            f"'{name}' lasts {item['lasts_s']:.1f} s and is shown to second {item['shown_to_s']:.1f}"
            for name, item in list(found.items())[:_MOST_NAMED]
        )
        log.warning(
            "%d of %d films are shorter than the events say (%s%s): nothing after their ends becomes a clip; check that these are "
            "the films that were shown",
            *(
                len(found),
                presentations["stimulus"].nunique(),
                told,
                "; ..." if len(found) > _MOST_NAMED else "",
            ),
        )
    return found


def without_clips(presentations: pd.DataFrame, clips: pd.DataFrame) -> list[str]:
    """Stimuli that were shown and gave no usable clip; the log names them."""
    shown = presentations["stimulus"].drop_duplicates()
    lost = sorted(shown[~shown.isin(clips["stimulus"])].astype(str))
    if lost:
        log.warning(
            "%d of %d stimuli give no clip (%s%s): they are too short for clips.duration_s, or nothing usable was recorded",
            *(
                len(lost),
                len(shown),
                ", ".join(lost[:_MOST_NAMED]),
                ", ..." if len(lost) > _MOST_NAMED else "",
            ),
        )
    return lost
