"""Runs of fMRIPrep's outputs, versions 20 to 25 (and of what writes the same names).

Confounds are ``desc-confounds_regressors.tsv`` up to 20.1 and ``…_timeseries.tsv`` from 20.2 on. Of multi-echo data
the combined image has no echo label; ``desc-optcom`` of tedana stands in where there is no ``desc-preproc``. Of several
reconstructions (``rec``), each of which fMRIPrep preprocesses, one stands for the run, as in raw data.
Volumes are read, not surfaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroalign.bids.filters import listed
from neuroalign.bids.metadata import Tree
from neuroalign.bids.naming import IMAGE, BidsName, plain_index
from neuroalign.bids.queries import selector
from neuroalign.bids.scan import Scope
from neuroalign.bids.sources import (
    NOT_OF_RUN,
    File,
    FoundRun,
    Source,
    derivatives_root,
    entities_without,
    grouped,
    known_by_sidecar,
    nested,
    prefer,
    reconstruction_rank,
)
from neuroalign.errors import UserError, nearest

# Best first.
_DESCRIPTIONS = ("preproc", "optcom")


class Fmriprep(Source):
    """A folder of fMRIPrep outputs beside, or in, the raw dataset."""

    scope = Scope(
        ("func",),
        ("bold", "mask", "timeseries", "regressors", "boldref"),
        (".nii", ".nii.gz", ".json", ".tsv", ".func.gii", ".dtseries.nii"),
    )

    def _root(self) -> Path:
        return derivatives_root(self.config)

    def choose(self, files: list[File]) -> dict[str, Any]:
        """Nothing is chosen; that there are images in the space and resolution asked for is checked.

        Runs without such an image are told.
        """
        space, resolution = self.config.fmri.space, self.config.fmri.resolution
        bold = [(p, n) for p, n in files if n.suffix == "bold"]
        volumes = [(p, n) for p, n in bold if not _is_surface(n) and n.entities.get("desc") in _DESCRIPTIONS]
        images = self._images(files)
        if not images:
            spaces = sorted({n.entities.get("space", "") for _, n in volumes} - {""})
            if not volumes and any(_is_surface(n) for _, n in bold):
                surfaces = {n.entities.get("space", "") for _, n in bold if _is_surface(n)} - {""}
                raise UserError(
                    f"{self.root} has surfaces only ({listed(sorted(surfaces))}), and NeuroAlign reads volumes: run "
                    f"fMRIPrep with --output-spaces {space}, or make regional series and set fmri.source to timeseries."
                )
            if not volumes and any(n.suffix == "boldref" for _, n in files):
                raise UserError(
                    f"{self.root} has no preprocessed run (*_desc-preproc_bold.nii.gz), only fMRIPrep's minimal outputs; "
                    "run it with --level full."
                )
            raise UserError(
                f"{self.root} has no preprocessed run (*_desc-preproc_bold.nii.gz) in space '{space}'; found spaces: "
                f"{listed(spaces)}{nearest(space, spaces)} (fmri.space){'' if volumes else nested(self.root)}"
            )
        if resolution is not None and not any(_has_resolution(n, resolution) for _, n in images):
            labels = sorted({n.entities.get("res", "(none)") for _, n in images})
            raise UserError(
                f"{self.root} has no preprocessed run of resolution 'res-{resolution}' in space '{space}'; found "
                f"resolutions: {listed(labels)}{nearest(resolution, labels)} (fmri.resolution)"
            )
        query = self.queries.get("bold")
        if query and not any(map(selector(query), images)):
            raise query.mismatch(self.root, [(n, p.parent.name) for p, n in images])
        used, where = images, f"in space '{space}' (fmri.space)"
        if resolution is not None:
            used = [(p, n) for p, n in images if _has_resolution(n, resolution)]
            where += f" with resolution 'res-{resolution}' (fmri.resolution)"
        self.tell_left_out(filter(selector(query), bold), used, where)
        return {}

    def runs(self, files: list[File], choice: Mapping[str, Any], raw: Tree) -> list[FoundRun]:
        """The runs of one subject: one reconstruction, combined before single echoes, and one resolution of each."""
        resolution = self.config.fmri.resolution
        images = list(filter(selector(self.queries.get("bold")), self._images(files)))
        if resolution is not None:
            images = [(p, n) for p, n in images if _has_resolution(n, resolution)]
        masks = {
            (p.parent, n.key()): p
            for p, n in files
            if n.suffix == "mask" and n.entities.get("desc") == "brain" and n.extension in IMAGE
        }
        confounds = {
            (path.parent, _run_key(name)): path
            # Where both names are there, the newer one is read last.
            for path, name in sorted(files, key=lambda f: f[1].suffix)
            if name.extension == ".tsv"
            and name.entities.get("desc") == "confounds"
            and name.suffix in ("timeseries", "regressors")
        }
        runs = []
        for versions in grouped(images, (*NOT_OF_RUN, "rec")).values():
            problems: list[str] = []
            path, name = prefer(versions, _rank, "preprocessed image", problems)
            found = FoundRun(entities_without(name, NOT_OF_RUN), {"bold": path}, problems)
            mask = masks.get((path.parent, BidsName(dict(name.entities) | {"desc": "brain"}).key()))
            if mask:
                found.files["mask"] = mask
            if (table := confounds.get((path.parent, _run_key(name)))) is not None:
                found.files["confounds"] = table
            runs.append(found)
        return runs

    def _images(self, files: list[File]) -> list[File]:
        """Preprocessed volumes in the configured space, those known by their sidecar included."""
        chosen = [
            (p, n)
            for p, n in files
            if n.suffix == "bold"
            and n.entities.get("desc") in _DESCRIPTIONS
            and n.entities.get("space") == self.config.fmri.space
            and not _is_surface(n)
        ]
        images = [(p, n) for p, n in chosen if n.extension in IMAGE]
        return images + known_by_sidecar(images, chosen)


def _is_surface(name: BidsName) -> bool:
    return bool({"hemi", "den"} & set(name.entities)) or name.extension in (".func.gii", ".dtseries.nii")


def _run_key(name: BidsName) -> frozenset:
    return frozenset((k, v) for k, v in name.key() if k not in NOT_OF_RUN)


def _has_resolution(name: BidsName, resolution: str) -> bool:
    return plain_index(name.entities.get("res", "")) == plain_index(resolution)


def _rank(name: BidsName) -> tuple:
    """The reconstruction as in raw data; combined before single echoes; no resolution label, then native, then by label."""
    resolution = name.entities.get("res")
    echo = name.entities.get("echo", "")
    description = _DESCRIPTIONS.index(name.entities["desc"])
    return (
        *reconstruction_rank(name),
        *(bool(echo), echo, description),
        *(resolution is not None, resolution != "native", resolution or ""),
    )
