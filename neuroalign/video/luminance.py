"""Lightness of RGB frames, and the low-level description of a film that controls are made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from neuroalign.video.backbones.base import Batches
from neuroalign.video.windows import WindowGrid, WindowMean


def _tables() -> np.ndarray:
    """Contribution of each value of each channel to relative luminance Y, (3, 256): sRGB, IEC 61966-2-1, D65."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.array([0.212671, 0.715160, 0.072169])[:, None] * linear


_CHANNELS = _tables()


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


class LowLevel:
    """Collects luminance, contrast and motion of a film while its frames pass on their way to a backbone.

    Per frame: mean lightness, its standard deviation over pixels, and the mean absolute difference from the frame
    before (0 for the first). Means over windows are the columns of ``/low_level`` (see `shards.LOW_LEVEL`).

    Parameters
    ----------
    grid : WindowGrid
    """

    def __init__(self, grid: WindowGrid):
        self._mean = WindowMean(grid, 3)
        self._rows: list[np.ndarray] = []
        self._before: np.ndarray | None = None

    def watch(self, batches: Batches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass batches of (times, frames) on unchanged, and note what they look like."""
        for times, frames in batches:
            # Every second pixel of the picture is plenty for three numbers about all of it.
            light = lightness(frames[:, ::2, ::2]).astype(np.float32)
            before = light[:1] if self._before is None else self._before
            change = np.abs(np.diff(light, axis=0, prepend=before)).mean(axis=(1, 2))
            self._before = light[-1:]
            values = np.stack([light.mean(axis=(1, 2)), light.std(axis=(1, 2)), change], axis=1)
            self._rows.append(self._mean.add(values))
            yield times, frames

    def result(self) -> np.ndarray:
        """The three columns, of shape (windows, 3), once all frames have passed."""
        self._mean.close()
        return np.concatenate(self._rows)
