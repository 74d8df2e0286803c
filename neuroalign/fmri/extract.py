"""From a run to its ROI series file: regions extracted, cleaned, timed, with a QC file beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuroalign.bids.derivatives import run_paths
from neuroalign.config.fmri import Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels, load_atlas, some
from neuroalign.fmri.clean import check_kept, clean_series, load_run_confounds, nuisance_space
from neuroalign.fmri.images import VolumeReader, image_problem, read_image, to_grid
from neuroalign.fmri.orientation import orientation_problem
from neuroalign.fmri.qc import RunQc, head_motion, snr_slices, write_qc
from neuroalign.fmri.roi import extract_means, extract_voxels, varying_voxels
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
        preprocessed files; for `timeseries`, `timeseries` is the table; for `raw`, the same as for `fmriprep` where
        `raw_bold` names the raw image, else the native derivatives of `run_id` below `preproc_dir` are used.
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
    if config.source != "raw" or row.get("raw_bold"):
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
    bold = VolumeReader(path)
    if problem := orientation_problem(path):
        raise UserError(problem)
    volumes = bold.shape[3]
    atlas = load_atlas(config.atlas, config.space)
    assigned = assign_levels(list(atlas.labels.values()), config.levels)
    wanted = [label for labels in assigned.values() for label in labels]
    parcels = atlas.on_grid(bold.shape[:3], bold.affine, wanted)

    clock = image_clock(row, config.timing, bids_dir)
    times, tr = clock.times, clock.tr
    confounds, keep = load_run_confounds(
        path, row.get("confounds"), config.clean, volumes, timing=config.timing, discarded=clock.discarded
    )
    check_kept(keep, name)

    mask = _mask(row, bold)
    numbers = {label: number for number, label in atlas.labels.items()}
    _report_uncovered(parcels, mask, wanted, numbers, name)
    if config.units == "parcels":
        labels = {level: list(members) for level, members in assigned.items()}
        found = extract_means(bold, mask, keep, parcels, [numbers[label] for label in wanted])
    else:
        where, labels = _voxels(parcels, assigned, numbers)
        found = extract_voxels(bold, mask, keep, where)
    if found.lost.any():
        _report_lost(found.lost, name)
        keep = keep & ~found.lost
        check_kept(keep, name)
    _report_units(_by_level(found.series, labels), labels, keep, name)
    cleaned = clean_series(found.series, keep, tr, config.clean, confounds, name, overwrite=True)
    levels = _by_level(cleaned, labels)
    slices, median = snr_slices(found.snr, mask)
    measured = row.get("confounds")
    fd, motion = head_motion(read_tsv(measured)) if measured and Path(measured).exists() else (None, None)
    qc = RunQc(
        carpet=found.carpet,
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
    removed = nuisance_space(keep, tr, config.clean, confounds)
    return RoiSeries(levels, labels, times, keep, {"tr": tr, "atlas": atlas.name}, *removed), qc, inputs


def _mask(row: Mapping[str, Any], bold: VolumeReader) -> np.ndarray:
    """The brain mask on the grid of the BOLD; without one, every voxel that varies (found in a pass of its own)."""
    if row.get("mask"):
        data, image = read_image(row["mask"], ndim=3)
        mask = to_grid(data > 0, image.affine, bold.shape[:3], bold.affine)
    else:
        logger.warning("%s: no brain mask; every voxel with signal counts as brain.", row["run_id"])
        mask = varying_voxels(bold)
    if not mask.any():
        raise UserError(
            f"{row['run_id']}: the brain mask is empty on the BOLD grid; check that both are in one space."
        )
    return mask


def _voxels(
    parcels: np.ndarray, assigned: Mapping[str, list[str]], numbers: Mapping[str, int]
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Coordinates and labels of every voxel of a level's regions, whatever this run's brain mask.

    The columns of all runs on one grid therefore mean the same.
    """
    names = {number: label for label, number in numbers.items()}
    where, labels = [], {}
    for level, regions in assigned.items():
        here = np.argwhere(np.isin(parcels, [numbers[v] for v in regions]))
        where.append(here)
        labels[level] = [f"{names[parcels[i, j, k]]}@{i},{j},{k}" for i, j, k in here.tolist()]
    return np.concatenate(where), labels


def _by_level(series: np.ndarray, labels: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """The columns of all levels, joined in order, as one view per level."""
    ends = np.cumsum([len(members) for members in labels.values()])
    return dict(zip(labels, np.split(series, ends[:-1], axis=1), strict=True))


def _report_uncovered(
    parcels: np.ndarray, mask: np.ndarray, regions: list[str], numbers: Mapping[str, int], name: str
) -> None:
    covered = set(np.unique(parcels[mask]).tolist())
    outside = [label for label in regions if numbers[label] not in covered]
    if outside:
        logger.warning(
            "%s: %d of %d regions lie wholly outside this run's brain mask (%s).",
            name,
            len(outside),
            len(regions),
            some(outside),
        )


def _report_lost(lost: np.ndarray, name: str) -> None:
    logger.warning(
        "%s: %d of %d volumes are blank all over the brain and are censored (%s, from 0); see whether the "
        "image was damaged when it was made or copied.",
        name,
        lost.sum(),
        len(lost),
        some(np.flatnonzero(lost).tolist()),
    )


def _report_units(
    series: Mapping[str, np.ndarray], labels: Mapping[str, list[str]], keep: np.ndarray, name: str
) -> None:
    dead = set()
    for level, data in series.items():
        first = data[np.argmax(keep)]
        varies = np.zeros(data.shape[1], bool)
        for volume in np.flatnonzero(keep):  # one at a time: `data[keep]` would copy all voxels
            varies |= data[volume] != first
        dead |= {label for label, alive in zip(labels[level], varies, strict=True) if not alive}
    report_dead(labels, dead, name)


def check_inputs(run: Mapping[str, Any], source: str) -> list[str]:
    """What is wrong with the images of a run, one sentence each: for checks before anything runs.

    Parameters
    ----------
    run : mapping
        A row of ``index/runs.tsv``.
    source : {'raw', 'fmriprep', 'timeseries'}
    """
    needed = {"raw": ("bold", "t1w"), "fmriprep": ("bold", "mask"), "timeseries": ()}[source]
    files = [run[key] for key in needed if not _missing(run.get(key)) and run.get(key)]
    found = (image_problem(file) or orientation_problem(file) for file in files)
    return [problem for problem in found if problem]
