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
