"""Atlases: a label image with names, regions sorted into levels, brought to the grid of the BOLD."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.errors import UserError
from neuroalign.fmri.images import read_image, to_grid
from neuroalign.io import read_tsv

logger = logging.getLogger(__name__)
_SHOWN = 6
_GENERIC = ("MNI", "MNI152")


@dataclass(frozen=True)
class Atlas:
    """A parcellation.

    Attributes
    ----------
    name : str
        For the record.
    data : int array of shape (x, y, z)
        Region index per voxel, 0 outside.
    affine : array of shape (4, 4)
        Voxel to template coordinates, mm.
    labels : dict of int to str
        Region index → label, ordered by index.
    """

    name: str
    data: np.ndarray
    affine: np.ndarray
    labels: dict[int, str]

    def on_grid(self, shape: tuple[int, ...], affine: np.ndarray, regions: Sequence[str]) -> np.ndarray:
        """The label image on another grid (nearest neighbour), with a voxel in each of `regions` at least.

        Raises
        ------
        UserError
            If regions vanish: named; when more than half do, the spaces probably differ.
        """
        moved = to_grid(self.data, self.affine, shape, affine)
        present = set(np.unique(moved).tolist())
        wanted = set(regions)
        lost = [label for index, label in self.labels.items() if label in wanted and index not in present]
        if len(lost) > len(wanted) / 2:
            raise UserError(
                f"Atlas '{self.name}' and the BOLD grid hardly overlap ({len(lost)} of {len(wanted)} regions have no "
                "voxel): they are probably in different spaces; use an atlas in fmri.space."
            )
        if lost:
            raise UserError(
                f"Atlas '{self.name}': {len(lost)} regions have no voxel on the BOLD grid ({some(lost)}); set "
                "fmri.preprocess.resolution_mm to smaller voxels, take a coarser atlas, or leave them out of fmri.levels."
            )
        return moved


def load_atlas(config: AtlasConfig, space: str) -> Atlas:
    """Load the configured atlas.

    Parameters
    ----------
    config : Atlas section
        `image` and `labels`, or the `name` of an atlas that nilearn fetches.
    space : str
        `fmri.space`; an image that names another space in its file name is refused.

    Raises
    ------
    UserError
        If nothing is configured, a file is missing or damaged, the spaces differ, or image and table disagree.
    """
    if config.image:
        return _from_files(config, space)
    if config.name:
        return _from_nilearn(config.name)
    raise UserError("No atlas is configured: set fmri.atlas.image (with labels), or fmri.atlas.name.")


def assign_levels(labels: Sequence[str], levels: Mapping[str, str]) -> dict[str, list[str]]:
    """Sort regions into brain levels by regular expression.

    Parameters
    ----------
    labels : sequence of str
        All region labels, in order.
    levels : mapping of str to str
        Level → pattern (searched, not anchored).

    Returns
    -------
    dict of str to list of str
        Labels per level; both orders kept.

    Raises
    ------
    UserError
        If a level has no region, or a region belongs to two levels.
    """
    assigned = {level: [v for v in labels if re.search(pattern, v)] for level, pattern in levels.items()}
    owner: dict[str, str] = {}
    for level, members in assigned.items():
        if not members:
            raise UserError(
                f"fmri.levels: no region matches '{levels[level]}' of level '{level}'; labels look like {some(labels)}."
            )
        for label in members:
            if label in owner:
                raise UserError(
                    f"fmri.levels: region '{label}' belongs to both '{owner[label]}' and '{level}'; narrow the patterns."
                )
            owner[label] = level
    return assigned


def check_space(image: str | os.PathLike, space: str) -> None:
    """Check that the name of an atlas image (its ``space-`` entity, if any) agrees with `space`.

    Raises
    ------
    UserError
        If it names another space.
    """
    name = Path(image).name
    found = re.search(r"_space-([A-Za-z0-9]+)", name)
    if found and found[1] != space and not (found[1] in _GENERIC and space.startswith("MNI152")):
        raise UserError(
            f"The atlas {name} is in another space ('{found[1]}') than fmri.space ('{space}'); use the atlas in "
            "that space, or change fmri.space."
        )


def labels_beside(image: str | os.PathLike) -> Path | None:
    """The label table of an atlas image: the same stem, or the same without ``space-`` and ``res-`` (BIDS)."""
    image = Path(image)
    name = image.name.split(".nii", 1)[0]
    bare = re.sub(r"_(space|res)-[A-Za-z0-9]+", "", name)
    for stem in dict.fromkeys([name, f"{name}_dseg", bare, f"{bare}_dseg"]):
        candidate = image.with_name(f"{stem}.tsv")
        if candidate.exists():
            return candidate
    return None


def _from_files(config: AtlasConfig, space: str) -> Atlas:
    image = Path(config.image)
    check_space(image, space)
    table = Path(config.labels) if config.labels else labels_beside(image)
    if image.exists() and table is None:
        raise UserError(
            f"No label table was found beside {image}; set fmri.atlas.labels to a TSV with index and label."
        )
    raw, loaded = read_image(image, ndim=3)
    data = np.rint(raw).astype(np.int32)
    if np.abs(raw - data).max() > 1e-3:
        raise UserError(
            f"{image} holds fractions: it is no label image; use the discrete segmentation (dseg)."
        )
    labels = _read_labels(table)
    unnamed = sorted(set(np.unique(data).tolist()) - set(labels) - {0})
    if unnamed:
        logger.warning(
            "%s: regions %s have no label in %s and are not used.", image.name, unnamed[:_SHOWN], table
        )
    return Atlas(config.name or image.name.split(".nii", 1)[0], data, loaded.affine, labels)


def _read_labels(path: Path) -> dict[int, str]:
    table = read_tsv(path, text=("label", "name"))
    column = next((c for c in ("label", "name") if c in table), None)
    if column is None or "index" not in table:
        raise UserError(
            f"{path} needs the columns 'index' and 'label' (or 'name'); it has {some(table.columns)}."
        )
    table = table[(table["index"] != 0) & (table[column] != "")]
    labels = dict(zip(table["index"].astype(int).tolist(), table[column].tolist(), strict=True))
    if len(labels) != len(table) or len(set(labels.values())) != len(labels):
        raise UserError(f"{path} repeats an index or a label; every region needs its own.")
    return dict(sorted(labels.items()))


def _from_nilearn(name: str) -> Atlas:
    from nilearn import datasets

    parts = re.fullmatch(r"schaefer_2018_(\d+)(?:_(7|17)networks)?", name)
    try:
        if parts:
            fetched = datasets.fetch_atlas_schaefer_2018(
                n_rois=int(parts[1]), yeo_networks=int(parts[2] or 7)
            )
        elif name == "aal":
            fetched = datasets.fetch_atlas_aal()
        elif name.startswith("harvard_oxford_"):
            fetched = datasets.fetch_atlas_harvard_oxford(name.removeprefix("harvard_oxford_"))
        else:
            raise UserError(
                f"fmri.atlas.name '{name}' is unknown: use schaefer_2018_<100…1000>[_17networks], aal or "
                "harvard_oxford_<variant>, or give fmri.atlas.image."
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"Atlas '{name}' could not be fetched ({error}); download it once on a connected machine and set "
            "fmri.atlas.image and fmri.atlas.labels."
        ) from error
    image = fetched.maps
    if isinstance(image, (str, os.PathLike)):
        data, loaded = read_image(image, ndim=3)
    else:
        data, loaded = np.asarray(image.dataobj), image
    table = fetched.lut
    labels = {int(i): str(n) for i, n in zip(table["index"], table["name"], strict=True) if int(i) != 0}
    return Atlas(name, np.rint(data).astype(np.int32), loaded.affine, dict(sorted(labels.items())))


def some(values: Sequence[object]) -> str:
    """The first few of some names, for a message."""
    shown = [str(v) for v in list(values)[:_SHOWN]]
    return ", ".join(shown) + (", …" if len(values) > _SHOWN else "")
