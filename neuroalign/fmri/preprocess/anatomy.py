"""The T1w image: bias correction, brain extraction, tissue classes, normalisation to the template.

The template shows a brain without skull, so extraction and normalisation help each other: an affine fit to the
template's brain carries its mask to the T1w, the masked brain is normalised by SyN, and the mask comes back
through the warp.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_closing, binary_dilation, gaussian_filter

from neuroalign.bids.derivatives import (
    anatomy_paths,
    dataset_root,
    local_uri,
    source_uri,
    write_description,
)
from neuroalign.errors import UserError
from neuroalign.fmri.images import (
    SCANNER,
    TEMPLATE,
    grid_points,
    read_image,
    to_grid,
    voxel_sizes,
    write_image,
)
from neuroalign.fmri.preprocess import mask as masks
from neuroalign.fmri.preprocess import register
from neuroalign.fmri.preprocess.resample import Displacement, output_grid, pull_image
from neuroalign.io import write_json, write_tsv

logger = logging.getLogger(__name__)

_COARSE_MM = 4.0
_ROUGH, _FULL = (40, 20, 0), (30, 20, 3)  # SyN iterations, coarse to fine
_FINE_VOXEL_MM = 1.25  # T1w images at least this fine are registered at 2 mm, coarser ones at 3 mm
# Below this share of the brain's median lie CSF, skull and the soft tissue of the skull base, above it grey matter; measured on
# Colin27: 0.35 left 17 % more than its published brain, 0.55 leaves 8 %, and cuts under 1 % (docs/performance.md).
_DARK = 0.55
_BUILT_IN = "MNI152NLin2009aSym"
NILEARN_SPACES = ("MNI152NLin2009aSym", "MNI152NLin2009aAsym", "MNI152NLin2009cAsym", "MNI152NLin2009cSym")


@dataclass(frozen=True)
class Template:
    """A brain-extracted T1w template with its brain mask."""

    data: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def load_template(space: str, image: str | os.PathLike | None, resolution_mm: float) -> Template:
    """The template of a space at a working resolution.

    Parameters
    ----------
    space : str
        Name of the space.
    image : path, optional
        Brain-extracted T1w template in that space; None takes nilearn's ICBM 2009 template.
    resolution_mm : float
        Edge of the voxels.

    Raises
    ------
    UserError
        If no image is given and the space is none of the ICBM 2009 family (nilearn's template is its symmetric
        member; they differ by less than the 2–4 mm voxels of BOLD).
    """
    if image is None:
        if space not in NILEARN_SPACES:
            raise UserError(
                f"There is no built-in template of space '{space}'; set fmri.preprocess.template to a brain-extracted "
                "T1w image of it."
            )
        data, brain, affine = _nilearn_template()
    else:
        data, whole = read_image(image, ndim=3)
        affine, brain = whole.affine, data > 0
    brain = masks.largest_component(brain)
    data = np.where(brain, data, 0).astype(np.float32)
    shape, grid = output_grid(data.shape, affine, resolution_mm)
    sigma = np.maximum(resolution_mm / voxel_sizes(affine) - 1, 0) / 2.355
    coarse = to_grid(gaussian_filter(data, sigma), affine, shape, grid, order=1)
    inside = to_grid(gaussian_filter(brain.astype(np.float32), sigma), affine, shape, grid, order=1) > 0.5
    return Template(data=np.where(inside, coarse, 0).astype(np.float32), mask=inside, affine=grid)


def template_name(space: str, template: str | os.PathLike | None) -> str:
    """What images are really normalised to, for their descriptions."""
    if template is not None:
        return f"template {Path(template).name} of {space}"
    if space == _BUILT_IN:
        return f"nilearn's template of {space}"
    return f"nilearn's template of {_BUILT_IN}, which stands for {space}"


@lru_cache(maxsize=1)
def _nilearn_template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    image = load_mni152_template(resolution=1)
    brain = np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0
    return np.asarray(image.dataobj, np.float32), brain, image.affine


def preprocess_anatomy(
    t1w: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    space: str,
    template: str | os.PathLike | None = None,
) -> dict[str, Path]:
    """Preprocess one T1w image and write it as BIDS derivatives.

    Parameters
    ----------
    t1w : path
        Raw T1w image, skull included.
    folder : path
        Root of the derivatives.
    space : str
        Name of the template space.
    template : path, optional
        Brain-extracted template image; None takes nilearn's.

    Returns
    -------
    dict of str to Path
        As `neuroalign.bids.derivatives.anatomy_paths`.

    Raises
    ------
    UserError
        If an image cannot be read, no brain is found, or ANTs fails.
    """
    paths = anatomy_paths(t1w, folder, space=space)
    data, image = read_image(t1w, ndim=3)
    if not np.ptp(data) > 0:
        raise UserError(f"{t1w} is constant: no head is visible in it; check the image.")
    data, affine = from_zero(data), image.affine
    working_mm = 2.0 if voxel_sizes(affine).max() <= _FINE_VOXEL_MM else 3.0
    brain_template = load_template(space, template, working_mm)
    if template is None and space != _BUILT_IN:
        logger.warning(
            "fmri.space is %s, but normalisation is to %s, which comes with nilearn and lies a little differently; set "
            "fmri.preprocess.template to a brain-extracted T1w template of %s, or fmri.space to %s.",
            space, _BUILT_IN, space, _BUILT_IN,
        )  # fmt: skip

    shape, grid = output_grid(data.shape, affine, max(working_mm, float(voxel_sizes(affine).min())))
    sigma = np.maximum(voxel_sizes(grid) / voxel_sizes(affine) - 1, 0) / 2.355
    head = np.maximum(to_grid(gaussian_filter(data, sigma), affine, shape, grid, order=1), 0)

    with register.failures_name(t1w):
        linear, field = _affine(head, grid, brain_template, space, template, str(t1w))
        head = head / field
        brain, _, _ = _normalise(head, grid, brain_template, linear, iterations=_ROUGH)
        # Once more with the better mask: the first one came from an affine, and cut or kept a little too much.
        brain, warp, inverse = _normalise(head, grid, brain_template, linear, brain=brain, iterations=_FULL)

    whole_field = to_grid(field, grid, data.shape, affine, order=1)
    corrected = (data / np.where(whole_field > 0, whole_field, 1)).astype(np.float32)
    smooth_mask = to_grid(gaussian_filter(brain.astype(np.float32), 0.5), grid, data.shape, affine, order=1)
    whole_brain = masks.largest_component(smooth_mask > 0.5)
    classes = masks.tissue_classes(corrected, whole_brain)
    to_t1w, to_template = _displacements(brain_template, linear, warp, inverse, data.shape, affine)

    output = (brain_template.data.shape, brain_template.affine)
    write_description(folder, dataset_root(t1w))
    write_image(paths["t1w"], corrected, affine, code=SCANNER)
    write_image(paths["mask"], whole_brain, affine, code=SCANNER)
    write_image(paths["dseg"], classes, affine, code=SCANNER)
    for key, whole in (("t1w_template", corrected), ("mask_template", whole_brain)):
        carried = pull_image(whole, affine, *output, to_t1w)
        write_image(paths[key], carried > 0.5 if whole.dtype == bool else carried, output[1], code=TEMPLATE)
    # ITK names a transform after where images go: the one that *brings* images to the template pulls from it.
    to_t1w.write(paths["to_template"], code=TEMPLATE)
    to_template.write(paths["from_template"], code=SCANNER)
    _describe(paths, t1w, template_name(space, template))
    logger.info(
        "%s: brain of %.0f ml", Path(t1w).name, whole_brain.sum() * np.prod(voxel_sizes(affine)) / 1000
    )
    return paths


def from_zero(data: np.ndarray) -> np.ndarray:
    """An image whose background is about zero, as brain extraction and bias correction take for granted.

    Some reconstructions and converters store intensities below zero (signed phase, a constant offset such as -1024).

    Parameters
    ----------
    data : array of shape (x, y, z)

    Returns
    -------
    array of shape (x, y, z)
        `data` as it is, unless it has values below zero: then less its background. That is the median of the image's outermost
        voxels, or, where those show the head (a tight crop), its first percentile. A background above zero is left.
    """
    if data.min() >= 0:
        return data
    rim = np.ones(data.shape, bool)
    rim[1:-1, 1:-1, 1:-1] = False
    level = float(np.median(data[rim]))
    if level > masks.otsu(np.clip(data, *np.percentile(data, [0.5, 99.5]))):
        level = float(np.percentile(data, 1))
    return data - np.float32(min(level, 0.0))


def _describe(paths: dict[str, Path], t1w: str | os.PathLike, target: str) -> None:
    """Sidecars of all images, and the label table."""
    raw, preproc, mask = source_uri(t1w), local_uri(paths["t1w"]), local_uri(paths["mask"])
    field = local_uri(paths["to_template"])
    in_t1w = {"SpatialReference": raw}
    in_template = {"SpatialReference": local_uri(paths["t1w_template"])}
    described = {
        "t1w": {
            "Sources": [raw],
            "SkullStripped": False,
            "Description": "Bias-corrected (N4); a background below zero is set to zero.",
            **in_t1w,
        },
        "mask": {
            "Sources": [raw],
            "RawSources": [raw],
            "Type": "Brain",
            "Description": "The template's brain carried through the normalisation, trimmed to bright tissue.",
            **in_t1w,
        },
        "dseg": {
            "Sources": [preproc, mask],
            "Description": "Tissue classes by three-class k-means of intensity.",
            **in_t1w,
        },
        "t1w_template": {
            "Sources": [preproc, field],
            "SkullStripped": False,
            "Description": f"On a grid of {target}.",
            **in_template,
        },
        "mask_template": {
            "Sources": [mask, field],
            "RawSources": [raw],
            "Type": "Brain",
            "Description": f"Brain mask on a grid of {target}.",
            **in_template,
        },
        "to_template": {
            "Sources": [preproc, mask],
            "Description": f"ITK displacement field; antsApplyTransforms brings T1w images to {target} with it.",
        },
        "from_template": {
            "Sources": [preproc, mask],
            "Description": f"ITK displacement field; antsApplyTransforms brings images from {target} to the T1w with it.",
        },
    }
    for key, content in described.items():
        write_json(paths[f"{key}_json"], content)
    labels = pd.DataFrame(
        {"index": [1, 2, 3], "name": ["Gray Matter", "White Matter", "Cerebrospinal Fluid"]}
    )
    write_tsv(paths["dseg_tsv"], labels.assign(abbreviation=["GM", "WM", "CSF"]))


def _affine(
    head: np.ndarray,
    grid: np.ndarray,
    brain: Template,
    space: str,
    template: str | os.PathLike | None,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The affine template → T1w, and the bias field of the head."""
    coarse = load_template(space, template, _COARSE_MM)
    start = masks.initial_alignment(head, grid, coarse.data, coarse.affine, coarse.mask)
    rough = _carry(brain, start, head.shape, grid)
    if rough.sum() * np.prod(voxel_sizes(grid)) < 3e5:
        raise UserError(
            f"{name}: no brain was found in the image; check its orientation and that it is a T1w image."
        )
    field = register.correct_bias(head, grid, rough & (head > 0))
    around = binary_dilation(brain.mask, masks.ball(4.0, brain.affine))
    linear = register.linear(
        brain.data,
        brain.affine,
        head / field,
        grid,
        kind="Affine",
        start=start,
        mask=around.astype(np.float32),
    )
    return linear, field


def _carry(brain: Template, linear: np.ndarray, shape: tuple[int, ...], grid: np.ndarray) -> np.ndarray:
    """The template's brain mask on the grid of the T1w, by an affine."""
    back = np.linalg.inv(linear)
    carried = pull_image(
        brain.mask.astype(np.float32), brain.affine, shape, grid, lambda p: p @ back[:3, :3].T + back[:3, 3]
    )
    return carried > 0.5


def _normalise(
    head: np.ndarray,
    grid: np.ndarray,
    template: Template,
    linear: np.ndarray,
    *,
    iterations: tuple[int, ...],
    brain: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SyN of the masked head to the template; the brain mask it implies, the warp and its inverse."""
    if brain is None:
        brain = _trim(head, _carry(template, linear, head.shape, grid), grid)
    warp, inverse = register.diffeomorphic(
        template.data, template.affine, np.where(brain, head, 0), grid, start=linear, iterations=iterations
    )
    back = np.linalg.inv(linear)
    field = Displacement(inverse, template.affine)
    carried = pull_image(
        template.mask.astype(np.float32),
        template.affine,
        head.shape,
        grid,
        lambda p: field(p @ back[:3, :3].T + back[:3, 3]),
    )
    return _trim(head, carried > 0.5, grid), warp, inverse


def _trim(head: np.ndarray, brain: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A mask without the bright scalp it touches, and with the brain just outside it.

    Skull and CSF around the brain are dark in a T1w, so the brain is the bright piece connected to the middle of
    the mask, within a few millimetres of it.
    """
    near = binary_dilation(brain, masks.ball(3.0, grid))
    tissue = np.median(head[brain])
    bright = near & (head > _DARK * tissue) & (head < 2.5 * tissue)
    kept = masks.largest_component(masks.binary_opening(bright, masks.ball(4.0, grid)))
    return masks.largest_component(binary_closing(np.pad(kept, 3), masks.ball(6.0, grid))[3:-3, 3:-3, 3:-3])


def _displacements(
    template: Template,
    linear: np.ndarray,
    warp: np.ndarray,
    inverse: np.ndarray,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> tuple[Displacement, Displacement]:
    """Affine and warp in one field each way: template → T1w on the template, T1w → template over the T1w."""
    points = grid_points(template.data.shape, template.affine)
    warped = points + warp.reshape(-1, 3)
    forward = warped @ linear[:3, :3].T + linear[:3, 3] - points
    coarse_shape, coarse = output_grid(shape, affine, float(voxel_sizes(template.affine).max()))
    points_t1w = grid_points(coarse_shape, coarse)
    back = np.linalg.inv(linear)
    there = Displacement(inverse, template.affine)(points_t1w @ back[:3, :3].T + back[:3, 3])
    return (
        Displacement(forward.reshape(*template.data.shape, 3).astype(np.float32), template.affine),
        Displacement((there - points_t1w).reshape(*coarse_shape, 3).astype(np.float32), coarse),
    )
