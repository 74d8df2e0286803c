"""When each volume was acquired, on the clock of ``events.tsv``; docs/timing.md explains the rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroalign.errors import UserError

logger = logging.getLogger(__name__)
_TOLERANCE_S = 0.001


def volume_times(
    n_volumes: int,
    tr: float,
    start_time: float | None = None,
    *,
    slice_timing_corrected: bool | None = None,
    delay_time: float = 0.0,
) -> np.ndarray:
    """The middle of each volume's acquisition in seconds; 0 is the start of the first volume.

    Parameters
    ----------
    n_volumes : int
    tr : float
        Repetition time, seconds.
    start_time : float, optional
        ``StartTime`` of the sidecar. fMRIPrep, and this package, write it after slice-timing correction: the
        moment within the first volume to which all slices were moved. Volume i is then at `start_time` + i·`tr`.
    slice_timing_corrected : bool, optional
        ``SliceTimingCorrected`` of the sidecar. An explicit False makes `start_time` the *beginning* of the
        first volume.
    delay_time : float
        ``DelayTime`` of the sidecar: the pause at the end of each repetition (sparse acquisition), seconds.

    Returns
    -------
    array of shape (n_volumes,)
        Float64 seconds, strictly increasing by `tr`.
    """
    if tr <= 0:
        raise ValueError(f"tr must be positive, not {tr}")
    if not 0 <= delay_time < tr:
        raise ValueError(f"delay_time must lie in [0, tr), not {delay_time}")
    first = 0.0 if start_time is None else float(start_time)
    if start_time is None or slice_timing_corrected is False:
        first += (tr - delay_time) / 2
    return first + tr * np.arange(n_volumes, dtype=np.float64)


def repetition_time(metadata: Mapping[str, Any], header_tr: float | None, name: str) -> float:
    """The repetition time in seconds, from the sidecar or else the image header.

    Parameters
    ----------
    metadata : mapping
        The sidecar, inheritance resolved.
    header_tr : float or None
        Fourth voxel size of the NIfTI header; 0 and 1 are common placeholders.
    name : str
        The file, for messages.

    Raises
    ------
    UserError
        If neither gives a positive number, or the volumes are spaced irregularly (``VolumeTiming``).
    """
    tr = metadata.get("RepetitionTime")
    if tr is None and metadata.get("VolumeTiming") is not None:
        steps = np.diff(np.asarray(metadata["VolumeTiming"], float))
        if steps.size == 0 or np.ptp(steps) > _TOLERANCE_S:
            raise UserError(
                f"{name}: VolumeTiming is irregular; only a constant repetition time is supported."
            )
        tr = float(steps[0])
    usable = header_tr is not None and np.isfinite(header_tr) and header_tr > 0
    if tr is None:
        if not usable:
            raise UserError(
                f"{name}: no RepetitionTime in any sidecar nor in the header; add it to the sidecar."
            )
        logger.warning(
            "%s: no RepetitionTime in any sidecar; %g s is taken from the header.", name, header_tr
        )
        return float(header_tr)
    try:
        tr = float(tr)
    except (TypeError, ValueError):
        tr = -1.0
    if not np.isfinite(tr) or tr <= 0:
        raise UserError(
            f"{name}: RepetitionTime is {metadata.get('RepetitionTime')!r}; it must be positive seconds."
        )
    if usable and abs(tr - header_tr) > _TOLERANCE_S:
        logger.warning(
            "%s: RepetitionTime is %g s in the sidecar and %g s in the header; the sidecar is used.",
            name,
            tr,
            header_tr,
        )
    return tr


def times_from_sidecar(n_volumes: int, tr: float, metadata: Mapping[str, Any]) -> np.ndarray:
    """`volume_times` with what a sidecar says (``StartTime``, ``SliceTimingCorrected``, ``DelayTime``)."""
    delay = float(metadata.get("DelayTime") or 0.0)
    return volume_times(
        n_volumes,
        tr,
        metadata.get("StartTime"),
        slice_timing_corrected=metadata.get("SliceTimingCorrected"),
        delay_time=delay if 0 <= delay < tr else 0.0,
    )
