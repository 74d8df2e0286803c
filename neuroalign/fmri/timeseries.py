"""The `timeseries` source: regional series that already exist (XCP-D, giga_connectome, HDF5), one run at a time.

Reading a file is `fmri.series_tables`; here its columns become levels, its rows volumes on the clock of the events.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.bids.derivatives import dataset_root
from neuroalign.bids.metadata import sidecar
from neuroalign.bids.naming import parse_entities, parse_name
from neuroalign.bids.raw_run import RawRun, find_raw_run
from neuroalign.bids.repetition import TOLERANCE_S, agreed_tr, number
from neuroalign.bids.series_files import atlas_label, companions
from neuroalign.config.fmri import Clean, Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels
from neuroalign.fmri.clean import check_kept, interpolate
from neuroalign.fmri.label_table import labels_beside, read_labels
from neuroalign.fmri.qc import RunQc, carpet, head_motion
from neuroalign.fmri.series import RoiSeries
from neuroalign.fmri.series_tables import Table, read_table
from neuroalign.fmri.timing import Clock, run_clock, unsteady
from neuroalign.io import read_tsv

logger = logging.getLogger(__name__)
# Columns of XCP-D's outliers table: what was censored last is what is missing from the series.
_CENSORED_BY = ("interpolation", "denoising", "framewise_displacement", "dvars")
# giga_connectome since 0.6: how many rows scrubbing has removed, from wherever.
_SCRUBBED = "NumberOfVolumesDiscardedByMotionScrubbing"


def extract_timeseries(
    row: Mapping[str, Any], config: Fmri, bids_dir: str | os.PathLike
) -> tuple[RoiSeries, RunQc, dict[str, str]]:
    """The regional series of one run that somebody else has extracted.

    Parameters
    ----------
    row : mapping
        A row of ``index/runs.tsv``; `timeseries` is the file.
    config : Fmri
        Section `fmri`; of `clean` only `standardize` and `fd_threshold_mm` apply.
    bids_dir : path
        Root of the raw dataset, whose sidecars and headers complete what the derivatives say.

    Returns
    -------
    series : RoiSeries
    qc : RunQc
    inputs : dict of str to str
        The files that were read.

    Raises
    ------
    UserError
        If the file is missing or unusable, its columns match no level, or its rows cannot be put on the clock.
    """
    path, name = row.get("timeseries", ""), row["run_id"]
    if not path:
        raise UserError(f"{name}: no time series were found below dataset.derivatives; check its path.")
    entities = parse_entities(name)
    table = read_table(path, entities, config.atlas.name)
    metadata = _metadata(path) | table.metadata
    raw = find_raw_run(name, bids_dir, row.get("raw_volumes"))
    labels, levels, label_file = regions(table, config, path, raw)
    beside = companions(path)
    values, kept, clock = on_the_clock(table, path, raw, config, beside)

    data, assigned, present = sort_into_levels(values, labels, levels, Path(path).name)
    keep = present & kept & ~unsteady(None, len(kept), config.timing, clock.discarded)
    fd, motion = _motion(beside.get("motion"), len(keep))
    if fd is not None and config.clean.fd_threshold_mm is not None:
        keep &= ~(fd > config.clean.fd_threshold_mm)
    check_kept(keep, name)
    quality = RunQc(
        carpet=carpet(np.concatenate(list(data.values()), axis=1)),
        times=clock.times,
        keep=keep,
        fd=fd,
        motion=motion,
        attributes={"timing": "\n".join(clock.notes)},
    )
    series = RoiSeries(
        clean_ready(data, keep, config.clean),
        assigned,
        clock.times,
        keep,
        {
            "tr": clock.tr,
            "atlas": table.metadata.get("Atlas") or atlas_name(path, metadata),
            "space": _space(path, metadata, config),
        },
    )
    inputs = {"timeseries": path} | {k: str(v) for k, v in beside.items()}
    return series, quality, inputs | ({"labels": str(label_file)} if label_file else {})


def _metadata(path: str) -> dict[str, Any]:
    try:
        return dict(sidecar(path, dataset_root(path)))
    except ValueError:
        # A file of several runs has no BIDS name.
        return {}


# --- columns --------------------------------------------------------------------------------------------------


def regions(
    table: Table, config: Fmri, path: str, raw: RawRun
) -> tuple[list[str], Mapping[str, Any], Path | None]:
    """What the columns of a table are.

    Returns
    -------
    labels : list of str
        One per column.
    levels : mapping
        Level → pattern on labels, or → labels where the file has the configured levels.
    source : Path or None
        The label table that was needed, if one was.

    Raises
    ------
    UserError
        If regions have no names, or the label table does not fit.
    """
    columns = table.values.shape[1]
    if table.levels and list(table.levels) == list(config.levels):
        return [str(v) for v in table.labels or ()], table.levels, None
    if table.labels and isinstance(table.labels[0], str):
        repeated = sorted({v for v in table.labels if table.labels.count(v) > 1})
        if repeated:
            raise UserError(
                f"{path} has the region '{repeated[0]}' more than once; every region needs its own name."
            )
        return [str(v) for v in table.labels], config.levels, None
    source = Path(config.atlas.labels) if config.atlas.labels else None
    if source is None and config.atlas.image:
        source = labels_beside(config.atlas.image)
    if source is None:
        raise UserError(
            f"{path} does not name its {columns} regions; set fmri.atlas.labels to a TSV with index and label, a row per "
            "column in this order."
        )
    known = read_labels(source)
    if table.labels is not None:
        unknown = [number for number in table.labels if number not in known]
        if unknown:
            raise UserError(
                f"{path} has region number {unknown[0]}, which {source} does not list (fmri.atlas.labels)."
            )
        return [known[int(number)] for number in table.labels], config.levels, source
    if len(known) != columns:
        rows = len(table.values)
        if rows == len(known) or (raw.volumes is not None and columns == raw.volumes != rows):
            raise UserError(
                f"{path} has {rows} rows and {columns} columns for {len(known)} regions: it seems to hold one region per "
                "row; transpose it."
            )
        raise UserError(
            f"{path} has {columns} columns, but {source} lists {len(known)} regions; use the label table of the atlas "
            "that the series were made with (fmri.atlas.labels)."
        )
    return list(known.values()), config.levels, source


def sort_into_levels(
    values: np.ndarray, labels: list[str], levels: Mapping[str, Any], name: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], np.ndarray]:
    """Columns as levels, and the rows that are there.

    Parameters
    ----------
    values : float64 array of shape (volumes, regions)
        NaN where missing.
    labels : list of str
    levels : mapping of str to str, or of str to list of str
        Level → pattern on region labels, or the labels themselves.
    name : str
        The file, for messages.

    Returns
    -------
    levels : dict of str to float32 array of shape (volumes, units)
        A region that is missing anywhere else (poor coverage) is 0.
    unit_labels : dict of str to list of str
    present : bool array of shape (volumes,)
        False where a whole row is missing (censored); such rows are interpolated.

    Raises
    ------
    UserError
        If levels do not match the columns, or most of a level is missing.
    """
    chosen = all(isinstance(v, list) for v in levels.values())
    assigned = {k: list(v) for k, v in levels.items()} if chosen else assign_levels(labels, levels)
    wanted = [label for members in assigned.values() for label in members]
    place = {label: column for column, label in enumerate(labels)}
    values = values[:, [place[label] for label in wanted]]
    present = ~np.isnan(values).all(axis=1)
    if not present.any():
        raise UserError(f"{name} holds no values; make it again or leave the run out (dataset.filters).")
    # A gap makes the range NaN, which is not above zero either.
    lost = ~(np.ptp(values[present], axis=0) > 0)
    values = interpolate(np.where(lost, 0.0, values[present]), present)
    report_dead(assigned, {label for label, gone in zip(wanted, lost, strict=True) if gone}, name)
    series = dict(zip(wanted, values.T, strict=True))
    data = {
        level: np.stack([series[label] for label in members], axis=1).astype(np.float32)
        for level, members in assigned.items()
    }
    return data, assigned, present


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


def clean_ready(data: Mapping[str, np.ndarray], keep: np.ndarray, config: Clean) -> dict[str, np.ndarray]:
    """Levels with censored rows interpolated from kept ones, scaled if `standardize` says so.

    Parameters
    ----------
    data : mapping of str to array of shape (volumes, units)
    keep : bool array of shape (volumes,)
    config : Clean

    Returns
    -------
    dict of str to float32 array of shape (volumes, units)
        Z-scores over the kept volumes; constant units become 0.
    """
    out = {}
    for level, values in data.items():
        values = interpolate(values[keep].astype(np.float64), keep)
        if config.standardize:
            values = values - values[keep].mean(axis=0)
            spread = values[keep].std(axis=0, ddof=1)
            values = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
        out[level] = values.astype(np.float32)
    return out


# --- rows -----------------------------------------------------------------------------------------------------


def on_the_clock(
    table: Table, path: str, raw: RawRun, config: Fmri, beside: Mapping[str, Path]
) -> tuple[np.ndarray, np.ndarray, Clock]:
    """Rows where they belong in time.

    Parameters
    ----------
    table : Table
    path : str
        Its file.
    raw : RawRun
    config : Fmri
    beside : mapping of str to Path
        The tables beside it (`bids.series_files.companions`).

    Returns
    -------
    values : float64 array of shape (volumes, columns)
        NaN in rows that were removed.
    kept : bool array of shape (volumes,)
        False where the file or the outliers table censors.
    clock : Clock

    Raises
    ------
    UserError
        If the number of rows cannot be explained, or a time is no time in seconds.
    """
    outliers = beside.get("outliers") if table.times is None else None
    values, kept = _rows_on_the_clock(table, outliers, Path(path).name)
    metadata = _metadata(path) | table.metadata
    return values, kept, _clock(table, len(kept), metadata, raw, config, path, gapless=outliers is not None)


def _rows_on_the_clock(table: Table, outliers: Path | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One row per volume, missing where it was removed; and which volumes are not censored.

    XCP-D since 0.4 removes censored volumes (mode `linc`) or interpolates them (mode `abcd`); its outliers table has a
    row for every volume but for the dropped dummies, 1 where censored.
    """
    values, keep = table.values, table.keep
    keep = np.ones(len(values), bool) if keep is None else keep.copy()
    if outliers is None:
        return values, keep
    flags = read_tsv(outliers)
    flags = flags[[c for c in flags if not c.startswith("random_") and not c.startswith("exact_")]]
    flags = flags.apply(pd.to_numeric, errors="coerce").fillna(0) > 0
    ordered = [c for c in _CENSORED_BY if c in flags] + [c for c in flags if c not in _CENSORED_BY]
    if len(flags) == len(values):
        return values, keep & ~flags.any(axis=1).to_numpy()
    for column in ordered:
        there = ~flags[column].to_numpy()
        if there.sum() == len(values):
            whole = np.full((len(flags), values.shape[1]), np.nan)
            whole[there] = values
            whole_keep = there.copy()
            whole_keep[there] &= keep
            logger.info("%s: %d removed volumes are put back as gaps.", name, (~there).sum())
            return whole, whole_keep & ~flags.any(axis=1).to_numpy()
    raise UserError(
        f"{name} has {len(values)} rows, but {outliers.name} lists {len(flags)} volumes, "
        f"{int(flags.any(axis=1).sum())} of them censored: these are not of one run; make both again."
    )


def _clock(
    table: Table,
    rows: int,
    metadata: dict[str, Any],
    raw: RawRun,
    config: Fmri,
    path: str,
    *,
    gapless: bool,
) -> Clock:
    """The clock of `rows` volumes; `gapless` if what was censored has been put back."""
    name = Path(path).name
    if table.times is not None:
        notes: list[str] = []
        tr = agreed_tr(metadata, raw.metadata, None, name, notes)
        before = max(0, math.floor((table.times[0] + TOLERANCE_S) / tr))
        return Clock(table.times + config.timing.onset_shift_s, tr, before, tuple(notes))
    scrubbed = None if metadata.get(_SCRUBBED) is None else number(metadata, _SCRUBBED, name)
    if scrubbed:
        raise UserError(
            f"{name} lacks {scrubbed:g} volumes that were scrubbed, and nothing tells which; make the series again with a "
            "strategy that keeps all volumes."
        )
    return run_clock(rows, metadata, raw, config.timing, name, gapless=gapless or scrubbed is not None)


def _motion(path: Path | None, volumes: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Framewise displacement (mm) and motion parameters of XCP-D's motion table."""
    if path is None:
        return None, None
    table = read_tsv(path)
    if len(table) != volumes:
        logger.warning("%s has %d rows for %d volumes and is not used.", path.name, len(table), volumes)
        return None, None
    return head_motion(table)


# --- names ----------------------------------------------------------------------------------------------------


def atlas_name(path: str | os.PathLike, metadata: Mapping[str, Any]) -> str:
    """The atlas a table of series was made with: by its name as the index has it, else by its metadata."""
    try:
        label = atlas_label(parse_name(Path(path).name))
    except ValueError:
        # A file of several runs has no BIDS name.
        label = ""
    return label or str(metadata.get("Atlas", ""))


def _space(path: str, metadata: Mapping[str, Any], config: Fmri) -> str:
    found = re.search(r"_space-([A-Za-z0-9]+)", Path(path).name)
    return found[1] if found else str(metadata.get("Space", config.space))
