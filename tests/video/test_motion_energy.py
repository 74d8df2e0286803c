"""Motion energy against pymoten's own projection, and against what motion energy should see."""

from __future__ import annotations

import moten
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.errors import UserError
from neuroalign.video.backbones.motion_energy import MotionEnergy, MotionEnergyBackbone
from neuroalign.video.luminance import lightness
from neuroalign.video.windows import window_grid


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Forty frames of RGB noise, smooth in space, in colour."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def small() -> MotionEnergy:
    return MotionEnergy(48, 8.0)


def _project(energy, frames, batch):
    return np.concatenate(list(energy.project(frames[i : i + batch] for i in range(0, len(frames), batch))))


def test_lightness_equals_pymoten(noise):
    expected = np.stack([moten.colorspace.rgb2lab(frame / 255.0)[..., 0] for frame in noise[:4]])
    np.testing.assert_allclose(lightness(noise[:4]), expected, atol=1e-3)
    assert lightness(np.full((1, 3), 255, np.uint8)) == pytest.approx(100, abs=1e-2)


@pytest.mark.parametrize(("size", "fps"), [(96, 8), (48, 15)])
def test_equals_pymoten(noise, size, fps):
    light = lightness(noise[:20].repeat(size // 48, axis=1).repeat(size // 48, axis=2))
    pyramid = moten.pyramids.MotionEnergyPyramid(stimulus_vhsize=(size, size), stimulus_fps=fps)
    expected = pyramid.project_stimulus(light)
    found = _project(MotionEnergy(size, fps), light, 8)
    assert found.shape == expected.shape == (20, 1380 if size == 96 else expected.shape[1])
    np.testing.assert_allclose(np.exp(found), np.exp(expected), rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 45), frames=st.integers(1, 40))
def test_batches_do_not_matter(small, noise, batch, frames):
    light = lightness(noise[:frames])
    np.testing.assert_allclose(
        _project(small, light, batch), _project(small, light, frames), rtol=1e-9, atol=1e-9
    )


def test_no_frame_gives_no_energy(small):
    assert sum(len(e) for e in small.project([])) == 0


def test_levels_hold_every_filter_once_and_grow(small):
    levels = small.levels()
    assert list(levels) == ["fine", "medium", "coarse"]
    assert sorted(np.concatenate(list(levels.values()))) == list(range(len(small.filters)))
    sizes = [np.mean([small.filters[i]["spatial_env"] for i in members]) for members in levels.values()]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("toward", [1, -1], ids=["right", "left"])
def test_a_drifting_grating_excites_the_filter_of_its_frequencies_and_direction(small, toward):
    x = np.linspace(0, 1, 48)
    t = np.arange(24) / 8
    # Four cycles per image at 2 Hz.
    phase = 2 * np.pi * (4 * x[None, None, :] - toward * 2 * t[:, None, None])
    response = _project(small, (50 + 40 * np.sin(phase)).repeat(48, axis=1), 24)[8:16].mean(axis=0)
    response[[f["spatial_freq"] == 0 for f in small.filters]] = -np.inf
    best = small.filters[int(response.argmax())]
    assert (best["spatial_freq"], best["temporal_freq"]) == (4.0, 2.0)
    # pymoten convolves in time, so a filter answers best to motion against the direction it is named after.
    assert best["direction"] == (180.0 if toward > 0 else 0.0)


def test_a_slow_rate_leaves_out_what_it_cannot_carry():
    assert {f["temporal_freq"] for f in MotionEnergy(32, 4.0).filters} == {0.0, 2.0}
    with pytest.raises(UserError, match=r"video\.fps"):
        MotionEnergy(32, 1.0)


def _features(backbone, frames, grid):
    first, end = grid.first_frame(backbone.past), grid.end_frame(backbone.future)
    batches = [(None, frames[i : min(i + 9, end)]) for i in range(first, end, 9)]
    return np.concatenate(list(backbone.features(batches, grid)))


def test_windows_are_means_over_their_frames(noise):
    backbone = MotionEnergyBackbone(48, 8.0)
    found = _features(backbone, noise, window_grid(40, 8.0, 2.0, 1.0))
    energy = _project(MotionEnergy(48, 8.0), lightness(noise), 40)
    members = MotionEnergy(48, 8.0).levels()
    assert backbone.levels == {name: len(filters) for name, filters in members.items()}
    order = np.concatenate(list(members.values()))
    expected = [energy[8 * k : 8 * k + 16][:, order].mean(axis=0) for k in range(4)]
    assert found.shape == (5, len(order))
    np.testing.assert_allclose(found[:4], expected, rtol=1e-9)


def test_a_part_needs_the_frames_around_it_and_no_more(noise):
    backbone = MotionEnergyBackbone(48, 8.0)
    assert (backbone.past, backbone.future) == (2, 2)
    grid = window_grid(40, 8.0, 1.0, 1.0)
    whole = _features(backbone, noise, grid)
    for first, last in ((0, 2), (2, 3), (3, 5)):
        np.testing.assert_allclose(_features(backbone, noise, grid.part(first, last)), whole[first:last])
    # A frame less before the window, and its features are others.
    backbone.past = 1
    assert not np.allclose(_features(backbone, noise, grid.part(2, 3)), whole[2:3])
