"""One beta per clip: the `glm` way of dealing with the haemodynamic delay."""

from __future__ import annotations

import numpy as np

from neuroalign.fmri.clean import clean_regressors
from neuroalign.fmri.series import RoiSeries

# Grid on which the response of a clip is computed, in seconds: fine against any repetition time.
_FINE_S = 0.005
# nilearn's canonical response lasts this long.
_RESPONSE_S = 32.0
# A clip has a beta only if at least this share of the energy of its response falls on volumes that are kept.
_SEEN = 0.5
# Less of the energy of a response than this beside the nuisance is a rounding error.
_LEFT = 1e-6
_BLOCK = 2048


def clip_response(duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The canonical response to a clip of constant strength (SPM's, by nilearn).

    Returns
    -------
    seconds : array of shape (samples,)
        After clip start.
    response : array of shape (samples,)
        0 at both ends.
    """
    from nilearn.glm.first_level import spm_hrf

    impulse = spm_hrf(1.0, oversampling=round(1 / _FINE_S), time_length=_RESPONSE_S)
    at = np.linspace(0.0, _RESPONSE_S, len(impulse))
    # What a step would give; a clip is one step up and, exactly its duration later, one down.
    step = np.cumsum(impulse) - impulse / 2
    seconds = np.arange(0.0, duration_s + _RESPONSE_S + _FINE_S, _FINE_S)
    response = np.interp(seconds, at, step) - np.interp(seconds - duration_s, at, step, left=0.0)
    response[-1] = 0.0
    return seconds, response


def separate_betas(
    series: RoiSeries, onsets: np.ndarray, duration_s: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Least-squares-separate betas (Mumford et al. 2012, NeuroImage 59:2636).

    For each clip a design of its own: the clip, all other clips together, a constant, and what was regressed out of the
    series where that is known. Censored volumes are left out of the fit. Every presentation has its own beta, repeats
    within a run included.

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
        False for a clip most of whose response lies outside the run or in censored volumes, or that cannot be told
        apart from the others.
    """
    onsets = np.asarray(onsets, float)
    single, usable = _responses(series, onsets, duration_s)
    betas = {}
    for level, data in series.levels.items():
        betas[level] = np.zeros((len(onsets), 1, data.shape[1]), np.float32)
        # In blocks: double-precision copies of all voxels at once would be several times the series.
        for begin in range(0, data.shape[1], _BLOCK):
            part = np.s_[..., begin : begin + _BLOCK]
            found, apart = least_squares_separate(single, data[part][series.keep])
            usable &= apart
            betas[level][part] = found[:, None]
    for found in betas.values():
        found[~usable] = 0.0
    return betas, usable


def _responses(series: RoiSeries, onsets: np.ndarray, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Response of each clip at the middles of the kept volumes (volumes, n), and whether enough of it is seen.

    What was regressed out of the series is taken out of the responses too.
    """
    seconds, response = clip_response(duration_s)
    # One response serves all clips, as they last equally long: read where the middle of each volume falls.
    whole = np.interp(series.times[:, None] - onsets, seconds, response, left=0.0, right=0.0)
    single, tr = whole[series.keep], series.repetition_time
    energy = np.square(single).sum(axis=0)
    seen = energy >= _SEEN * np.square(response).sum() * _FINE_S / tr
    if series.nuisance is None or not series.keep.any():
        return single, seen
    single = clean_regressors(whole, series.keep, tr, series.nuisance, series.band_hz)
    return single, seen & (np.square(single).sum(axis=0) > _LEFT * energy)


def least_squares_separate(single: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The coefficient of each regressor in a design of itself, the sum of all others and a constant; all in closed form.

    With the means removed (which accounts for the constant), regressor u and the sum v of the others,

    .. math:: \beta = \frac{(v \cdot v)(u \cdot y) - (u \cdot v)(v \cdot y)}{(u \cdot u)(v \cdot v) - (u \cdot v)^2}

    and v·y follows from the sum of all, so that one matrix product serves every regressor and unit.

    Parameters
    ----------
    single : array of shape (volumes, n)
    data : array of shape (volumes, units)

    Returns
    -------
    betas : array of shape (n, units)
    apart : bool array of shape (n,)
        False where the regressor is constant or proportional to the sum of the others: its beta is then 0.
    """
    if not single.size:
        return np.zeros((single.shape[1], data.shape[1])), np.zeros(single.shape[1], bool)
    u = single - single.mean(axis=0)
    y = data - data.mean(axis=0, dtype=np.float64)
    others = u.sum(axis=1, keepdims=True) - u
    uy = u.T @ y
    vy = uy.sum(axis=0) - uy
    uu, vv, uv = (np.einsum("tn,tn->n", a, b) for a, b in ((u, u), (others, others), (u, others)))
    # A clip alone in its run has no others to be separated from.
    alone = vv <= 1e-12 * uu
    determinant = np.where(alone, uu, uu * vv - uv**2)
    apart = (uu > 0) & (alone | (determinant > 1e-9 * uu * vv))
    numerator = np.where(alone[:, None], uy, vv[:, None] * uy - uv[:, None] * vy)
    betas = np.divide(numerator, determinant[:, None], out=np.zeros_like(numerator), where=apart[:, None])
    return betas, apart
