"""Lost volumes: those that show no head, or fit so poorly that they are no data."""

from __future__ import annotations

import numpy as np


def bridge(values: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Values over time with those of lost volumes taken from their sound neighbours.

    Parameters
    ----------
    values : array of shape (volumes,) or (volumes, n)
    lost : bool array of shape (volumes,)
        At least one volume is not lost.

    Returns
    -------
    float64 array like `values`
        Linear between the nearest sound volumes, held at the ends of the run.
    """
    return bridging_matrix(lost) @ np.where(
        lost.reshape(-1, *[1] * (np.ndim(values) - 1)), 0.0, np.asarray(values, np.float64)
    )


def bridging_matrix(lost: np.ndarray) -> np.ndarray:
    """What `bridge` does to a series of volumes, as a matrix of shape (volumes, volumes): columns of lost volumes are 0."""
    every, sound = np.arange(len(lost)), np.flatnonzero(~lost)
    return np.stack([np.interp(every, sound, row) for row in np.eye(len(lost))[:, sound]], axis=1)
