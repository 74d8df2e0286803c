"""Slice timing; the clock of a run is in test_clock.py."""

from __future__ import annotations

import numpy as np
import pytest

from neuroalign.errors import UserError
from neuroalign.fmri.preprocess.slice_timing import correct_slice_timing, reference_time, slice_times


@pytest.mark.parametrize("direction", ["k", "k-", "j"])
def test_slice_timing_on_a_sinusoid(direction):
    tr, volumes, shape = 2.0, 80, (3, 6, 6)
    listed = [0.0, 0.6, 1.2, 0.0, 0.6, 1.2]  # multiband: two slices at a time
    times, axis = slice_times(
        {"SliceTiming": listed, "SliceEncodingDirection": direction}, (*shape, volumes), tr, "a"
    )
    assert times.tolist() == (listed[::-1] if direction == "k-" else listed)
    signal = lambda t: 100 + np.sin(2 * np.pi * 0.05 * t)  # noqa: E731
    clock = tr * np.arange(volumes)
    place = [1, 1, 1, volumes]
    place[axis] = 6
    data = np.broadcast_to(signal(np.add.outer(times, clock)).reshape(place), (*shape, volumes)).astype(
        np.float32
    )
    reference = reference_time(times)
    found = correct_slice_timing(data, times, tr, axis, reference)
    wanted = signal(reference + clock)
    assert np.abs(data - wanted)[..., 3:-3].max() > 0.15
    assert np.abs(found - wanted)[..., 3:-3].max() < 2e-3


def test_slice_timing_neither_touches_nor_sees_dummies_and_lost_volumes():
    tr, volumes = 2.0, 60
    times, reference = np.array([0.0, 0.5, 1.0, 1.5]), 0.75
    signal = lambda t: 100 + np.sin(2 * np.pi * 0.03 * t)  # noqa: E731
    clock = tr * np.arange(volumes)
    data = np.broadcast_to(signal(np.add.outer(times, clock)), (2, 2, 4, volumes)).astype(np.float32)
    lost = np.isin(np.arange(volumes), [20, 40, 41])
    spoiled = data.copy()
    spoiled[..., :3] += [90, 40, 15]
    spoiled[..., lost] = [0.0, 9e3, 0.0]
    kept = ~lost & (np.arange(volumes) >= 3)
    found = correct_slice_timing(spoiled, times, tr, 2, reference, dummies=3, lost=lost)
    np.testing.assert_array_equal(found[..., ~kept], spoiled[..., ~kept])
    # What is left is the line through a gap in the place of a sinusoid, beside the gap and at the two ends only.
    error = np.abs(found - signal(reference + clock))[..., kept]
    assert error.max() < 0.4
    assert np.median(error) < 1e-3
    other = spoiled.copy()
    other[..., ~kept] = 55.0
    again = correct_slice_timing(other, times, tr, 2, reference, dummies=3, lost=lost)
    np.testing.assert_array_equal(again[..., kept], found[..., kept])
    through = correct_slice_timing(spoiled, times, tr, 2, reference)
    assert np.abs(through - signal(reference + clock))[..., kept].max() > 100


def test_slice_timing_of_nonsense_is_refused():
    shape = (4, 4, 3, 10)
    assert slice_times({}, shape, 2.0, "a") is None
    assert slice_times({"SliceTiming": [0, 0, 0]}, shape, 2.0, "a") is None
    for metadata in (
        {"SliceTiming": [0, 1]},
        {"SliceTiming": [0, 500, 1000]},
        {"SliceTiming": [0, 0.5, 1], "SliceEncodingDirection": "x"},
    ):
        with pytest.raises(UserError):
            slice_times(metadata, shape, 2.0, "a")
