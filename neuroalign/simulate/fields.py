"""Smooth random fields: the raw material of warps, bias fields and noise maps."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], knots: tuple[int, ...]) -> np.ndarray:
    """Cubic-spline interpolation of white noise on a coarse grid.

    Drawing the field as coarsely as it is smooth, and interpolating axis by axis, costs a small part of smoothing
    fine noise.

    Parameters
    ----------
    rng : Generator
    shape : tuple of int
        Shape of the field.
    knots : tuple of int
        Points of the coarse grid along each axis (at least 4), spread over the whole field.

    Returns
    -------
    float32 array of `shape`
    """
    field = rng.standard_normal(knots).astype(np.float32)
    for axis, (size, count) in enumerate(zip(shape, knots, strict=True)):
        # The spline is linear in its values: interpolating the identity gives the matrix of the axis.
        at = np.linspace(0, count - 1, size)
        matrix = make_interp_spline(np.arange(count), np.eye(count), k=3)(at).astype(np.float32)
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)
