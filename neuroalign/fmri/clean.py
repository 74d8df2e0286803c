"""Signal cleaning of regional series: which confounds, which volumes, one regression; docs/confounds.md."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.config.fmri import Clean, Timing
from neuroalign.errors import UserError
from neuroalign.fmri.confound_names import named_as_nilearn_expects
from neuroalign.fmri.preprocess.confounds import cosines
from neuroalign.fmri.timing import unsteady
from neuroalign.io import read_tsv

logger = logging.getLogger(__name__)

# Thresholds are written out: nilearn's defaults changed between versions. Slow drift is left to `clean_series`.
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "motion": {"strategy": ("motion",)},
    "simple": {"strategy": ("motion", "wm_csf"), "wm_csf": "basic"},
    "scrubbing": {
        "strategy": ("motion", "wm_csf", "scrub"),
        "wm_csf": "full",
        "scrub": 5,
        "std_dvars_threshold": 1.5,
    },
    "compcor": {
        "strategy": ("motion", "high_pass", "compcor"),
        "compcor": "anat_combined",
        "n_compcor": 6,
    },
}
_SCRUB_FD_MM = 0.5
_MIN_KEPT = 0.4
_COLUMNS = 8192


def load_run_confounds(
    bold: str | os.PathLike,
    confounds: str | os.PathLike | None,
    config: Clean,
    n_volumes: int,
    *,
    timing: Timing | None = None,
    discarded: int = 0,
) -> tuple[pd.DataFrame | None, np.ndarray]:
    """Confound columns of a run and the volumes to keep.

    Parameters
    ----------
    bold : path
        Preprocessed BOLD, for messages.
    confounds : path or None
        The confounds table, whatever its name, with its JSON beside it.
    config : Clean
        `strategy`, `motion` and `fd_threshold_mm`.
    n_volumes : int
    timing : Timing, optional
        Section `fmri.timing`, whose `dummy_scans` stand for what the table says is not at steady state.
    discarded : int
        Volumes of the raw run that are missing before the first row.

    Returns
    -------
    columns : DataFrame of shape (volumes, n) or None
        What is regressed out; None for strategy ``none``.
    keep : bool array of shape (volumes,)
        False where framewise displacement exceeds the threshold, the strategy scrubs, or the volume is not at
        steady state.

    Raises
    ------
    UserError
        If the table is missing, lacks columns of the strategy, or has another number of rows.
    """
    path = Path(confounds) if confounds else None
    if path is None or not path.exists():
        if config.strategy == "none":
            return None, ~unsteady(None, n_volumes, timing or Timing(), discarded)
        raise UserError(
            f"{Path(bold).name} has no confounds table{f' at {path}' if path else ''}; provide it, or set "
            "fmri.clean.strategy to none."
        )
    table = read_tsv(path)
    if len(table) != n_volumes:
        raise UserError(
            f"{path} has {len(table)} rows for {n_volumes} volumes; both must come from the same run."
        )
    keep = np.ones(n_volumes, bool)
    if config.fd_threshold_mm is not None and "framewise_displacement" in table:
        keep &= ~(table["framewise_displacement"].fillna(0.0).to_numpy() > config.fd_threshold_mm)
    detected = unsteady(table, n_volumes, Timing())
    unused = unsteady(table, n_volumes, timing or Timing(), discarded)
    keep &= ~unused
    options = dict(STRATEGIES[config.strategy])
    if not options:
        return None, keep
    options["motion"] = config.motion
    if config.strategy == "scrubbing":
        options["fd_threshold"] = config.fd_threshold_mm or _SCRUB_FD_MM

    from nilearn.interfaces.fmriprep import load_confounds

    try:
        with warnings.catch_warnings(), named_as_nilearn_expects(path) as named:
            warnings.simplefilter("ignore")
            columns, sample_mask = load_confounds(named, demean=True, **options)
    except (ValueError, KeyError) as error:
        # Where only some of the columns that it asks for are there, nilearn fails with a KeyError of pandas.
        raise UserError(
            f"{path} does not serve fmri.clean.strategy '{config.strategy}' ({' '.join(str(error).split())}); choose "
            "another strategy."
        ) from error
    if sample_mask is not None:
        kept = np.zeros(n_volumes, bool)
        kept[sample_mask] = True
        # nilearn leaves out every volume that the table calls non-steady; `dummy_scans` has the last word.
        keep &= kept | (detected & ~unused)
    columns = columns.drop(columns=[c for c in columns if c.startswith("cosine")])
    return columns.fillna(0.0), keep


def check_kept(keep: np.ndarray, name: str) -> None:
    """Refuse a run of which hardly anything is left; say so when much is gone.

    Raises
    ------
    UserError
        If fewer than 40 % of the volumes are kept.
    """
    share = float(keep.mean())
    if share < _MIN_KEPT:
        raise UserError(
            f"{name}: only {keep.sum()} of {len(keep)} volumes remain after censoring; leave the run out "
            "(dataset.filters) or raise fmri.clean.fd_threshold_mm."
        )
    if share < 0.8:
        logger.warning("%s: %d of %d volumes are censored.", name, (~keep).sum(), len(keep))


def clean_series(
    series: np.ndarray,
    keep: np.ndarray,
    tr: float,
    config: Clean,
    confounds: pd.DataFrame | None,
    name: str,
    *,
    overwrite: bool = False,
) -> np.ndarray:
    """Detrend, filter and regress confounds out of regional series.

    Parameters
    ----------
    series : array of shape (volumes, units)
    keep : bool array of shape (volumes,)
        Censored volumes take no part in any fit.
    tr : float
        Repetition time, seconds.
    config : Clean
    confounds : DataFrame of shape (volumes, n) or None
    name : str
        The run, for messages.
    overwrite : bool
        Put the result into `series` where that is float32: voxels of a whole run exist once then.

    Returns
    -------
    float32 array of shape (volumes, units)
        Censored volumes hold a linear interpolation of their neighbours (they are flagged, and must be left out
        by `keep`); units without signal are 0.

    Raises
    ------
    UserError
        If the regressors leave no degree of freedom.

    Notes
    -----
    Without a low-pass, slow drift is a set of discrete cosines regressed out together with the confounds. With
    one, a Butterworth band-pass is applied to series and confounds alike before the regression. Both are
    nilearn's `signal.clean`, so that nothing is put back by filtering after regressing (Lindquist et al. 2019).

    nilearn's maskers give the same series with the same confounds and `sample_mask`, ``detrend=True``,
    ``standardize="zscore_sample"`` (None without `standardize`), and `high_pass` with
    ``clean_args={"filter": "cosine"}`` (with a low-pass: ``"butterworth"`` and ``extrapolate=False``). They differ in one
    case: nilearn leaves its cosines out, with a warning, when a confound resembles one of them; ours stay in.
    """
    volumes = len(series)
    high, low = config.high_pass_hz or None, config.low_pass_hz
    if low is not None and low >= 0.5 / tr:
        logger.warning(
            "%s: fmri.clean.low_pass_hz is above the Nyquist frequency (%g Hz); not applied.", name, 0.5 / tr
        )
        low = None
    drifts = int(2 * volumes * tr * high) if high else 0
    columns = 1 + drifts + (confounds.shape[1] if confounds is not None else 0)
    if columns >= keep.sum() - 2:
        raise UserError(
            f"{name}: {columns} regressors for {keep.sum()} kept volumes leave nothing to analyse; choose a smaller "
            "fmri.clean.strategy or a higher fmri.clean.fd_threshold_mm."
        )
    regressors = _regressors(confounds, volumes, tr, None if low else high)
    out = series if overwrite and series.dtype == np.float32 else np.empty(series.shape, np.float32)
    for start in range(0, series.shape[1], _COLUMNS):
        part = np.s_[:, start : start + _COLUMNS]
        out[part] = _cleaned(
            np.asarray(series[part], np.float64), keep, tr, config, regressors, (high if low else None, low)
        )
    return out


def _cleaned(
    series: np.ndarray,
    keep: np.ndarray,
    tr: float,
    config: Clean,
    regressors: np.ndarray | None,
    band_hz: tuple[float | None, float | None],
) -> np.ndarray:
    """`clean_series` for a few columns: every step treats columns one by one, so that parts may be cleaned apart."""
    from nilearn import signal

    out = np.zeros(series.shape)
    alive = series[keep].std(axis=0) > 1e-6 * np.abs(series[keep]).max(axis=0, initial=0)
    if not alive.any():
        return out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleaned = signal.clean(
            series[:, alive],
            detrend=True,
            standardize="zscore_sample" if config.standardize else None,
            standardize_confounds=True,
            confounds=regressors,
            sample_mask=None if keep.all() else np.flatnonzero(keep),
            t_r=tr,
            high_pass=band_hz[0],
            low_pass=band_hz[1],
            filter="butterworth" if band_hz[1] else False,
            # Censored ends are not extrapolated: they stay flagged, and hold the nearest kept volume.
            extrapolate=False,
        )
    if len(cleaned) != np.count_nonzero(keep):
        raise ValueError(f"cleaning returned {len(cleaned)} of {np.count_nonzero(keep)} volumes")
    out[:, alive] = interpolate(cleaned, keep)
    return np.nan_to_num(out)


def _regressors(
    confounds: pd.DataFrame | None, volumes: int, tr: float, high_pass_hz: float | None
) -> np.ndarray | None:
    """Confounds with the cosines of a high-pass, or None if there are neither.

    nilearn's own ``filter="cosine"`` leaves its cosines out, with a warning, when a confound resembles one of them; a
    single head movement in the middle of a run does, and the drift would stay in.
    """
    parts = [] if confounds is None else [confounds.to_numpy(float)]
    if high_pass_hz:
        parts.append(cosines(volumes, tr, 1 / high_pass_hz))
    stacked = np.column_stack(parts) if parts else np.zeros((volumes, 0))
    return stacked if stacked.shape[1] else None


def interpolate(kept_rows: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Rows for all volumes from those of the kept ones, linear in between, held at the ends."""
    if keep.all():
        return kept_rows
    kept, every = np.flatnonzero(keep), np.arange(len(keep))
    left = np.clip(np.searchsorted(kept, every, side="right") - 1, 0, len(kept) - 1)
    right = np.clip(np.searchsorted(kept, every, side="left"), 0, len(kept) - 1)
    gap = np.maximum(kept[right] - kept[left], 1)
    weight = np.clip((every - kept[left]) / gap, 0, 1)[:, None]
    return kept_rows[left] * (1 - weight) + kept_rows[right] * weight
