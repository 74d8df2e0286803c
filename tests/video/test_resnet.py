"""The ResNet backbone on small random weights saved as the hub has them."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones import load_backbone
from neuroalign.video.backbones._pretrained import Preprocessing, choose_device
from neuroalign.video.decode import iterate_frames
from neuroalign.video.embed import embed, embed_with
from neuroalign.video.shards import read_embedding

# As in the preprocessor_config.json of microsoft/resnet-101.
RESNET_101 = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a tiny ResNet and its preprocessing (64 pixels, to be quick)."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    ResNetModel(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(RESNET_101 | {"size": 64}))
    return folder


def _config(weights, **more):
    return Video(backbone="resnet101", weights=str(weights), device="cpu", **more)


def test_embedding_equals_the_hidden_states_of_the_library(weights, mezzanine, tmp_path):
    embed(mezzanine, tmp_path / "e.h5", _config(weights, batch_size=5))
    found = read_embedding(tmp_path / "e.h5")
    assert {k: v.shape for k, v in found.levels.items()} == {
        "stage1": (6, 8),
        "stage2": (6, 16),
        "stage3": (6, 24),
        "stage4": (6, 32),
    }
    # By hand: the shorter side to 64 / 0.875 = 73 pixels, the middle 64, mean and standard deviation of ImageNet.
    frames = np.concatenate([f for _, f in iterate_frames(mezzanine, (97, 73))])
    cut = frames[:, 4:68, 16:80].astype(np.float32) / 255
    pixels = (cut - RESNET_101["image_mean"]) / RESNET_101["image_std"]
    model = ResNetModel.from_pretrained(weights).eval()
    with torch.no_grad():
        states = model(
            torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2), output_hidden_states=True
        ).hidden_states
    for stage in range(1, 5):
        expected = states[stage].mean(dim=(2, 3)).numpy().reshape(6, 8, -1).mean(axis=1)
        np.testing.assert_allclose(found.levels[f"stage{stage}"], expected, rtol=2e-3, atol=2e-3)


def test_batch_size_does_not_matter(weights, mezzanine, tmp_path):
    embed(mezzanine, tmp_path / "a.h5", _config(weights, batch_size=1))
    embed(mezzanine, tmp_path / "b.h5", _config(weights, batch_size=64))
    one, all_ = read_embedding(tmp_path / "a.h5"), read_embedding(tmp_path / "b.h5")
    for level in one.levels:
        np.testing.assert_allclose(one.levels[level], all_.levels[level], atol=2e-3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert {file[f"levels/{level}/data"].dtype for level in one.levels} == {np.dtype(np.float16)}


def test_a_stopped_job_goes_on_to_the_same_bytes(weights, long_film, tmp_path):
    config = _config(weights, batch_size=8)
    embed(long_film, tmp_path / "whole.h5", config)
    stopping = load_backbone(config, 8.0)
    forward, calls = stopping._forward, []

    def failing(frames):
        calls.append(len(frames))
        if len(calls) == 40:
            raise OSError("the machine stops")
        return forward(frames)

    stopping._forward = failing
    with pytest.raises(OSError, match="stops"):
        embed_with(stopping, long_film, tmp_path / "long.h5", config)
    again = load_backbone(config, 8.0)
    forward, calls = again._forward, []
    again._forward = lambda frames: calls.append(len(frames)) or forward(frames)
    embed_with(again, long_film, tmp_path / "long.h5", config)
    # 128 frames, 16 batches, are a part, and 768 the film: two parts were kept.
    assert len(calls) == 64
    assert (tmp_path / "long.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_preprocessing_of_resnet_101():
    preprocessing = Preprocessing.from_dict(RESNET_101)
    assert (preprocessing.shortest, preprocessing.crop) == (256, 224)
    assert preprocessing.frame_size(398, 224) == (455, 256)
    assert preprocessing.frame_size(126, 224) == (256, 455)
    grey = np.full((1, 256, 455, 3), 128, np.uint8)
    pixels = preprocessing(grey, torch.device("cpu"))
    assert pixels.shape == (1, 3, 224, 224)
    expected = (128 / 255 - np.array(RESNET_101["image_mean"])) / RESNET_101["image_std"]
    np.testing.assert_allclose(pixels[0, :, 0, 0], expected, rtol=1e-5)


def test_preprocessing_of_the_clip_family():
    content = {
        **{
            "size": {"shortest_edge": 224},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
        },
        **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    }
    preprocessing = Preprocessing.from_dict(content)
    assert (preprocessing.shortest, preprocessing.crop) == (224, 224)


def test_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"video\.weights") as caught:
        load_backbone(_config(tmp_path / "none"), 8.0)
    assert "\n" not in str(caught.value)


def test_weights_without_preprocessing_are_one_sentence(weights, tmp_path):
    ResNetModel.from_pretrained(weights).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        load_backbone(_config(tmp_path), 8.0)


def test_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        assert choose_device("auto").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(UserError, match=r"video\.device"):
            choose_device("cuda")
