"""Ridge regression, solved once for any penalty: what several baselines and the choice of the lag are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]


def decompose(x: np.ndarray) -> Callable[[np.ndarray], Callable[[float], Predict]]:
    """Decompose the inputs of a ridge regression once, for any outputs and any penalty.

    Parameters
    ----------
    x : array of shape (samples, inputs)

    Returns
    -------
    fit : callable
        ``fit(y)(alpha)`` gives ``predict``, which maps (..., inputs) to (..., outputs). `alpha` is in units of the
        mean eigenvalue of the Gram matrix, so that one grid suits any number of samples.
    """
    x = np.asarray(x, np.float64)
    mean_x = x.mean(axis=0)
    x = x - mean_x
    dual = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if dual else x.T @ x)
    values = np.maximum(values, 0.0)
    unit = max(values.sum() / min(x.shape), 1e-12)

    def fit(y: np.ndarray) -> Callable[[float], Predict]:
        mean_y = y.mean(axis=0, dtype=np.float64)
        projected = vectors.T @ (y - mean_y if dual else x.T @ (y - mean_y))

        def at(alpha: float) -> Predict:
            weights = vectors @ (projected / (values + alpha * unit)[:, None])
            weights = x.T @ weights if dual else weights
            return lambda new: (new - mean_x) @ weights + mean_y

        return at

    return fit


def fit_ridge(x: np.ndarray, y: np.ndarray) -> Callable[[float], Predict]:
    """Ridge regression of y (samples, outputs) on x (samples, inputs) for any penalty; see `decompose`."""
    return decompose(x)(y)
