"""Window grids and the means over them, against definitions that anyone can read."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.errors import UserError
from neuroalign.video.windows import (
    WindowMean,
    exact_rate,
    mean_over_windows,
    window_grid,
)


@pytest.mark.parametrize(
    ("decimal", "exact"),
    [
        (8.0, Fraction(8)),
        (12.5, Fraction(25, 2)),
        (24.0, Fraction(24)),
        (0.5, Fraction(1, 2)),
        (29.97, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
    ],
)
def test_exact_rates(decimal, exact):
    assert exact_rate(decimal) == exact


def test_a_minute_at_one_window_a_second():
    grid = window_grid(480, 8.0, 1.0, 1.0)
    assert len(grid) == 60
    np.testing.assert_allclose(grid.times, np.arange(60) + 0.5)
    np.testing.assert_array_equal(grid.stop - grid.start, 8)


@pytest.mark.parametrize(("frames", "windows"), [(32, 4), (31, 4), (28, 4), (27, 3), (3, 1), (1, 1)])
def test_the_last_window_may_be_half_full(frames, windows):
    assert len(window_grid(frames, 8.0, 1.0, 1.0)) == windows


def test_a_window_shorter_than_a_frame_is_refused():
    with pytest.raises(UserError, match="window_s"):
        window_grid(100, 8.0, 0.1, 1.0)


def _cut(values, cuts):
    """Cut an array into batches of the given lengths, in turn."""
    first, n = 0, 0
    while first < len(values):
        size = cuts[n % len(cuts)]
        yield values[first : first + size]
        first, n = first + size, n + 1


_films = {
    "frames": st.integers(1, 200),
    "fps": st.sampled_from([1.0, 8.0, 12.5, 29.97, 30000 / 1001]),
    "window": st.floats(1.0, 5.0),
    "stride": st.floats(0.2, 5.0),
    "cuts": st.lists(st.integers(1, 60), min_size=1, max_size=5),
}


@settings(max_examples=200, deadline=None)
@given(**_films)
def test_means_equal_the_definition_however_the_film_is_cut(frames, fps, window, stride, cuts):
    grid = window_grid(frames, fps, window, stride)
    values = np.random.default_rng(frames).standard_normal((frames, 3))
    seconds = np.arange(frames) / fps
    means = np.concatenate(list(mean_over_windows(_cut(values, cuts), grid, 3)))
    assert len(means) == len(grid)
    for k, mean in enumerate(means):
        begin = grid.times[k] - window / 2
        assert begin == pytest.approx(k * stride)
        inside = (seconds >= begin - 1e-7) & (seconds < begin + window - 1e-7)
        expected = values[inside] if inside.any() else values[-1:]
        np.testing.assert_allclose(mean, expected.mean(axis=0), atol=1e-12)
    # The centres lie in the film, and one more would not.
    assert len(grid) == 1 or grid.times[-1] <= frames / fps + 1e-6
    assert grid.times[-1] + stride > frames / fps - 1e-6


@settings(max_examples=100, deadline=None)
@given(**_films, past=st.integers(0, 5), data=st.data())
def test_parts_of_a_grid_make_up_the_whole(frames, fps, window, stride, cuts, past, data):
    grid = window_grid(frames, fps, window, stride)
    values = np.random.default_rng(frames).standard_normal((frames, 2))
    whole = np.concatenate(list(mean_over_windows(_cut(values, cuts), grid, 2)))
    middle = data.draw(st.integers(0, len(grid)))
    for part, expected in (
        (grid.part(0, middle), whole[:middle]),
        (grid.part(middle), whole[middle:]),
    ):
        if len(part):
            seen = values[part.first_frame(past) : part.end_frame(past)]
            found = np.concatenate(list(mean_over_windows(_cut(seen, cuts), part, 2, past)))
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_windows_are_given_as_soon_as_they_are_whole():
    mean = WindowMean(window_grid(32, 8.0, 2.0, 1.0), 1)
    assert len(mean.add(np.zeros((15, 1)))) == 0
    assert len(mean.add(np.zeros((1, 1)))) == 1
    assert len(mean.add(np.zeros((8, 1)))) == 1
    assert len(mean.add(np.zeros((8, 1)))) == 2


def test_a_film_that_ends_early_is_noticed():
    grid = window_grid(16, 8.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="ended at 15"):
        list(mean_over_windows([np.zeros((15, 1))], grid, 1))
    with pytest.raises(ValueError, match="begins at 8"):
        WindowMean(grid.part(1), 1, first=9)
