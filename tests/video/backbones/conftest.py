"""Small random models of every architecture, saved as the hub has them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
WIDTH, DEPTH = 24, 5
VIT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    # Features that differ from layer to layer and from picture to picture.
    "initializer_range": 0.3,
}


def _resnet():
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    # As published: with the classifier on top.
    return hf.ResNetForImageClassification(config), {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "crop_pct": 0.875,
        "size": 56,
    }


def _clip():
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
    }
    vision = {**VIT, "intermediate_size": 48, "image_size": 32, "patch_size": 8, "projection_dim": 12}
    config = hf.CLIPConfig(
        text_config={**text, "projection_dim": 12}, vision_config=vision, projection_dim=12
    )
    # As published: text and vision together.
    return hf.CLIPModel(config), {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }


def _dinov2():
    # Positions of larger pictures than it is given, as published (518 and 224).
    config = hf.Dinov2Config(**VIT, mlp_ratio=2, image_size=70, patch_size=14)
    return hf.Dinov2Model(config), {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 42, "width": 42},
        "do_center_crop": True,
    }


def _videomae():
    config = hf.VideoMAEConfig(
        **VIT,
        intermediate_size=48,
        image_size=32,
        patch_size=16,
        num_frames=16,
        tubelet_size=2,
        decoder_num_hidden_layers=1,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    # As published: with the decoder of pre-training.
    return hf.VideoMAEForPreTraining(config), {
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }


def _vjepa2():
    config = hf.VJEPA2Config(
        **VIT,
        mlp_ratio=2,
        crop_size=32,
        patch_size=16,
        frames_per_clip=8,
        tubelet_size=2,
        pred_hidden_size=12,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_mlp_ratio=2,
    )
    return hf.VJEPA2Model(config), {
        "video_processor_type": "VJEPA2VideoProcessor",
        "size": {"shortest_edge": 292},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }


MAKERS = {"resnet101": _resnet, "clip": _clip, "dinov2": _dinov2, "videomae": _videomae, "vjepa2": _vjepa2}


@pytest.fixture(autouse=True)
def _one_thread():
    """Models so small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def weights(tmp_path_factory):
    """A folder per backbone, with a small random model and its preprocessing."""
    folders = {}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        model, processor = make()
        folders[name] = tmp_path_factory.mktemp(name)
        model.eval().save_pretrained(folders[name])
        kind = "video_preprocessor_config.json" if name == "vjepa2" else "preprocessor_config.json"
        (folders[name] / kind).write_text(json.dumps({**processor, **IMAGENET, "do_normalize": True}))
    return folders
