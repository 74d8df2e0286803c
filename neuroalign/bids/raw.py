"""Runs of raw data: BOLD images and the T1w image that each is aligned to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroalign.bids.metadata import Tree, sidecar
from neuroalign.bids.naming import IMAGE, VERSION_ENTITIES, BidsName, run_folder
from neuroalign.bids.queries import selector
from neuroalign.bids.scan import Scope
from neuroalign.bids.sources import (
    File,
    FoundRun,
    Source,
    entities_without,
    grouped,
    known_by_sidecar,
    natural,
    prefer,
    reconstruction_rank,
)
from neuroalign.errors import UserError

# Single-echo BOLD at 3 T is usually acquired about here; of several echoes the nearest stands for the run.
_USUAL_ECHO_S = 0.030


class Raw(Source):
    """A raw BIDS dataset."""

    lenient = ()
    scope = raw_scope = Scope(
        ("func", "anat"), ("bold", "T1w"), (".nii", ".nii.gz", ".json"), watched=("events",)
    )

    def _root(self) -> Path:
        return self.raw_root

    def choose(self, files: list[File]) -> dict[str, Any]:
        """Nothing is chosen; that there are images is checked."""
        images = {"bold": self._images(files, "bold"), "t1w": self._images(files, "T1w")}
        if not images["bold"]:
            hint = " ".join(self.misnamed(files)[:1])
            raise UserError(
                f"{self.root} has no BOLD run (sub-*/[ses-*/]func/*_task-*_bold.nii.gz); set dataset.bids_dir to a "
                f"dataset with functional images, or fmri.source to what there is. {hint}".rstrip()
            )
        for name, query in self.queries.items():
            if images[name] and not any(map(selector(query), images[name])):
                raise query.mismatch(self.root, [(n, p.parent.name) for p, n in images[name]])
        return {}

    def runs(self, files: list[File], choice: Mapping[str, Any], raw: Tree) -> list[FoundRun]:
        """The runs of one subject; of several echoes or reconstructions one, of a complex image the magnitude."""
        images = filter(selector(self.queries.get("bold")), self._images(files, "bold"))
        anatomy = list(filter(selector(self.queries.get("t1w")), self._images(files, "T1w")))
        runs = []
        for versions in grouped(images, (*VERSION_ENTITIES, "rec")).values():
            magnitude = [(p, n) for p, n in versions if _is_magnitude(n)]
            if not magnitude:
                continue
            problems: list[str] = []
            path, name = prefer(magnitude, lambda n: _version_rank(n, raw), "BOLD image", problems)
            found = FoundRun(entities_without(name, VERSION_ENTITIES), {"bold": path}, problems)
            if anatomy:
                found.files["t1w"] = _anatomy_of(found.entities, anatomy)
            runs.append(found)
        return runs

    @staticmethod
    def _images(files: list[File], suffix: str) -> list[File]:
        """Images of a suffix, those known by their sidecar included; what another program derived is not raw."""
        of_kind = [
            (path, name)
            for path, name in files
            if name.suffix == suffix
            and (suffix != "bold" or "task" in name.entities)
            and not {"desc", "space"} & set(name.entities)
        ]
        images = [(p, n) for p, n in of_kind if n.extension in IMAGE]
        images += known_by_sidecar(images, of_kind)
        return images if suffix == "bold" else [(p, n) for p, n in images if _is_magnitude(n)]


def _is_magnitude(name: BidsName) -> bool:
    return name.entities.get("part", "mag") == "mag"


def _version_rank(name: BidsName, raw: Tree) -> tuple:
    """Of one acquisition: no reconstruction label first; the echo nearest `_USUAL_ECHO_S`."""
    echo = name.entities.get("echo")
    distance = 0.0
    if echo is not None:
        folder = raw.root / run_folder(name.entities["sub"], name.entities.get("ses", ""))
        time = sidecar(folder / str(name), raw).get("EchoTime")
        known = isinstance(time, (int, float)) and not isinstance(time, bool)
        # Without echo times the second echo is the usual one.
        distance = (
            abs(float(time) - _USUAL_ECHO_S) if known else 1.0 + abs(int(echo) - 2 if echo.isdigit() else 9)
        )
    return (*reconstruction_rank(name), distance)


def _anatomy_of(entities: dict[str, str], candidates: list[File]) -> Path:
    """The T1w image of the same session, else of any; one without contrast agent; the plainest name first."""
    session = entities.get("ses", "")

    def rank(item: File) -> tuple:
        path, name = item
        return (
            name.entities.get("ses", "") != session,
            "ce" in name.entities,
            len(name.entities),
            natural(path.name),
        )

    return min(candidates, key=rank)[0]
