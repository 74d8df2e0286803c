"""Noise of regional series with a covariance that is known exactly, so that an ideal observer can be computed.

The parts are those of `simulate.noise` and `simulate.neural.intrinsic_activity` as they arrive in the mean over a parcel. Each
is a stationary Gaussian process whose covariance is that in time times that over units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neuroalign.simulate.hrf import response
from neuroalign.simulate.noise import AUTOCORRELATION, CARDIAC, RESPIRATORY

ONGOING_PERCENT = 0.45
"""Ongoing activity (as `neural.INTRINSIC_PERCENT`)."""

LOCAL_PERCENT = 0.35
"""`noise.LOCAL` (1 % per voxel) in the mean over a parcel of 10 cm³ at 4 mm: 156 voxels, of which smoothness leaves 8 independent."""

THERMAL_PERCENT = 0.03
"""Thermal noise (SNR 280 at 4 mm) in that mean."""

DRIFT_PERCENT = 0.3
"""What a high-pass filter leaves of slow drifts (`noise.DRIFT` is 0.6 % before it)."""

_DRIFT_S = 30.0
_NETWORKS, _DRIFT_MAPS = 7, 3
_SLOW_SHARE = 0.8
_STEP_S = 0.25


@dataclass(frozen=True)
class Part:
    """One source of noise.

    Attributes
    ----------
    in_time : callable
        Autocorrelation at lags in seconds (array to array of the same shape); 1 at lag 0.
    maps : array of shape (sources, units)
        Percent of each unit per independent source of unit variance.
    """

    in_time: Callable[[np.ndarray], np.ndarray]
    maps: np.ndarray

    @property
    def over_units(self) -> np.ndarray:
        """Covariance in squared percent; (units, units)."""
        return self.maps.T @ self.maps


def noise_parts(rng: np.random.Generator, units: int, scale: float) -> list[Part]:
    """The noise of one person.

    Parameters
    ----------
    rng : Generator
        Draws networks, maps of drift and pulsation, and the rates of heart and breath.
    units : int
        Of all levels together.
    scale : float
        Relative size of everything; 1 is that of published 3 T data (``docs/simulation.md``).
    """
    loadings = rng.standard_normal((_NETWORKS, units)) / np.sqrt(_NETWORKS)
    ongoing = np.concatenate([loadings, np.eye(units)])
    ongoing /= np.linalg.norm(ongoing, axis=0)
    drift = rng.standard_normal((_DRIFT_MAPS, units)) / np.sqrt(_DRIFT_MAPS)
    parts = [
        Part(_ongoing_autocorrelation, ONGOING_PERCENT * ongoing),
        Part(lambda lag: AUTOCORRELATION ** (np.abs(lag) / 2), LOCAL_PERCENT * np.eye(units)),
        Part(lambda lag: (np.abs(lag) < 1e-9).astype(float), THERMAL_PERCENT * np.eye(units)),
        Part(lambda lag: np.exp(-0.5 * (lag / _DRIFT_S) ** 2), DRIFT_PERCENT * drift),
    ]
    for size, rate, wander in ((CARDIAC, (0.9, 1.3), 0.06), (RESPIRATORY, (0.2, 0.32), 0.03)):
        pattern = 100 * size * rng.standard_normal((1, units))
        parts.append(Part(_rhythm(rng.uniform(*rate), wander), pattern))
    return [Part(part.in_time, scale * part.maps) for part in parts]


class NoiseSource:
    """Draws noise of one person at evenly spaced times.

    Parameters
    ----------
    parts : list of Part
    volumes : int
        Most that are drawn at once.
    spacing_s : float
        Seconds between volumes.
    """

    def __init__(self, parts: list[Part], volumes: int, spacing_s: float):
        self.parts = parts
        lags = np.arange(volumes) * spacing_s
        self.roots = [_root(part.in_time(lags[:, None] - lags[None])) for part in parts]

    def draw(self, rng: np.random.Generator, volumes: int) -> np.ndarray:
        """A series of noise of shape (volumes, units)."""
        total = np.zeros((volumes, self.parts[0].maps.shape[1]))
        for part, root in zip(self.parts, self.roots, strict=True):
            # The noise is stationary: a shorter series is the beginning of a longer one.
            total += root[:volumes] @ rng.standard_normal((len(root), len(part.maps))) @ part.maps
        return total


def noise_covariance(parts: list[Part], times: np.ndarray) -> np.ndarray:
    """Covariance of a window of `times` (volumes,), volume by volume: (volumes·units, volumes·units)."""
    lags = times[:, None] - times[None]
    return sum(np.kron(part.in_time(lags), part.over_units) for part in parts)


def _root(covariance: np.ndarray) -> np.ndarray:
    # Slow processes are so smooth that rounding leaves no Cholesky factor; eigenvalues below zero are zero.
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def _rhythm(rate_hz: float, wander_hz: float) -> Callable[[np.ndarray], np.ndarray]:
    """A wave whose rate is Gaussian around `rate_hz`; what volumes see of it is aliased by the repetition time."""
    return lambda lag: np.cos(2 * np.pi * rate_hz * lag) * np.exp(-0.5 * (2 * np.pi * wander_hz * lag) ** 2)


def _ongoing_autocorrelation(lag: np.ndarray) -> np.ndarray:
    grid = np.arange(len(_ONGOING)) * _STEP_S
    return np.interp(np.abs(lag), grid, _ONGOING, right=0.0)


def _ongoing() -> np.ndarray:
    """White noise through a haemodynamic response, plus a 1/f part between 0.008 and 0.1 Hz (as `neural._pink`)."""
    kernel = response(5.0, _STEP_S)
    count = 4 * 2048
    vascular = np.fft.irfft(np.abs(np.fft.rfft(kernel, count)) ** 2)
    frequency = np.fft.rfftfreq(count, _STEP_S)
    power = np.where((frequency > 0) & (frequency < 0.1), 1 / np.maximum(frequency, 0.008), 0)
    slow = np.fft.irfft(power)
    found = (vascular / vascular[0] + _SLOW_SHARE**2 * slow / slow[0]) / (1 + _SLOW_SHARE**2)
    return found[: count // 2]


_ONGOING = _ongoing()
