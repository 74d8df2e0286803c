"""When each volume was acquired, on the clock of ``events.tsv``; docs/timing.md explains the rules.

What fMRIPrep writes decides them: since 20.2.4 and 21.0 the sidecar of a preprocessed image has
``SliceTimingCorrected``, and, if true, ``StartTime`` = first + fraction·(last − first) slice time, with the fraction of
``--slice-time-ref`` (half unless given). Before, it had neither, though slices were corrected to the same moment.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.bids.derivatives import dataset_root
from neuroalign.bids.metadata import sidecar
from neuroalign.bids.raw_run import RawRun, find_raw_run
from neuroalign.bids.repetition import TOLERANCE_S, agreed_tr, header_timing, number
from neuroalign.config.fmri import Timing
from neuroalign.errors import UserError
from neuroalign.fmri.acquisition import acquisition_s, check_volume_timing, raw_slice_times

logger = logging.getLogger(__name__)
# A start later than this is believed only if the raw run or the configuration confirms it: it may be in milliseconds.
_LATE_START_S = 30.0
# More volumes than this are not dropped as dummies: another reason is likelier, and a person should say which.
_MOST_DISCARDED = 20
# Here early versions of XCP-D, and giga_connectome since 0.6, write how many volumes they dropped at the start.
_DROPPED = ("dummy vols", "NumberOfVolumesDiscardedByNonsteadyStatesDetector")


@dataclass(frozen=True)
class Clock:
    """The clock of one run.

    Attributes
    ----------
    times : float64 array of shape (volumes,)
        Seconds at the middle of each volume's acquisition, on the clock of ``events.tsv``.
    tr : float
        Repetition time, seconds.
    discarded : int
        Volumes of the raw run before the first row.
    notes : tuple of str
        Disagreements and assumptions, one sentence each.
    """

    times: np.ndarray
    tr: float
    discarded: int = 0
    notes: tuple[str, ...] = ()


def run_clock(
    n_volumes: int,
    metadata: Mapping[str, Any],
    raw: RawRun | None,
    config: Timing,
    name: str,
    *,
    header: tuple[float | None, float] = (None, 0.0),
    gapless: bool = True,
) -> Clock:
    """The clock of a run from everything that is known about it; disagreements are logged and returned.

    Parameters
    ----------
    n_volumes : int
        Rows of the image or table, censored ones included.
    metadata : mapping
        Sidecar of the preprocessed image or table.
    raw : RawRun or None
        The raw run behind it.
    config : Timing
        Section `fmri.timing`.
    name : str
        The file, for messages.
    header : (float or None, float)
        Repetition time and ``toffset`` of the image's header in seconds, see `header_timing`.
    gapless : bool
        Whether rows can be missing at the ends only. If not, rows that nothing accounts for are not taken to be
        missing at the start: censored ones may have been removed anywhere.

    Returns
    -------
    Clock

    Raises
    ------
    UserError
        If a number is no time in seconds, volumes are spaced irregularly, or the number of volumes cannot be
        explained.
    """
    before = dict(raw.metadata) if raw is not None else {}
    notes: list[str] = []
    tr = agreed_tr(metadata, before, header[0], name, notes)
    first = _first_volume(metadata, before, tr, name, notes)
    if header[1] and abs(header[1] - first) > TOLERANCE_S:
        notes.append(
            f"toffset is {header[1]:g} s in the header, but sidecars put the first volume at {first:g} s; they are used."
        )
    check_volume_timing(metadata, before, n_volumes, name, notes)
    available = raw.volumes if raw is not None else None
    discarded, first = _discarded(n_volumes, available, first, tr, metadata, config, name, notes, gapless)
    gone = [before.get(f"NumberOfVolumesDiscardedBy{who}") for who in ("User", "Scanner")]
    if any(isinstance(n, (int, float)) and n > 0 for n in gone):
        logger.info(
            "%s: volumes were discarded before the first stored one; onsets count from the first stored volume (BIDS), "
            "so nothing is shifted but by fmri.timing.onset_shift_s (%g s).",
            name,
            config.onset_shift_s,
        )
    for note in notes:
        logger.warning("%s: %s", name, note)
    times = first + config.onset_shift_s + tr * np.arange(n_volumes, dtype=np.float64)
    return Clock(times, tr, discarded, tuple(notes))


def image_clock(row: Mapping[str, Any], config: Timing, bids_dir: str | os.PathLike) -> Clock:
    """`run_clock` of a preprocessed image, of which only the header is read.

    Parameters
    ----------
    row : mapping
        A row of ``index/runs.tsv``: `run_id`, `bold` (the preprocessed image), and `raw_volumes`.
    config : Timing
        Section `fmri.timing`.
    bids_dir : path
        Root of the raw dataset.
    """
    import nibabel

    path = row["bold"]
    image = nibabel.load(path)
    metadata = dict(sidecar(path, dataset_root(path)))
    raw = find_raw_run(row["run_id"], bids_dir, row.get("raw_volumes"))
    return run_clock(image.shape[3], metadata, raw, config, Path(path).name, header=header_timing(image))


def unsteady(table: pd.DataFrame | None, n_volumes: int, config: Timing, discarded: int = 0) -> np.ndarray:
    """Volumes at the start that are never used.

    Parameters
    ----------
    table : DataFrame or None
        The confounds, whose ``non_steady_state_outlier*`` columns count unless `dummy_scans` is set.
    n_volumes : int
    config : Timing
    discarded : int
        Volumes that are missing before the first row: `dummy_scans` counts them, too.

    Returns
    -------
    bool array of shape (n_volumes,)
    """
    flags = np.zeros(n_volumes, bool)
    if config.dummy_scans is not None:
        flags[: max(0, config.dummy_scans - discarded)] = True
    elif table is not None:
        columns = [c for c in table if str(c).startswith("non_steady_state_outlier")]
        flags |= (table[columns] > 0).any(axis=1).to_numpy()
    return flags


# --- the first volume -----------------------------------------------------------------------------------------


def _first_volume(
    metadata: Mapping[str, Any], raw: Mapping[str, Any], tr: float, name: str, notes: list[str]
) -> float:
    """The middle of the first row, in seconds after the start of the raw run."""
    slices = raw_slice_times(raw, tr, notes)
    corrected = metadata.get("SliceTimingCorrected")
    half = acquisition_s(metadata, raw, slices, tr, name, notes) / 2
    if metadata.get("StartTime") is None:
        if corrected is False or (corrected is None and slices is None):
            return half
        if slices is None:
            notes.append(
                "SliceTimingCorrected is true without StartTime; the middle of the acquisition is assumed."
            )
            return half
        if corrected:
            notes.append(
                "SliceTimingCorrected is true without StartTime; half-way between the slices is assumed."
            )
        # Old versions of fMRIPrep say nothing and correct to this moment; uncorrected volumes are half a slice later.
        return float(slices.min() + slices.max()) / 2
    start = number(metadata, "StartTime", name)
    if corrected is False:
        if start:
            notes.append(
                f"StartTime is {start:g} s, but SliceTimingCorrected is false; the first volume *begins* there."
            )
        return start + half
    within = (start + TOLERANCE_S) % tr - TOLERANCE_S
    if slices is not None and not slices.min() - 2 * TOLERANCE_S <= within <= slices.max() + TOLERANCE_S:
        notes.append(
            f"StartTime is {start:g} s, {within:g} s into a repetition, but the raw run's slices are acquired from "
            f"{slices.min():g} to {slices.max():g} s; StartTime is used."
        )
    return start


# --- volumes that are missing at the start --------------------------------------------------------------------


def _discarded(
    n_volumes: int,
    available: int | None,
    first: float,
    tr: float,
    metadata: Mapping[str, Any],
    config: Timing,
    name: str,
    notes: list[str],
    gapless: bool,
) -> tuple[int, float]:
    """How many raw volumes precede the first row, and the time of that row."""
    lost = None if available is None else available - n_volumes
    if lost is not None and lost < 0:
        raise UserError(
            f"{name} has {n_volumes} volumes, but its raw run has {available}: both must come from the same run."
        )
    start = metadata.get("StartTime") or 0.0
    implied = max(0, math.floor((start + TOLERANCE_S) / tr))
    within = first - implied * tr
    if config.discarded_volumes is not None:
        count = config.discarded_volumes
        if implied not in (0, count):
            notes.append(
                f"StartTime says that {implied} volumes are missing at the start; fmri.timing.discarded_volumes "
                f"({count}) is used."
            )
    elif implied:
        count = implied
        if count * tr > _LATE_START_S and (lost is None or lost < count):
            raise UserError(
                f"{name}: StartTime puts the first volume {first:g} s into the run; BIDS counts in seconds, so divide it "
                "by 1000 if it is in milliseconds, or set fmri.timing.discarded_volumes if so much was cut off."
            )
        notes.append(f"StartTime is beyond the first repetition: {count} volumes are missing at the start.")
    elif told := [key for key in _DROPPED if metadata.get(key) is not None]:
        count = int(number(metadata, told[0], name))
        if count:
            notes.append(f"the sidecar says that {count} volumes were dropped at the start.")
    elif lost and gapless:
        if lost > _MOST_DISCARDED:
            raise UserError(
                f"{name} has {n_volumes} volumes, its raw run {available}; say with fmri.timing.discarded_volumes how many "
                "of those that are missing were dropped at the start."
            )
        count = lost
        notes.append(
            f"{n_volumes} volumes of {available} are there: {lost} are taken to be missing at the start "
            "(fmri.timing.discarded_volumes says otherwise)."
        )
    else:
        count = 0
    if lost is not None and count > lost:
        raise UserError(
            f"{name}: {count} volumes should be missing at the start, but it has {n_volumes} of the raw run's "
            f"{available}; correct fmri.timing.discarded_volumes, or StartTime (seconds) in the sidecar."
        )
    if lost is not None and count < lost:
        if not gapless and config.discarded_volumes is None:
            raise UserError(
                f"{name} has {n_volumes} of the {available} volumes of its raw run, and nothing tells which are missing: "
                "censored ones may have been removed from the middle. Put the *_outliers.tsv of XCP-D beside it, make the "
                "series again with all volumes, or say with fmri.timing.discarded_volumes how many were dropped at the "
                "start if the rest is whole."
            )
        notes.append(f"{lost - count} volumes are missing at the end.")
    return count, within + count * tr
