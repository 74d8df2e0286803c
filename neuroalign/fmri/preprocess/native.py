"""The native engine, run by run: raw BOLD and a preprocessed anatomy to BIDS derivatives."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from neuroalign.bids.derivatives import dataset_root, local_uri, run_paths, source_uri, write_description
from neuroalign.bids.repetition import agreed_tr, header_timing
from neuroalign.config.fmri import Preprocess
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
from neuroalign.fmri.preprocess.anatomy import preprocess_anatomy, template_name
from neuroalign.fmri.preprocess.confounds import confounds_table, non_steady_state
from neuroalign.fmri.preprocess.output import write_series
from neuroalign.fmri.preprocess.realign import realign
from neuroalign.fmri.preprocess.resample import (
    Displacement,
    output_grid,
    pull_image,
    resample_volumes,
    sample,
)
from neuroalign.fmri.preprocess.slice_timing import correct_slice_timing, reference_time, slice_times
from neuroalign.io import atomic_path, write_json, write_tsv

__all__ = ["preprocess_anatomy", "preprocess_run"]
logger = logging.getLogger(__name__)

_COREG_MM = 3.0
_MIN_VOLUMES = 10
_MIN_TISSUE = 20
_KEPT_METADATA = ("TaskName", "DelayTime")


def preprocess_run(
    bold: str | os.PathLike,
    anatomy: Mapping[str, str | os.PathLike],
    folder: str | os.PathLike,
    run_id: str,
    *,
    metadata: Mapping[str, Any],
    config: Preprocess,
    space: str,
    threads: int = 1,
) -> dict[str, Path]:
    """Preprocess one raw run and write it as BIDS derivatives.

    Head motion is estimated on the raw series; slices are then moved to the middle of the repetition (where the
    sidecar gives ``SliceTiming``), and every volume is sampled once, through motion, coregistration and
    normalisation together, on a grid of the template.

    Parameters
    ----------
    bold : path
        Raw 4-D BOLD image.
    anatomy : mapping
        `t1w`, `mask`, `dseg` and `to_template`, as returned by `preprocess_anatomy`.
    folder : path
        Root of the derivatives.
    run_id : str
        BIDS name up to the suffix.
    metadata : mapping
        Sidecar of the run, inheritance resolved.
    config : Preprocess
        Section `fmri.preprocess`.
    space : str
        Name of the template space.
    threads : int
        Volumes worked on at the same time; results do not depend on it.

    Returns
    -------
    dict of str to Path
        As `neuroalign.bids.derivatives.run_paths`.

    Raises
    ------
    UserError
        If an image is missing, dangling or truncated (before anything is written), or the sidecar contradicts it.
    """
    paths = run_paths(run_id, folder, space=space)
    data, image = read_image(bold, ndim=4)
    if data.shape[-1] < _MIN_VOLUMES:
        raise UserError(f"{bold} has {data.shape[-1]} volumes; at least {_MIN_VOLUMES} are needed.")
    t1w, t1w_image = read_image(anatomy["t1w"], ndim=3)
    t1w_mask, _ = read_image(anatomy["mask"], ndim=3)
    classes, _ = read_image(anatomy["dseg"], ndim=3)
    to_t1w = Displacement.read(anatomy["to_template"])
    affine = image.affine
    notes: list[str] = []
    tr = agreed_tr(metadata, {}, header_timing(image)[0], str(bold), notes)
    for note in notes:
        logger.warning("%s: %s", bold, note)
    timing = slice_times(metadata, data.shape, tr, str(bold)) if config.slice_timing else None

    rough = masks.bold_mask(data[..., data.shape[-1] // 2 :].mean(axis=-1), affine, str(bold))
    dummies = non_steady_state(data[rough].mean(axis=0, dtype=np.float64))
    motion = realign(data, affine, rough, first=dummies, threads=threads)
    lost = motion.outlier & (np.arange(len(motion.outlier)) >= dummies)
    if (~lost).sum() < _MIN_VOLUMES:
        raise UserError(
            f"{bold}: only {(~lost).sum()} of {len(lost)} volumes show the head; leave the run out (dataset.filters)."
        )
    reference_mask = masks.bold_mask(motion.reference, affine, str(bold))
    with register.failures_name(bold):
        coreg = coregister(motion.reference, affine, reference_mask, t1w, t1w_mask > 0, t1w_image.affine)
    start_s = None
    if timing is not None:
        start_s = reference_time(timing[0])
        correct_slice_timing(data, timing[0], tr, timing[1], start_s, dummies=dummies, lost=lost, out=data)

    size = config.resolution_mm or float(np.round(np.prod(voxel_sizes(affine)) ** (1 / 3), 2))
    shape, grid = output_grid(to_t1w.field.shape, to_t1w.affine, size)
    brain, tissues = _brain_on_grid(shape, grid, to_t1w, t1w_mask, classes, t1w_image.affine)
    volumes = data.shape[-1]
    in_t1w = to_t1w(grid_points(shape, grid)[brain.ravel()])
    in_bold = in_t1w @ coreg[:3, :3].T + coreg[:3, 3]
    covered = _covered(in_bold, data.shape, affine) & (sample(motion.reference, affine, in_bold) > 0)
    brain[brain] = covered
    if brain.sum() < 100:
        raise UserError(
            f"{bold}: the brain of the T1w image lies outside this run's field of view; check that both belong to the "
            "same person and session, and their orientation headers."
        )
    series = resample_volumes(data, affine, motion.matrices, in_bold[covered], threads=threads)
    del data

    white, fluid = (
        series[_tissue(tissues[label], brain, label, str(bold))] for label in ("white_matter", "csf")
    )
    table, sidecar = confounds_table(
        motion.parameters, series, white, fluid, tr=tr, dummies=dummies, lost=lost
    )
    reference = np.zeros(shape, np.float32)
    sound = np.flatnonzero(~lost[dummies:]) + dummies
    reference[brain] = sum(series[:, v] / np.float32(len(sound)) for v in sound)

    write_description(folder, dataset_root(bold))
    write_tsv(paths["confounds"], table)
    write_json(paths["confounds_json"], sidecar)
    with atomic_path(paths["coreg"]) as temporary:
        np.savetxt(temporary, np.linalg.inv(coreg), fmt="%.8f", header="BOLD reference to T1w, world RAS+ mm")
    write_image(paths["boldref_native"], motion.reference, affine, code=SCANNER)
    write_image(paths["mask"], brain, grid, code=TEMPLATE)
    write_image(paths["boldref"], reference, grid, code=TEMPLATE)
    timing_of = {"RepetitionTime": tr, "SliceTimingCorrected": timing is not None}
    if start_s is not None:
        timing_of["StartTime"] = start_s
    timing_of |= {key: metadata[key] for key in _KEPT_METADATA if key in metadata}
    _describe(paths, anatomy, bold, timing_of, template_name(space, config.template))
    write_series(paths["bold"], series, brain, grid, tr=tr, start_s=start_s or 0.0, threads=threads)
    displaced = table["framewise_displacement"].to_numpy()
    logger.info(
        "%s: %d volumes, %d not at steady state, %d lost (no head, or a poor fit), mean framewise displacement %.2f mm",
        run_id, volumes, dummies, lost.sum(), np.nanmean(displaced),
    )  # fmt: skip
    return paths


def _describe(
    paths: Mapping[str, Path],
    anatomy: Mapping[str, str | os.PathLike],
    bold: str | os.PathLike,
    timing: Mapping[str, Any],
    target: str,
) -> None:
    """Sidecars of the images and of the coregistration."""
    raw = source_uri(bold)
    native = local_uri(paths["boldref_native"])
    to_template = local_uri(anatomy["to_template"])
    reference = {"SpatialReference": local_uri(anatomy["t1w_template"])}
    transforms = [native, local_uri(paths["coreg"]), to_template]
    described = {
        "bold": {
            **timing,
            **reference,
            "Sources": [raw, *transforms],
            "SkullStripped": True,
            "Description": f"Motion, coregistration and normalisation to {target} in one cubic spline interpolation.",
        },
        "mask": {
            **reference,
            "Type": "Brain",
            "Sources": [local_uri(anatomy["mask"]), *transforms],
            "RawSources": [raw],
            "Description": "Brain of the T1w image where this run's field of view covers it.",
        },
        "boldref": {
            **reference,
            "Sources": [local_uri(paths["bold"])],
            "SkullStripped": True,
            "Description": "Mean over volumes at steady state that are not censored.",
        },
        "boldref_native": {
            "Sources": [raw],
            "SkullStripped": False,
            "SpatialReference": raw,
            "Description": "Mean of realigned volumes without outliers: reference of motion and coregistration.",
        },
        "coreg": {
            "Sources": [native, local_uri(anatomy["t1w"])],
            "Description": "4x4 matrix taking world coordinates (RAS+, mm) of the BOLD reference to the T1w image.",
        },
    }
    for key, content in described.items():
        write_json(paths[f"{key}_json"], content)


def coregister(
    reference: np.ndarray,
    affine: np.ndarray,
    reference_mask: np.ndarray,
    t1w: np.ndarray,
    t1w_mask: np.ndarray,
    t1w_affine: np.ndarray,
) -> np.ndarray:
    """Rigid alignment of a BOLD reference with the T1w of the same person.

    Parameters
    ----------
    reference, affine, reference_mask
        Mean realigned BOLD, its affine, a rough brain mask.
    t1w, t1w_mask, t1w_affine
        Bias-corrected T1w image with its brain mask.

    Returns
    -------
    array of shape (4, 4)
        World matrix, T1w → BOLD reference, mm.
    """
    shape, grid = output_grid(t1w.shape, t1w_affine, max(_COREG_MM, float(voxel_sizes(t1w_affine).min())))
    sigma = np.maximum(voxel_sizes(grid) / voxel_sizes(t1w_affine) - 1, 0) / 2.355
    brain = to_grid(t1w_mask, t1w_affine, shape, grid)
    fixed = np.where(brain, to_grid(gaussian_filter(t1w, sigma), t1w_affine, shape, grid, order=1), 0)
    moving = np.where(binary_dilation(reference_mask), reference, 0)
    around = binary_dilation(brain, masks.ball(6.0, grid))
    matrix = register.linear(
        fixed, grid, moving, affine, kind="Rigid", start=_scanner_start(brain, grid, reference_mask, affine),
        mask=around.astype(np.float32),
    )  # fmt: skip
    return matrix


def _scanner_start(brain: np.ndarray, grid: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Scanner coordinates as they are, unless they put the two brains apart; then centre on centre."""
    there = np.argwhere(brain) @ grid[:3, :3].T + grid[:3, 3]
    here = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    # A slab covers little of the brain, yet lies inside it: either share will do.
    overlap = max(
        sample(mask.astype(np.float32), affine, there, order=0).mean(),
        sample(brain.astype(np.float32), grid, here, order=0).mean(),
    )
    start = np.eye(4)
    if overlap < 0.5:
        start[:3, 3] = here.mean(axis=0) - there.mean(axis=0)
        logger.warning(
            "BOLD and T1w do not overlap in scanner coordinates; alignment starts from their centres."
        )
    return start


def _brain_on_grid(
    shape: tuple[int, int, int],
    grid: np.ndarray,
    to_t1w: Displacement,
    t1w_mask: np.ndarray,
    classes: np.ndarray,
    t1w_affine: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The T1w's brain mask and its white matter and CSF on the output grid (shares of a voxel over one half)."""
    blur = np.maximum(voxel_sizes(grid) / voxel_sizes(t1w_affine) - 1, 0) / 2.355

    def carried(region: np.ndarray) -> np.ndarray:
        return pull_image(gaussian_filter(region.astype(np.float32), blur), t1w_affine, shape, grid, to_t1w)

    brain = carried(t1w_mask > 0) > 0.5
    inner = masks.core(brain, 100)
    return brain, {
        "white_matter": (carried(classes == 2) > 0.8) & inner,
        # CSF at the rim of the brain is mixed with cortex and skull: ventricles are wanted.
        "csf": (carried(classes == 3) > 0.6) & masks.core(inner, 100),
    }


def _tissue(region: np.ndarray, brain: np.ndarray, label: str, name: str) -> np.ndarray:
    """Rows of the brain's series that belong to a tissue: its core where that is large enough, none if it is not in view."""
    region = region & brain
    if not region.any():
        logger.warning(
            "%s: the field of view holds no %s; its columns are left out of the confounds, and cleaning strategies that need "
            "them will say so.", name, label,
        )  # fmt: skip
    return masks.core(region, _MIN_TISSUE)[brain]


def _covered(points: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Whether world points lie inside an image's field of view."""
    inverse = np.linalg.inv(affine)
    where = points @ inverse[:3, :3].T + inverse[:3, 3]
    return ((where >= 0) & (where <= np.array(shape[:3]) - 1)).all(axis=1)
