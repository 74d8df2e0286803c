"""Quality of one run's BOLD, small enough for a report: carpet, temporal SNR, head motion."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.fmri.preprocess.confounds import MOTION
from neuroalign.io import atomic_hdf5, open_hdf5, stamp

CARPET_ROWS = 400
_ATTRIBUTES = ("run_id", "subject", "source", "timing")
PLANES = ("axial", "coronal", "sagittal")


@dataclass
class RunQc:
    """What a report shows of one run.

    Attributes
    ----------
    carpet : array of shape (rows, volumes)
        Z-scored, uncleaned series of at most 400 voxels or units.
    times : array of shape (volumes,)
        Seconds, middle of each volume.
    keep : bool array of shape (volumes,)
        False where a volume is censored.
    tsnr : dict of str to 2-D array
        Mid slices `axial`, `coronal`, `sagittal` of temporal SNR; empty for time series.
    tsnr_median : float
        Over the brain; NaN where there is no image.
    fd : array of shape (volumes,) or None
        Framewise displacement, mm.
    motion : array of shape (volumes, 6) or None
        Translations (mm) and rotations (rad).
    attributes : dict
        `run_id`, `subject`, `source`; `timing`: what disagrees about the clock, a sentence per line.
    """

    carpet: np.ndarray
    times: np.ndarray
    keep: np.ndarray
    tsnr: dict[str, np.ndarray] = field(default_factory=dict)
    tsnr_median: float = float("nan")
    fd: np.ndarray | None = None
    motion: np.ndarray | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def carpet_rows(units: int) -> np.ndarray:
    """Which of `units` columns a carpet shows: at most 400, spread evenly; int array."""
    return np.unique(np.linspace(0, units - 1, min(CARPET_ROWS, units)).astype(int))


def head_motion(table: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Framewise displacement and motion parameters of a table of confounds or motion.

    Parameters
    ----------
    table : DataFrame of shape (volumes, columns)

    Returns
    -------
    fd : float64 array of shape (volumes,) or None
        ``framewise_displacement`` (mm), 0 where missing; None without the column.
    motion : float64 array of shape (volumes, 6) or None
        Translations (mm) and rotations (rad); None unless all six are there.
    """
    displaced, moved = table.get("framewise_displacement"), [c for c in MOTION if c in table]
    return (
        None if displaced is None else displaced.fillna(0.0).to_numpy(float),
        table[moved].fillna(0.0).to_numpy(float) if len(moved) == len(MOTION) else None,
    )


def carpet(series: np.ndarray, lost: np.ndarray | None = None) -> np.ndarray:
    """Rows for a carpet plot.

    Parameters
    ----------
    series : array of shape (volumes, units)
    lost : bool array of shape (volumes,), optional
        Volumes that hold no image: they have no part in mean and deviation, which they would swamp.

    Returns
    -------
    float16 array of shape (min(units, 400), volumes)
        Units spread evenly over the input, linear trend kept, z-scored and clipped to ±6.
    """
    chosen = series[:, carpet_rows(series.shape[1])].T.astype(np.float64)
    there = np.ones(len(series), bool) if lost is None or lost.all() else ~lost
    chosen -= chosen[:, there].mean(axis=1, keepdims=True)
    spread = chosen[:, there].std(axis=1, keepdims=True)
    return np.clip(np.divide(chosen, spread, out=np.zeros_like(chosen), where=spread > 0), -6, 6).astype(
        np.float16
    )


def drift_basis(positions: np.ndarray) -> np.ndarray:
    """Orthonormal constant, linear and quadratic drift over the volumes that count.

    Parameters
    ----------
    positions : int array of shape (n,)
        Numbers of these volumes in the run: drift goes on while a volume is censored.

    Returns
    -------
    array of shape (n, min(n, 3))
    """
    ramp = np.asarray(positions, float)
    if len(ramp) > 1:
        ramp = 2 * (ramp - ramp[0]) / (ramp[-1] - ramp[0]) - 1
    return np.linalg.qr(np.column_stack([np.ones_like(ramp), ramp, ramp**2]))[0]


def snr_slices(snr: np.ndarray, mask: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """What is shown of a map of temporal signal-to-noise ratio.

    Parameters
    ----------
    snr : float32 array of shape (x, y, z)
        Mean over standard deviation after removing slow quadratic drift, 0 outside the brain.
    mask : bool array of shape (x, y, z)

    Returns
    -------
    slices : dict of str to float32 array
        Slices through the middle of the brain.
    median : float
        Over the voxels of the brain with signal.
    """
    x, y, z = np.round(np.argwhere(mask).mean(axis=0)).astype(int)
    slices = {"axial": snr[:, :, z], "coronal": snr[:, y, :], "sagittal": snr[x, :, :]}
    positive = snr[mask & (snr > 0)]
    return slices, float(np.median(positive)) if positive.size else float("nan")


def write_qc(path: str | os.PathLike, qc: RunQc, made_by: Mapping[str, Any] | None = None) -> None:
    """Write a QC file atomically."""
    with atomic_hdf5(path) as file:
        file.create_dataset("carpet", data=qc.carpet.astype(np.float16), compression="gzip", shuffle=True)
        file.create_dataset("times", data=np.asarray(qc.times, np.float64))
        file.create_dataset("keep", data=np.asarray(qc.keep, bool))
        if qc.tsnr:
            group = file.create_group("tsnr")
            for plane in PLANES:
                group.create_dataset(plane, data=qc.tsnr[plane].astype(np.float32), compression="gzip")
            group.attrs["median"] = qc.tsnr_median
        if qc.fd is not None:
            file.create_dataset("fd", data=np.asarray(qc.fd, np.float64))
        if qc.motion is not None:
            file.create_dataset("motion", data=np.asarray(qc.motion, np.float64))
        for name in _ATTRIBUTES:
            file.attrs[name] = str(qc.attributes.get(name, ""))
        stamp(file, made_by or {})


def read_qc(path: str | os.PathLike) -> RunQc:
    """Read a QC file.

    Raises
    ------
    UserError
        If the file is missing, damaged, or not a QC file.
    """
    with open_hdf5(path) as file:
        try:
            return RunQc(
                carpet=file["carpet"][()],
                times=file["times"][()],
                keep=file["keep"][()].astype(bool),
                tsnr={p: file[f"tsnr/{p}"][()] for p in PLANES} if "tsnr" in file else {},
                tsnr_median=float(file["tsnr"].attrs["median"]) if "tsnr" in file else float("nan"),
                fd=file["fd"][()] if "fd" in file else None,
                motion=file["motion"][()] if "motion" in file else None,
                attributes={n: str(file.attrs[n]) for n in _ATTRIBUTES},
            )
        except KeyError as error:
            raise UserError(f"{path} is not a QC file ({error}); make it again.") from error
