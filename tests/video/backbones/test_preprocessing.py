"""Preprocessing against the published files of each family, and against the library's own processors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    VideoMAEImageProcessorPil,
)
from transformers.image_transforms import get_resize_output_image_size

from neuroalign.errors import UserError
from neuroalign.video.backbones._preprocessing import Preprocessing, load_preprocessing
from neuroalign.video.decode import iterate_frames

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SQUARE_224 = {"height": 224, "width": 224}

# What the repositories hold, and what it means: shorter side, crop.
PUBLISHED = {
    "microsoft/resnet-101": (
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            **IMAGENET,
            "resample": 3,
            "size": 224,
        },
        (256, 224),
    ),
    # Of the first days of the library: plain numbers.
    "openai/clip-vit-base-patch32": (
        {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            **OPENAI,
            "resample": 3,
            "size": 224,
        },
        (224, 224),
    ),
    "clip as saved today": (
        {
            "crop_size": SQUARE_224,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            **OPENAI,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 224},
        },
        (224, 224),
    ),
    "facebook/dinov2-base": (
        {
            "crop_size": SQUARE_224,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "BitImageProcessor",
            **IMAGENET,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 256},
        },
        (256, 224),
    ),
    "MCG-NJU/videomae-base": (
        {
            "crop_size": SQUARE_224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "feature_extractor_type": "VideoMAEFeatureExtractor",
            **IMAGENET,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 224},
        },
        (224, 224),
    ),
    "facebook/vjepa2-vitl-fpc64-256": (
        {
            "crop_size": {"height": 256, "width": 256},
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            **IMAGENET,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 292},
            "video_processor_type": "VJEPA2VideoProcessor",
        },
        (292, 256),
    ),
    # The 384-pixel models: the class works the size out from the crop.
    "facebook/vjepa2-vitg-fpc64-384": (
        {
            "crop_size": {"height": 384, "width": 384},
            "do_center_crop": True,
            "do_normalize": True,
            **IMAGENET,
            "size": {"shortest_edge": 292},
            "video_processor_type": "VJEPA2VideoProcessor",
        },
        (438, 384),
    ),
}

# The library's processor of each, where it works without torchvision. V-JEPA 2's does not; its steps are BiT's.
PROCESSORS = {
    "microsoft/resnet-101": ConvNextImageProcessorPil,
    "openai/clip-vit-base-patch32": CLIPImageProcessorPil,
    "clip as saved today": CLIPImageProcessorPil,
    "facebook/dinov2-base": BitImageProcessorPil,
    "MCG-NJU/videomae-base": VideoMAEImageProcessorPil,
    "facebook/vjepa2-vitl-fpc64-256": BitImageProcessorPil,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_as_published(name):
    content, (size, crop) = PUBLISHED[name]
    found = Preprocessing.from_dict(content)
    assert (found.size, found.crop, found.square) == (size, crop, False)
    assert found.mean == tuple(content["image_mean"])
    assert found.std == tuple(content["image_std"])
    assert found.scale == pytest.approx(1 / 255, rel=1e-15)


def _library(name: str, frames: np.ndarray) -> np.ndarray:
    """Pixels as the library's own processor gives them, (n, 3, crop, crop)."""
    content = {k: v for k, v in PUBLISHED[name][0].items() if not k.endswith("_type")}
    processor = PROCESSORS[name](**content)
    pictures = [list(frames)] if name.startswith("MCG") else list(frames)
    pixels = np.asarray(processor(pictures, return_tensors="np")["pixel_values"])
    return pixels.reshape(-1, *pixels.shape[-3:])


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("film", [(398, 224), (224, 398), (321, 240), (224, 224)])
def test_frames_at_size_become_the_pixels_of_the_library(name, film):
    preprocessing = Preprocessing.from_dict(PUBLISHED[name][0])
    width, height = preprocessing.frame_size(*film)
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    found = preprocessing(frames, torch.device("cpu"))
    assert found.dtype == torch.float32
    # Single precision on both sides.
    np.testing.assert_allclose(found.numpy(), _library(name, frames), atol=2e-6)


@given(st.integers(64, 1080), st.integers(64, 1080), st.sampled_from([224, 256, 292]))
def test_the_size_to_decode_at_is_the_library_s(width, height, size):
    preprocessing = Preprocessing(size, 224, (0.0,) * 3, (1.0,) * 3)
    expected = get_resize_output_image_size(
        np.zeros((3, height, width), np.uint8),
        size,
        default_to_square=False,
        input_data_format="channels_first",
    )
    assert preprocessing.frame_size(width, height)[::-1] == expected


@pytest.mark.parametrize("name", PROCESSORS)
def test_scaling_while_decoding_is_close_to_the_library_s(name, shared_data, tmp_path):
    """ffmpeg's filter against Pillow's, on the frames of a real film, in units of 8-bit grey levels."""
    from neuroalign.config.video import Video
    from neuroalign.video.normalise import normalise

    (film,) = (shared_data / "videos").glob("bigbuckbunny*")
    normalise(film, tmp_path / "film.mp4", tmp_path / "film.json", Video(fps=2, height=360))
    preprocessing = Preprocessing.from_dict(PUBLISHED[name][0])
    (_, stored), *_ = iterate_frames(tmp_path / "film.mp4", batch=4)
    size = preprocessing.frame_size(stored.shape[2], stored.shape[1])
    (_, scaled), *_ = iterate_frames(tmp_path / "film.mp4", size, batch=4)
    found = preprocessing(scaled, torch.device("cpu")).numpy()
    std = np.array(PUBLISHED[name][0]["image_std"])[:, None, None]
    apart = np.abs(found - _library(name, stored)) * std * 255
    assert apart.mean() < 2.0
    assert np.quantile(apart, 0.99) < 10


def test_a_square_size_is_not_cropped():
    content = {"size": {"height": 384, "width": 384}, "do_center_crop": False, **OPENAI}
    preprocessing = Preprocessing.from_dict(content)
    assert (preprocessing.frame_size(640, 360), preprocessing.crop) == ((384, 384), 384)
    large = Preprocessing.from_dict({"size": {"shortest_edge": 384}, "crop_pct": 1.0, **IMAGENET})
    assert large.frame_size(640, 360) == (384, 384)


def test_switches_are_followed():
    content = {**PUBLISHED["facebook/dinov2-base"][0], "do_normalize": False}
    grey = np.full((1, 256, 256, 3), 51, np.uint8)
    pixels = Preprocessing.from_dict(content)(grey, torch.device("cpu"))
    np.testing.assert_allclose(pixels, 0.2, rtol=1e-6)
    pixels = Preprocessing.from_dict({**content, "do_rescale": False})(grey, torch.device("cpu"))
    np.testing.assert_array_equal(pixels, 51)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"size": {"shortest_edge": 224}, "do_center_crop": False, **IMAGENET}, "must cut a centred square"),
        ({"size": {"height": 224, "width": 398}, "do_center_crop": False, **IMAGENET}, "centred square"),
        ({"size": 224, "crop_size": 256, "do_center_crop": True, **IMAGENET}, "centred square"),
        ({**IMAGENET}, "centred square"),
        ({"size": 224, "crop_size": 224}, "names no image_mean"),
        ({"size": 224, "crop_size": None, **IMAGENET}, "centred square"),
        ({"size": 224, "crop_size": 224, **IMAGENET, "image_mean": None}, "three numbers each"),
        ({"size": 224, "crop_size": 224, **IMAGENET, "image_mean": 0.5}, "three numbers each"),
        ({"size": 224, "crop_size": 224, "image_mean": [0.5], "image_std": [0.5]}, "three numbers each"),
        ({"size": 224, "crop_size": 224, **IMAGENET, "image_std": [0, 1, 1]}, "three numbers each"),
        ({"size": 224, "crop_size": 224, **IMAGENET, "rescale_factor": None}, "rescale_factor one"),
        ({"size": 224, "crop_size": 224, **IMAGENET, "do_resize": False}, "do_resize is false"),
    ],
)
def test_what_cannot_be_followed_is_one_sentence(content, words):
    with pytest.raises(UserError, match=words) as caught:
        Preprocessing.from_dict(content)
    assert "\n" not in str(caught.value)


def test_a_video_model_s_own_file_comes_first(tmp_path):
    with pytest.raises(UserError, match="holds no preprocessor_config"):
        load_preprocessing(tmp_path)
    for name, published in (
        ("preprocessor_config.json", "facebook/dinov2-base"),
        ("video_preprocessor_config.json", "facebook/vjepa2-vitl-fpc64-256"),
    ):
        (tmp_path / name).write_text(json.dumps(PUBLISHED[published][0]))
        assert load_preprocessing(tmp_path).size == PUBLISHED[published][1][0]


def test_a_whole_processor_s_file_will_do(tmp_path):
    """As `CLIPProcessor.save_pretrained` writes it: the only file beside the tokenizer's."""
    content, (size, *_) = PUBLISHED["facebook/dinov2-base"]
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    assert load_preprocessing(tmp_path).size == size
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    with pytest.raises(UserError, match="holds no preprocessor_config"):
        load_preprocessing(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(UserError, match="states no preprocessing"):
        load_preprocessing(tmp_path)


def test_a_film_smaller_than_the_model_s_pictures_is_told(caplog):
    preprocessing = Preprocessing.from_dict(PUBLISHED["facebook/vjepa2-vitl-fpc64-256"][0])
    assert preprocessing.frame_size(398, 224) == (518, 292)
    assert "set video.height to 292" in caplog.text
    caplog.clear()
    preprocessing.frame_size(640, 360)
    assert not caplog.text
