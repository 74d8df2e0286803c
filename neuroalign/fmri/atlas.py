"""Atlases: a label image with names, regions sorted into levels, brought to the grid of the BOLD."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.config.levels import unlisted
from neuroalign.errors import UserError
from neuroalign.fmri.fetched_atlas import fetch_atlas
from neuroalign.fmri.images import image_problem, read_image, to_grid
from neuroalign.fmri.label_table import labels_beside, read_labels

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
        `fmri.space`; an image that names another space in its file name is refused, an atlas by name that is in
        another space is warned about (most exist in one space only).

    Raises
    ------
    UserError
        If nothing is configured, a file is missing or damaged, the spaces differ, image and table disagree, or the
        image is probabilistic.
    """
    if config.image:
        return _from_files(config, space)
    if config.name:
        return _from_nilearn(config.name, space)
    raise UserError("No atlas is configured: set fmri.atlas.image (with labels), or fmri.atlas.name.")


def assign_levels(labels: Sequence[str], levels: Mapping[str, str]) -> dict[str, list[str]]:
    """Sort regions into brain levels by regular expression; labels that a ready-made table does not know are warned about.

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
    table, unknown = unlisted(labels, levels)
    if unknown:
        logger.warning(
            "fmri.levels: %d of %d regions of the atlas are in no level of the table '%s' and not on its list of unused areas "
            "(%s); they are left out.",
            len(unknown),
            len(labels),
            table,
            some(unknown),
        )
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


def _from_files(config: AtlasConfig, space: str) -> Atlas:
    image = Path(config.image)
    check_space(image, space)
    data, affine = _label_image(image, str(image))
    table = Path(config.labels) if config.labels else labels_beside(image)
    if table is None:
        raise UserError(
            f"No label table was found beside {image}; set fmri.atlas.labels to a TSV with index and label."
        )
    return _atlas(config.name or image.name.split(".nii", 1)[0], data, affine, read_labels(table), str(image))


def _from_nilearn(name: str, space: str) -> Atlas:
    fetched = fetch_atlas(name)
    if fetched.space != space:
        logger.warning(
            "Atlas '%s' is in %s and fmri.space is %s: regions may lie a few millimetres off; an atlas image in "
            "fmri.space (fmri.atlas.image) is better.",
            name,
            fetched.space,
            space,
        )
    data, affine = _label_image(fetched.maps, f"Atlas '{name}'")
    return _atlas(name, data, affine, fetched.labels, f"Atlas '{name}'")


def _label_image(image: str | os.PathLike | nib.spatialimages.SpatialImage, source: str):
    """Region number per voxel, and the affine, of an image or its file; refused if it holds no labels."""
    if isinstance(image, (str, os.PathLike)):
        if problem := image_problem(image):
            raise UserError(problem)
        shape = nib.load(image).shape
    else:
        shape = image.shape
    if len(shape) > 3 and shape[3:] != (1,):
        raise UserError(
            f"{source} has {len(shape)} dimensions, as probabilistic atlases have (a map per region); use its label "
            "image (dseg, maximum probability)."
        )
    if isinstance(image, (str, os.PathLike)):
        data, image = read_image(image, ndim=3, dtype=np.float64)
    else:
        data = np.asarray(image.dataobj, np.float64).reshape(shape[:3])
    numbers = np.rint(data)
    if np.abs(data - numbers).max() > 1e-3:
        raise UserError(
            f"{source} holds fractions: it is no label image; use the discrete segmentation (dseg)."
        )
    return numbers.astype(np.int32), image.affine


def _atlas(
    name: str, numbers: np.ndarray, affine: np.ndarray, labels: Mapping[int, str], source: str
) -> Atlas:
    """Reconcile the image with its table."""
    present = set(np.unique(numbers).tolist()) - {0}
    if unnamed := sorted(present - set(labels)):
        logger.warning("%s: regions %s have no label and are not used.", source, some(unnamed))
    used = {number: label for number, label in sorted(labels.items()) if number in present}
    if not used:
        raise UserError(
            f"{source}: none of its regions ({some(sorted(present))}) is in its label table (from "
            f"{some(sorted(labels))}); check that image and table belong together."
        )
    if absent := [label for number, label in labels.items() if number not in present]:
        logger.warning(
            "%s: %d labels of its table are not in the image (%s).", source, len(absent), some(absent)
        )
    return Atlas(name, numbers, affine, used)


def some(values: Sequence[object]) -> str:
    """The first few of some names, for a message."""
    shown = [str(v) for v in list(values)[:_SHOWN]]
    return ", ".join(shown) + (", …" if len(values) > _SHOWN else "")
