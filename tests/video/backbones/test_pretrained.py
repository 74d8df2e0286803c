"""Every neural architecture, on small random weights saved as the hub has them, against the library's own classes."""

from __future__ import annotations

import math
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch
import transformers as hf

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones import Backbone, load_backbone
from neuroalign.video.backbones._levels import layer_numbers
from neuroalign.video.decode import iterate_frames
from neuroalign.video.embed import embed, embed_with
from neuroalign.video.shards import Embedding, read_embedding
from neuroalign.video.windows import window_grid

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
WIDTH = 24
BACKBONES = ("resnet101", "clip", "dinov2", "videomae", "vjepa2")
VIDEO_MODELS = ("videomae", "vjepa2")
# Shorter side and crop of the files above.
PICTURES = {
    "resnet101": (64, 56),
    "clip": (32, 32),
    "dinov2": (48, 42),
    "videomae": (32, 32),
    "vjepa2": (36, 32),
}


def config_(weights, name, **more) -> Video:
    return Video(**{"backbone": name, "weights": str(weights[name]), "device": "cpu", "fps": 8, **more})


def embedded(film, path, config: Video) -> Embedding:
    """What `embed` writes."""
    embed(film, path, config)
    return read_embedding(path)


def stored_type(path) -> np.dtype:
    with h5py.File(path) as file:
        (kind,) = {group["data"].dtype for group in file["levels"].values()}
    return kind


def pixels_(name: str, mezzanine) -> torch.Tensor:
    """All frames of the film (320 x 240 before it was normalised to 298 x 224), cropped and normalised by hand."""
    size, crop = PICTURES[name]
    width, height = 298, 224
    frames = np.concatenate([f for _, f in iterate_frames(mezzanine, (int(size * width / height), size))])
    top, left = (frames.shape[1] - crop) // 2, (frames.shape[2] - crop) // 2
    cut = frames[:, top : top + crop, left : left + crop] / 255.0
    normal = (cut - IMAGENET["image_mean"]) / IMAGENET["image_std"]
    return torch.tensor(normal, dtype=torch.float32).permute(0, 3, 1, 2)


def naive_frames(name: str, folder, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """Levels of every frame, one at a time, from the library's own hidden states."""
    rows: dict[str, list] = {}
    kinds = {
        "resnet101": hf.ResNetForImageClassification,
        "clip": hf.CLIPModel,
        "dinov2": hf.Dinov2Model,
    }
    model = kinds[name].from_pretrained(folder, dtype=torch.float32).eval()
    for picture in pixels:
        one = picture[None]
        if name == "resnet101":
            states = model(one, output_hidden_states=True).hidden_states
            found = {f"stage{i}": states[i].mean(dim=(2, 3)) for i in range(1, 5)}
        elif name == "clip":
            states = model.vision_model(one, output_hidden_states=True).hidden_states
            found = {f"layer{n}": states[n][:, 0] for n in (2, 3, 4, 5)}
            out = model.get_image_features(pixel_values=one)
            found["embedding"] = out if isinstance(out, torch.Tensor) else out.pooler_output
        else:
            states = model(one, output_hidden_states=True).hidden_states
            found = {f"layer{n}": states[n][:, 1:].mean(dim=1) for n in (2, 3, 4, 5)}
        for level, row in found.items():
            rows.setdefault(level, []).append(row[0].numpy())
    return {level: np.stack(values) for level, values in rows.items()}


def naive_clips(
    name: str, folder, pixels: torch.Tensor, centres, rate, count, inside
) -> dict[str, np.ndarray]:
    """Levels of the clip around each instant, one at a time, from the library's own hidden states."""
    kind = hf.VideoMAEForPreTraining if name == "videomae" else hf.VJEPA2Model
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    rows: dict[str, list] = {}
    for centre in centres:
        # The frame that is shown at each instant; before and after the film its first and last stand still.
        instants = [centre + (j - (count - 1) / 2) / rate for j in range(count)]
        numbers = [min(max(math.floor(t * 8 + 1e-6), 0), len(pixels) - 1) for t in instants]
        clip = pixels[numbers][None]
        if name == "videomae":
            states = model.videomae(clip, output_hidden_states=True).hidden_states
        else:
            states = model(clip, output_hidden_states=True, skip_predictor=True).hidden_states
        for n in (2, 3, 4, 5):
            tokens = states[n][0].reshape(count // 2, -1, WIDTH)
            rows.setdefault(f"layer{n}", []).append(tokens[inside].mean(dim=(0, 1)).numpy())
    return {level: np.stack(values) for level, values in rows.items()}


@pytest.mark.parametrize("name", ["resnet101", "clip", "dinov2"])
@torch.no_grad()
def test_models_of_pictures_equal_the_hidden_states_of_the_library(name, weights, mezzanine, tmp_path):
    found = embedded(
        mezzanine, tmp_path / "e.h5", config_(weights, name, batch_size=7, window_s=1, stride_s=0.5)
    )
    frames = naive_frames(name, weights[name], pixels_(name, mezzanine))
    assert list(found.levels) == list(frames)
    assert stored_type(tmp_path / "e.h5") == (np.float16 if name == "resnet101" else np.float32)
    for level, rows in frames.items():
        expected = np.stack([rows[4 * k : 4 * k + 8].mean(axis=0) for k in range(12)])
        assert found.levels[level].shape == expected.shape
        # Half precision, for what is stored so; else single, in another order of summation.
        tolerance = 2e-3 if name == "resnet101" else 2e-5
        np.testing.assert_allclose(
            found.levels[level],
            expected,
            rtol=tolerance,
            atol=tolerance * np.abs(expected).max(),
            err_msg=level,
        )
        assert np.std(expected, axis=0).max() > 10 * tolerance * np.abs(expected).max(), (
            "nothing to tell apart"
        )


# Clips of VideoMAE are 16 frames of 7.5 a second: of a window of one second, the four middle groups of two frames are
# inside. V-JEPA 2: 8 frames of 4 a second, the two middle of four groups.
@pytest.mark.parametrize(
    ("name", "keys", "rate", "count", "inside"),
    [
        ("videomae", {}, 7.5, 16, [2, 3, 4, 5]),
        ("videomae", {"clip_tokens": "all"}, 7.5, 16, list(range(8))),
        ("videomae", {"clip_fps": 4}, 4, 16, [3, 4]),
        ("vjepa2", {}, 4, 8, [1, 2]),
        ("vjepa2", {"clip_tokens": "all"}, 4, 8, [0, 1, 2, 3]),
        ("vjepa2", {"clip_frames": 4, "clip_fps": 8}, 8, 4, [0, 1]),
        ("vjepa2", {"clip_frames": 16}, 4, 16, [3, 4]),
    ],
)
@torch.no_grad()
def test_models_of_clips_equal_the_hidden_states_of_the_library(
    name, keys, rate, count, inside, weights, mezzanine, tmp_path
):
    found = embedded(
        mezzanine, tmp_path / "e.h5", config_(weights, name, batch_size=40, stride_s=0.75, **keys)
    )
    assert stored_type(tmp_path / "e.h5") == np.float32
    centres = np.arange(0.5, 6.01, 0.75)
    np.testing.assert_allclose(found.times, centres)
    expected = naive_clips(name, weights[name], pixels_(name, mezzanine), centres, rate, count, inside)
    if keys == {"clip_frames": 4, "clip_fps": 8}:
        # Half a second: a window of one second holds two such clips.
        halves = [
            naive_clips(name, weights[name], pixels_(name, mezzanine), centres + s, rate, count, inside)
            for s in (-0.25, 0.25)
        ]
        expected = {level: (halves[0][level] + halves[1][level]) / 2 for level in expected}
    for level, rows in expected.items():
        np.testing.assert_allclose(
            found.levels[level], rows, rtol=2e-5, atol=2e-5 * np.abs(rows).max(), err_msg=level
        )
        assert np.std(rows, axis=0).max() > 1e-3 * np.abs(rows).max(), "nothing to tell apart"


@pytest.mark.parametrize("name", BACKBONES)
def test_one_by_one_in_batches_and_in_parts_is_the_same(name, weights, mezzanine):
    """Whatever is batched, and wherever a killed job goes on: the same numbers, to single precision."""
    grid = window_grid(48, 8.0, 1.0, 0.75)
    results = []
    for batch_size, borders in ((1, (0, 8)), (64, (0, 8)), (16, (0, 3, 4, 8))):
        backbone = load_backbone(config_(weights, name, batch_size=batch_size, stride_s=0.75), 8.0)
        assert isinstance(backbone, Backbone)
        size = backbone.frame_size(298, 224)
        frames = np.concatenate([f for _, f in iterate_frames(mezzanine, size)])
        rows = []
        for first, last in pairwise(borders):
            part = grid.part(first, last)
            a, b = part.first_frame(backbone.past), part.end_frame(backbone.future)
            batches = [(np.arange(i, min(i + 5, b)) / 8, frames[i : min(i + 5, b)]) for i in range(a, b, 5)]
            blocks = list(backbone.features(batches, part))
            assert sum(map(len, blocks)) == len(part)
            rows += blocks
        results.append(np.concatenate(rows))
        assert results[-1].shape == (8, sum(backbone.levels.values()))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5, atol=1e-5 * np.abs(results[0]).max())


@pytest.mark.parametrize(
    ("chosen", "depth", "expected"),
    [
        (None, 12, [3, 6, 9, 12]),
        (None, 24, [6, 12, 18, 24]),
        (None, 5, [2, 3, 4, 5]),
        (None, 2, [1, 2]),
        ([7, 1], 12, [1, 7]),
    ],
)
def test_layers_are_evenly_spaced_or_chosen(chosen, depth, expected):
    assert layer_numbers(chosen, depth) == expected


@pytest.mark.parametrize("name", ["clip", "dinov2", *VIDEO_MODELS])
def test_chosen_layers_are_those_of_the_whole_model(name, weights, mezzanine, tmp_path):
    """A model cut after its deepest level gives the same features as a whole one."""
    usual = embedded(mezzanine, tmp_path / "a.h5", config_(weights, name, layers=[2, 5]))
    early = embedded(mezzanine, tmp_path / "b.h5", config_(weights, name, layers=[2, 1]))
    assert list(early.levels)[:2] == ["layer1", "layer2"]
    np.testing.assert_array_equal(usual.levels["layer2"], early.levels["layer2"])
    with pytest.raises(UserError, match="layers 1 to 5"):
        load_backbone(config_(weights, name, layers=[6]), 8.0)


@pytest.mark.parametrize("name", ["clip", "dinov2"])
@torch.no_grad()
def test_the_other_pooling(name, weights, mezzanine, tmp_path):
    other = {"clip": "mean", "dinov2": "cls"}[name]
    found = embedded(
        mezzanine, tmp_path / "e.h5", config_(weights, name, pooling=other, window_s=0.125, stride_s=1)
    )
    pixels = pixels_(name, mezzanine)[::8]
    if name == "clip":
        model = hf.CLIPModel.from_pretrained(weights[name], dtype=torch.float32).eval().vision_model
        expected = model(pixels, output_hidden_states=True).hidden_states[3][:, 1:].mean(dim=1)
    else:
        model = hf.Dinov2Model.from_pretrained(weights[name], dtype=torch.float32).eval()
        expected = model(pixels, output_hidden_states=True).hidden_states[3][:, 0]
    np.testing.assert_allclose(found.levels["layer3"], expected, rtol=1e-4, atol=1e-4)


def test_weights_in_half_precision_are_computed_in_single(weights, mezzanine, tmp_path):
    hf.Dinov2Model.from_pretrained(weights["dinov2"]).half().save_pretrained(tmp_path / "half")
    (tmp_path / "half/preprocessor_config.json").write_text(
        (weights["dinov2"] / "preprocessor_config.json").read_text()
    )
    backbone = load_backbone(config_({"dinov2": tmp_path / "half"}, "dinov2"), 8.0)
    assert {p.dtype for p in backbone._model.parameters()} == {torch.float32}


def test_other_models_of_the_same_family_load(weights, mezzanine, tmp_path):
    """CLIP's vision tower alone; VideoMAE fine-tuned to classify; both give what the published kind gives."""
    tower = hf.CLIPVisionModelWithProjection.from_pretrained(weights["clip"])
    config = hf.VideoMAEConfig.from_pretrained(weights["videomae"], use_mean_pooling=True)
    classifier = hf.VideoMAEForVideoClassification(config)
    classifier.videomae.load_state_dict(
        hf.VideoMAEModel.from_pretrained(weights["videomae"]).state_dict(), strict=False
    )
    for name, model in (("clip", tower), ("videomae", classifier)):
        folder = tmp_path / name
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            (weights[name] / "preprocessor_config.json").read_text()
        )
        one = embedded(mezzanine, tmp_path / "a.h5", config_(weights, name))
        other = embedded(mezzanine, tmp_path / "b.h5", config_({name: folder}, name))
        for level in one.levels:
            np.testing.assert_array_equal(one.levels[level], other.levels[level])


def test_clips_that_a_model_cannot_take(weights):
    with pytest.raises(UserError, match="set it to 16 or null"):
        load_backbone(config_(weights, "videomae", clip_frames=8), 8.0)
    with pytest.raises(UserError, match="not a multiple of 2"):
        load_backbone(config_(weights, "vjepa2", clip_frames=5), 8.0)


def test_a_film_slower_than_the_clips_is_told(weights, caplog):
    load_backbone(config_(weights, "videomae", fps=4), 4.0)
    assert "set video.fps to 8 or more" in caplog.text


@pytest.mark.parametrize("name", BACKBONES)
def test_a_stopped_job_goes_on_to_the_same_bytes(name, weights, long_film, tmp_path):
    """Models of clips need frames of the part before: they are decoded again, not remembered."""
    config = config_(weights, name, batch_size=8, stride_s=2)
    embed(long_film, tmp_path / "whole.h5", config)
    stopping, calls = load_backbone(config, 8.0), []
    forward = stopping._forward

    def failing(pictures):
        calls.append(len(pictures))
        if len(calls) == 40:
            raise OSError("the machine stops")
        return forward(pictures)

    stopping._forward = failing
    with pytest.raises(OSError, match="stops"):
        embed_with(stopping, long_film, tmp_path / "long.h5", config)
    again, more = load_backbone(config, 8.0), []
    forward = again._forward
    again._forward = lambda pictures: more.append(len(pictures)) or forward(pictures)
    embed_with(again, long_film, tmp_path / "long.h5", config)
    assert len(more) > 0
    assert (tmp_path / "long.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_features_that_half_precision_cannot_hold_are_refused(weights, mezzanine, tmp_path):
    folder = tmp_path / "loud"
    model = hf.ResNetModel.from_pretrained(weights["resnet101"])
    with torch.no_grad():
        model.encoder.stages[3].layers[-1].layer[-1].normalization.bias += 1e5
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        (weights["resnet101"] / "preprocessor_config.json").read_text()
    )
    with pytest.raises(UserError, match="not finite"):
        embed(mezzanine, tmp_path / "e.h5", config_({"resnet101": folder}, "resnet101"))
    assert not (tmp_path / "e.h5").exists()


def test_large_values_of_a_residual_stream_are_stored_whole(weights, mezzanine, tmp_path):
    """Single precision: channels beyond half precision's 65504, as trained transformers have large ones, are kept."""
    folder = tmp_path / "loud"
    model = hf.Dinov2Model.from_pretrained(weights["dinov2"])
    with torch.no_grad():
        model.encoder.layer[1].mlp.fc2.bias[3] += 1e6
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        (weights["dinov2"] / "preprocessor_config.json").read_text()
    )
    found = embedded(mezzanine, tmp_path / "e.h5", config_({"dinov2": folder}, "dinov2"))
    assert found.levels["layer2"][:, 3].min() > 1e5
    assert np.isfinite(found.levels["layer2"]).all()
