"""The files of every run, for each of the three sources (`fmri.source`).

pybids finds the files; which of them belong together is decided here by their names. What a run's metadata and
events say is read in `bids.index`.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from neuroalign.bids.filters import listed
from neuroalign.bids.metadata import Tree, sidecar
from neuroalign.bids.naming import VERSION_ENTITIES, BidsName, build_name, parse_name, run_folder
from neuroalign.bids.series_files import MADE, atlas_among, atlas_label, collected, is_series
from neuroalign.config import Config
from neuroalign.errors import UserError, nearest
from neuroalign.io import read_json

logger = logging.getLogger(__name__)

IMAGE = (".nii.gz", ".nii")
# Entities that derivatives add; without them a derivative's name is that of its raw run.
_DERIVED = MADE
# Single-echo BOLD at 3 T is usually acquired about here; of several echoes the nearest stands for the run.
_USUAL_ECHO_S = 0.030


@dataclass
class FoundRun:
    """The files of one run, as paths below the configured roots.

    Attributes
    ----------
    entities : dict of str to str
        Of the raw run: short key to label, without `VERSION_ENTITIES`.
    files : dict of str to Path
        `bold`, `t1w`, `mask`, `confounds`, `timeseries`: those that there are. A run that is known only by its
        sidecar has the image that the sidecar describes, though it is absent.
    """

    entities: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)


def check_dataset(bids_dir: Path) -> None:
    """Check that a folder is the root of a BIDS dataset.

    Raises
    ------
    UserError
        If it does not exist, is empty, or has no valid ``dataset_description.json``.
    """
    if not bids_dir.is_dir():
        what = "is not a folder" if bids_dir.exists() else "does not exist"
        raise UserError(
            f"The BIDS folder {bids_dir} {what}; set dataset.bids_dir to the root of the dataset."
        )
    if not any(bids_dir.iterdir()):
        raise UserError(
            f"The BIDS folder {bids_dir} is empty; set dataset.bids_dir to the root of the dataset."
        )
    description = bids_dir / "dataset_description.json"
    if not description.exists():
        inner = sorted(p.parent.name for p in bids_dir.glob("*/dataset_description.json"))
        hint = f"; did you mean {bids_dir / inner[0]}?" if len(inner) == 1 else ""
        raise UserError(
            f"{bids_dir} has no dataset_description.json, so it is not the root of a BIDS dataset: "
            f"set dataset.bids_dir to the root, or add the file{hint}"
        )
    if not isinstance(read_json(description), dict):
        raise UserError(
            f'{description} must hold a JSON object such as {{"Name": "…", "BIDSVersion": "1.10.0"}}.'
        )


def find_runs(config: Config, raw: Tree, problems: list[str]) -> list[FoundRun]:
    """All runs of the configured source, unfiltered, by name.

    Parameters
    ----------
    config : Config
    raw : Tree
        The BIDS dataset.
    problems : list of str
        Sentences about ambiguous files are appended.

    Raises
    ------
    UserError
        If there are none, or none in the configured space or atlas.
    """
    if config.fmri.source == "raw":
        runs = _raw_runs(raw, problems)
    else:
        root = _derivatives(config)
        runs = (_fmriprep_runs if config.fmri.source == "fmriprep" else _timeseries_runs)(
            config, root, problems
        )
    return sorted(runs, key=lambda run: _natural(build_name(run.entities)))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key in which ``run-2`` comes before ``run-10``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part != ""
    ]


# --- finding files --------------------------------------------------------------------------------------------


def _find(root: Path, folders: Iterable[str], suffixes: Iterable[str]) -> list[tuple[Path, BidsName]]:
    """Files of some suffixes in the modality folders of a dataset, through pybids.

    Only ``sub-*/[ses-*/]<folder>`` is walked: derivatives, stimuli or source data nested in the dataset are not
    raw data. Nothing is written: the layout lives in memory (`bids.cache` keeps the result).
    """
    from bids import BIDSLayout, BIDSLayoutIndexer

    folders, suffixes = "|".join(folders), "|".join(suffixes)
    elsewhere = [
        re.compile(r"^/(?!sub-[^/]+(/|$))"),
        re.compile(rf"^/sub-[^/]+/(?!ses-[^/]+(/|$)|({folders})(/|$))"),
        re.compile(rf"^/sub-[^/]+/ses-[^/]+/(?!({folders})(/|$))"),
        re.compile(rf"/({folders})/(?![^/]*_({suffixes})\.(nii|nii\.gz|json|tsv|h5)$)"),
    ]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=elsewhere)
    layout = BIDSLayout(root, validate=False, indexer=indexer)
    # pybids makes paths absolute; ours stay as the configuration gives them.
    absolute = str(layout.root)
    found = []
    for name in sorted(layout.files):
        relative = os.path.relpath(name, absolute)
        try:
            parsed = parse_name(relative)
        except ValueError:
            continue
        if "sub" in parsed.entities:
            found.append((root / relative, parsed))
    return found


def _grouped(
    files: Iterable[tuple[Path, BidsName]], without: tuple[str, ...]
) -> dict[frozenset, list[tuple[Path, BidsName]]]:
    """Files by run: equal entities, but for those that are no part of a run's identity."""
    groups = defaultdict(list)
    for path, name in files:
        key = frozenset((k, v) for k, v in name.key() if k not in without)
        groups[key].append((path, name))
    return groups


def _run_entities(name: BidsName, without: tuple[str, ...]) -> dict[str, str]:
    return {k: v for k, v in name.entities.items() if k not in without}


def _prefer(
    files: list[tuple[Path, BidsName]], rank: Callable[[BidsName], tuple], what: str, problems: list[str]
) -> Path:
    """The best-ranked file; a tie is a problem, and the first by name is taken."""
    ranked = sorted(files, key=lambda item: (rank(item[1]), item[0].name))
    best = ranked[0]
    ties = [path for path, name in ranked if rank(name) == rank(best[1])]
    if len(ties) > 1:
        problems.append(f"{' and '.join(str(p) for p in ties)} are the {what} of one run: keep one of them.")
    elif len(ranked) > 1:
        logger.info("of %d versions %s is taken as the %s", len(ranked), best[0], what)
    return best[0]


# --- raw ------------------------------------------------------------------------------------------------------


def _raw_runs(raw: Tree, problems: list[str]) -> list[FoundRun]:
    files = _find(raw.root, ("func", "anat"), ("bold", "T1w"))
    bold = [(p, n) for p, n in files if n.suffix == "bold" and "task" in n.entities]
    images = [(p, n) for p, n in bold if n.extension in IMAGE]
    images += _known_by_sidecar(images, bold)
    if not images:
        raise UserError(
            f"{raw.root} has no BOLD run (sub-*/[ses-*/]func/*_task-*_bold.nii.gz); set dataset.bids_dir to a "
            "dataset with functional images, or fmri.source to what there is."
        )
    anatomy = defaultdict(list)
    for path, name in files:
        if name.suffix == "T1w" and name.extension in IMAGE and name.entities.get("part", "mag") == "mag":
            anatomy[name.entities["sub"]].append((path, name))
    runs = []
    for versions in _grouped(images, (*VERSION_ENTITIES, "rec")).values():
        magnitude = [(p, n) for p, n in versions if n.entities.get("part", "mag") == "mag"]
        if not magnitude:
            continue
        path = _prefer(magnitude, lambda name: _version_rank(name, raw), "BOLD image", problems)
        found = FoundRun(_run_entities(parse_name(path.name), VERSION_ENTITIES), {"bold": path})
        if anatomical := _anatomy_of(found.entities, anatomy.get(found.entities["sub"], [])):
            found.files["t1w"] = anatomical
        runs.append(found)
    return runs


def _known_by_sidecar(
    images: list[tuple[Path, BidsName]], files: list[tuple[Path, BidsName]]
) -> list[tuple[Path, BidsName]]:
    """Images that are absent though their own sidecar is there (a download without the large files).

    A sidecar with fewer entities than another file beside it is inherited by that file: no image of its own.
    """
    beside = defaultdict(list)
    for path, name in files:
        beside[path.parent].append(name.key())
    present = {(path.parent, name.key()) for path, name in images}
    absent = []
    for path, name in files:
        if name.extension != ".json" or (path.parent, name.key()) in present:
            continue
        if any(name.key() < other for other in beside[path.parent]):
            continue
        image = path.with_name(path.name.removesuffix(".json") + ".nii.gz")
        absent.append((image, BidsName(name.entities, name.suffix, ".nii.gz")))
    return absent


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
    return (bool(name.entities.get("rec")), name.entities.get("rec", ""), distance)


def _anatomy_of(entities: dict[str, str], candidates: list[tuple[Path, BidsName]]) -> Path | None:
    """The T1w image of the same session, else of any; the plainest name first."""
    if not candidates:
        return None
    session = entities.get("ses", "")

    def rank(item: tuple[Path, BidsName]) -> tuple:
        path, name = item
        return (name.entities.get("ses", "") != session, len(name.entities), _natural(path.name))

    return min(candidates, key=rank)[0]


# --- derivatives ----------------------------------------------------------------------------------------------


def _derivatives(config: Config) -> Path:
    root = Path(config.dataset.derivatives)
    if not root.is_dir():
        raise UserError(
            f"The derivatives folder {root} does not exist; set dataset.derivatives to the outputs' root."
        )
    series = config.fmri.source == "timeseries"
    if not any(root.glob("sub-*")) and not (series and any(root.glob("*.h5"))):
        inner = sorted(p for p in root.iterdir() if p.is_dir() and any(p.glob("sub-*")))
        hint = f"; did you mean {listed(str(p) for p in inner)}?" if inner else ""
        raise UserError(
            f"{root} has no sub-* folders; set dataset.derivatives to the root of the outputs{hint}"
        )
    return root


def _fmriprep_runs(config: Config, root: Path, problems: list[str]) -> list[FoundRun]:
    files = _find(root, ("func",), ("bold", "mask", "timeseries", "regressors"))
    bold = [(p, n) for p, n in files if n.suffix == "bold" and n.entities.get("desc") == "preproc"]
    space = config.fmri.space
    chosen = [(p, n) for p, n in bold if n.entities.get("space") == space and "hemi" not in n.entities]
    images = [(p, n) for p, n in chosen if n.extension in IMAGE]
    images += _known_by_sidecar(images, chosen)
    if not images:
        spaces = sorted({n.entities["space"] for _, n in bold if "space" in n.entities})
        raise UserError(
            f"{root} has no preprocessed run (*_desc-preproc_bold.nii.gz) in space '{space}'; found spaces: "
            f"{listed(spaces)}{nearest(space, spaces)} (fmri.space)"
        )
    skip = (*_DERIVED, *VERSION_ENTITIES)
    masks = {
        (p.parent, n.key()): p
        for p, n in files
        if n.suffix == "mask" and n.entities.get("desc") == "brain" and n.extension in IMAGE
    }
    confounds = {}
    for path, name in files:
        if name.extension == ".tsv" and name.entities.get("desc") == "confounds":
            confounds[path.parent, frozenset((k, v) for k, v in name.key() if k not in skip)] = path
    runs = []
    for key, versions in _grouped(images, skip).items():
        path = _prefer(versions, _resolution_rank, "preprocessed image", problems)
        name = parse_name(path.name)
        found = FoundRun(_run_entities(name, skip), {"bold": path})
        mask_key = BidsName(dict(name.entities) | {"desc": "brain"}).key()
        if (path.parent, mask_key) in masks:
            found.files["mask"] = masks[path.parent, mask_key]
        if (path.parent, key) in confounds:
            found.files["confounds"] = confounds[path.parent, key]
        runs.append(found)
    return runs


def _resolution_rank(name: BidsName) -> tuple:
    """Combined before single echoes; no resolution label, then native, then by label."""
    resolution = name.entities.get("res")
    echo = name.entities.get("echo", "")
    return (bool(echo), echo, resolution is not None, resolution != "native", resolution or "")


def _timeseries_runs(config: Config, root: Path, problems: list[str]) -> list[FoundRun]:
    files = [(p, n) for p, n in _find(root, ("func",), ("timeseries", "bold")) if is_series(n)]
    if not files and (found := collected(root)):
        return _collected_runs(found, config.fmri.atlas.name, problems)
    if not files:
        raise UserError(
            f"{root} has no time series (sub-*/[ses-*/]func/*_timeseries.tsv or .h5); set dataset.derivatives to "
            "their root."
        )
    files = _of_atlas(files, config.fmri.atlas.name)
    files = _of_space(files, config.fmri.space)
    runs = []
    for versions in _grouped(files, (*_DERIVED, *VERSION_ENTITIES)).values():
        path = _prefer(
            versions, lambda n: (n.entities.get("stat", "mean") != "mean",), "time series", problems
        )
        name = parse_name(path.name)
        runs.append(FoundRun(_run_entities(name, (*_DERIVED, *VERSION_ENTITIES)), {"timeseries": path}))
    return _without_concatenations(runs)


def _without_concatenations(runs: list[FoundRun]) -> list[FoundRun]:
    """Without series that XCP-D made of all runs of a task one after the other (``--combine-runs``)."""
    several = {
        frozenset((k, v) for k, v in r.entities.items() if k != "run") for r in runs if "run" in r.entities
    }
    kept = [r for r in runs if "run" in r.entities or frozenset(r.entities.items()) not in several]
    if len(kept) < len(runs):
        logger.info(
            "%d series are concatenations of runs that are there, too; they are left out",
            len(runs) - len(kept),
        )
    return kept


def _collected_runs(found: list, wanted: str | None, problems: list[str]) -> list[FoundRun]:
    """Runs in HDF5 files of many runs each (giga_connectome up to 0.4)."""
    labels = sorted({item.atlas for _, item in found})
    chosen = atlas_among(labels, wanted)
    files: dict[frozenset, set[Path]] = defaultdict(set)
    for path, item in found:
        if item.atlas == chosen:
            files[frozenset(item.entities.items())].add(path)
    runs = []
    for entities, paths in files.items():
        first, *others = sorted(paths)
        if others:
            problems.append(f"{listed(str(p) for p in sorted(paths))} hold the same run: keep one of them.")
        runs.append(FoundRun(dict(entities), {"timeseries": first}))
    return runs


def _of_atlas(files: list[tuple[Path, BidsName]], wanted: str | None) -> list[tuple[Path, BidsName]]:
    """Time series of one atlas; where there are several, `fmri.atlas.name` says which."""
    chosen = atlas_among(sorted({atlas_label(n) for _, n in files}), wanted)
    return [(p, n) for p, n in files if atlas_label(n) == chosen]


def _of_space(files: list[tuple[Path, BidsName]], wanted: str) -> list[tuple[Path, BidsName]]:
    """Time series of one space: the configured one, or the only one there is."""
    spaces = sorted({n.entities.get("space", "") for _, n in files})
    if len(spaces) == 1:
        if spaces[0] not in ("", wanted):
            logger.warning(
                "fmri.space is '%s', but all time series are in '%s'; they are used.", wanted, spaces[0]
            )
        return files
    if wanted not in spaces:
        raise UserError(
            f"There are time series in several spaces ({listed(s or '(none)' for s in spaces)}), none in "
            f"'{wanted}'; set fmri.space to one of them{nearest(wanted, spaces)}"
        )
    return [(p, n) for p, n in files if n.entities.get("space", "") == wanted]
