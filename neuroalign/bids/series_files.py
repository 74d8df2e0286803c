"""Files of ready-made time series: what lies beside a series, and what several runs in one HDF5 file are.

Names are those that XCP-D and giga_connectome write; docs/sources/timeseries.md lists them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroalign.bids.filters import listed
from neuroalign.bids.naming import BidsName, parse_name, plain_index
from neuroalign.bids.repetition import LONGEST_TR_S
from neuroalign.errors import UserError, nearest
from neuroalign.io import open_hdf5

if TYPE_CHECKING:
    import h5py

logger = logging.getLogger(__name__)
# Entities that describe how series were made, not which run they are of.
MADE = ("space", "cohort", "res", "den", "desc", "atlas", "seg", "scale", "stat", "hemi", "label")


def is_series(name: BidsName) -> bool:
    """Tables and HDF5 files of series; XCP-D up to 0.1 called them ``desc-timeseries_bold.tsv``."""
    described = name.entities.get("desc")
    if name.suffix == "bold":
        return name.extension == ".tsv" and described == "timeseries"
    return name.extension in (".tsv", ".h5") and described not in ("confounds", "physio")


def companions(path: str | os.PathLike) -> dict[str, Path]:
    """Tables beside a series that say which of its volumes moved: `outliers` and `motion` (XCP-D).

    Parameters
    ----------
    path : path
        The series; it need not exist.
    """
    path = Path(path)
    try:
        wanted = _plain(parse_name(path.name))
    except ValueError:
        return {}
    found: dict[str, list[tuple[int, Path]]] = {}
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return {}
    for name in names:
        if not name.endswith(("_outliers.tsv", "_motion.tsv")):
            continue
        try:
            parsed = parse_name(name)
        except ValueError:
            continue
        if _plain(parsed) == wanted:
            found.setdefault(parsed.suffix, []).append((len(parsed.entities), path.parent / name))
    return {suffix: min(files)[1] for suffix, files in found.items()}


def _plain(name: BidsName) -> frozenset[tuple[str, str]]:
    return frozenset((k, v) for k, v in name.key() if k not in MADE)


@dataclass(frozen=True)
class SeriesDataset:
    """One dataset of an HDF5 file of several runs.

    Attributes
    ----------
    entities : mapping of str to str
        Of its run.
    atlas : str
        Atlas and its description, such as ``Schaefer2018100Parcels7Networks``.
    dataset : str
        Where it is in the file.
    """

    entities: Mapping[str, str]
    atlas: str
    dataset: str

    def belongs_to(self, entities: Mapping[str, str]) -> bool:
        """Whether it is of this run: the entities that both name agree (``run-1`` and ``run-01`` do)."""
        mine = {k: plain_index(v) if k == "run" else v for k, v in self.entities.items()}
        theirs = {k: plain_index(v) if k == "run" else v for k, v in entities.items()}
        return all(mine.get(k, "") == theirs.get(k, "") for k in ("sub", "ses", "task", "run"))


def hdf5_series(file: h5py.File) -> list[SeriesDataset]:
    """Datasets ``[sub-…/[ses-…/]]sub-…_task-…_atlas-…_desc-…_timeseries`` of a file (giga_connectome up to 0.4)."""
    return list(_walk(file))


def _walk(group: h5py.Group, prefix: str = "") -> Iterator[SeriesDataset]:
    for name in group:
        inner = group.get(name)
        where = f"{prefix}/{name}"
        if hasattr(inner, "keys"):
            yield from _walk(inner, where)
            continue
        try:
            parsed = parse_name(name)
        except ValueError:
            continue
        if parsed.suffix == "timeseries" and "sub" in parsed.entities:
            entities = {k: v for k, v in parsed.entities.items() if k not in MADE}
            yield SeriesDataset(entities, atlas_label(parsed), where)


def atlas_label(name: BidsName) -> str:
    """The atlas of a series by its name.

    giga_connectome up to 0.5 put the size of the atlas into ``desc``, before the denoising strategy.
    """
    atlas, described = name.entities.get("atlas", ""), name.entities.get("desc", "")
    in_hdf5 = name.extension == ""
    if atlas and (in_hdf5 or described[:1].isdigit()):
        return atlas + described
    return atlas or name.entities.get("seg", "")


def same_atlas(label: str, wanted: str) -> bool:
    """Whether the label in a file name and a configured atlas name can mean one atlas.

    Letters of the label must occur in the wanted name, and its numbers among the wanted one's: ``Schaefer200`` and
    ``schaefer_2018_200`` agree, ``4S256Parcels`` and ``4S156Parcels`` do not. Nor do ``Schaefer100`` and
    ``Schaefer1000``: a number is compared as a whole.
    """
    plain = [_plain_text(text) for text in (label, wanted)]
    if plain[0] == plain[1] or _holds(*plain) or _holds(*reversed(plain)):
        return True
    words, others = (set(re.findall(r"[a-z]+", text.lower())) for text in (label, wanted))
    numbers, known = (set(re.findall(r"\d+", text)) for text in (label, wanted))
    return bool(words) and words <= others and numbers <= known


def _plain_text(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _holds(text: str, part: str) -> bool:
    """Whether a text holds a part whose ends cut through no number of it."""
    before, after = r"(?<!\d)" if part[:1].isdigit() else "", r"(?!\d)" if part[-1:].isdigit() else ""
    return bool(part) and re.search(before + re.escape(part) + after, text) is not None


def atlas_among(labels: list[str], wanted: str | None) -> str:
    """Of the atlases that there are series of, the one that `fmri.atlas.name` means.

    The only one is taken whatever the name, with a warning where they differ.

    Raises
    ------
    UserError
        If there are several and none, or more than one, is meant.
    """
    if len(labels) == 1:
        if wanted and labels[0] and not same_atlas(labels[0], wanted):
            logger.warning(
                "fmri.atlas.name is '%s', but all time series are of atlas '%s'; they are used.",
                wanted,
                labels[0],
            )
        return labels[0]
    shown = listed(label or "(none)" for label in labels)
    if not wanted:
        raise UserError(
            f"There are time series of several atlases ({shown}); set fmri.atlas.name to one of them."
        )
    plain = _plain_text(wanted)
    for matches in (
        lambda label: label.lower() == plain,
        lambda label: _holds(label.lower(), plain),
        lambda label: same_atlas(label, wanted),
    ):
        hits = [label for label in labels if label and matches(label)]
        if len(hits) == 1:
            return hits[0]
    raise UserError(
        f"no time series of atlas '{wanted}'; found atlases: {shown}{nearest(wanted, labels)} (fmri.atlas.name)"
    )


def collected(root: Path) -> list[tuple[Path, SeriesDataset]]:
    """Datasets in HDF5 files at the root of the derivatives, each with its file.

    Raises
    ------
    UserError
        If a file is damaged.
    """
    found = []
    for path in sorted(root.glob("*.h5")):
        with open_hdf5(path) as file:
            found += [(path, item) for item in hdf5_series(file)]
    return found


def said(*attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a file or dataset in the words of a sidecar (``RepetitionTime``); also ``Atlas`` and ``Space``."""
    words = {"tr": "RepetitionTime", "atlas": "Atlas", "space": "Space"}
    found: dict[str, Any] = {}
    for source in attributes:
        for key, value in source.items():
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, (str, int, float)) and value != "":
                found[words.get(key, key)] = value
    return found


def own_times(file: h5py.File, path: str | os.PathLike) -> np.ndarray | None:
    """``/times`` of an HDF5 file of one run, float64 seconds of shape (volumes,); None if it has none.

    Raises
    ------
    UserError
        If they do not increase, or cannot be seconds.
    """
    if "times" not in file:
        return None
    times = np.asarray(file["times"][()], np.float64)
    if times.ndim != 1 or len(times) < 2 or not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise UserError(f"{path}: /times must increase; they are seconds at the middle of each volume.")
    step = float(np.median(np.diff(times)))
    if step > LONGEST_TR_S:
        raise UserError(f"{path}: /times are {step:g} apart; they are seconds, so divide them by 1000.")
    return times


def hdf5_metadata(path: Path, entities: Mapping[str, str]) -> dict[str, Any]:
    """What an HDF5 file of series says itself of a run, in the words of a sidecar.

    Parameters
    ----------
    path : path
    entities : mapping of str to str
        Of the run, to find it in a file of several runs.

    Raises
    ------
    UserError
        If the file is damaged, or its times are none.
    """
    with open_hdf5(path) as file:
        if "data" in file or "levels" in file:
            inner = [file["data"].attrs] if "data" in file else []
            return with_step(said(file.attrs, *inner), own_times(file, path))
        return said(*(file[d.dataset].attrs for d in hdf5_series(file) if d.belongs_to(entities)))


def with_step(metadata: dict[str, Any], times: np.ndarray | None) -> dict[str, Any]:
    """Metadata with the usual step of `times` as the repetition time, unless they give one."""
    if times is None:
        return metadata
    return {"RepetitionTime": float(f"{np.median(np.diff(times)):.9g}")} | metadata
