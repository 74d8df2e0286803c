"""One beta per clip: the `glm` way of dealing with the haemodynamic delay."""

from __future__ import annotations

import numpy as np

from neuroalign.fmri.series import RoiSeries


def separate_betas(
    series: RoiSeries, onsets: np.ndarray, duration_s: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Least-squares-separate betas (Mumford et al. 2012, NeuroImage 59:2636).

    For each clip a design of its own: the clip, all other clips together, and a constant, each convolved with
    the SPM canonical HRF by nilearn. Censored volumes are left out of the fit.

    Parameters
    ----------
    series : RoiSeries
    onsets : array of shape (n,)
        Clip onsets in seconds on the clock of the run.
    duration_s : float

    Returns
    -------
    betas : dict of str to float32 array of shape (n, 1, units)
    usable : bool array of shape (n,)
        False for a clip whose response lies outside the run or in censored volumes.
    """
    from nilearn.glm.first_level import compute_regressor

    keep = series.keep
    single = np.stack(
        [
            compute_regressor(np.array([[onset], [duration_s], [1.0]]), "spm", series.times)[0][:, 0]
            for onset in onsets
        ],
        axis=1,
    )[keep]
    total = single.sum(1, keepdims=True)
    betas = {
        name: np.zeros((len(onsets), 1, data.shape[1]), np.float32) for name, data in series.levels.items()
    }
    # A clip whose response lies outside the run, or wholly in censored volumes, has no beta.
    usable = (
        np.abs(single).sum(0) > 0.5 * np.median(np.abs(single).sum(0)) if len(onsets) else np.zeros(0, bool)
    )
    stacked = np.concatenate([data[keep] for data in series.levels.values()], axis=1)
    edges = np.cumsum([data.shape[1] for data in series.levels.values()])[:-1]
    for i in np.flatnonzero(usable):
        design = np.column_stack([single[:, i], total[:, 0] - single[:, i], np.ones(len(single))])
        beta = np.linalg.lstsq(design, stacked, rcond=None)[0][0]
        for name, part in zip(betas, np.split(beta, edges), strict=True):
            betas[name][i, 0] = part
    return betas, usable
