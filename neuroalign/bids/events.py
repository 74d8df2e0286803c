"""Events tables: which stimulus was shown when.

Rules, in short:

- Every row with a ``stim_file`` is a presentation; ``n/a`` (fixation, oddballs, responses) is skipped.
- ``stim_file`` is relative to the stimuli folder; a leading ``stimuli/`` (as in ``bids::stimuli/…``) is dropped.
- ``duration`` of ``n/a`` or 0 stays missing: the presentation lasts as long as the stimulus.
- ``stim_offset``, an optional column, says how many seconds into the file the presentation begins.
- One row per frame: rows of the same file that follow each other within `FRAME_S` seconds are one presentation.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.errors import UserError, nearest
from neuroalign.io import inside, read_tsv

RUN_COLUMNS = ("run_id", "subject", "session", "task", "run")
PRESENTATION_COLUMNS = (
    *RUN_COLUMNS,
    "onset",
    "duration",
    "stimulus",
    "stimulus_file",
    "offset",
    "trial_type",
)
PRESENTATION_TEXT = (*RUN_COLUMNS, "stimulus", "stimulus_file", "trial_type")

# Rows of the same file closer than this are frames of one presentation (slower than any display of frames,
# faster than any clip).
FRAME_S = 0.25
# How far the film may run ahead of, or behind, the clock from one frame row to the next.
_FRAME_JITTER_S = 0.1


class NoStimFile(UserError):
    """An events table without the column ``stim_file``: often a task that shows no videos."""


def read_events(path: Path) -> pd.DataFrame:
    """Read an ``events.tsv`` as it is.

    Raises
    ------
    UserError
        If the file is missing or is no table.
    """
    return read_tsv(path, text=("stim_file", "trial_type"))


def presentations(
    run: Mapping[str, Any], events: pd.DataFrame, stimuli_dir: str | Path, source: str | Path = ""
) -> pd.DataFrame:
    """Stimulus presentations of one run.

    Parameters
    ----------
    run : mapping
        Row of the run table: `run_id`, `subject`, `session`, `task`, `run`.
    events : DataFrame
        Its events table.
    stimuli_dir : path
        Folder that ``stim_file`` is relative to; files need not exist.
    source : path, optional
        Where the events come from, for messages; default the run's id.

    Returns
    -------
    DataFrame
        `PRESENTATION_COLUMNS`, by onset. `duration` is NaN where the table does not tell (the stimulus'
        length bounds it later). `stimulus` is the id as for this table alone; over many runs, set it by
        `stimulus_ids`, which also keeps ids unique.

    Raises
    ------
    NoStimFile
        If there is no column ``stim_file``.
    UserError
        If ``onset`` is missing or no number, or a stimulus lies outside the folder.
    """
    where = str(source or run["run_id"])
    _check_columns(events, where)
    shown = events[events["stim_file"].fillna("").astype(str).str.strip() != ""]
    table = pd.DataFrame(
        {
            "onset": _numbers(shown, "onset", where, required=True),
            "duration": _numbers(shown, "duration", where),
            "name": [_relative(str(name), stimuli_dir, where) for name in shown["stim_file"]],
            "offset": _numbers(shown, "stim_offset", where).fillna(0.0),
            "trial_type": shown["trial_type"].astype(str) if "trial_type" in shown else "",
        }
    )
    for column in ("duration", "offset"):
        if (table[column] < 0).any():
            line = int(table.index[table[column] < 0][0]) + 2
            raise UserError(f"{where}: {_COLUMN.get(column, column)} is negative in line {line}; correct it.")
    table["duration"] = table["duration"].where(table["duration"] > 0)
    table = _merge_frames(table.sort_values("onset", kind="stable").reset_index(drop=True))
    ids = stimulus_ids(table["name"])
    for column in RUN_COLUMNS:
        table[column] = run[column]
    table["stimulus"] = table["name"].map(ids).astype(object)
    table["stimulus_file"] = [str(Path(stimuli_dir) / name) for name in table["name"]]
    return table[list(PRESENTATION_COLUMNS)]


_COLUMN = {"offset": "stim_offset"}


def _check_columns(events: pd.DataFrame, where: str) -> None:
    columns = [str(c) for c in events.columns]
    if "stim_file" not in columns:
        raise NoStimFile(
            f"{where} has no column 'stim_file' (found: {', '.join(columns)}){nearest('stim_file', columns)}; "
            "add it with the file that each row shows, relative to the stimuli folder, and n/a where there is none."
        )
    for column in ("onset", "duration"):
        if column not in columns:
            raise UserError(
                f"{where} has no column '{column}' (found: {', '.join(columns)}); events tables need onset "
                "and duration in seconds, separated by tabs."
            )


def _numbers(table: pd.DataFrame, column: str, where: str, required: bool = False) -> pd.Series:
    if column not in table:
        return pd.Series(np.nan, index=table.index, dtype=float)
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    wrong = (numbers.isna() & (table[column].notna() | required)) | np.isinf(numbers)
    if wrong.any():
        row = table.index[wrong][0]
        # Line 1 of the file is the header.
        raise UserError(
            f"{where}: {column} is '{table.loc[row, column]}' in line {int(row) + 2}; give seconds as a number."
        )
    return numbers


def _relative(name: str, stimuli_dir: str | Path, where: str) -> str:
    """A ``stim_file`` as a normal path relative to the stimuli folder, refused if it leaves it."""
    plain = name.strip().replace("\\", "/").removeprefix("bids::").removeprefix("./")
    if plain.lstrip("/").startswith("stimuli/"):
        plain = plain.lstrip("/").removeprefix("stimuli/")
    try:
        target = inside(stimuli_dir, plain)
    except UserError as error:
        raise UserError(f"{where}: stim_file {error}") from error
    parts: list[str] = []
    for part in target.relative_to(stimuli_dir).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    if not parts:
        raise UserError(f"{where}: stim_file '{name}' names no file; give a path relative to {stimuli_dir}.")
    return "/".join(parts)


def _merge_frames(table: pd.DataFrame) -> pd.DataFrame:
    """Join rows that are frames of one presentation; `table` is sorted by onset."""
    if len(table) < 2:
        return table
    step = table["onset"].diff()
    same = (table["name"] == table["name"].shift()) & (step > 0) & (step <= FRAME_S)
    # Where the rows give offsets, the film must advance with the clock; equal offsets are none given.
    advance = table["offset"].diff()
    same &= (advance == 0) | ((advance - step).abs() <= _FRAME_JITTER_S)
    if not same.any():
        return table
    block = (~same).cumsum()
    # A frame without a duration lasts until the next one would come.
    frame = step.where(same).groupby(block).transform("median")
    end = table["onset"] + table["duration"].fillna(frame)
    first = table.groupby(block).first().reset_index(drop=True)
    merged = first.assign(
        duration=end.groupby(block).max().to_numpy() - first["onset"].to_numpy(),
        trial_type=table["trial_type"].groupby(block).first().to_numpy(),
    )
    single = (block.groupby(block).transform("size") == 1).groupby(block).first().to_numpy()
    alone = table.groupby(block)["duration"].first().to_numpy()
    merged["duration"] = np.where(single, alone, merged["duration"])
    return merged


def stimulus_ids(names: Iterable[str]) -> dict[str, str]:
    """A file-name-safe, unique id for every stimulus.

    Parameters
    ----------
    names : iterable of str
        Paths relative to the stimuli folder.

    Returns
    -------
    dict of str to str
        The path without extension, ``/`` as ``__`` and other unsafe characters as ``-``. Files that differ only by
        extension get it appended (``film_mp4``); what still coincides (also on a file system that ignores
        case) gets a short hash of the path.
    """
    distinct = sorted(set(names))
    ids = {name: _safe(str(PurePosixPath(name).with_suffix(""))) for name in distinct}
    for name in _coinciding(ids):
        ids[name] = f"{ids[name]}_{_safe(PurePosixPath(name).suffix.lstrip('.') or 'file')}"
    while clashes := _coinciding(ids):
        for name in clashes:
            ids[name] = f"{ids[name]}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return ids


def _safe(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", text.replace("/", "__"))
    return re.sub(r"^[.-]", "_", safe)


def _coinciding(ids: Mapping[str, str]) -> list[str]:
    holders: dict[str, list[str]] = defaultdict(list)
    for name, identifier in ids.items():
        holders[identifier.casefold()].append(name)
    return [name for group in holders.values() if len(group) > 1 for name in group]
