"""Regional time series that already exist (XCP-D): one TSV per run, a column per region."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels
from neuroalign.fmri.clean import interpolate
from neuroalign.io import read_tsv

logger = logging.getLogger(__name__)


def read_timeseries(
    path: str | os.PathLike, levels: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], np.ndarray]:
    """Read a table of regional series and sort its columns into levels.

    Parameters
    ----------
    path : path
        TSV with a header of region labels; one row per volume.
    levels : mapping of str to str
        Level → pattern on region labels.

    Returns
    -------
    levels : dict of str to float32 array of shape (volumes, units)
        As they are in the file; a region that is missing throughout (poor coverage) is 0.
    unit_labels : dict of str to list of str
    keep : bool array of shape (volumes,)
        False where a whole row is missing (censored); such rows are interpolated.

    Raises
    ------
    UserError
        If the table is unreadable, is not numeric, levels do not match its columns, or most of a level is missing.
    """
    table = read_tsv(path)
    assigned = assign_levels([str(c) for c in table.columns], levels)
    wanted = [label for labels in assigned.values() for label in labels]
    try:
        values = table[wanted].to_numpy(np.float64)
    except ValueError as error:
        raise UserError(
            f"{path} holds text among its series ({error}); every value must be a number or n/a."
        ) from error
    if len(values) < 2:
        raise UserError(f"{path} has {len(values)} rows; a time series needs one row per volume.")
    values[~np.isfinite(values)] = np.nan
    keep = ~np.isnan(values).all(axis=1)
    if not keep.any():
        raise UserError(f"{path} holds no values; make it again or leave the run out (dataset.filters).")
    # A gap makes the range NaN, which is not above zero either.
    lost = ~(np.ptp(values[keep], axis=0) > 0)
    values = interpolate(np.where(lost, 0.0, values[keep]), keep)
    series = dict(zip(wanted, values.T, strict=True))
    dead = {label for label, gone in zip(wanted, lost, strict=True) if gone}
    report_dead(assigned, dead, Path(path).name)
    data = {
        level: np.stack([series[label] for label in labels], axis=1).astype(np.float32)
        for level, labels in assigned.items()
    }
    return data, assigned, keep


def report_dead(assigned: Mapping[str, list[str]], dead: set[str], name: str) -> None:
    """Warn of units without signal, which are set to 0; refuse a level that has lost more than half of them.

    They are not left out, because columns must mean the same in every run of a subject.

    Raises
    ------
    UserError
        If more than half of a level's units have no signal.
    """
    for level, labels in assigned.items():
        gone = [label for label in labels if label in dead]
        if len(gone) > len(labels) / 2:
            raise UserError(
                f"{name}: {len(gone)} of {len(labels)} units of level '{level}' have no usable signal (constant or "
                "missing); check the run's field of view and its alignment, or leave it out (dataset.filters)."
            )
        if gone:
            shown = ", ".join(gone[:5]) + (", …" if len(gone) > 5 else "")
            logger.warning(
                "%s: level '%s': %d units have no usable signal and are 0: %s.", name, level, len(gone), shown
            )


def atlas_name(path: str | os.PathLike, metadata: Mapping[str, Any]) -> str:
    """The atlas a table of series was made with, by its ``atlas-`` or ``seg-`` entity."""
    found = re.search(r"_(?:atlas|seg)-([A-Za-z0-9]+)", Path(path).name)
    return found[1] if found else str(metadata.get("Atlas", ""))
