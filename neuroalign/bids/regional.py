"""Runs of regional time series: tables of XCP-D, giga_connectome and alike, or HDF5 of one run or of many."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from neuroalign.bids.filters import listed
from neuroalign.bids.metadata import Tree
from neuroalign.bids.naming import BidsName, parse_name
from neuroalign.bids.queries import selector
from neuroalign.bids.scan import Scope, State, States, file_state
from neuroalign.bids.series_files import atlas_among, atlas_label, collected, is_series
from neuroalign.bids.sources import (
    NOT_OF_RUN,
    File,
    FoundRun,
    Source,
    derivatives_root,
    entities_without,
    grouped,
    nested,
    prefer,
    reconstruction_rank,
)
from neuroalign.config import Config
from neuroalign.errors import UserError, nearest

logger = logging.getLogger(__name__)

# Between a file and a dataset in it, in what `Collected` finds.
_IN = "::"


class Regional(Source):
    """A folder of time series per region."""

    main = "timeseries"
    # A query is made for BOLD images; what it says of their file type does not hold for tables.
    ignored = ("suffix", "extension")
    # XCP-D up to 0.1 called its series desc-timeseries_bold.tsv; outliers and motion are read beside the series.
    scope = Scope(("func",), ("timeseries", "bold"), (".tsv", ".h5", ".json"), watched=("outliers", "motion"))

    def _root(self) -> Path:
        return derivatives_root(self.config)

    def choose(self, files: list[File]) -> dict[str, Any]:
        """The atlas and the space, over all subjects; runs without series in them are told."""
        series = self._series(files)
        if not series:
            raise UserError(
                f"{self.root} has no time series (sub-*/[ses-*/]func/*_timeseries.tsv or .h5); set "
                f"dataset.derivatives to their root{nested(self.root) or '.'}"
            )
        passing = list(filter(selector(self.queries.get("bold")), series))
        if not passing:
            raise self.queries["bold"].mismatch(self.root, [(n, p.parent.name) for p, n in series])
        atlas = atlas_among(sorted({atlas_label(n) for _, n in passing}), self.config.fmri.atlas.name)
        of_atlas = [(p, n) for p, n in passing if atlas_label(n) == atlas]
        space = _space(of_atlas, self.config.fmri.space)
        used = [(p, n) for p, n in of_atlas if n.entities.get("space", "") == space]
        self.tell_left_out(
            passing, used, f"of atlas '{atlas}'" + (f" in space '{space}' (fmri.space)" if space else "")
        )
        return {"atlas": atlas, "space": space}

    def runs(self, files: list[File], choice: Mapping[str, Any], raw: Tree) -> list[FoundRun]:
        """The runs of one subject, in the chosen atlas and space: one reconstruction; means before other statistics."""
        series = [
            (p, n)
            for p, n in filter(selector(self.queries.get("bold")), self._series(files))
            if atlas_label(n) == choice["atlas"] and n.entities.get("space", "") == choice["space"]
        ]
        runs = []
        for versions in grouped(series, (*NOT_OF_RUN, "rec")).values():
            problems: list[str] = []
            path, name = prefer(versions, _rank, "time series", problems)
            runs.append(FoundRun(entities_without(name, NOT_OF_RUN), {"timeseries": path}, problems))
        return _without_concatenations(runs)

    def _series(self, files: list[File]) -> list[File]:
        return [(p, n) for p, n in files if is_series(n)]


class Collected(Regional):
    """HDF5 files of many runs each at the root of the derivatives (giga_connectome up to 0.4)."""

    def states(self) -> States:
        """Every subject's state is that of all files: which one holds whom is only known by opening them."""
        state = file_state(sorted(self.root.glob("*.h5")))
        subjects = {f"sub-{item.entities['sub']}" for _, item in collected(self.root)}
        return States(State("", 0.0), dict.fromkeys(sorted(subjects), state))

    def find(self, subjects: Collection[str]) -> dict[str, list[str]]:
        """Datasets of some subjects, each with its file."""
        found: dict[str, list[str]] = {subject: [] for subject in subjects}
        for path, item in collected(self.root):
            subject = f"sub-{item.entities['sub']}"
            if subject in found:
                found[subject].append(f"{os.path.relpath(path, self.root)}{_IN}{item.dataset}")
        return found

    def named(self, found: Iterable[str]) -> list[File]:
        """Each dataset under the path of its file and by its own name."""
        split = [text.partition(_IN) for text in found]
        return [(self.root / file, parse_name(dataset)) for file, _, dataset in split]

    def misnamed(self, files: Iterable[File]) -> list[str]:
        """Datasets are found by their exact names."""
        return []

    def _series(self, files: list[File]) -> list[File]:
        return files


def regional(config: Config) -> Regional:
    """The source of time series: a tree of files, or a few HDF5 files of many runs at the root."""
    root = derivatives_root(config)
    own = any(root.glob("*.h5")) and not any(
        path
        for path in root.glob("sub-*/**/func/*")
        if path.name.endswith(("_timeseries.tsv", "_timeseries.h5"))
    )
    return Collected(config) if own and collected(root) else Regional(config)


def _rank(name: BidsName) -> tuple:
    return (*reconstruction_rank(name), name.entities.get("stat", "mean") != "mean")


def _without_concatenations(runs: list[FoundRun]) -> list[FoundRun]:
    """Without series that XCP-D made of all runs of a task one after the other (``--combine-runs``)."""
    several: dict[frozenset, int] = defaultdict(int)
    for run in runs:
        if "run" in run.entities:
            several[frozenset((k, v) for k, v in run.entities.items() if k != "run")] += 1
    kept = [r for r in runs if "run" in r.entities or frozenset(r.entities.items()) not in several]
    if len(kept) < len(runs):
        logger.info(
            "%d series are concatenations of runs that are there, too; they are left out",
            len(runs) - len(kept),
        )
    return kept


def _space(files: list[File], wanted: str) -> str:
    """The configured space, or the only one there is."""
    spaces = sorted({n.entities.get("space", "") for _, n in files})
    if len(spaces) == 1:
        if spaces[0] not in ("", wanted):
            logger.warning(
                "fmri.space is '%s', but all time series are in '%s'; they are used.", wanted, spaces[0]
            )
        return spaces[0]
    if wanted not in spaces:
        raise UserError(
            f"There are time series in several spaces ({listed(s or '(none)' for s in spaces)}), none in "
            f"'{wanted}'; set fmri.space to one of them{nearest(wanted, spaces)}"
        )
    return wanted
