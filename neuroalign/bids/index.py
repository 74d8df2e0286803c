"""The index: which runs there are, with their files, and which stimulus each run shows when.

`build_index` makes it from scratch; jobs and the workflow read it through `bids.cache`. Both put it together, here,
from one record per subject.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neuroalign.bids.declared import declared, is_rest, unused
from neuroalign.bids.events import PRESENTATION_TEXT, Showing, presentation_table
from neuroalign.bids.filters import listed, select
from neuroalign.bids.fmriprep import Fmriprep
from neuroalign.bids.raw import Raw
from neuroalign.bids.records import IDENTITY, RUN_COLUMNS, Record, refresh
from neuroalign.bids.regional import regional
from neuroalign.bids.sources import Source, natural
from neuroalign.config import Config
from neuroalign.io import read_tsv, write_tsv

logger = logging.getLogger(__name__)

RUN_TEXT = tuple(c for c in RUN_COLUMNS if c != "tr")


@dataclass
class Index:
    """What there is.

    Attributes
    ----------
    runs : DataFrame
        One row per run, `RUN_COLUMNS`; `tr` in seconds (NaN if unknown), everything else text.
    presentations : DataFrame
        One row per presentation of a stimulus, `events.PRESENTATION_COLUMNS`; seconds.
    problems : list of str
        What would keep a run from being used, one sentence each, with what to do.
    """

    runs: pd.DataFrame
    presentations: pd.DataFrame
    problems: list[str] = field(default_factory=list)


def stimuli_folder(config: Config) -> Path:
    """The folder that ``stim_file`` is relative to."""
    return Path(config.dataset.stimuli_dir or Path(config.dataset.bids_dir) / "stimuli")


def source_of(config: Config) -> Source:
    """The configured source of brain data.

    Raises
    ------
    UserError
        If the dataset, the derivatives or the filter file are not what they should be.
    """
    return {"raw": Raw, "fmriprep": Fmriprep, "timeseries": regional}[config.fmri.source](config)


def build_index(config: Config) -> Index:
    """Find all runs of the configured source that match the filters, and what they show.

    Parameters
    ----------
    config : Config

    Returns
    -------
    Index

    Raises
    ------
    UserError
        If the BIDS folder or the derivatives are no dataset, or no run matches the filters. What concerns single
        runs is collected in `Index.problems` instead.
    """
    source = source_of(config)
    records, _ = refresh(source, {})
    return assemble(source, records)


def assemble(source: Source, records: Mapping[str, Record]) -> Index:
    """Put the index together from the records of all subjects.

    Parameters
    ----------
    source : Source
    records : mapping of str to Record
        By subject folder.

    Raises
    ------
    UserError
        If no run matches the filters.
    """
    config = source.config
    ordered = sorted(
        ((run, record) for record in records.values() for run in record.runs),
        key=lambda item: natural(item[0]["run_id"]),
    )
    everything = pd.DataFrame([run for run, _ in ordered], columns=[*IDENTITY])
    chosen = select(everything.assign(position=range(len(ordered))), config.dataset.filters)["position"]
    runs = [ordered[position][0] for position in chosen]
    tables = [ordered[position][1].shown for position in chosen]
    problems = _run_problems(runs, source)
    subjects = {f"sub-{run['subject']}" for run in runs}
    problems += [p for name, record in records.items() if name in subjects for p in record.problems]

    by_run, wrong = declared(everything, config.dataset.presentations)
    problems += wrong
    shown = _Shown(by_run)
    for run, events in zip(runs, tables, strict=True):
        shown.add(run, events)
    problems += shown.problems()
    shown.report()
    table = pd.DataFrame(shown.runs, columns=list(RUN_COLUMNS)).astype({"tr": float})
    presentations = presentation_table(shown.showings, stimuli_folder(config))
    if presentations.empty and not (wrong or shown.problems()):
        problems.append(
            "No run shows a stimulus: name the file of each in column stim_file of the events tables, or in "
            "dataset.presentations."
        )
    return Index(table, presentations, list(dict.fromkeys(problems)))


def write_index(index: Index, runs: str | os.PathLike, shown: str | os.PathLike) -> None:
    """Write the two tables as TSV."""
    write_tsv(runs, index.runs)
    write_tsv(shown, index.presentations)


def read_runs(path: str | os.PathLike) -> pd.DataFrame:
    """Read a run table; labels and paths are text, absent ones empty."""
    return _typed(read_tsv(path, text=RUN_TEXT), ("tr",))


def read_presentations(path: str | os.PathLike) -> pd.DataFrame:
    """Read a presentation table; labels and paths are text, absent ones empty."""
    return _typed(read_tsv(path, text=PRESENTATION_TEXT), ("onset", "duration", "offset"))


def _typed(table: pd.DataFrame, numbers: tuple[str, ...]) -> pd.DataFrame:
    # A column without a single value is read as text or as integers, whichever pandas guesses.
    return table.astype(dict.fromkeys(numbers, float))


def _run_problems(runs: list[dict[str, Any]], source: Source) -> list[str]:
    """What the runs' files lack; a file that several runs share is reported once."""
    problems: dict[str, str] = {}
    seen: dict[str, str] = {}
    without_anatomy = []
    for run in runs:
        for about, sentence in run["problems"]:
            problems.setdefault(about, sentence)
        main = run[source.main]
        if run["run_id"] in seen:
            problems[main] = f"{main} and {seen[run['run_id']]} are the same run; keep one of them."
        seen[run["run_id"]] = main
        if source.config.fmri.source == "raw" and not run["t1w"]:
            without_anatomy.append(f"sub-{run['subject']}")
    query = source.queries.get("t1w")
    asked = f" that matches {query.text()} of {query.file}" if query else ""
    sentences = list(problems.values())
    for subject in dict.fromkeys(without_anatomy):
        sentences.append(
            f"{subject} has no T1w image{asked} (anat/{subject}_T1w.nii.gz), which preprocessing needs; add it, or "
            "leave the subject out with dataset.filters.subject."
        )
    return sentences


class _Shown:
    """What the runs show: by their events or as declared; rest, and runs whose events show nothing, are left out."""

    def __init__(self, by_run: Mapping[str, Any]):
        self.by_run = dict(by_run)
        self.runs: list[dict[str, Any]] = []
        self.showings: list[tuple[dict[str, Any], list[Showing]]] = []
        self._resting: list[str] = []
        self._blank: list[str] = []
        self._kept: list[str] = []
        self._broken: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._silent: dict[str, list[str]] = defaultdict(list)
        self._no_column: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, run: dict[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Take a run; `tables` holds its events table as read."""
        told = self.by_run.get(run["run_id"])
        events = tables[run["events"]] if run["events"] else {}
        if told and (told.replaces or not (events.get("showings") or "problem" in events)):
            # The table is not used, so it is no input of anything.
            run = run | {"events": ""}
            self.showings.append((run, told.showings))
        elif not run["events"]:
            if is_rest(run["task"]):
                self._resting.append(run["run_id"])
                return
            self._silent[run["task"]].append(run["run_id"])
        elif "problem" in events:
            sentence = events["problem"]
            # What differs between tables with the same fault: their own path, and what they hold.
            cause = re.sub(r"'[^']*'", "''", sentence.replace(run["events"], ""))
            self._broken[cause].append((run["events"], sentence))
        elif "no_column" in events:
            self._no_column[run["task"]].append((run["run_id"], events["no_column"]))
        elif not events["showings"]:
            self._blank.append(run["run_id"])
            return
        else:
            self._kept.append(run["run_id"])
            self.showings.append((run, [Showing(*row) for row in events["showings"]]))
        self.runs.append(run)

    def problems(self) -> list[str]:
        """A sentence per fault of tables, and one per task whose runs do not say what they show."""
        problems = [_shared(sentence, files) for sentence, files in map(_apart, self._broken.values())]
        for task, ids in self._silent.items():
            problems.append(
                f"{listed(ids)} {'has' if len(ids) == 1 else 'have'} no events.tsv; add onset, duration and stim_file of "
                f"what was shown, declare it in dataset.presentations, or leave task '{task}' out with "
                "dataset.filters.task."
            )
        for task, cases in self._no_column.items():
            sentence = _shared(*_apart(cases))
            problems.append(
                f"{sentence} Or declare it in dataset.presentations, or leave task '{task}' out with "
                "dataset.filters.task."
            )
        return problems

    def report(self) -> None:
        """Log what was passed over."""
        if self._resting:
            logger.info("left out, because rest shows no stimulus: %s", listed(self._resting))
        if self._blank:
            logger.info("left out, because their events name no stimulus: %s", listed(self._blank))
        unused(self.by_run, self._kept)


def _apart(cases: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """The sentence about the first case, and what the others are about."""
    (first, sentence), *others = cases
    return sentence, [about for about in dict.fromkeys(about for about, _ in others) if about != first]


def _shared(sentence: str, others: list[str]) -> str:
    return f"{sentence.removesuffix('.')}; the same holds for {listed(others)}." if others else sentence
