"""What is known of each subject: its files, its runs, and what their events show.

A record is made of one subject alone, from its own files and from what all subjects share; the index is put together
from the records of all (`bids.index`). So a change in one subject makes one record anew, and the result is what it
would be from scratch. Records are plain values: `bids.cache` keeps them as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroalign.bids.events import NoStimFile, read_events, showings
from neuroalign.bids.metadata import Tree, applicable, sidecar
from neuroalign.bids.naming import LABEL, build_name
from neuroalign.bids.raw_run import raw_image
from neuroalign.bids.repetition import agreed_tr, path_timing, sidecar_tr
from neuroalign.bids.scan import State, States, scan
from neuroalign.bids.series_files import hdf5_metadata
from neuroalign.bids.sources import FoundRun, Source
from neuroalign.errors import UserError
from neuroalign.io import not_here

IDENTITY = ("run_id", "subject", "session", "task", "run")
FILE_COLUMNS = ("bold", "t1w", "events", "mask", "confounds", "timeseries")
RUN_COLUMNS = (*IDENTITY, "tr", *FILE_COLUMNS, "raw_volumes")

# File times are this coarse on the coarsest common file systems' clocks; a file changed within such a tick may
# change again without its times telling.
_TICK_S = 0.02


@dataclass
class Record:
    """One subject.

    Attributes
    ----------
    state : str
        Of its files (`scan.State`); another state makes everything anew.
    made_from : str
        What else the runs depend on: files at the root, and what all subjects decide together.
    files : list of str
        What pybids found, relative to the root of the source.
    runs : list of dict
        `RUN_COLUMNS`, with `problems`: sentences, by the file that they are about.
    shown : dict of str to dict
        By events table: its `showings`, or the `problem`, or that there is `no_column`.
    problems : list of str
        What concerns no run.
    """

    state: str
    made_from: str = ""
    files: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """JSON-like values, from which ``Record(**values)`` is equal."""
        return dict(vars(self))


def refresh(source: Source, old: Mapping[str, Record]) -> tuple[dict[str, Record], bool]:
    """The record of every subject: those of `old` that still hold, and new ones.

    Parameters
    ----------
    source : Source
    old : mapping of str to Record
        By subject folder, made with the same configuration; empty to make all anew.

    Returns
    -------
    records : dict of str to Record
        In the order of the folders' names.
    changed : bool
        Whether they differ from `old`.

    Raises
    ------
    UserError
        If a folder may not be read, or the source has nothing of what the configuration asks for.
    """
    raw = scan(source.raw_root, source.raw_scope)
    same = source.root == source.raw_root
    derived = raw if same else source.states()
    states = {subject: _state(subject, raw, derived, same) for subject in sorted(derived.subjects)}
    stale = [s for s, state in states.items() if s not in old or old[s].state != state.digest]
    _settle([states[s] for s in stale])
    found = source.find(stale)
    files = {s: found[s] if s in found else old[s].files for s in states}
    names = {s: source.named(files[s]) for s in states}
    choice = source.choose([file for subject in names.values() for file in subject])
    made_from = json.dumps([raw.shared.digest, derived.shared.digest, choice], sort_keys=True)
    outdated = [s for s in states if s in found or old[s].made_from != made_from]
    if outdated:
        _settle([raw.shared, derived.shared])
    maker = _Maker(source)
    records = {}
    for subject in states:
        if subject not in outdated:
            records[subject] = old[subject]
            continue
        record = Record(states[subject].digest, made_from, files[subject])
        maker.fill(record, source.runs(names[subject], choice, maker.raw))
        record.problems = source.misnamed(names[subject])
        records[subject] = record
    return records, bool(outdated) or set(old) != set(records)


def _state(subject: str, raw: States, derived: States, same: bool) -> State:
    state = derived.subjects[subject]
    other = raw.subjects.get(subject)
    if same or other is None:
        return state
    return State(f"{state.digest}+{other.digest}", max(state.newest, other.newest))


def _settle(states: list[State]) -> None:
    """Wait until the newest change is older than a tick, so that any later one shows in the times."""
    wait = max((state.newest for state in states), default=0.0) + _TICK_S - time.time()
    if 0 < wait <= _TICK_S:
        time.sleep(wait)


class _Maker:
    """Reads metadata and events; what subjects share is read once."""

    def __init__(self, source: Source):
        self.source = source
        self.raw = Tree(source.raw_root)
        self.derived = self.raw if source.root == source.raw_root else Tree(source.root)
        self._shown: dict[str, dict[str, Any]] = {}
        self._known: dict[bytes, dict[str, Any]] = {}

    def fill(self, record: Record, found: list[FoundRun]) -> None:
        """The runs of a record, and what their events show."""
        for run in found:
            row = self._row(run)
            record.runs.append(row)
            if row["events"]:
                record.shown[row["events"]] = self._events(row["events"])

    def _row(self, found: FoundRun) -> dict[str, Any]:
        entities = found.entities
        identity = [build_name(entities), *(entities.get(key, "") for key in ("sub", "ses", "task", "run"))]
        row: dict[str, Any] = dict(zip(IDENTITY, identity, strict=True))
        raw_bold = raw_image(row["run_id"], self.raw)
        row |= {column: str(found.files.get(column, "")) for column in FILE_COLUMNS}
        tables = applicable(raw_bold, self.raw, "events", ".tsv") or applicable(
            raw_bold, self.raw, "events", ".tsv.gz"
        )
        row["events"] = str(tables[-1]) if tables else ""
        main = found.files[self.source.main]
        problems = [
            f"{main}: the label '{label}' of '{key}' may hold letters and digits only; rename the file."
            for key, label in entities.items()
            if not LABEL.fullmatch(label)
        ]
        row["tr"], timing = self._repetition_time(main, raw_bold, entities)
        volumes, _ = path_timing(raw_bold)
        row["raw_volumes"] = "" if volumes is None else str(volumes)
        # A file that several runs share is reported once, under the name of the file.
        absent = {
            str(path): problem
            for path in found.files.values()
            if (problem := content_problem(path, row["run_id"]))
        }
        own = [*problems, *timing, *found.problems]
        row["problems"] = [[str(main), absent.pop(str(main))]] if str(main) in absent else []
        row["problems"] += [[sentence, sentence] for sentence in own] + [[*item] for item in absent.items()]
        return row

    def _repetition_time(
        self, main: Path, raw_bold: Path, entities: Mapping[str, str]
    ) -> tuple[float, list[str]]:
        """As the clock of the run has it (`bids.repetition`); NaN with a problem."""
        hdf5, here = main.suffix == ".h5", main.exists() and not not_here(main)
        try:
            metadata = sidecar(main, self.derived)
            if hdf5 and here:
                metadata = metadata | hdf5_metadata(main, entities)
            before = {} if self.derived is self.raw else sidecar(raw_bold, self.raw)
            # A header is read only where it is needed: disagreements are for the jobs to report.
            told = (sidecar_tr(said, str(main)) is not None for said in (metadata, before))
            header_tr = None if any(told) else path_timing(main)[1]
            return agreed_tr(metadata, before, header_tr, str(main)), []
        except UserError as error:
            # That content is missing is said of the file itself; it may well tell.
            return math.nan, [] if hdf5 and not here else [str(error)]

    def _events(self, path: str) -> dict[str, Any]:
        if path not in self._shown:
            self._shown[path] = self._read_events(path)
        return self._shown[path]

    def _read_events(self, path: str) -> dict[str, Any]:
        # People who saw the same films often have the same table, byte by byte; parsing is what takes the time.
        try:
            content = hashlib.blake2b(Path(path).read_bytes()).digest()
        except OSError:
            content = b""
        if content in self._known:
            return self._known[content]
        try:
            shown = {"showings": [list(row) for row in showings(read_events(Path(path)), path)]}
        except NoStimFile as error:
            return {"no_column": str(error)}
        except UserError as error:
            return {"problem": str(error)}
        self._known[content] = shown
        return shown


def content_problem(path: Path, run: str) -> str:
    """Why the content of a file is not here, and the way to get it; empty if it is here.

    Parameters
    ----------
    path : path
    run : str
        The run that needs it, for the sentence.
    """
    leave = "or leave the run out with dataset.filters."
    if problem := not_here(path):
        return f"{run}: {problem} {leave}"
    if not path.exists():
        return (
            f"{run}: {path} is absent, only its sidecar is there; download the image (in a DataLad dataset: "
            f"`datalad get {path}`) {leave}"
        )
    return ""
