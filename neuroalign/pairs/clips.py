"""The clip table: which seconds of which presentation are a clip."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from neuroalign.config.pairs import Clips
from neuroalign.errors import UserError

log = logging.getLogger(__name__)
_ENTITIES = ["run_id", "subject", "session", "task", "run"]


def clip_id(stimulus: str, start_s: float, duration_s: float) -> str:
    """The name of a stimulus content: equal seconds have one name, whoever watched them and when."""
    return f"{stimulus}@{start_s:.3f}+{duration_s:.3f}"


def clip_duration(presentations: pd.DataFrame, config: Clips) -> float:
    """Length of every clip in seconds.

    With ``events``, `duration_s` is the longest a clip may be: where presentations are typically shorter (3-s
    videos), their median length is taken, rounded down to whole steps if they hold any.
    """
    if config.strategy == "fixed":
        return config.duration_s
    typical = presentations["duration"].median()
    if typical > 4 * config.duration_s:
        log.warning(
            "clips.strategy is 'events', so only the first %g s of presentations that typically last %g s are used; "
            "set it to 'fixed' to cut films into clips",
            config.duration_s,
            typical,
        )
    if not np.isfinite(typical) or typical >= config.duration_s:
        return config.duration_s
    steps = int(typical / config.step_s + 1e-6)
    return steps * config.step_s if steps else round(float(typical), 3)


def clip_table(presentations: pd.DataFrame, lengths: Mapping[str, float], config: Clips) -> pd.DataFrame:
    """Cut presentations into clips.

    Parameters
    ----------
    presentations : DataFrame
        Rows of ``presentations.tsv``; a missing duration means "to the end of the stimulus".
    lengths : mapping of str to float
        Seconds of each stimulus that have features.
    config : Clips

    Returns
    -------
    DataFrame
        `clip_id, stimulus, start_s, duration_s, run_id, subject, session, task, run, onset_s, repeat`, in
        order of subject, session, run and onset. With ``fixed``, clips lie on a grid of the *stimulus'* time, so
        that the same content has the same `clip_id` wherever a presentation began.
    """
    duration = clip_duration(presentations, config)
    rows = []
    for presentation in presentations.itertuples():
        length = lengths[presentation.stimulus]
        begin = float(presentation.offset)
        end = min(begin + presentation.duration, length) if np.isfinite(presentation.duration) else length
        # A clip may reach past its presentation by a tenth of its length: events are rounded in real files.
        tolerance = 0.1 * duration
        if config.strategy == "events":
            starts = [begin] if end - begin >= duration - tolerance else []
        else:
            first = int(np.ceil(begin / config.stride_s - 1e-6))
            last = int(np.floor((end - duration + min(tolerance, 0.05)) / config.stride_s + 1e-6))
            starts = [k * config.stride_s for k in range(first, last + 1)]
        entities = {name: getattr(presentation, name) for name in _ENTITIES}
        rows += [
            {
                "clip_id": clip_id(presentation.stimulus, start, duration),
                "stimulus": presentation.stimulus,
                "start_s": start,
                "duration_s": duration,
                **entities,
                "onset_s": float(presentation.onset) + start - begin,
            }
            for start in starts
        ]
    if not rows:
        raise UserError(
            f"No clip of {duration:g} s fits into any of the {len(presentations)} presentations: "
            "set clips.duration_s below the length of the presentations."
        )
    table = pd.DataFrame(rows)
    order = table.assign(run_number=pd.to_numeric(table["run"], errors="coerce"))
    table = table.loc[order.sort_values(["subject", "session", "run_number", "run_id", "onset_s"]).index]
    table["repeat"] = table.groupby(["subject", "clip_id"]).cumcount()
    return table.reset_index(drop=True)
