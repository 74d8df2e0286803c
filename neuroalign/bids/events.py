"""Events tables: which stimulus was shown when.

Rules, in short:

- Every row with a ``stim_file`` is a presentation; ``n/a`` (fixation, oddballs, responses) is skipped.
- ``stim_file`` is relative to the stimuli folder; a leading ``stimuli/`` (as in ``bids::stimuli/…`` and
  ``../stimuli/…``) is dropped.
- ``duration`` of ``n/a`` or 0 stays missing: the presentation lasts as long as the stimulus.
- ``stim_offset``, an optional column, says how many seconds into the file the presentation begins.
- Rows equal in onset, file and offset (one per response, say) are one presentation.
- One row per frame: rows of the same file that follow each other within `FRAME_S` seconds are one presentation, with
  the ``trial_type`` of its first row.
- A file that is shown again while it is still shown is an error: it would be a repeat of the same volumes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from neuroalign.errors import UserError, nearest
from neuroalign.io import inside, read_tsv

logger = logging.getLogger(__name__)

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
# Onsets and durations are rounded; presentations may share this much.
OVERLAP_S = 0.05
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


class Showing(NamedTuple):
    """One presentation within a run: seconds, and the file relative to the stimuli folder."""

    onset: float
    duration: float
    name: str
    offset: float
    trial_type: str


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
        As `presentation_table`, of this run alone.

    Raises
    ------
    NoStimFile
        If there is no column ``stim_file``.
    UserError
        If ``onset`` is missing or no number, a stimulus lies outside the folder, or presentations of one stimulus
        overlap.
    """
    return presentation_table([(run, showings(events, source or run["run_id"]))], stimuli_dir)


def presentation_table(
    runs: Iterable[tuple[Mapping[str, Any], Iterable[Showing]]], stimuli_dir: str | Path
) -> pd.DataFrame:
    """The presentation table of many runs, with stimulus ids that are unique over all of them.

    Parameters
    ----------
    runs : iterable of (run, showings)
        Row of the run table, and what `showings` found in its events.
    stimuli_dir : path
        Folder of the stimulus files.

    Returns
    -------
    DataFrame
        `PRESENTATION_COLUMNS`, by run and onset. `duration` is NaN where the table does not tell: the length of the
        stimulus bounds it later.
    """
    columns: dict[str, list] = {column: [] for column in (*PRESENTATION_COLUMNS, "name")}
    for run, shown in runs:
        for showing in shown:
            for column in RUN_COLUMNS:
                columns[column].append(run[column])
            for column, value in zip(Showing._fields, showing, strict=True):
                columns[column].append(value)
    names = columns["name"]
    ids = stimulus_ids(names)
    files = {name: str(Path(stimuli_dir) / name) for name in ids}
    columns["stimulus"] = [ids[name] for name in names]
    columns["stimulus_file"] = [files[name] for name in names]
    table = pd.DataFrame(columns)
    table = table.astype({c: float for c in PRESENTATION_COLUMNS if c not in PRESENTATION_TEXT})
    return table[list(PRESENTATION_COLUMNS)].astype(dict.fromkeys(PRESENTATION_TEXT, str))


def showings(events: pd.DataFrame, source: str | Path) -> list[Showing]:
    """What an events table shows, by onset; see `presentations`.

    Notes
    -----
    Plain lists: a dataset has thousands of small tables, and per table a data frame costs more than its rows.
    """
    where = str(source)
    _check_columns(events, where)
    names = events["stim_file"].tolist()
    lines = [i for i, name in enumerate(names) if isinstance(name, str) and name.strip()]
    onsets = _numbers(events, "onset", lines, where)
    durations = _numbers(events, "duration", lines, where, optional=True)
    offsets = _numbers(events, "stim_offset", lines, where, optional=True)
    kinds = events["trial_type"].tolist() if "trial_type" in events else [""] * len(names)
    rows = []
    for line, onset, duration, offset in zip(lines, onsets, durations, offsets, strict=True):
        for column, value in (("duration", duration), ("stim_offset", offset)):
            if value < 0:
                raise UserError(f"{where}: {column} is negative in line {line + 2}; correct it.")
        kind = kinds[line] if isinstance(kinds[line], str) else ""
        # A duration of 0 marks an instant, which says nothing about how long the stimulus ran.
        rows.append(
            Showing(
                onset,
                duration if duration > 0 else math.nan,
                relative_stimulus(names[line], f"{where}: stim_file"),
                0.0 if math.isnan(offset) else offset,
                kind,
            )
        )
    shown = _merge_frames(_distinct(sorted(rows, key=lambda row: row.onset)))
    _check_overlap(shown, where)
    return shown


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


def _numbers(
    events: pd.DataFrame, column: str, lines: list[int], where: str, optional: bool = False
) -> list[float]:
    """A column of seconds in the given rows; NaN for ``n/a`` if that is allowed."""
    if column not in events:
        return [math.nan] * len(lines)
    values = events[column].tolist()
    numbers = []
    for line in lines:
        value = values[line]
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        try:
            number = float(value) if not missing else math.nan
        except ValueError:
            number = math.inf
        if math.isinf(number) or (math.isnan(number) and not (missing and optional)):
            # Line 1 of the file is the header.
            raise UserError(
                f"{where}: {column} is '{'n/a' if missing else value}' in line {line + 2}; give seconds as a number."
            )
        numbers.append(number)
    return numbers


def relative_stimulus(name: str, where: str) -> str:
    """A stimulus as a normal path relative to the stimuli folder.

    Parameters
    ----------
    name : str
        As in ``stim_file``.
    where : str
        The table or key it comes from, and the column, for messages.

    Raises
    ------
    UserError
        If it leaves the folder or names no file.
    """
    plain = name.strip().replace("\\", "/").removeprefix("bids::")
    # Relative to the dataset, or to the events table: the way up ends in the folder of the stimuli, too.
    plain = re.sub(r"^/*(\.{1,2}/+)*stimuli/+", "", plain)
    try:
        inside("the stimuli folder", plain)
    except UserError as error:
        raise UserError(f"{where} {error}") from error
    normal = posixpath.normpath(plain)
    if normal == ".":
        raise UserError(f"{where} '{name}' names no file; give a path relative to the stimuli folder.")
    return normal


def _distinct(rows: list[Showing]) -> list[Showing]:
    """One of rows that begin the same presentation: the first, with the longest duration that any of them gives."""
    first: dict[tuple[float, str, float], Showing] = {}
    for row in rows:
        key = (row.onset, row.name, row.offset)
        known = first.setdefault(key, row)
        if math.isnan(known.duration) or row.duration > known.duration:
            first[key] = known._replace(duration=row.duration)
    return list(first.values())


def _check_overlap(shown: list[Showing], where: str) -> None:
    """Refuse a file that is shown twice at once; different files at once are told only (a picture in a picture)."""
    running: dict[str, Showing] = {}
    told = False
    for showing in shown:
        for other in running.values():
            # Where the end is not known before the stimulus is probed, nothing is said.
            if math.isnan(other.duration) or showing.onset >= other.onset + other.duration - OVERLAP_S:
                continue
            if other.name == showing.name:
                raise UserError(
                    f"{where}: '{showing.name}' is shown from {other.onset:g} to {other.onset + other.duration:g} s and "
                    f"again from {showing.onset:g} s; give each presentation one row with its own onset and duration, "
                    "and other rows (responses) a stim_file of n/a."
                )
            if not told:
                logger.info(
                    "%s: '%s' is still shown when '%s' begins at %g s; both are used.",
                    *(where, other.name, showing.name, showing.onset),
                )
                told = True
        running[showing.name] = showing


def _merge_frames(rows: list[Showing]) -> list[Showing]:
    """Join rows that are frames of one presentation; `rows` are sorted by onset."""
    merged: list[Showing] = []
    block: list[Showing] = []
    for row in rows:
        if block and not _continues(block[-1], row):
            merged.append(_joined(block))
            block = []
        block.append(row)
    if block:
        merged.append(_joined(block))
    return merged


def _continues(frame: Showing, row: Showing) -> bool:
    step = row.onset - frame.onset
    if row.name != frame.name or not 0 < step <= FRAME_S:
        return False
    # Where the rows give offsets, the film must advance with the clock; equal offsets are none given.
    advance = row.offset - frame.offset
    return advance == 0 or abs(advance - step) <= _FRAME_JITTER_S


def _joined(block: list[Showing]) -> Showing:
    first = block[0]
    if len(block) == 1:
        return first
    # A last frame without a duration lasts until the next one would have come.
    step = (block[-1].onset - first.onset) / (len(block) - 1)
    last = step if math.isnan(block[-1].duration) else block[-1].duration
    return first._replace(duration=block[-1].onset + last - first.onset)


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
