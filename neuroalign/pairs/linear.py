"""Linear tools that the choice of the lag and the baselines share: scaling, ridge, and the cosine of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
Scale = tuple[np.ndarray, np.ndarray]


def flat(data: np.ndarray) -> np.ndarray:
    """(n, T, features) to (n·T, features)."""
    return data.reshape(-1, data.shape[-1])


def fit_scale(data: np.ndarray) -> Scale:
    """Mean and standard deviation over all but the last axis, for `scaled`."""
    samples = flat(data).astype(np.float64)
    mean, deviation = samples.mean(axis=0), samples.std(axis=0)
    # A constant unit carries nothing: it becomes 0 instead of being divided by rounding errors.
    return mean, np.where(deviation > 1e-8 * np.maximum(np.abs(mean), 1.0), deviation, np.inf)


def scaled(data: np.ndarray, scale: Scale) -> np.ndarray:
    """Data with the mean removed and divided by the standard deviation of `fit_scale`, as float32."""
    return ((data - scale[0]) / scale[1]).astype(np.float32)


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


@dataclass(frozen=True)
class RidgeFactors:
    """Ridge regression on given inputs, ready for any outputs, inputs and penalties; made by `ridge_factors`.

    The predictions for `new` inputs, less the mean of the outputs, are

    >>> factors.predict(factors.left(new), factors.project(summed), alpha)

    None of the three is as large as samples × predictions.

    Attributes
    ----------
    mean : array of shape (inputs,)
    basis : array of shape (inputs, k)
    right : float32 array of shape (k, samples)
    values : array of shape (k,)
        Eigenvalues of the Gram matrix; k is the smaller of samples and inputs.
    unit : float
        What penalties are multiples of: the mean eigenvalue, as in `decompose`.
    """

    mean: np.ndarray
    basis: np.ndarray
    right: np.ndarray
    values: np.ndarray
    unit: float

    def left(self, new: np.ndarray) -> np.ndarray:
        """Inputs (m, inputs) on the eigenvectors; float32 array of shape (m, k)."""
        return ((new - self.mean) @ self.basis).astype(np.float32)

    def project(self, summed: np.ndarray) -> np.ndarray:
        """Outputs (samples, outputs), summed over the times that a sample was seen, on the eigenvectors: (k, outputs)."""
        return self.right @ summed

    def predict(self, left: np.ndarray, projected: np.ndarray, alpha: float) -> np.ndarray:
        """Predictions of shape (m, outputs)."""
        return left @ (projected / (self.values + alpha * self.unit)[:, None]).astype(np.float32)


def ridge_factors(x: np.ndarray, counts: np.ndarray) -> RidgeFactors:
    r"""Decompose the inputs of a ridge regression in which inputs were seen more than once.

    Repeated rows change the fit only through their number: with W the diagonal of counts, X' y over all presentations is
    x' Σy, with Σy the outputs summed over the presentations of each row, and X'X is x' W x.

    Parameters
    ----------
    x : array of shape (samples, inputs)
        Every input once.
    counts : int array of shape (samples,)
        At least 1: how often it was seen.
    """
    x, counts = np.asarray(x, np.float64), np.asarray(counts, np.float64)
    mean = counts @ x / counts.sum()
    root = np.sqrt(counts)[:, None]
    x = (x - mean) * root
    dual = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if dual else x.T @ x)
    values = np.maximum(values, 0.0)
    basis, right = (x.T @ vectors, vectors.T / root.T) if dual else (vectors, (x / root @ vectors).T)
    unit = max(values.sum() / min(counts.sum(), x.shape[1]), 1e-12)
    return RidgeFactors(mean, basis, right.astype(np.float32), values, unit)


def fit_ridge(x: np.ndarray, y: np.ndarray) -> Callable[[float], Predict]:
    """Ridge regression of y (samples, outputs) on x (samples, inputs) for any penalty; see `decompose`."""
    return decompose(x)(y)


def cosine(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Cosine of concatenated clips after removing the mean over the queries and over the gallery.

    Parameters
    ----------
    queries : array of shape (n, T, dim)
    candidates : array of shape (m, T, dim)

    Returns
    -------
    scores : float32 array of shape (n, m)

    Notes
    -----
    Both means are taken over the test set when test windows are scored. They use no labels (which window belongs
    to which clip), but they do assume that the whole gallery is known, as in any retrieval.
    """
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, candidates))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    b /= np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12)
    return (a @ b.T).astype(np.float32)
