"""Runs of regional time series: those of XCP-D, giga_connectome and alike (TSV), or plain HDF5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroalign.bids.filters import listed
from neuroalign.bids.metadata import Tree
from neuroalign.bids.naming import VERSION_ENTITIES, BidsName
from neuroalign.bids.queries import selector
from neuroalign.bids.scan import Scope
from neuroalign.bids.sources import (
    DERIVED,
    File,
    FoundRun,
    Source,
    derivatives_root,
    entities_without,
    grouped,
    nested,
    prefer,
)
from neuroalign.errors import UserError, nearest

_SKIPPED = (*DERIVED, *VERSION_ENTITIES)


class Regional(Source):
    """A folder of time series per region."""

    main = "timeseries"
    # A query is made for BOLD images; what it says of their file type does not hold for tables.
    ignored = ("suffix", "extension")
    scope = Scope(("func",), ("timeseries",), (".tsv", ".h5", ".json"))

    def _root(self) -> Path:
        return derivatives_root(self.config)

    def choose(self, files: list[File]) -> dict[str, Any]:
        """The atlas and the space, over all subjects."""
        series = self._series(files)
        if not series:
            raise UserError(
                f"{self.root} has no time series (sub-*/[ses-*/]func/*_timeseries.tsv or .h5); set "
                f"dataset.derivatives to their root{nested(self.root) or '.'}"
            )
        passing = list(filter(selector(self.queries.get("bold")), series))
        if not passing:
            raise self.queries["bold"].mismatch(self.root, [(n, p.parent.name) for p, n in series])
        atlas = _atlas(passing, self.config.fmri.atlas.name)
        of_atlas = [(p, n) for p, n in passing if _atlas_label(n) == atlas]
        return {"atlas": atlas, "space": _space(of_atlas, self.config.fmri.space)}

    def runs(self, files: list[File], choice: Mapping[str, Any], raw: Tree) -> list[FoundRun]:
        """The runs of one subject, in the chosen atlas and space; means before other statistics."""
        series = [
            (p, n)
            for p, n in filter(selector(self.queries.get("bold")), self._series(files))
            if _atlas_label(n) == choice["atlas"] and n.entities.get("space", "") == choice["space"]
        ]
        runs = []
        for versions in grouped(series, _SKIPPED).values():
            problems: list[str] = []
            path, name = prefer(
                versions, lambda n: (n.entities.get("stat", "mean") != "mean",), "time series", problems
            )
            runs.append(FoundRun(entities_without(name, _SKIPPED), {"timeseries": path}, problems))
        return runs

    @staticmethod
    def _series(files: list[File]) -> list[File]:
        return [
            (p, n)
            for p, n in files
            if n.suffix == "timeseries"
            and n.extension in (".tsv", ".h5")
            and n.entities.get("desc") not in ("confounds", "physio")
        ]


def _atlas_label(name: BidsName) -> str:
    return name.entities.get("atlas") or name.entities.get("seg", "")


def _atlas(files: list[File], wanted: str | None) -> str:
    """The label of the only atlas; where there are several, `fmri.atlas.name` says which."""
    labels = sorted({_atlas_label(n) for _, n in files})
    if len(labels) == 1:
        return labels[0]
    shown = listed(label or "(none)" for label in labels)
    if not wanted:
        raise UserError(
            f"There are time series of several atlases ({shown}); set fmri.atlas.name to one of them."
        )
    plain = re.sub(r"[^a-z0-9]", "", wanted.lower())
    for matches in (str.__eq__, str.__contains__):
        hits = [label for label in labels if label and matches(label.lower(), plain)]
        if len(hits) == 1:
            return hits[0]
    raise UserError(
        f"no time series of atlas '{wanted}'; found atlases: {shown}{nearest(wanted, labels)} (fmri.atlas.name)"
    )


def _space(files: list[File], wanted: str) -> str:
    """The configured space, or the only one there is."""
    spaces = sorted({n.entities.get("space", "") for _, n in files})
    if len(spaces) == 1:
        return spaces[0]
    if wanted not in spaces:
        raise UserError(
            f"There are time series in several spaces ({listed(s or '(none)' for s in spaces)}), none in "
            f"'{wanted}'; set fmri.space to one of them{nearest(wanted, spaces)}"
        )
    return wanted
