"""The index: which runs there are, with their files, and which stimulus each run shows when.

`build_index` walks the dataset. Jobs and the workflow read the cached result (`bids.cache`).
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.bids.events import (
    PRESENTATION_TEXT,
    NoStimFile,
    Showing,
    presentation_table,
    read_events,
    showings,
)
from neuroalign.bids.filters import listed, select
from neuroalign.bids.metadata import Tree, applicable, header_repetition_time, sidecar_repetition_time
from neuroalign.bids.naming import LABEL, build_name, run_folder
from neuroalign.bids.series_files import hdf5_repetition_time
from neuroalign.bids.sources import FoundRun, check_dataset, find_runs
from neuroalign.config import Config
from neuroalign.errors import UserError
from neuroalign.io import read_tsv, write_tsv

logger = logging.getLogger(__name__)

FILE_COLUMNS = ("bold", "t1w", "events", "mask", "confounds", "timeseries")
RUN_COLUMNS = ("run_id", "subject", "session", "task", "run", "tr", *FILE_COLUMNS)
RUN_TEXT = tuple(c for c in RUN_COLUMNS if c != "tr")

# The file that a run's brain data come from, by source.
MAIN_FILE = {"raw": "bold", "fmriprep": "bold", "timeseries": "timeseries"}


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
    bids_dir = Path(config.dataset.bids_dir)
    check_dataset(bids_dir)
    raw = Tree(bids_dir)
    problems: list[str] = []
    found = find_runs(config, raw, problems)
    identities = pd.DataFrame([_identity(run) for run in found])
    identities["position"] = range(len(found))
    identities = select(identities, config.dataset.filters)
    derived = raw if config.fmri.source == "raw" else Tree(config.dataset.derivatives)
    rows = [
        _row(each, found[each["position"]], config, raw, derived) for each in identities.to_dict("records")
    ]
    table = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    table["tr"] = table["tr"].astype(float)
    table, shown = _shown(table, stimuli_folder(config), problems)
    chosen = [found[p] for p in identities["position"]]
    problems = _run_problems(chosen, rows, config) + problems
    return Index(table, shown, list(dict.fromkeys(problems)))


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


# --- runs -----------------------------------------------------------------------------------------------------


def _identity(run: FoundRun) -> dict[str, str]:
    entities = run.entities
    return {
        "run_id": build_name(entities),
        "subject": entities["sub"],
        "session": entities.get("ses", ""),
        "task": entities.get("task", ""),
        "run": entities.get("run", ""),
    }


def _row(identity: dict, found: FoundRun, config: Config, raw: Tree, derived: Tree) -> dict:
    """The row of the run table; what its metadata say is read here, after filtering."""
    row = {column: identity[column] for column in RUN_COLUMNS[:5]}
    name = build_name(found.entities, "bold", ".nii.gz")
    raw_bold = raw.root / run_folder(identity["subject"], identity["session"]) / name
    row |= {column: str(found.files.get(column, "")) for column in FILE_COLUMNS}
    nearest_events = applicable(raw_bold, raw, "events", ".tsv") or applicable(
        raw_bold, raw, "events", ".tsv.gz"
    )
    row["events"] = str(nearest_events[-1]) if nearest_events else ""
    try:
        row["tr"] = _repetition_time(found.files[MAIN_FILE[config.fmri.source]], derived, raw_bold, raw)
        row["tr_problem"] = ""
    except UserError as error:
        row["tr"], row["tr_problem"] = np.nan, str(error)
    return row


def _repetition_time(main: Path, derived: Tree, raw_bold: Path, raw: Tree) -> float:
    """From the derivative's sidecar, then the raw run's, then the header of the image; NaN if nothing tells."""
    value = sidecar_repetition_time(main, derived)
    if value is None and derived is not raw:
        value = sidecar_repetition_time(raw_bold, raw)
    if value is None and main.suffix == ".h5" and main.exists():
        value = hdf5_repetition_time(main)
    if value is None:
        value = header_repetition_time(main)
    return np.nan if value is None else value


def _run_problems(found: list[FoundRun], rows: list[dict], config: Config) -> list[str]:
    problems = []
    source = config.fmri.source
    main = MAIN_FILE[source]
    seen: dict[str, str] = {}
    without_anatomy = []
    for run, row in zip(found, rows, strict=True):
        for key, label in run.entities.items():
            if not LABEL.fullmatch(label):
                problems.append(
                    f"{row[main]}: the label '{label}' of '{key}' may hold letters and digits only; rename the file."
                )
        if row["run_id"] in seen:
            problems.append(f"{row[main]} and {seen[row['run_id']]} are the same run; keep one of them.")
        seen[row["run_id"]] = row[main]
        problems += _content_problem(row[main], row["run_id"])
        if row["tr_problem"]:
            problems.append(row["tr_problem"])
        elif np.isnan(row["tr"]):
            problems.append(
                f"{row[main]} has no RepetitionTime; add the seconds between volumes to its JSON sidecar."
            )
        if source == "raw" and not row["t1w"]:
            without_anatomy.append(f"sub-{row['subject']}")
    for subject in dict.fromkeys(without_anatomy):
        problems.append(
            f"{subject} has no T1w image (anat/{subject}_T1w.nii.gz), which preprocessing needs; add it, or leave "
            "the subject out with dataset.filters.subject."
        )
    return problems


def _content_problem(file: str, run: str) -> list[str]:
    path = Path(file)
    if path.exists():
        return []
    if path.is_symlink():
        return [
            f"{run}: {path} is a link to content that is not here; fetch it (in a DataLad dataset: "
            f"`datalad get {path}`) or leave the run out with dataset.filters."
        ]
    return [
        f"{run}: {path} is absent, only its sidecar is there; download the image (in a DataLad dataset: "
        f"`datalad get {path}`) or leave the run out with dataset.filters."
    ]


# --- presentations --------------------------------------------------------------------------------------------


def _shown(runs: pd.DataFrame, stimuli: Path, problems: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Presentations of all runs; rest runs, which BIDS asks no events of, are left out of the run table."""
    shown: list[tuple[dict, list[Showing]]] = []
    resting = []
    silent: dict[str, list[str]] = defaultdict(list)
    no_column: dict[str, list[tuple[str, NoStimFile]]] = defaultdict(list)
    known = len(problems)
    # Runs may inherit one table.
    cache: dict[str, list[Showing]] = {}
    for run in runs.to_dict("records"):
        path = run["events"]
        if not path:
            if run["task"].lower().startswith("rest"):
                resting.append(run["run_id"])
            else:
                silent[run["task"]].append(run["run_id"])
            continue
        try:
            if path not in cache:
                cache[path] = showings(read_events(Path(path)), path)
            shown.append((run, cache[path]))
        except NoStimFile as error:
            no_column[run["task"]].append((run["run_id"], error))
        except UserError as error:
            problems.append(str(error))
    for task, ids in silent.items():
        problems.append(
            f"{listed(ids)} {'has' if len(ids) == 1 else 'have'} no events.tsv; add onset, duration and stim_file of "
            f"what was shown, or leave task '{task}' out with dataset.filters.task."
        )
    for task, cases in no_column.items():
        sentence = str(cases[0][1])
        if len(cases) > 1:
            sentence = f"{sentence.removesuffix('.')}; the same holds for {listed(i for i, _ in cases[1:])}."
        problems.append(f"{sentence} Or leave task '{task}' out with dataset.filters.task.")
    if resting:
        logger.info("left out, because rest shows no stimulus: %s", listed(resting))
        runs = runs[~runs["run_id"].isin(resting)].reset_index(drop=True)
    table = presentation_table(shown, stimuli)
    if table.empty and len(problems) == known:
        problems.append(
            "No run shows a stimulus: name the file of each in column stim_file of the events tables."
        )
    return runs, table
