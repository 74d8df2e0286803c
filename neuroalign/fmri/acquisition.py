"""What sidecars say about the acquisition of volumes: duration, slice times; `bids.repetition` has the rest.

Disagreements go into a list of notes, one sentence each; `fmri.timing` makes the clock of a run from all this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroalign.bids.repetition import TOLERANCE_S, number, numbers


def acquisition_s(
    metadata: Mapping[str, Any],
    raw: Mapping[str, Any],
    slices: np.ndarray | None,
    tr: float,
    name: str,
    notes: list[str],
) -> float:
    """How long one volume takes, seconds: less than `tr` for sparse acquisition.

    The raw run's word comes first. fMRIPrep derives ``DelayTime`` from the gap between the first two slice times,
    which is 0 for multiband, so that its value is one slice too long there.
    """
    for source in (raw, metadata):
        if source.get("DelayTime") is not None and (source is raw or slices is None):
            delay = number(source, "DelayTime", name)
            if 0 <= delay < tr:
                return tr - delay
            notes.append(f"DelayTime is {delay:g} s with a repetition time of {tr:g} s; it is ignored.")
        if source.get("AcquisitionDuration") is not None:
            duration = number(source, "AcquisitionDuration", name)
            if 0 < duration <= tr + TOLERANCE_S:
                return min(duration, tr)
            notes.append(
                f"AcquisitionDuration is {duration:g} s with a repetition time of {tr:g} s; it is ignored."
            )
    if slices is not None:
        distinct = np.unique(np.round(slices, 6))
        return float(min(tr, distinct[-1] + np.median(np.diff(distinct))))
    return tr


def raw_slice_times(raw: Mapping[str, Any], tr: float, notes: list[str]) -> np.ndarray | None:
    """``SliceTiming`` of a raw run, seconds; None if there is none, it is the same for all, or it is impossible."""
    listed = raw.get("SliceTiming")
    if not isinstance(listed, (list, tuple)) or len(listed) < 2:
        return None
    try:
        times = np.asarray(listed, float)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(times).all() or times.min() < 0 or times.max() >= tr + TOLERANCE_S:
        notes.append(
            f"SliceTiming of the raw run lies outside the repetition time of {tr:g} s; it is ignored."
        )
        return None
    return times if np.ptp(times) > 1e-6 else None


def check_volume_timing(
    metadata: Mapping[str, Any], raw: Mapping[str, Any], n_volumes: int, name: str, notes: list[str]
) -> None:
    """Note a ``VolumeTiming`` that does not fit the volumes or does not begin with the first.

    Raises
    ------
    UserError
        If it is no list of seconds.
    """
    source = metadata if metadata.get("VolumeTiming") is not None else raw
    if source.get("VolumeTiming") is None:
        return
    listed = numbers(source, "VolumeTiming", name)
    if len(listed) != n_volumes:
        notes.append(f"VolumeTiming has {len(listed)} entries for {n_volumes} volumes.")
    if listed[0]:
        notes.append(
            f"VolumeTiming begins at {listed[0]:g} s, but onsets count from the first stored volume (BIDS); set "
            "fmri.timing.onset_shift_s if yours do not."
        )
