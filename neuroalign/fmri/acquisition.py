"""What sidecars and headers say about the acquisition of volumes: repetition time, duration, slice times.

Disagreements go into a list of notes, one sentence each; `fmri.timing` makes the clock of a run from all this.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroalign.errors import UserError

logger = logging.getLogger(__name__)
TOLERANCE_S = 0.001
# No whole-brain volume takes longer; a larger number is in milliseconds.
_LONGEST_TR_S = 60.0


def header_timing(image: Any) -> tuple[float | None, float]:
    """Repetition time and ``toffset`` of a NIfTI image in seconds, whatever unit its header counts in.

    A repetition time above a minute is in milliseconds, even where the header says seconds.
    """
    header = image.header
    unit = {"msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 1.0)
    zooms = header.get_zooms()
    tr = float(zooms[3]) * unit if len(zooms) > 3 else 0.0
    if tr > _LONGEST_TR_S:
        tr, unit = tr * 1e-3, unit * 1e-3
    offset = float(header["toffset"]) * unit if "toffset" in header else 0.0
    # The header stores float32; six digits are what it means.
    return (
        float(f"{tr:.6g}") if math.isfinite(tr) and tr > 0 else None,
        float(f"{offset:.6g}") if math.isfinite(offset) else 0.0,
    )


def repetition_time(metadata: Mapping[str, Any], header_tr: float | None, name: str) -> float:
    """The repetition time in seconds, from the sidecar or else the image header; disagreements are logged.

    Parameters
    ----------
    metadata : mapping
        The sidecar, inheritance resolved: ``RepetitionTime``, else ``SamplingFrequency`` or ``VolumeTiming``.
    header_tr : float or None
        Fourth voxel size of the NIfTI header; 0 and 1 are common placeholders.
    name : str
        The file, for messages.

    Raises
    ------
    UserError
        If neither gives a positive number of seconds, or the volumes are spaced irregularly (``VolumeTiming``).
    """
    notes: list[str] = []
    tr = agreed_tr(metadata, {}, header_tr, name, notes)
    for note in notes:
        logger.warning("%s: %s", name, note)
    return tr


def agreed_tr(
    metadata: Mapping[str, Any], raw: Mapping[str, Any], header_tr: float | None, name: str, notes: list[str]
) -> float:
    """As `repetition_time`, with the sidecar of the raw run besides; what disagrees goes into `notes`."""
    tr, before = _sidecar_tr(metadata, name), _sidecar_tr(raw, f"the raw run of {name}")
    in_header = header_tr is not None and np.isfinite(header_tr) and header_tr > 0
    if tr is None and before is None:
        if not in_header:
            raise UserError(
                f"{name}: no RepetitionTime in any sidecar nor in the header; add it to the sidecar."
            )
        notes.append(f"no RepetitionTime in any sidecar; {header_tr:g} s is taken from the header.")
        return float(header_tr)
    if tr is not None and before is not None and abs(tr - before) > TOLERANCE_S:
        notes.append(f"RepetitionTime is {tr:g} s, but {before:g} s in the raw run; the first is used.")
    tr = before if tr is None else tr
    if in_header and abs(tr - header_tr) > TOLERANCE_S:
        notes.append(
            f"RepetitionTime is {tr:g} s in the sidecar and {header_tr:g} s in the header; the sidecar is used."
        )
    return tr


def _sidecar_tr(metadata: Mapping[str, Any], name: str) -> float | None:
    value = metadata.get("RepetitionTime")
    if value is None and metadata.get("SamplingFrequency") is not None:
        # giga_connectome writes only this one.
        frequency = number(metadata, "SamplingFrequency", name)
        if not frequency > 0:
            raise UserError(f"{name}: SamplingFrequency is {frequency:g}; it must be positive (Hz).")
        return float(f"{1 / frequency:.9g}")
    if value is None and metadata.get("VolumeTiming") is not None:
        steps = np.diff(_numbers(metadata, "VolumeTiming", name))
        if steps.size == 0 or np.ptp(steps) > TOLERANCE_S:
            raise UserError(
                f"{name}: VolumeTiming is irregular; only a constant repetition time is supported."
            )
        value = float(np.mean(steps))
    if value is None:
        return None
    try:
        tr = float(value)
    except (TypeError, ValueError):
        tr = -1.0
    if not np.isfinite(tr) or tr <= 0:
        raise UserError(f"{name}: RepetitionTime is {value!r}; it must be positive seconds.")
    if tr > _LONGEST_TR_S:
        raise UserError(f"{name}: RepetitionTime is {tr:g}: BIDS counts in seconds, so divide it by 1000.")
    return tr


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
    metadata: Mapping[str, Any], raw: Mapping[str, Any], n_volumes: int, notes: list[str]
) -> None:
    """Note a ``VolumeTiming`` that does not fit the volumes or does not begin with the first."""
    listed = metadata.get("VolumeTiming", raw.get("VolumeTiming"))
    if listed is None:
        return
    if len(listed) != n_volumes:
        notes.append(f"VolumeTiming has {len(listed)} entries for {n_volumes} volumes.")
    if listed[0]:
        notes.append(
            f"VolumeTiming begins at {listed[0]} s, but onsets count from the first stored volume (BIDS); set "
            "fmri.timing.onset_shift_s if yours do not."
        )


def number(metadata: Mapping[str, Any], key: str, name: str) -> float:
    """A metadata value that must be a finite number."""
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name}: {key} is {value!r}; it must be a number.")
    return float(value)


def _numbers(metadata: Mapping[str, Any], key: str, name: str) -> np.ndarray:
    try:
        values = np.asarray(metadata[key], float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise UserError(f"{name}: {key} must be a list of seconds.")
    return values
