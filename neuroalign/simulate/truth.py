"""Writing the ground truth: weights, noise-free signals, motion, and how much noise leaves visible."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd

from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.io import atomic_hdf5, provenance, stamp
from neuroalign.simulate.bold import at_volumes
from neuroalign.simulate.features import FEATURE_NAMES, LEVELS
from neuroalign.simulate.neural import Brain, Scaling
from neuroalign.simulate.plan import ATLAS_SPACE, TASK, DatasetPlan, RunPlan

HIGH_PASS_HZ = 0.01
"""Slower changes are removed before truth and data are compared for the noise ceiling."""


def write_weights(
    path: str | os.PathLike,
    plan: DatasetPlan,
    units: Mapping[str, list[str]],
    group: Mapping[str, np.ndarray],
    brains: list[Brain],
    scaling: Scaling,
) -> None:
    """Write ``weights.h5``.

    Per level: ``features/<level>/{name,mean,sd}``, ``units/<level>``, and ``weights/<who>/<level>`` of shape
    (features, units) with `who` either ``all`` (shared part) or ``sub-<label>``. The neural response of a unit
    is the standardised features, clipped at 2.5 standard deviations, times its weights.
    """
    with atomic_hdf5(path) as file:
        for level in LEVELS:
            names = file.create_group(f"features/{level}")
            names.create_dataset("name", data=list(FEATURE_NAMES[level]))
            names.create_dataset("mean", data=scaling.mean[level])
            names.create_dataset("sd", data=scaling.sd[level])
            file.create_dataset(f"units/{level}", data=list(units[level]))
            file.create_dataset(f"weights/all/{level}", data=group[level])
            for brain in brains:
                file.create_dataset(f"weights/sub-{brain.subject}/{level}", data=brain.weights[level])
        stamp(file, provenance(plan.simulate.model_dump()))


def write_signals(
    path: str | os.PathLike,
    plan: DatasetPlan,
    run: RunPlan,
    signals: Mapping[str, np.ndarray],
    units: Mapping[str, list[str]],
) -> None:
    """Write the noise-free regional series of a run (format of `fmri.series`, percent of the baseline)."""
    simulate = plan.simulate
    series = RoiSeries(
        levels={level: at_volumes(simulate, run, signals[level]).astype(np.float32) for level in LEVELS},
        unit_labels={level: list(units[level]) for level in LEVELS},
        times=(np.arange(run.volumes) + 0.5) * simulate.tr_s,
        keep=np.ones(run.volumes, bool),
        attributes={
            "subject": run.subject,
            "session": run.session,
            "task": TASK,
            "run": run.run,
            "tr": float(simulate.tr_s),
            "space": ATLAS_SPACE,
            "atlas": "demo",
            "source": "simulated, noise-free",
            "hrf_removed": False,
        },
    )
    write_series(path, series, provenance(simulate.model_dump()))


def truth_correlation(
    plan: DatasetPlan, run: RunPlan, regional: np.ndarray, signals: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Correlation of the noisy mean of each region's true voxels with its noise-free signal; (units,).

    Both are high-pass filtered first (cosines below `HIGH_PASS_HZ` and the mean removed), as any analysis would.
    Motion is not corrected: this is what a region's signal is worth without preprocessing.
    """
    simulate = plan.simulate
    true = at_volumes(simulate, run, np.concatenate([signals[level] for level in LEVELS], axis=1))
    duration = run.volumes * simulate.tr_s
    count = int(np.floor(2 * duration * HIGH_PASS_HZ)) + 1
    grid = (np.arange(run.volumes) + 0.5) / run.volumes
    cosines = np.cos(np.pi * grid[:, None] * np.arange(count))
    basis, _ = np.linalg.qr(cosines)
    a, b = (values - basis @ (basis.T @ values) for values in (true, np.asarray(regional, float)))
    return (a * b).sum(0) / np.maximum(np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), 1e-12)


def noise_ceiling(
    correlations: Mapping[str, list[np.ndarray]], units: Mapping[str, list[str]]
) -> pd.DataFrame:
    """The noise ceiling of every region.

    Parameters
    ----------
    correlations : dict of subject to list of array of shape (units,)
        Correlation with the truth in each of the subject's runs.
    units : dict of level to list of str

    Returns
    -------
    DataFrame
        `subject, level, unit` (``all`` is the mean over the level), `truth_r` (expected correlation of data
        with the truth: the best any model of the stimulus can do), `repeat_r` (expected correlation between two
        presentations of the same film: its square, as the noise of both is independent).
    """
    rows = []
    for subject, per_run in correlations.items():
        mean = np.mean(per_run, axis=0)
        start = 0
        for level in LEVELS:
            values = mean[start : start + len(units[level])]
            start += len(units[level])
            square = np.clip(values, 0, None) ** 2
            rows.append((subject, level, "all", values.mean(), square.mean()))
            rows += zip(
                [subject] * len(values), [level] * len(values), units[level], values, square, strict=True
            )
    table = pd.DataFrame(rows, columns=["subject", "level", "unit", "truth_r", "repeat_r"])
    return table.round(4)
