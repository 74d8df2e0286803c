"""The haemodynamic response of the simulated brain (not the one that the model learns)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.signal import fftconvolve

STEP_S = 0.1
"""Spacing in seconds of the time grid on which responses and signals are computed."""

_WIDTH_S = 5.2
_UNDERSHOOT_LATER_S = 10.0
_UNDERSHOOT_WIDTH_S = 8.0
_UNDERSHOOT_RATIO = 1 / 6


def response(delay_s: float, step_s: float = STEP_S, length_s: float = 32.0) -> np.ndarray:
    """A double-gamma impulse response that peaks exactly `delay_s` after the impulse.

    The shape is that of Friston et al. (1998) and Glover (1999): a gamma-shaped rise and a smaller, later and
    wider gamma-shaped undershoot. Here the peak, not the shape parameter, is the parameter, and the full width
    at half maximum of the rise stays near 5.2 s whatever the delay.

    Parameters
    ----------
    delay_s : float
        Time to peak in seconds.
    step_s : float
        Sampling interval in seconds.
    length_s : float
        Length of the response in seconds.

    Returns
    -------
    array of shape (round(length_s / step_s),)
        Response with unit area: ``numpy.convolve(neural, response)`` keeps the level of slow signals.
    """

    def slope(rise_s: float) -> float:
        late = _gamma_slope(delay_s, rise_s + _UNDERSHOOT_LATER_S, _UNDERSHOOT_WIDTH_S)
        return _gamma_slope(delay_s, rise_s, _WIDTH_S) - _UNDERSHOOT_RATIO * late

    # The undershoot's early rise pulls the peak forward a little; the gamma moves back by as much.
    rise_s = brentq(slope, delay_s - 0.5, delay_s + 1.5)
    t = np.arange(round(length_s / step_s)) * step_s
    shape = _gamma(t, rise_s, _WIDTH_S) - _UNDERSHOOT_RATIO * _gamma(
        t, rise_s + _UNDERSHOOT_LATER_S, _UNDERSHOOT_WIDTH_S
    )
    return shape / shape.sum()


def convolve(neural: np.ndarray, delay_s: float, step_s: float = STEP_S) -> np.ndarray:
    """Convolve neural series with the response, causally.

    Parameters
    ----------
    neural : array of shape (samples, units)
        Sampled every `step_s` seconds; before the first sample the activity is taken to be the first one's.
    delay_s : float
        Time to peak in seconds.
    step_s : float

    Returns
    -------
    array of shape (samples, units)
    """
    kernel = response(delay_s, step_s)
    padded = np.concatenate([np.repeat(neural[:1], len(kernel), axis=0), neural])
    full = fftconvolve(padded, kernel[:, None], axes=0)
    return full[len(kernel) : len(kernel) + len(neural)]


def _gamma(t: np.ndarray, peak_s: float, width_s: float) -> np.ndarray:
    """Gamma density scaled to 1 at its peak."""
    a = 8 * np.log(2) * (peak_s / width_s) ** 2
    with np.errstate(divide="ignore"):
        return np.exp(a * (np.log(t / peak_s) + 1 - t / peak_s))


def _gamma_slope(t: float, peak_s: float, width_s: float) -> float:
    a = 8 * np.log(2) * (peak_s / width_s) ** 2
    return float(_gamma(np.asarray(t), peak_s, width_s)) * a * (1 / t - 1 / peak_s)
