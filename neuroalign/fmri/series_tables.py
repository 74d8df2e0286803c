"""Reading one run of regional series from a table or an HDF5 file; docs/sources/timeseries.md lists the formats.

Only the file is read here: which volumes count and when they were acquired is decided in `fmri.timeseries`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neuroalign.bids.series_files import hdf5_series, own_times, said, same_atlas, with_step
from neuroalign.errors import UserError
from neuroalign.io import open_hdf5, read_strings, require

logger = logging.getLogger(__name__)
_INDEX_NAMES = (
    "",
    "index",
    "frame",
    "frames",
    "volume",
    "volumes",
    "time",
    "times",
    "t",
    "tr",
    "scan",
    "timepoint",
)
_MISSING = ("", "n/a", "na", "nan")


@dataclass
class Table:
    """Series as they are in a file.

    Attributes
    ----------
    values : float64 array of shape (rows, columns)
        NaN where missing.
    labels : list of str, list of int, or None
        Region names, region numbers (looked up in `fmri.atlas.labels`), or None: regions by position.
    times : float64 array of shape (rows,) or None
        The file's own volume times, seconds.
    keep : bool array of shape (rows,) or None
        The file's own censoring.
    metadata : dict
        What the file itself says, in the words of a sidecar (``RepetitionTime``); also ``Atlas``, ``Space``.
    levels : dict of str to list of str
        Level → its labels, for a ROI series file of this package; else empty.
    """

    values: np.ndarray
    labels: list[str] | list[int] | None = None
    times: np.ndarray | None = None
    keep: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    levels: dict[str, list[str]] = field(default_factory=dict)


def read_table(
    path: str | os.PathLike, entities: Mapping[str, str], atlas: str | None, *, glance: int | None = None
) -> Table:
    """Read the series of one run.

    Parameters
    ----------
    path : path
        TSV (comma or blanks are understood, too) or HDF5.
    entities : mapping of str to str
        Of the run, to find it in a file of several runs (giga_connectome up to 0.4).
    atlas : str or None
        `fmri.atlas.name`, to choose among several in one file.
    glance : int, optional
        Read only so many rows, and leave the others NaN: enough for checks of columns and clock.

    Raises
    ------
    UserError
        If the file is missing, unreadable, holds text, or has no such run.
    """
    if Path(path).suffix in (".h5", ".hdf5"):
        return _read_hdf5(path, entities, atlas, glance)
    return read_text(path, glance)


# --- tables of text -------------------------------------------------------------------------------------------


def table_header(path: Path) -> tuple[list[str] | None, str]:
    """The names of the columns, or None for a table without a header; and what separates its columns.

    A first line of numbers is a header only if they are increasing integers: positions or region numbers.
    """
    require(path)
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line.rstrip("\r\n") for line in lines if line.strip()), "")
    separator = "\t" if "\t" in first else "," if "," in first else "\t"
    names = [name.strip().strip('"') for name in first.split(separator)]
    if separator == "\t" and len(names) == 1 and all(_is_number(v) for v in first.split()):
        separator, names = r"\s+", first.split()
    if not all(_is_number(name) or name.lower() in _MISSING for name in names):
        return names, separator
    numbers = [int(n) for n in names if re.fullmatch(r"\d+", n)]
    increasing = 1 < len(numbers) == len(names) and all(a < b for a, b in pairwise(numbers))
    return (names if increasing else None), separator


def read_text(path: str | os.PathLike, glance: int | None = None) -> Table:
    """Read a table of text; `glance` as in `read_table`."""
    path = Path(path)
    names, separator = table_header(path)
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            header=0 if names is not None else None,
            nrows=glance,
            na_values=["n/a"],
            skipinitialspace=True,
            encoding="utf-8-sig",
            engine="c",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable table ({error}).") from error
    if len(table) < 2:
        raise UserError(f"{path} has {len(table)} rows; a time series needs one row per volume.")
    table = _without_index(table, names, path.name)
    _refuse_regions_in_rows(table, path)
    labels: list[str] | list[int] | None = None
    if names is not None:
        labels = names[-table.shape[1] :]  # pandas renames repeated ones
        if all(re.fullmatch(r"\d+", v) for v in labels):
            numbers = [int(v) for v in labels]
            by_position = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
            labels = None if by_position else numbers
    values = _numeric(table, path)
    if glance is not None:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            rows = sum(1 for line in lines if line.strip()) - (names is not None)
        values = _padded(values, rows)
    return Table(values, labels)


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    """Values with rows of NaN up to a number of rows."""
    out = np.full((max(rows, len(values)), values.shape[1]), np.nan)
    out[: len(values)] = values
    return out


def _without_index(table: pd.DataFrame, names: list[str] | None, name: str) -> pd.DataFrame:
    """The table without a first column that counts or times the volumes."""
    column = table.iloc[:, 0]
    if table.shape[1] < 2 or not pd.api.types.is_numeric_dtype(column) or column.isna().any():
        return table
    steps = np.diff(column.to_numpy(float))
    regular = steps.size > 0 and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)
    header = "" if names is None else re.sub(r"^unnamed: ?\d+$", "", str(table.columns[0]).strip().lower())
    if names is None:
        counts = regular and steps[0] == 1 and column.iloc[0] in (0, 1)
    else:
        counts = regular and header in _INDEX_NAMES
    if not counts:
        return table
    logger.info("%s: the first column counts or times the volumes and is left out.", name)
    return table.iloc[:, 1:]


def _refuse_regions_in_rows(table: pd.DataFrame, path: Path) -> None:
    first = table.iloc[:, 0]
    text = first.dropna().astype(str)
    is_text = not pd.api.types.is_numeric_dtype(first) and not text.map(_is_number).any()
    if is_text and text.is_unique and all(pd.api.types.is_numeric_dtype(t) for t in table.dtypes.iloc[1:]):
        raise UserError(
            f"{path} names its rows ('{text.iloc[0]}', …): it seems to hold one region per row; transpose it, one row per "
            "volume and one column per region."
        )


def _numeric(table: pd.DataFrame, path: Path) -> np.ndarray:
    try:
        values = table.to_numpy(np.float64)
    except (ValueError, TypeError):
        for column in table:
            numbers = pd.to_numeric(table[column], errors="coerce")
            wrong = numbers.isna() & table[column].notna()
            if wrong.any():
                row = int(np.argmax(wrong.to_numpy()))
                raise UserError(
                    f"{path} holds text among its series ('{table[column].iloc[row]}' in column '{column}', row {row + 1}); "
                    "every value must be a number or n/a."
                ) from None
        raise
    values[~np.isfinite(values)] = np.nan
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- HDF5 -----------------------------------------------------------------------------------------------------


def _read_hdf5(
    path: str | os.PathLike, entities: Mapping[str, str], atlas: str | None, glance: int | None
) -> Table:
    with open_hdf5(path) as file:
        try:
            if "levels" in file:
                return _roi_series(file, path, glance)
            if "data" in file:
                return _plain(file, path, glance)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} does not hold series as docs/sources/timeseries.md describes ({error})."
            ) from error
        return _collection(file, path, entities, atlas, glance)


def _plain(file: h5py.File, path: str | os.PathLike, glance: int | None) -> Table:
    values = _matrix(file["data"], path, glance)
    labels = read_strings(file["labels"]) if "labels" in file else None
    if labels is not None and len(labels) != values.shape[1]:
        swapped = "; it seems to hold one region per row: transpose it" if len(labels) == len(values) else ""
        raise UserError(
            f"{path}: /data has {values.shape[1]} columns, but /labels {len(labels)} entries{swapped}."
        )
    times, keep = _own_clock(file, len(values), path)
    return Table(values, labels, times, keep, with_step(said(file.attrs, file["data"].attrs), times))


def _roi_series(file: h5py.File, path: str | os.PathLike, glance: int | None) -> Table:
    group = file["levels"]
    names = [str(n) for n in group.attrs.get("order", list(group))]
    parts = {name: _matrix(group[name]["data"], path, glance) for name in names}
    levels = {name: read_strings(group[name]["unit_label"]) for name in names}
    values = np.concatenate(list(parts.values()), axis=1)
    labels = [label for own in levels.values() for label in own]
    times, keep = _own_clock(file, len(values), path)
    return Table(values, labels, times, keep, with_step(said(file.attrs), times), levels)


def _collection(
    file: h5py.File,
    path: str | os.PathLike,
    entities: Mapping[str, str],
    atlas: str | None,
    glance: int | None,
) -> Table:
    """giga_connectome up to 0.4: one dataset per run and atlas, named like a BIDS file."""
    found = [item for item in hdf5_series(file) if item.belongs_to(entities)]
    if len(found) > 1 and atlas:
        found = [item for item in found if same_atlas(item.atlas, atlas)] or found
    if not found:
        raise UserError(
            f"{path} has neither /data, nor /levels, nor a dataset '…_timeseries' of this run; see docs/formats.md."
        )
    if len(found) > 1:
        raise UserError(
            f"{path} holds series of this run with several atlases ({', '.join(i.atlas for i in found)}); set "
            "fmri.atlas.name to one of them."
        )
    dataset = file[found[0].dataset]
    return Table(
        _matrix(dataset, path, glance), None, metadata=said(dataset.attrs) | {"Atlas": found[0].atlas}
    )


def _matrix(dataset: h5py.Dataset, path: str | os.PathLike, glance: int | None) -> np.ndarray:
    if len(dataset.shape) != 2 or len(dataset) < 2:
        raise UserError(
            f"{path}: {dataset.name} has shape {dataset.shape}; it must be volumes by regions, two volumes at least."
        )
    values = np.asarray(dataset[()] if glance is None else dataset[:glance], np.float64)
    values = values if glance is None else _padded(values, len(dataset))
    values[~np.isfinite(values)] = np.nan
    return values


def _own_clock(
    file: h5py.File, rows: int, path: str | os.PathLike
) -> tuple[np.ndarray | None, np.ndarray | None]:
    times = own_times(file, path)
    keep = np.asarray(file["keep"][()], bool) if "keep" in file else None
    for name, given in (("times", times), ("keep", keep)):
        if given is not None and given.shape != (rows,):
            raise UserError(f"{path}: /{name} has shape {given.shape}, but there are {rows} volumes.")
    return times, keep
