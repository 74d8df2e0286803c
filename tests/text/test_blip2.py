"""BLIP-2 on small random weights saved as the hub has them, against transformers' own classes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from neuroalign.config.text import Text
from neuroalign.errors import UserError
from neuroalign.text.blip2 import Blip2Captioner, Pictures


@pytest.fixture(scope="module")
def frames():
    """Pictures that differ: noise, black, white, half black."""
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 3), np.uint8)
    frames[1], frames[2], frames[3, :, :30] = 0, 255, 0
    return frames


def _config(**more):
    return Text(source="blip2", device="cpu", **more)


def _by_the_library(folder, frames, prompt, always_text=False, **search):
    """Captions with transformers' processor and model, one picture at a time."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    queries = model.config.num_query_tokens
    pictures = BlipImageProcessorPil.from_pretrained(folder)
    processor = Blip2Processor(pictures, AutoTokenizer.from_pretrained(folder), num_query_tokens=queries)
    captions = []
    for frame in frames:
        words = {"text": [prompt]} if prompt or always_text else {}
        inputs = processor(images=Image.fromarray(frame), return_tensors="pt", **words)
        with torch.no_grad():
            tokens = model.generate(**inputs, do_sample=False, **search)
        captions.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return captions


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_a_language_model_with_an_encoder(blip2_t5_folder, frames, prompt):
    captioner = Blip2Captioner.from_folder(blip2_t5_folder, _config(prompt=prompt, beams=2, max_tokens=8))
    found = captioner(frames)
    # The library has no start of its own here: an empty text has the end token alone.
    expected = _by_the_library(blip2_t5_folder, frames, prompt, True, num_beams=2, max_new_tokens=8)
    assert found == expected
    assert len(set(found)) > 2


@pytest.mark.parametrize("prompt", ["", "a photo of"])
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_equal_those_of_the_library(blip2_folder, frames, prompt, beams):
    captioner = Blip2Captioner.from_folder(blip2_folder, _config(prompt=prompt, beams=beams, max_tokens=8))
    found = captioner(frames)
    expected = _by_the_library(blip2_folder, frames, prompt, num_beams=beams, max_new_tokens=8)
    # The library gives the prompt back, too.
    assert all(caption.startswith(prompt) for caption in expected)
    assert found == [caption.removeprefix(prompt).strip() for caption in expected]
    assert len(set(found)) > 3


def test_a_batch_says_what_each_picture_would(blip2_folder, frames):
    captioner = Blip2Captioner.from_folder(blip2_folder, _config(beams=2, max_tokens=5))
    assert captioner(frames) == [captioner(frame[None])[0] for frame in frames]


def test_half_precision_runs_through_the_whole_model(blip2_folder, frames):
    """As on a GPU: weights in bfloat16, the Q-Former as the library keeps it."""
    half = Blip2ForConditionalGeneration.from_pretrained(blip2_folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(blip2_folder)
    pictures = Pictures.from_folder(blip2_folder)
    captioner = Blip2Captioner(half, tokenizer, pictures, torch.device("cpu"), max_tokens=4)
    assert captioner.setting["dtype"] == "torch.bfloat16"
    assert len(captioner(frames)) == len(frames)


def test_pictures_are_those_of_the_published_model(blip2_pictures):
    frames = np.random.default_rng(1).integers(0, 256, (2, 224, 398, 3), np.uint8)
    pictures = Pictures.from_dict(blip2_pictures)
    found = pictures(frames, torch.device("cpu"))
    assert found.shape == (2, 3, 224, 224)
    reference = BlipImageProcessorPil(**blip2_pictures)
    expected = reference(list(map(Image.fromarray, frames)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # By hand, a picture of one colour: the numbers of CLIP's training set.
    grey = pictures(np.full((1, 10, 20, 3), 51, np.uint8), torch.device("cpu"))[0, :, 7, 7]
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(grey, (0.2 - np.array(mean)) / std, rtol=1e-5)


def test_preprocessing_as_newer_versions_save_it(blip2_folder, tmp_path):
    pictures = BlipImageProcessorPil.from_pretrained(blip2_folder)
    Blip2Processor(pictures, AutoTokenizer.from_pretrained(blip2_folder), 4).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert Pictures.from_folder(tmp_path) == Pictures.from_folder(blip2_folder)


def _without(folder, destination, *names):
    shutil.copytree(folder, destination, ignore=shutil.ignore_patterns(*names))
    return destination


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("preprocessor_config.json", "no preprocessor_config.json"),
        ("tokenizer*", "no tokenizer.json"),
        ("model.safetensors", "could not be loaded"),
    ],
)
def test_a_folder_that_lacks_something_is_one_sentence(blip2_folder, tmp_path, absent, words):
    with pytest.raises(UserError, match=words) as caught:
        Blip2Captioner.from_folder(_without(blip2_folder, tmp_path / "w", absent), _config())
    assert "\n" not in str(caught.value)
    assert "text.weights" in str(caught.value)


def test_other_models_are_not_taken_for_one_that_writes(retrieval_folder):
    """transformers would load them, and draw what is missing at random."""
    with pytest.raises(UserError, match="are missing"):
        Blip2Captioner.from_folder(retrieval_folder, _config())


def test_weights_that_do_not_know_the_picture_token(blip2_folder, tmp_path):
    folder = _without(blip2_folder, tmp_path / "w")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"image_token_index": None}))
    with pytest.raises(UserError, match="image_token_index"):
        Blip2Captioner.from_folder(folder, _config())
