from itertools import pairwise

import numpy as np
import pytest

from neuroalign.config.dataset import Simulate
from neuroalign.simulate.features import (
    DECODE_HEIGHT,
    DECODE_WIDTH,
    EARLY_FEATURES,
    FEATURE_NAMES,
    INTERMEDIATE_FEATURES,
    early_features,
    film_features,
    intermediate_features,
)
from neuroalign.simulate.neural import SHARED, group_weights, make_brain
from neuroalign.simulate.scenes import CATEGORIES, HIGH_FEATURES, SHOT_S, scene_features, write_script
from neuroalign.simulate.sprites import draw, noise_field


def _grating(angle_deg, shift, frames=6):
    """A grating whose luminance varies along `angle_deg` and moves by `shift` pixels per frame."""
    y, x = np.mgrid[0:DECODE_HEIGHT, 0:DECODE_WIDTH].astype(np.float32)
    along = x * np.cos(np.deg2rad(angle_deg)) + y * np.sin(np.deg2rad(angle_deg))
    grey = np.stack([0.5 + 0.1 * np.sin(2 * np.pi * (along - shift * t) / 16) for t in range(frames)])
    return np.repeat(grey[..., None], 3, axis=3).astype(np.float32)


def test_a_grey_screen_drives_nothing():
    blank = np.full((4, DECODE_HEIGHT, DECODE_WIDTH, 3), 0.5, np.float32)
    np.testing.assert_allclose(early_features(blank), 0, atol=2e-3)
    np.testing.assert_allclose(intermediate_features(blank), 0, atol=2e-3)


def test_contrast_and_motion_are_local():
    pixels = np.full((5, DECODE_HEIGHT, DECODE_WIDTH, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    pixels[:, :18, :16] = rng.random((18, 16, 1))
    pixels[:, 54:, 80:] = rng.random((5, 18, 16, 1))
    values = dict(zip(EARLY_FEATURES, early_features(pixels)[-1], strict=True))
    assert values["contrast_r0_c0"] > 0.3
    assert values["motion_r0_c0"] < 1e-3
    assert values["contrast_r3_c5"] > 0.3
    assert values["motion_r3_c5"] > 0.3
    assert sum(v > 1e-2 for v in values.values()) == 3


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_orientation_energy_prefers_its_orientation(angle):
    values = intermediate_features(_grating(angle, 0))[-1]
    names = [f"orientation_{a}_fine" for a in (0, 45, 90, 135)]
    energy = [values[INTERMEDIATE_FEATURES.index(name)] for name in names]
    assert names[int(np.argmax(energy))] == f"orientation_{angle}_fine"


@pytest.mark.parametrize(
    ("angle", "shift", "expected"), [(0, 1.5, "right"), (0, -1.5, "left"), (90, 1.5, "down")]
)
def test_global_motion_has_the_right_direction(angle, shift, expected):
    values = dict(zip(INTERMEDIATE_FEATURES, intermediate_features(_grating(angle, shift))[-1], strict=True))
    motion = {name: values[f"motion_{name}"] for name in ("left", "right", "up", "down")}
    assert max(motion, key=motion.get) == expected
    # Frames are halved before the estimate, and the feature is the root of the speed.
    assert motion[expected] == pytest.approx(np.sqrt(0.75), rel=0.15)


def test_scripts_cover_the_film_with_shots_of_two_to_six_seconds():
    simulate = Simulate(film_s=90)
    scenes = write_script(simulate, "film-01")
    assert scenes[0].start_s == 0
    assert scenes[-1].end_s == 90
    lengths = np.array([scene.end_s - scene.start_s for scene in scenes])
    assert np.all(lengths >= SHOT_S[0])
    assert np.all(lengths <= sum(SHOT_S))
    assert all(a.end_s == b.start_s for a, b in pairwise(scenes))
    assert write_script(simulate, "film-01") == scenes
    assert write_script(simulate, "film-02") != scenes


def test_scene_features_say_what_is_in_the_scene():
    scenes = write_script(Simulate(), "film-03")
    times = np.array([(scene.start_s + scene.end_s) / 2 for scene in scenes])
    values = scene_features(scenes, times)
    assert values.shape == (len(scenes), len(HIGH_FEATURES))
    for row, scene in zip(values, scenes, strict=True):
        shown = {c for c, v in zip(CATEGORIES, row, strict=False) if v > 0}
        assert shown == {thing.category for thing in scene.objects}


def test_features_of_an_encoded_film(tiny):
    scenes = write_script(tiny.simulate, "film-01")
    values = film_features(tiny.bids_dir / "stimuli" / "film-01.mp4", scenes, tiny.simulate.film_s)
    for level, names in FEATURE_NAMES.items():
        assert values[level].shape == (80, len(names))
        assert np.isfinite(values[level]).all()
    # A cut replaces the picture: local change is largest there.
    motion = values["early"][:, len(EARLY_FEATURES) // 2 :].mean(1)
    cuts = [int(scene.start_s * 4) for scene in scenes[1:]]
    assert motion[cuts].mean() > 1.5 * np.median(motion)


def test_textures_have_the_spectrum_asked_for():
    field = noise_field(np.random.default_rng(0), (256, 256), exponent=1.0)
    power = np.abs(np.fft.fft2(field)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    low, high = power[(radius > 0.02) & (radius < 0.03)].mean(), power[(radius > 0.2) & (radius < 0.3)].mean()
    assert np.log(low / high) / np.log(10) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_drawings_are_individuals_of_their_kind(category):
    one, again, other = (np.asarray(draw(category, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert 0.03 < (one[..., 3] > 128).mean() < 0.9


def test_people_share_the_groups_weights_but_not_all_of_them():
    units = {level: [f"LH_{level}_{i:02d}" for i in range(40)] for level in FEATURE_NAMES}
    simulate = Simulate()
    group = group_weights(simulate, units)
    brains = [make_brain(simulate, subject, units, group) for subject in ("01", "02")]
    for level in ("intermediate", "high"):
        r = np.corrcoef(brains[0].weights[level].ravel(), brains[1].weights[level].ravel())[0, 1]
        assert r == pytest.approx(SHARED[level], abs=0.15)
    for brain in brains:
        assert brain.delays_s["early"] < brain.delays_s["intermediate"] < brain.delays_s["high"]
