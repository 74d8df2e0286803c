"""Lightness of RGB frames, and the low-level description of a film that controls are made of."""

from __future__ import annotations

import numpy as np

from neuroalign.video.shards import LOW_LEVEL
from neuroalign.video.windows import WindowGrid, WindowMean


def _tables() -> np.ndarray:
    """Contribution of each value of each channel to relative luminance Y, (3, 256): sRGB, IEC 61966-2-1, D65."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.array([0.212671, 0.715160, 0.072169])[:, None] * linear


_CHANNELS = _tables()
_PIXELS = 64


def lightness(frames: np.ndarray) -> np.ndarray:
    """CIE 1976 lightness L* of sRGB frames, as Nishimoto et al. (2011) feed to motion energy.

    Parameters
    ----------
    frames : uint8 array of shape (..., 3)

    Returns
    -------
    float64 array of shape (...)
        From 0 (black) to 100 (white).
    """
    y = sum(table[frames[..., channel]] for channel, table in enumerate(_CHANNELS))
    return np.where(y < 0.008856, 903.3 * y, 116 * np.cbrt(y) - 16)


def coarse_lightness(frames: np.ndarray) -> np.ndarray:
    """Lightness on a grid of pixels, plenty for three numbers about the whole picture, and quick.

    Parameters
    ----------
    frames : uint8 array of shape (n, height, width, 3)

    Returns
    -------
    float32 array of shape (n, rows, columns)
        Of every second pixel, or fewer where at least 64 remain along the shorter side.
    """
    step = max(2, min(frames.shape[1:3]) // _PIXELS)
    return lightness(frames[:, ::step, ::step]).astype(np.float32)


class LowLevel:
    """Luminance, contrast and motion of the windows of a film, or of a part of it.

    Per frame: mean lightness, its standard deviation over pixels, and the mean absolute difference from the frame
    before (0 for the film's first). Means over windows are the columns of ``/low_level`` (see `shards.LOW_LEVEL`).

    Parameters
    ----------
    grid : WindowGrid
    past : int
        Frames before the first window's first that will be added as well, as far as there are any: at least 1, from
        which its first motion is told.
    """

    def __init__(self, grid: WindowGrid, past: int = 1):
        self._mean = WindowMean(grid, len(LOW_LEVEL), grid.first_frame(past))
        self._rows: list[np.ndarray] = []
        self._before: np.ndarray | None = None

    def add(self, light: np.ndarray) -> None:
        """Take in the lightness of the next frames, as `coarse_lightness` gives it."""
        before = light[:1] if self._before is None else self._before
        change = np.abs(np.diff(light, axis=0, prepend=before)).mean(axis=(1, 2))
        self._before = light[-1:].copy()
        values = np.stack([light.mean(axis=(1, 2)), light.std(axis=(1, 2)), change], axis=1)
        self._rows.append(self._mean.add(values))

    def result(self) -> np.ndarray:
        """The three columns, float32 of shape (windows, 3), once all frames were added."""
        self._mean.close()
        return np.concatenate(self._rows).astype(np.float32)
