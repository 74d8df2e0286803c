"""Confound time series in fMRIPrep's naming, so that nilearn's ``load_confounds`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.fmri.preprocess.lost import bridge

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
HEAD_RADIUS_MM = 50.0
COSINE_CUTOFF_S = 128.0
COMPONENTS = 6
_MAX_DUMMIES_OF = 50
_OUTLIER = 3.5
_LEAST_EXCESS = 0.005
_BLOCK = 10_000
_MEDIAN_OF = 10_000_000


def framewise_displacement(
    parameters: np.ndarray, radius_mm: float = HEAD_RADIUS_MM, *, lost: np.ndarray | None = None
) -> np.ndarray:
    """Framewise displacement (Power et al. 2012).

    Parameters
    ----------
    parameters : array of shape (volumes, 6)
        Translations in mm, then rotations in radians.
    radius_mm : float
        Rotations count as arcs on a sphere of this radius.
    lost : bool array of shape (volumes,), optional
        Volumes whose position is not known.

    Returns
    -------
    array of shape (volumes,)
        Sum of absolute changes to the volume before that is not lost, mm; the first is NaN, and so are lost ones.
    """
    sound = np.ones(len(parameters), bool) if lost is None else ~lost
    scaled = np.array(parameters, float)[sound]
    scaled[:, 3:] *= radius_mm
    out = np.full(len(sound), np.nan)
    out[np.flatnonzero(sound)[1:]] = np.abs(np.diff(scaled, axis=0)).sum(axis=1)
    return out


def dvars(series: np.ndarray, lost: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """DVARS, and standardised DVARS (Power et al. 2012; Nichols 2017).

    Parameters
    ----------
    series : array of shape (voxels, volumes)
        Of the brain; scaled here to a median of 1000. Voxels that never change take no part.
    lost : bool array of shape (volumes,), optional
        Volumes that are no data: they take no part, as if they had not been acquired.

    Returns
    -------
    dvars, std_dvars : array of shape (volumes,)
        Root mean square over voxels of the change to the volume before; divided by what a series with the same
        robust spread and lag-one autocorrelation would show (as nipype's ``ComputeDVARS``). The first is NaN, and so are
        lost ones.
    """
    # In blocks of voxels: temporaries of the whole brain would be several times the size of the run.
    sound = np.arange(series.shape[1]) if lost is None else np.flatnonzero(~lost)
    part = series[:: max(1, series.size // _MEDIAN_OF), sound]
    scale = float(np.median(part))
    scale = 1000.0 / scale if scale > 0 else 1.0
    squared, expected, varying = np.zeros(len(sound) - 1), 0.0, 0
    for start in range(0, len(series), _BLOCK):
        block = series[start : start + _BLOCK, sound].astype(np.float64, order="C") * scale
        block = block[np.ptp(block, axis=1) > 0]
        squared += (np.diff(block, axis=1) ** 2).sum(axis=0)
        low, high = np.percentile(block, [25, 75], axis=1) if len(block) else (np.zeros(0), np.zeros(0))
        centred = block - block.mean(axis=1, keepdims=True)
        lagged = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
        expected += (np.sqrt(2 * np.clip(1 - lagged, 0, 2)) * (high - low) / 1.349).sum()
        varying += len(block)
    change = np.sqrt(squared / max(varying, 1))
    expected /= max(varying, 1)
    plain, standard = np.full((2, series.shape[1]), np.nan)
    plain[sound[1:]] = change
    standard[sound[1:]] = change / expected if expected > 0 else change * 0
    return plain, standard


def non_steady_state(global_signal: np.ndarray) -> int:
    """How many volumes at the start of a run are not at magnetic steady state.

    Parameters
    ----------
    global_signal : array of shape (volumes,)
        Mean of the raw image (or of its brain).

    Returns
    -------
    int
        The number of leading outliers among the first 50 volumes (modified z-score above 3.5, as nipype's
        ``NonSteadyStateDetector``, but only where at least half a percent brighter: T1 saturation dims the signal).
    """
    start = np.asarray(global_signal, float)[:_MAX_DUMMIES_OF]
    middle = np.median(start)
    excess = start - middle
    deviation = np.median(np.abs(excess))
    # A quiet run has a minute deviation, by which anything is an outlier; saturation is a matter of percents.
    bright = (0.6745 * excess > _OUTLIER * deviation) & (excess > _LEAST_EXCESS * abs(middle))
    return int(np.argmin(bright)) if not bright.all() else 0


def cosines(volumes: int, tr: float, cutoff_s: float = COSINE_CUTOFF_S) -> np.ndarray:
    """Slow discrete cosines: drift slower than a cut-off.

    Returns
    -------
    array of shape (volumes, n)
        n = floor(2·volumes·tr / cutoff_s) columns of unit norm, mean zero.
    """
    count = int(np.floor(2 * volumes * tr / cutoff_s))
    moments = (np.arange(volumes) + 0.5) / volumes
    return np.sqrt(2 / volumes) * np.cos(np.pi * moments[:, None] * np.arange(1, count + 1))


def principal_components(
    regions: Sequence[np.ndarray], drift: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Anatomical CompCor (Behzadi et al. 2007).

    Parameters
    ----------
    regions : sequence of arrays of shape (voxels, volumes)
        Series of the noise regions (white matter and CSF), taken together.
    drift : array of shape (volumes, n)
        Slow cosines, removed first.
    used : bool array of shape (volumes,)
        The other volumes take no part; their rows are 0.

    Returns
    -------
    components : array of shape (volumes, k)
    variance : array of shape (k,)
        Share of the variance each explains.
    """
    steady = np.flatnonzero(used)
    slow, _ = np.linalg.qr(np.column_stack([np.ones(len(steady)), drift[used]]))
    # The covariance over time is small, however many voxels there are: it is summed over blocks of them.
    covariance, varying = np.zeros((len(steady), len(steady))), 0
    for region in regions:
        for start in range(0, len(region), _BLOCK):
            block = region[start : start + _BLOCK, steady].astype(np.float64)
            block -= (block @ slow) @ slow.T
            spread = block.std(axis=1)
            block = block[spread > 1e-9] / spread[spread > 1e-9, None]
            covariance += block.T @ block
            varying += len(block)
    count = min(COMPONENTS, varying, len(steady) - slow.shape[1])
    out = np.zeros((len(used), max(count, 0)))
    if count <= 0:
        return out, np.zeros(0)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:count]
    chosen = vectors[:, order]
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(count)])
    out[steady] = chosen
    return out, values[order] / max(values.sum(), 1e-12)


def confounds_table(
    parameters: np.ndarray,
    brain: np.ndarray,
    white_matter: np.ndarray,
    csf: np.ndarray,
    *,
    tr: float,
    dummies: int,
    lost: np.ndarray | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All confounds of one run.

    Parameters
    ----------
    parameters : array of shape (volumes, 6)
        Translations (mm) and rotations (rad) of the head.
    brain, white_matter, csf : array of shape (voxels, volumes)
        Resampled, unsmoothed series of the regions. A tissue of no voxels has no columns.
    tr : float
        Repetition time, seconds.
    dummies : int
        Leading volumes not at steady state.
    lost : bool array of shape (volumes,), optional
        Volumes that show no head or fit poorly. Each has a ``motion_outlierNN`` column; no statistic sees them.

    Returns
    -------
    table : DataFrame
        Named and derived as by fMRIPrep; the first row of differences is missing. Rows of lost volumes hold what lies
        between their sound neighbours; their framewise displacement and DVARS are missing, and those of the next volume
        are relative to the last sound one, so that a movement meanwhile shows.
    sidecar : dict
        Description of the columns; those of lost volumes have ``Censored: true``.
    """
    lost = np.zeros(len(parameters), bool) if lost is None else lost
    columns: dict[str, np.ndarray] = {}

    def expand(name: str, values: np.ndarray) -> None:
        values = bridge(values, lost) if lost.any() else values
        change = np.concatenate([[np.nan], np.diff(values)])
        columns[name] = values
        columns[f"{name}_derivative1"] = change
        columns[f"{name}_power2"] = values**2
        columns[f"{name}_derivative1_power2"] = change**2

    expand("global_signal", brain.mean(axis=0, dtype=np.float64))
    for name, region in (("csf", csf), ("white_matter", white_matter)):
        if len(region):
            expand(name, region.mean(axis=0, dtype=np.float64))
    columns["dvars"], columns["std_dvars"] = dvars(brain, lost)
    columns["framewise_displacement"] = framewise_displacement(parameters, lost=lost)
    for index, name in enumerate(MOTION):
        expand(name, parameters[:, index])
    drift = cosines(parameters.shape[0], tr)
    for index in range(drift.shape[1]):
        columns[f"cosine{index:02d}"] = drift[:, index]
    components, variance = principal_components(
        (white_matter, csf), drift, ~lost & (np.arange(len(lost)) >= dummies)
    )
    for index in range(components.shape[1]):
        columns[f"a_comp_cor_{index:02d}"] = components[:, index]
    for prefix, marked in (
        ("non_steady_state_outlier", range(dummies)),
        ("motion_outlier", np.flatnonzero(lost)),
    ):
        for index, volume in enumerate(marked):
            columns[f"{prefix}{index:02d}"] = (np.arange(len(lost)) == volume).astype(float)
    return pd.DataFrame(columns), _sidecar(columns, variance)


def _sidecar(columns: dict[str, np.ndarray], variance: np.ndarray) -> dict[str, Any]:
    described: dict[str, Any] = {
        "framewise_displacement": {"Units": "mm", "Description": "Power et al. (2012), sphere of 50 mm"},
        "dvars": {"Description": "RMS change between volumes, brain scaled to a median of 1000"},
        "std_dvars": {
            "Description": "DVARS relative to what spread and autocorrelation predict (Nichols 2017)"
        },
        "global_signal": {"Description": "Mean of the brain mask"},
    }
    for name, tissue in (("csf", "cerebrospinal fluid"), ("white_matter", "white matter")):
        if name in columns:
            described[name] = {"Description": f"Mean of {tissue} (eroded)"}
    for name in MOTION:
        unit = "mm" if name.startswith("trans") else "rad"
        described[name] = {
            "Units": unit,
            "Description": "Rigid head motion relative to the run's mean, RAS+ axes",
        }
    for name in columns:
        if name.startswith("cosine"):
            described[name] = {"Description": f"Discrete cosine, cut-off {COSINE_CUTOFF_S:g} s"}
        elif name.startswith("non_steady"):
            described[name] = {"Description": "Volume not at magnetic steady state"}
        elif name.startswith("motion_outlier"):
            # Readers tell this table from fMRIPrep's, where the name means much movement only, by `Censored`.
            described[name] = {
                "Description": "Volume that shows no head or fits poorly: censored",
                "Censored": True,
            }
    for index, share in enumerate(variance):
        described[f"a_comp_cor_{index:02d}"] = {
            "Method": "aCompCor",
            "Mask": "combined",
            "Retained": True,
            "VarianceExplained": float(share),
            "CumulativeVarianceExplained": float(variance[: index + 1].sum()),
        }
    return described
