"""The embedding file of a film, and features that users bring."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from neuroalign.config.backbones import REGISTRY, Registered, keys_of_some, keys_read
from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones import Backbone, load_backbone
from neuroalign.video.backbones.motion_energy import MotionEnergyBackbone
from neuroalign.video.decode import iterate_frames
from neuroalign.video.embed import embed
from neuroalign.video.luminance import LowLevel, coarse_lightness, lightness
from neuroalign.video.precomputed import find_features
from neuroalign.video.shards import read_embedding
from neuroalign.video.windows import window_grid


@pytest.fixture(scope="module")
def written(mezzanine, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedding") / "pattern.h5"
    embed(mezzanine, path, Video(motion_energy={"size": 64}, window_s=2, stride_s=0.5))
    return path


def test_the_file_holds_what_the_format_promises(written):
    embedding = read_embedding(written)
    assert list(embedding.levels) == ["fine", "medium", "coarse"]
    np.testing.assert_allclose(embedding.times, np.arange(1, 6.1, 0.5))
    assert embedding.low_level.shape == (11, 3)
    assert embedding.attributes["backbone"] == "motion_energy"
    assert embedding.attributes["revision"].startswith("pymoten ")
    assert (embedding.attributes["window_s"], embedding.attributes["stride_s"]) == (2.0, 0.5)
    assert embedding.attributes["hrf_convolved"] is False
    with h5py.File(written) as file:
        assert file["levels/fine/data"].dtype == np.float32
        made_by = json.loads(file.attrs["provenance"])
    assert made_by["config"]["motion_energy"] == {"size": 64}
    assert set(made_by["config"]) == {*keys_read("motion_energy")}
    assert set(made_by["inputs"]) == {"mezzanine"}


def test_low_level_columns_are_what_they_say(written, mezzanine):
    frames = np.concatenate([f for _, f in iterate_frames(mezzanine, (64, 64))])
    light = lightness(frames[:, ::2, ::2])
    change = np.abs(np.diff(light, axis=0, prepend=light[:1])).mean(axis=(1, 2))
    low_level = read_embedding(written).low_level
    for k in (0, 4, 9):
        frames_in = slice(4 * k, 4 * k + 16)
        expected = [
            light[frames_in].mean(),
            light[frames_in].std(axis=(1, 2)).mean(),
            change[frames_in].mean(),
        ]
        np.testing.assert_allclose(low_level[k], expected, rtol=1e-4)


def test_low_level_of_large_frames_is_near_that_of_all_pixels():
    coarse = np.random.default_rng(0).integers(0, 256, (16, 27, 48, 3), dtype=np.uint8)
    frames = coarse.repeat(12, axis=1).repeat(12, axis=2)
    low_level = LowLevel(window_grid(16, 8.0, 1.0, 1.0))
    for first in range(0, 16, 5):
        low_level.add(coarse_lightness(frames[first : first + 5]))
    light = lightness(coarse)
    change = np.abs(np.diff(light, axis=0, prepend=light[:1]))
    expected = np.stack([light.mean(axis=(1, 2)), light.std(axis=(1, 2)), change.mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(low_level.result(), expected.reshape(2, 8, 3).mean(axis=1), rtol=0.02)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"backbone": "motion_energy", "layers": [3]},
            "layers is set, but backbone motion_energy does not read",
        ),
        ({"backbone": "motion_energy", "weights": "a/b"}, "weights is set"),
        ({"backbone": "precomputed", "revision": "main"}, "revision is set"),
        ({"backbone": "resnet101", "pooling": "cls"}, r"pooling is set, .* \(clip, dinov2 do\)"),
        ({"backbone": "clip", "clip_fps": 4}, "clip_fps is set"),
        ({"backbone": "dinov2", "clip_tokens": "all"}, "clip_tokens is set"),
        ({"backbone": "vjepa2", "pooling": "mean"}, "pooling is set"),
    ],
)
def test_keys_that_a_backbone_ignores_are_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        Video(**values)


@pytest.mark.parametrize("backbone", [*REGISTRY, "precomputed"])
def test_keys_at_their_defaults_are_not(backbone):
    values = {**Video().model_dump(), "backbone": backbone, "motion_energy": {"size": 64}, "device": "cpu"}
    assert Video(**values).backbone == backbone


def test_keys_that_a_backbone_reads_are_those_of_its_code():
    """What `from_config` looks up in the section is what the registry names, and nothing else."""
    import ast
    import inspect
    from importlib import import_module

    for name, registered in REGISTRY.items():
        code = inspect.getsource(import_module(registered.module))
        if "sampling_of" in code:
            code += inspect.getsource(import_module("neuroalign.video.backbones._clips"))
        found = {
            node.attr
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "config"
            and node.attr in Video.model_fields
        }
        named = set(keys_read(name)) & set(keys_of_some()) - {"weights", "revision"}
        assert found - set(keys_read("precomputed")) == named, name


def test_the_registry_names_backbones(monkeypatch):
    assert isinstance(MotionEnergyBackbone(32, 8.0), Backbone)
    # What may be configured is what is registered, in the check and in the schema, with no second list to edit.
    for name in (*REGISTRY, "precomputed"):
        assert Video(backbone=name).backbone == name
    schema = Video.model_json_schema()["properties"]["backbone"]
    assert schema["enum"] == [*REGISTRY, "precomputed"]
    with pytest.raises(ValidationError, match="did you mean 'dinov2'"):
        Video(backbone="dinov3")
    monkeypatch.setitem(REGISTRY, "mine", Registered("somewhere.mine:Mine"))
    assert Video(backbone="mine").backbone == "mine"
    with pytest.raises(UserError, match="precomputed"):
        load_backbone(Video(backbone="precomputed"), 8.0)


def test_motion_energy_imports_no_torch():
    script = (
        "import sys, neuroalign.video.embed, neuroalign.video.normalise, neuroalign.video.precomputed as p\n"
        "import neuroalign.video.backbones.motion_energy\n"
        "assert not {'torch', 'transformers', 'decord', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(("keys", "words"), [({"window_s": 0.1}, "window_s"), ({"fps": 1}, "too low")])
def test_a_rate_too_low_is_told_before_anything_runs(keys, words):
    with pytest.raises(ValidationError, match=words):
        Video(**keys)


def _features(path, times, rows=None):
    with h5py.File(path, "w") as file:
        file["times"] = np.asarray(times, float)
        file["features"] = np.zeros((len(times) if rows is None else rows, 3), np.float32)


def test_precomputed_features_are_found(tmp_path, written):
    _features(tmp_path / "film.h5", [0.5, 1.5, 2.5])
    assert find_features(tmp_path, "film") == tmp_path / "film.h5"
    assert find_features(written.parent, "pattern") == written


def test_precomputed_features_of_the_real_films(shared_data):
    for stimulus in ("sitcomep1", "documentary"):
        assert find_features(shared_data / "movie_fmri" / "features", stimulus).exists()


@pytest.mark.parametrize(
    ("times", "rows", "words"),
    [
        ([0.5, 1.5, 1.5], None, "increase"),
        ([0.5, np.nan], None, "finite"),
        ([0.5, 1.5], 3, "one row per time"),
    ],
)
def test_precomputed_features_with_a_bad_time_axis(tmp_path, times, rows, words):
    _features(tmp_path / "film.h5", times, rows)
    with pytest.raises(UserError, match=words):
        find_features(tmp_path, "film")


def test_precomputed_features_that_are_missing(tmp_path):
    with pytest.raises(UserError, match="precomputed_dir is not set"):
        find_features(None, "film")
    with pytest.raises(UserError, match="not a folder"):
        find_features(tmp_path / "none", "film")
    _features(tmp_path / "sitcomep1.h5", [0.5])
    with pytest.raises(UserError, match="did you mean 'sitcomep1'"):
        find_features(tmp_path, "sitcomep2")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="not an embedding file"):
        find_features(tmp_path, "odd")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(UserError, match="HDF5"):
        find_features(tmp_path, "text")
