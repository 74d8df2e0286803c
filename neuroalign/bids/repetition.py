"""The repetition time, and when an image begins: from sidecars and headers, for the index and for the clock alike.

Disagreements go into a list of notes, one sentence each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuroalign.errors import UserError

TOLERANCE_S = 0.001
# No whole-brain volume takes longer; a larger number is in milliseconds.
LONGEST_TR_S = 60.0


def agreed_tr(
    metadata: Mapping[str, Any],
    raw: Mapping[str, Any],
    header_tr: float | None,
    name: str,
    notes: list[str] | None = None,
) -> float:
    """The repetition time of a run in seconds.

    Parameters
    ----------
    metadata : mapping
        The sidecar of the image or table, inheritance resolved: ``RepetitionTime``, else ``SamplingFrequency``, else a
        regular ``VolumeTiming``.
    raw : mapping
        The sidecar of the raw run behind it, asked next; empty if `metadata` is of the raw run itself.
    header_tr : float or None
        What the image's header says (`header_timing`), asked last: 0 and 1 are common placeholders.
    name : str
        The file, for messages.
    notes : list of str, optional
        Takes a sentence for everything that disagrees.

    Raises
    ------
    UserError
        If nothing gives a positive number of seconds, or the volumes are spaced irregularly (``VolumeTiming``).
    """
    notes = [] if notes is None else notes
    in_header = header_tr is not None and np.isfinite(header_tr) and header_tr > 0
    tr, before = sidecar_tr(metadata, name), sidecar_tr(raw, f"the raw run of {name}")
    if tr is None and before is None:
        if not in_header:
            raise UserError(
                f"{name} has no RepetitionTime; add the seconds between volumes to its JSON sidecar."
            )
        notes.append(f"no RepetitionTime in any sidecar; {header_tr:g} s from the header is used.")
        return float(header_tr)
    if tr is not None and before is not None and abs(tr - before) > TOLERANCE_S:
        notes.append(f"RepetitionTime is {tr:g} s, but {before:g} s in the raw run; the first is used.")
    tr = before if tr is None else tr
    if in_header and abs(tr - header_tr) > TOLERANCE_S:
        notes.append(
            f"RepetitionTime is {tr:g} s in the sidecar and {header_tr:g} s in the header; the sidecar is used."
        )
    return tr


def sidecar_tr(metadata: Mapping[str, Any], name: str) -> float | None:
    """The repetition time that one sidecar gives, seconds; None if it does not tell.

    Raises
    ------
    UserError
        As `agreed_tr`.
    """
    value = metadata.get("RepetitionTime")
    if value is None and metadata.get("SamplingFrequency") is not None:
        # giga_connectome writes only this one.
        frequency = number(metadata, "SamplingFrequency", name)
        if not frequency > 0:
            raise UserError(f"{name}: SamplingFrequency is {frequency:g}; it must be positive (Hz).")
        return float(f"{1 / frequency:.9g}")
    if value is None and metadata.get("VolumeTiming") is not None:
        steps = np.diff(numbers(metadata, "VolumeTiming", name))
        if steps.size == 0 or np.ptp(steps) > TOLERANCE_S:
            raise UserError(
                f"{name}: VolumeTiming is irregular; only a constant repetition time is supported."
            )
        value = float(np.mean(steps))
    if value is None:
        return None
    try:
        # HDF5 attributes may be text.
        tr = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        tr = -1.0
    if not np.isfinite(tr) or tr <= 0:
        raise UserError(f"{name}: RepetitionTime is {value!r}; it must be positive seconds.")
    if tr > LONGEST_TR_S:
        raise UserError(f"{name}: RepetitionTime is {tr:g}: BIDS counts in seconds, so divide it by 1000.")
    return tr


def header_timing(image: Any) -> tuple[float | None, float]:
    """Repetition time and ``toffset`` of a NIfTI image in seconds, whatever unit its header counts in.

    A repetition time above a minute is in milliseconds, even where the header says seconds.
    """
    header = image.header
    unit = {"msec": 1e-3, "usec": 1e-6}.get(header.get_xyzt_units()[1], 1.0)
    zooms = header.get_zooms()
    tr = float(zooms[3]) * unit if len(zooms) > 3 else 0.0
    if tr > LONGEST_TR_S:
        tr, unit = tr * 1e-3, unit * 1e-3
    offset = float(header["toffset"]) * unit if "toffset" in header else 0.0
    # The header stores float32; six digits are what it means.
    return (
        float(f"{tr:.6g}") if math.isfinite(tr) and tr > 0 else None,
        float(f"{offset:.6g}") if math.isfinite(offset) else 0.0,
    )


def path_timing(path: str | os.PathLike) -> tuple[int | None, float | None]:
    """Number of volumes and repetition time by the header of an image file; None where it cannot be read or told."""
    if not str(path).endswith((".nii", ".nii.gz")) or not Path(path).is_file():
        return None, None
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
    except (ImageFileError, OSError, EOFError, ValueError):
        return None, None
    return int(image.shape[3]) if len(image.shape) == 4 else None, header_timing(image)[0]


def number(metadata: Mapping[str, Any], key: str, name: str) -> float:
    """A metadata value that must be a finite number."""
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name}: {key} is {value!r}; it must be a number.")
    return float(value)


def numbers(metadata: Mapping[str, Any], key: str, name: str) -> np.ndarray:
    """A metadata value that must be a list of finite numbers, as a float64 array of shape (n,), n > 0."""
    try:
        values = np.asarray(metadata[key], float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise UserError(f"{name}: {key} must be a list of seconds.")
    return values
