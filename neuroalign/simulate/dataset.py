"""Making the dataset: films first, then heads, then what the films do to the brains, run by run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from neuroalign.config.dataset import Simulate
from neuroalign.errors import UserError
from neuroalign.io import atomic_path, provenance, read_json, write_json, write_tsv
from neuroalign.simulate import neural, sidecars, truth
from neuroalign.simulate.anatomy import Head, build_head, t1w_image
from neuroalign.simulate.atlas import demo_atlas, load_template, unit_columns, units_by_level
from neuroalign.simulate.bold import Geometry, geometry, simulate_run
from neuroalign.simulate.features import LEVELS, film_features
from neuroalign.simulate.motion import CONVENTION, head_motion, motion_table, run_position
from neuroalign.simulate.plan import (
    TASK,
    DatasetPlan,
    RunPlan,
    anat_name,
    first_session,
    generator,
    plan_dataset,
)
from neuroalign.simulate.render import render_film
from neuroalign.simulate.scenes import scene_table, write_script

logger = logging.getLogger(__name__)

HEAD_MM = 2.0
"""Resolution at which heads are kept while runs are simulated."""


def make_dataset(simulate: Simulate, bids_dir: str | os.PathLike, *, jobs: int = 1) -> DatasetPlan:
    """Make the dataset and its ground truth.

    Everything is written to a hidden folder beside `bids_dir` and moved into place when it is complete: an
    interrupted run leaves no dataset that looks whole.

    Parameters
    ----------
    simulate : Simulate
        Settings.
    bids_dir : path
        Where the dataset goes; the ground truth goes to ``truth`` beside it. A dataset made by the simulator
        earlier is replaced.
    jobs : int
        Number of processes.

    Returns
    -------
    DatasetPlan
        What was written.

    Raises
    ------
    UserError
        If `bids_dir` or the truth folder holds files that the simulator did not make.
    """
    plan = plan_dataset(simulate, bids_dir)
    _refuse_foreign(plan)
    work = plan.bids_dir.parent / f".{plan.bids_dir.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _single_threaded(_fill, plan_dataset(simulate, work / "bids"), work / "heads", jobs)
        _replace(plan.truth_dir, work / "truth", work / "old-truth")
        _replace(plan.bids_dir, work / "bids", work / "old-bids")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    logger.info("made %d runs of %d subjects in %s", len(plan.run_plans), len(plan.subjects), plan.bids_dir)
    return plan


def _refuse_foreign(plan: DatasetPlan) -> None:
    for folder, marker, what in (
        (plan.bids_dir, "dataset_description.json", "a dataset"),
        (plan.truth_dir, "dataset.json", "a ground truth"),
    ):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder for the simulated dataset.")
        if not any(files for _, _, files in os.walk(folder)) or _is_ours(folder / marker):
            continue
        raise UserError(
            f"{folder} holds files and is not {what} made by `{sidecars.GENERATOR}`; it is left untouched: "
            "choose another folder or remove it."
        )


def _is_ours(marker: Path) -> bool:
    try:
        made_by = read_json(marker).get("GeneratedBy", [])
        return any(entry.get("Name") == sidecars.GENERATOR for entry in made_by)
    except (UserError, AttributeError):
        return False


def _replace(target: Path, new: Path, aside: Path) -> None:
    # Two renames in one file system: at no time is there a mixture of old and new.
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.rename(target, aside)
    os.rename(new, target)


def _fill(plan: DatasetPlan, scratch: Path, jobs: int) -> None:
    simulate = plan.simulate
    template = load_template()
    labels, affine, table = demo_atlas(template)
    units = units_by_level(table)
    _write_atlas(plan, labels, affine, table)
    del template
    scripts = {film: write_script(simulate, film) for film in plan.films}
    tasks: list[Any] = [(_make_film, (plan, film)) for film in plan.films]
    tasks += [(_make_head, (plan, subject, labels, affine, scratch)) for subject in plan.subjects]
    logger.info("rendering %d films and building %d heads", len(plan.films), len(plan.subjects))
    results = _in_parallel(tasks, jobs)
    features = dict(zip(plan.films, results, strict=False))

    scaling = neural.feature_scaling(features)
    group = neural.group_weights(simulate, units)
    brains = [neural.make_brain(simulate, subject, units, group) for subject in plan.subjects]
    signals = {}
    for brain in brains:
        signals.update(neural.subject_signals(plan, brain, features, scaling))
    columns = unit_columns(units, table)
    logger.info("acquiring %d runs", len(plan.run_plans))
    correlations = _in_parallel(
        [(_make_run, (plan, run, signals[run.run_id], units, columns, scratch)) for run in plan.run_plans],
        jobs,
    )
    by_subject: dict[str, list[np.ndarray]] = {subject: [] for subject in plan.subjects}
    for run, values in zip(plan.run_plans, correlations, strict=True):
        by_subject[run.subject].append(values)

    truth.write_weights(plan.truth_dir / "weights.h5", plan, units, group, brains, scaling)
    write_tsv(plan.truth_dir / "delays.tsv", neural.delay_table(brains))
    write_tsv(plan.truth_dir / "scenes.tsv", pd.concat([scene_table(script) for script in scripts.values()]))
    write_tsv(plan.truth_dir / "noise_ceiling.tsv", truth.noise_ceiling(by_subject, units))
    _write_motion(plan)
    _write_texts(plan)


def _in_parallel(tasks: list[tuple], jobs: int) -> list:
    if jobs <= 1:
        return [function(*arguments) for function, arguments in tasks]  # the caller is single-threaded
    # joblib's processes do not import the caller's main module again: scripts need no guard.
    from joblib import Parallel, delayed

    return Parallel(n_jobs=min(jobs, len(tasks)), batch_size=1, pre_dispatch=f"{jobs + 1}")(
        delayed(_single_threaded)(function, *arguments) for function, arguments in tasks
    )


def _single_threaded(function: Callable, *arguments: Any) -> Any:
    """Call with one BLAS thread: sums in another order would make other bytes of the same seed."""
    with threadpool_limits(1):
        return function(*arguments)


def _make_film(plan: DatasetPlan, film: str) -> dict[str, np.ndarray]:
    path = plan.bids_dir / "stimuli" / f"{film}.mp4"
    script = write_script(plan.simulate, film)
    render_film(path, script)
    return film_features(path, script, plan.simulate.film_s)


def _make_head(
    plan: DatasetPlan, subject: str, labels: np.ndarray, affine: np.ndarray, scratch: Path
) -> None:
    simulate = plan.simulate
    template = load_template()
    head = build_head(simulate, subject, template, labels, affine, HEAD_MM)
    scratch.mkdir(parents=True, exist_ok=True)
    np.savez(scratch / f"{subject}.npz", **{f.name: getattr(head, f.name) for f in fields(Head)})
    # Fine voxels deserve a fine anatomy; the random fields do not depend on the resolution.
    fine = head
    if simulate.voxel_mm < 3:
        fine = build_head(simulate, subject, template, labels, affine, 1.0)
    stem = f"{anat_name(subject, first_session(simulate))}_T1w"
    _save_nifti(plan.bids_dir / f"{stem}.nii.gz", t1w_image(simulate, subject, fine), fine.affine)
    write_json(plan.bids_dir / f"{stem}.json", sidecars.t1w_sidecar())


def _make_run(
    plan: DatasetPlan,
    run: RunPlan,
    signals: dict[str, np.ndarray],
    units: dict[str, list[str]],
    columns: np.ndarray,
    scratch: Path,
) -> np.ndarray:
    simulate = plan.simulate
    with np.load(scratch / f"{run.subject}.npz") as stored:
        head = Head(**{f.name: stored[f.name] for f in fields(Head)})
    clock = neural.run_clock(simulate, run)
    ongoing = neural.intrinsic_activity(generator(simulate, "intrinsic", run.run_id), clock, units)
    signal, intrinsic = (
        np.concatenate([part[level] for level in LEVELS], axis=1) for part in (signals, ongoing)
    )
    acquired = simulate_run(simulate, run, head, signal, intrinsic, columns)
    path = plan.bids_dir / run.func
    _save_nifti(Path(f"{path}_bold.nii.gz"), acquired.data.T, acquired.affine, simulate.tr_s)
    shape = acquired.data.T.shape
    write_json(f"{path}_bold.json", sidecars.bold_sidecar(simulate, shape))
    write_tsv(f"{path}_events.tsv", sidecars.events(simulate, run))
    truth.write_signals(plan.truth_dir / "signals" / f"{run.run_id}.h5", plan, run, signals, units)
    write_tsv(plan.truth_dir / "motion" / f"{run.run_id}.tsv", motion_table(acquired.motion))
    # `regional` follows the labels of the atlas; the truth is ordered by level.
    regional = np.empty_like(acquired.regional)
    regional[:, columns] = acquired.regional
    return truth.truth_correlation(plan, run, regional, signals)


def _save_nifti(path: Path, data: np.ndarray, affine: np.ndarray, tr_s: float | None = None) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header["descrip"] = sidecars.GENERATOR.encode()
    image.header["cal_max"] = 0
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _write_atlas(plan: DatasetPlan, labels: np.ndarray, affine: np.ndarray, table: pd.DataFrame) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent("label")
    # Code 4: aligned to the MNI 152 template.
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=4)
    with atomic_path(plan.atlas_image) as temporary:
        nib.save(image, temporary)
    write_tsv(plan.atlas_labels, table)


def _write_motion(plan: DatasetPlan) -> None:
    grid: Geometry = geometry(plan.simulate)
    placed = {run.run_id: run_position(plan.simulate, run).round(6).tolist() for run in plan.run_plans}
    displacement = {
        run.run_id: round(
            float(motion_table(head_motion(plan.simulate, run))["framewise_displacement"].mean()), 5
        )
        for run in plan.run_plans
    }
    write_json(
        plan.truth_dir / "motion" / "motion.json",
        {
            **CONVENTION,
            "rotation_centre_mm": grid.centre.round(4).tolist(),
            "t1w_to_first_volume": placed,
            "mean_framewise_displacement_mm": displacement,
        },
    )


def _write_texts(plan: DatasetPlan) -> None:
    simulate, root = plan.simulate, plan.bids_dir
    write_json(
        plan.truth_dir / "dataset.json",
        {
            "GeneratedBy": [{"Name": sidecars.GENERATOR}],
            "about": "Ground truth of the simulated dataset beside this folder; see docs/simulation.md.",
            "delay_s": "Seconds from an impulse of neural activity to the peak of the response.",
            "provenance": provenance(simulate.model_dump()),
        },
    )
    write_json(root / f"task-{TASK}_bold.json", sidecars.bold_common(simulate))
    write_json(root / f"task-{TASK}_events.json", sidecars.EVENTS_COLUMNS)
    write_tsv(root / "participants.tsv", sidecars.participants(plan))
    write_json(root / "participants.json", sidecars.PARTICIPANTS_COLUMNS)
    for name, text in (("README", sidecars.readme(plan)), ("CHANGES", sidecars.changes())):
        with atomic_path(root / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(root / "dataset_description.json", sidecars.dataset_description(simulate))
