"""Noise of the BOLD series: thermal, physiological, slow, each with a size taken from published 3 T data.

Numbers and papers are listed in ``docs/simulation.md``.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from neuroalign.simulate.fields import smooth_field

THERMAL_SNR = 120.0
"""Image signal-to-noise ratio of grey matter in 3 mm voxels; it grows with the voxel's volume."""

GREY_MATTER = 2000.0
"""Intensity of grey matter that defines the thermal noise."""

LOCAL = 0.010
"""Spatially smooth, temporally autocorrelated fluctuation, as a share of the voxel's signal."""

AUTOCORRELATION = 0.45
"""Lag-one autocorrelation of that fluctuation per 2 s."""

CARDIAC, RESPIRATORY = 0.003, 0.003
"""Pulsation and breathing in tissue, as a share of the voxel's signal; fluid pulsates more."""

CARDIAC_IN_FLUID = 0.025
DRIFT = 0.006
"""Standard deviation over a run of slow scanner and physiological drift, as a share of the signal."""


def add_noise(
    rng: np.random.Generator,
    data: np.ndarray,
    baseline: np.ndarray,
    csf: np.ndarray,
    slice_times: np.ndarray,
    tr_s: float,
    voxel_mm: float,
    scale: float,
) -> None:
    """Add noise to a run in place.

    Parameters
    ----------
    rng : Generator
    data : float32 array of shape (volumes, z, y, x)
        Changed in place; afterwards a magnitude image (Rician where there is no signal).
    baseline : array of shape (z, y, x)
        Noise-free intensity, to which physiological noise is proportional (Krüger & Glover, 2001).
    csf : array of shape (z, y, x)
        Share of fluid in each voxel.
    slice_times : array of shape (z,)
        Acquisition time of each slice in seconds; pulsation is sampled at these, hence aliased.
    tr_s, voxel_mm : float
    scale : float
        Relative size of all parts.
    """
    volumes = len(data)
    modulation = _local(rng, data.shape, tr_s)
    modulation *= LOCAL * scale
    starts = np.arange(volumes) * tr_s
    cardiac, respiratory = _rhythms(rng, starts[-1] + tr_s)
    heart = CARDIAC * _map(rng, baseline.shape) + CARDIAC_IN_FLUID * csf * (0.5 + _map(rng, csf.shape))
    breath = RESPIRATORY * _map(rng, baseline.shape)
    slow = np.stack([_map(rng, baseline.shape) for _ in range(3)]) * (DRIFT / np.sqrt(2))
    trends = _trends(volumes)
    for z, offset in enumerate(slice_times):
        beat, sigh = (np.interp(starts + offset, *rhythm)[:, None, None] for rhythm in (cardiac, respiratory))
        modulation[:, z] += scale * (heart[z] * beat + breath[z] * sigh)
        modulation[:, z] += scale * np.tensordot(trends, slow[:, z], 1)
    modulation *= baseline
    data += modulation
    sd = scale * GREY_MATTER / (THERMAL_SNR * (voxel_mm / 3) ** 3)
    data += sd * rng.standard_normal(data.shape, dtype=np.float32)
    # Magnitude images: beyond a few standard deviations the second channel no longer matters.
    faint = baseline < 5 * sd
    channel = sd * rng.standard_normal((volumes, int(faint.sum())), dtype=np.float32)
    data[:, faint] = np.hypot(data[:, faint], channel)


def _local(rng: np.random.Generator, shape: tuple[int, ...], tr_s: float) -> np.ndarray:
    """Unit-variance noise, autocorrelated in time and smooth over neighbouring voxels."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis in (1, 2, 3):
        noise = _blur(noise, axis)
    rho = AUTOCORRELATION ** (tr_s / 2)
    fresh = np.sqrt(1 - rho**2)
    for volume in range(1, len(noise)):
        noise[volume] *= fresh
        noise[volume] += rho * noise[volume - 1]
    return noise / noise[:, ::3, ::3, ::3].std()


def _blur(noise: np.ndarray, axis: int) -> np.ndarray:
    out = noise.copy()
    head, tail = [slice(None)] * 4, [slice(None)] * 4
    head[axis], tail[axis] = slice(1, None), slice(None, -1)
    out[tuple(head)] += 0.5 * noise[tuple(tail)]
    out[tuple(tail)] += 0.5 * noise[tuple(head)]
    return out


def _rhythms(rng: np.random.Generator, length_s: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cardiac and respiratory waves (times, values): quasi-periodic, with a wandering rate and a second harmonic."""
    clock = np.arange(0, length_s + 1, 0.02)
    waves = []
    for rate, spread, harmonic in ((rng.uniform(0.9, 1.3), 0.06, 0.4), (rng.uniform(0.2, 0.32), 0.03, 0.25)):
        wander = ndimage.gaussian_filter1d(rng.standard_normal(len(clock)), 200)
        phase = 2 * np.pi * np.cumsum(rate + spread * wander / wander.std()) * 0.02
        waves.append((clock, np.sqrt(2) * (np.sin(phase) + harmonic * np.sin(2 * phase + 1))))
    return waves


def _trends(volumes: int) -> np.ndarray:
    """Drift shapes of unit variance: a line and two slow cosines; (volumes, 3)."""
    t = np.linspace(-1, 1, volumes)
    shapes = np.stack([t, np.cos(np.pi * t), np.sin(1.5 * np.pi * t)], axis=1)
    return ((shapes - shapes.mean(0)) / shapes.std(0) * np.array([1.0, 0.7, 0.7])).astype(np.float32)


def _map(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth map of unit root mean square over the field of view."""
    field = smooth_field(rng, shape, (5, 6, 5))
    return field / np.sqrt((field**2).mean())
