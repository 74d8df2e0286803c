"""Seconds that damaged films lack: nothing that needs them becomes a clip, and what that costs is told.

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


def read_breaks(records: Mapping[str, Path]) -> dict[str, Break]:
    """The breaks of the films that have one, from the records of the normalise stage by stimulus."""
    found = {}
    for stimulus, path in records.items():
        record = read_json(path)
        if damage := record.get("damage"):
            kept, claimed = record["mezzanine"]["duration_s"], record["source"]["end_s"]
            found[stimulus] = Break(damage["at_s"], damage["reason"], kept, claimed)
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
