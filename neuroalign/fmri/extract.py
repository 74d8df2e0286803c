"""From a run to its ROI series file: regions extracted, cleaned, timed, with a QC file beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.bids.derivatives import run_paths
from neuroalign.config.fmri import Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels, load_atlas
from neuroalign.fmri.clean import check_kept, clean_series, load_run_confounds
from neuroalign.fmri.images import image_problem, read_image, to_grid
from neuroalign.fmri.preprocess.confounds import MOTION
from neuroalign.fmri.qc import RunQc, carpet, temporal_snr, write_qc
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.fmri.timeseries import extract_timeseries, report_dead
from neuroalign.fmri.timing import image_clock
from neuroalign.io import provenance, read_tsv

logger = logging.getLogger(__name__)


def extract_run(
    run: Mapping[str, Any],
    config: Fmri,
    out: str | os.PathLike,
    qc_out: str | os.PathLike,
    *,
    bids_dir: str | os.PathLike,
    preproc_dir: str | os.PathLike | None = None,
) -> RoiSeries:
    """Extract the regional series of one run and write them with their QC.

    Parameters
    ----------
    run : mapping
        A row of ``index/runs.tsv``. For ``fmri.source`` `fmriprep`, `bold`, `mask` and `confounds` are the
        preprocessed files; for `timeseries`, `timeseries` is the table; for `raw`, the native derivatives of
        `run_id` below `preproc_dir` are used.
    config : Fmri
        Section `fmri`.
    out, qc_out : path
        ROI series file and QC file (HDF5).
    bids_dir : path
        Root of the raw dataset, whose sidecars give what those of the derivatives leave out.
    preproc_dir : path, optional
        Root of the native derivatives, for `raw`.

    Returns
    -------
    RoiSeries
        What was written to `out`.

    Raises
    ------
    UserError
        If an input is missing or damaged, atlas and image disagree, or too little of the run is left.
    """
    row = {key: "" if _missing(value) else value for key, value in run.items()}
    if config.source == "timeseries":
        series, qc, inputs = extract_timeseries(row, config, bids_dir)
    else:
        series, qc, inputs = _from_images(_with_files(row, config, preproc_dir), config, bids_dir)
    series.attributes.update(
        {key: str(row.get(key, "")) for key in ("subject", "session", "task", "run")},
        space=series.attributes.get("space") or config.space,
        source=config.source,
        hrf_removed=False,
    )
    qc.attributes |= {
        "run_id": row["run_id"],
        "subject": str(row.get("subject", "")),
        "source": config.source,
    }
    for level, data in series.levels.items():
        if not np.isfinite(data).all():
            raise ValueError(f"{row['run_id']}: level {level} holds values that are not finite")
    made_by = provenance(config.model_dump(mode="json"), inputs)
    write_qc(qc_out, qc, made_by)
    write_series(out, series, made_by)
    units = {level: data.shape[1] for level, data in series.levels.items()}
    logger.info("%s: %d of %d volumes, units %s", row["run_id"], series.keep.sum(), len(series.keep), units)
    return series


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value == "n/a"


def _with_files(row: dict[str, Any], config: Fmri, preproc_dir: str | os.PathLike | None) -> dict[str, Any]:
    if config.source != "raw":
        return row
    if preproc_dir is None:
        raise ValueError("fmri.source raw needs preproc_dir")
    paths = run_paths(row["run_id"], preproc_dir, space=config.space)
    return {
        **row,
        **{k: str(paths[k]) for k in ("bold", "mask", "confounds")},
    }


def _from_images(
    row: Mapping[str, Any], config: Fmri, bids_dir: str | os.PathLike
) -> tuple[RoiSeries, RunQc, dict[str, str]]:
    name, path = row["run_id"], row.get("bold", "")
    if not path:
        raise UserError(
            f"{name}: no preprocessed BOLD in space '{config.space}' was found; check dataset.derivatives."
        )
    bold, image = read_image(path, ndim=4)
    mask = _mask(row, bold, image.affine)
    atlas = load_atlas(config.atlas, config.space)
    assigned = assign_levels(list(atlas.labels.values()), config.levels)
    wanted = [label for labels in assigned.values() for label in labels]
    parcels = atlas.on_grid(bold.shape[:3], image.affine, wanted)

    clock = image_clock(row, config.timing, bids_dir)
    times, tr = clock.times, clock.tr
    confounds, keep = load_run_confounds(
        path,
        row.get("confounds"),
        config.clean,
        bold.shape[-1],
        timing=config.timing,
        discarded=clock.discarded,
    )
    check_kept(keep, name)

    index = {label: number for number, label in atlas.labels.items()}
    if config.units == "parcels":
        series, labels = _parcels(image, bold, parcels, mask, assigned, index)
    else:
        series, labels = _voxels(bold, parcels, assigned, index)
    _report_units(series, labels, keep, name)
    levels = {
        level: clean_series(data, keep, tr, config.clean, confounds, name) for level, data in series.items()
    }
    slices, median = temporal_snr(bold, mask, keep)
    fd, motion = _motion(row.get("confounds"))
    brain = bold[mask].T
    rows = np.unique(np.linspace(0, brain.shape[1] - 1, min(400, brain.shape[1])).astype(int))
    qc = RunQc(
        carpet=carpet(brain[:, rows]),
        times=times,
        keep=keep,
        tsnr=slices,
        tsnr_median=median,
        fd=fd,
        motion=motion,
        attributes={"timing": "\n".join(clock.notes)},
    )
    inputs = {"bold": path} | {
        k: row[k] for k in ("mask", "confounds") if row.get(k) and Path(row[k]).exists()
    }
    if config.atlas.image:
        inputs["atlas"] = config.atlas.image
    return RoiSeries(levels, labels, times, keep, {"tr": tr, "atlas": atlas.name}), qc, inputs


def _mask(row: Mapping[str, Any], bold: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The brain mask on the grid of the BOLD; without one, every voxel that varies."""
    if row.get("mask"):
        data, image = read_image(row["mask"], ndim=3)
        mask = to_grid(data > 0, image.affine, bold.shape[:3], affine)
    else:
        logger.warning("%s: no brain mask; every voxel with signal counts as brain.", row["run_id"])
        mask = bold.std(axis=-1) > 0
    if not mask.any():
        raise UserError(
            f"{row['run_id']}: the brain mask is empty on the BOLD grid; check that both are in one space."
        )
    return mask


def _parcels(
    image: Any,
    bold: np.ndarray,
    parcels: np.ndarray,
    mask: np.ndarray,
    assigned: Mapping[str, list[str]],
    index: Mapping[str, int],
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Mean series of every region, over its voxels in the brain, by nilearn's masker."""
    import nibabel as nib
    from nilearn.maskers import NiftiLabelsMasker

    wanted = np.isin(parcels, [index[v] for labels in assigned.values() for v in labels])
    inside = np.where(mask & wanted, parcels, 0).astype(np.int32)
    present = np.unique(inside[inside > 0])
    means = np.zeros((bold.shape[-1], int(max(index.values())) + 1), np.float32)
    if present.size:
        masker = NiftiLabelsMasker(
            nib.Nifti1Image(inside, image.affine), resampling_target=None, standardize=None
        )
        means[:, present] = masker.fit_transform(nib.Nifti1Image(bold, image.affine))
    series = {level: means[:, [index[v] for v in labels]] for level, labels in assigned.items()}
    return series, {level: list(labels) for level, labels in assigned.items()}


def _voxels(
    bold: np.ndarray, parcels: np.ndarray, assigned: Mapping[str, list[str]], index: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Every voxel of a level's regions, whatever this run's brain mask: columns agree between runs."""
    names = {number: label for label, number in index.items()}
    series, labels = {}, {}
    for level, regions in assigned.items():
        where = np.argwhere(np.isin(parcels, [index[v] for v in regions]))
        series[level] = bold[tuple(where.T)].T
        labels[level] = [f"{names[parcels[i, j, k]]}@{i},{j},{k}" for i, j, k in where.tolist()]
    return series, labels


def _report_units(
    series: Mapping[str, np.ndarray], labels: Mapping[str, list[str]], keep: np.ndarray, name: str
) -> None:
    dead = {
        label
        for level, data in series.items()
        for label, spread in zip(labels[level], np.ptp(data[keep], axis=0), strict=True)
        if spread == 0
    }
    report_dead(labels, dead, name)


def _motion(confounds: str | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if not confounds or not Path(confounds).exists():
        return None, None
    table: pd.DataFrame = read_tsv(confounds)
    displaced, moved = table.get("framewise_displacement"), [c for c in MOTION if c in table]
    return (
        None if displaced is None else displaced.fillna(0.0).to_numpy(float),
        table[moved].fillna(0.0).to_numpy(float) if len(moved) == len(MOTION) else None,
    )


def check_inputs(run: Mapping[str, Any], source: str) -> list[str]:
    """What is wrong with the images of a run, one sentence each: for checks before anything runs.

    Parameters
    ----------
    run : mapping
        A row of ``index/runs.tsv``.
    source : {'raw', 'fmriprep', 'timeseries'}
    """
    needed = {"raw": ("bold", "t1w"), "fmriprep": ("bold", "mask"), "timeseries": ()}[source]
    found = (image_problem(run[key]) for key in needed if not _missing(run.get(key)) and run.get(key))
    return [problem for problem in found if problem]
