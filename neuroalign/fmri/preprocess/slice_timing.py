"""Slice-timing correction: every slice interpolated in time to one moment of the repetition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.interpolate import make_interp_spline

from neuroalign.errors import UserError
from neuroalign.fmri.preprocess.lost import bridging_matrix

_AXES = {"i": 0, "j": 1, "k": 2}
_NEGLIGIBLE = 1e-6


def slice_times(
    metadata: Mapping[str, Any], shape: tuple[int, ...], tr: float, name: str
) -> tuple[np.ndarray, int] | None:
    """Acquisition time of each slice, and the axis of slices.

    Parameters
    ----------
    metadata : mapping
        The sidecar; ``SliceTiming`` in seconds and ``SliceEncodingDirection`` (``k`` unless given; a trailing
        ``-`` reverses the list, BIDS).
    shape : tuple of int
        Shape of the image.
    tr : float
        Repetition time, seconds.
    name : str
        The file, for messages.

    Returns
    -------
    (times, axis) or None
        `times` has one entry per index along `axis`. None if the sidecar has no times or all are equal.

    Raises
    ------
    UserError
        If the number of times is not the number of slices, or a time lies outside the repetition (often
        milliseconds written for seconds).
    """
    listed = metadata.get("SliceTiming")
    if listed is None or len(listed) == 0:
        return None
    direction = str(metadata.get("SliceEncodingDirection") or "k")
    if direction[0] not in _AXES:
        raise UserError(
            f"{name}: SliceEncodingDirection is '{direction}'; it must be one of i, j, k, i-, j-, k-."
        )
    axis = _AXES[direction[0]]
    times = np.asarray(listed, float)
    if len(times) != shape[axis]:
        raise UserError(
            f"{name}: SliceTiming has {len(times)} entries, but the image has {shape[axis]} slices; mend the sidecar "
            "or set fmri.preprocess.slice_timing to false."
        )
    if times.min() < 0 or times.max() >= tr + 1e-3:
        raise UserError(
            f"{name}: SliceTiming runs from {times.min():g} to {times.max():g}, outside the repetition time of {tr:g} s; "
            "it must be in seconds."
        )
    if np.ptp(times) < _NEGLIGIBLE:
        return None
    return (times[::-1].copy() if direction.endswith("-") else times), axis


def reference_time(times: np.ndarray) -> float:
    """The moment all slices are moved to: half-way between first and last (fMRIPrep's default), seconds."""
    return float((times.min() + times.max()) / 2)


def correct_slice_timing(
    data: np.ndarray,
    times: np.ndarray,
    tr: float,
    axis: int,
    reference: float,
    *,
    dummies: int = 0,
    lost: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Move every slice in time to `reference` by cubic spline interpolation.

    Parameters
    ----------
    data : array of shape (x, y, z, volumes)
    times : array of shape (slices,)
        Acquisition time of each slice within the repetition, seconds.
    tr : float
        Repetition time, seconds.
    axis : int
        Axis of slices (0, 1 or 2).
    reference : float
        Time within the repetition at which the series are wanted, seconds.
    dummies : int
        Leading volumes not at steady state: they are left as they are, and no other value depends on them.
    lost : bool array of shape (volumes,), optional
        Volumes that are no data: they are left as they are, and no other value depends on them.
    out : float32 array like `data`, optional
        Where to write; `data` itself saves a second copy of the run.

    Returns
    -------
    array like `data`, float32

    Notes
    -----
    Slice z samples its signal at t_z + i·TR; the value at reference + i·TR is read from the cubic spline through
    the samples. Interpolation is linear in the data, so it is one sparse matrix per distinct slice time
    (slices of a multiband group share it). At the two ends, where the wanted time lies outside the samples,
    the end value is held. A spline through a blank volume or a bright first one would ring through its neighbours: it
    begins at steady state, and lost volumes are bridged by a line between their sound neighbours first.
    """
    volumes = data.shape[-1]
    moved = np.empty(data.shape, np.float32) if out is None else out
    lost = np.zeros(volumes, bool) if lost is None else lost
    if (~lost[dummies:]).sum() < 4:
        moved[...] = data
        return moved
    slices_first, moved_first = np.moveaxis(data, axis, 0), np.moveaxis(moved, axis, 0)
    for time in np.unique(times):
        weights = _spline_matrix(lost, dummies, (reference - time) / tr)
        for index in np.flatnonzero(times == time):
            series = slices_first[index].reshape(-1, volumes)
            moved_first[index] = (weights @ series.T).T.reshape(moved_first[index].shape)
    return moved


def _spline_matrix(lost: np.ndarray, dummies: int, shift: float) -> sparse.csr_array:
    """Interpolation at ``i + shift`` from samples at 0, 1, …: sparse, as spline influence decays quickly."""
    volumes, steady = len(lost), np.arange(dummies, len(lost))
    wanted = np.clip(steady + shift, dummies, volumes - 1)
    dense = np.eye(volumes)
    dense[dummies:, dummies:] = make_interp_spline(steady, bridging_matrix(lost[dummies:]), k=3)(wanted)
    dense[lost] = np.eye(volumes)[lost]
    dense[np.abs(dense) < _NEGLIGIBLE] = 0
    return sparse.csr_array(dense.astype(np.float32))
