"""Vectors of captions, against transformers' own classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertModel,
    Blip2ForImageTextRetrieval,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5Model,
)

from neuroalign.config.text import Text
from neuroalign.errors import UserError
from neuroalign.text.embedding import TextEmbedder

CAPTIONS = [
    "a dog runs",
    "the small red cat sits on the grass",
    "woman",
    "a dog runs",
    "man walks in the street",
]


def _config(pooling="mean", **more):
    return Text(source="tsv", captions_dir="-", device="cpu", embedding={"pooling": pooling}, **more)


def _unit(vector):
    return (vector / vector.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_sentence_embedder(sentence_folder, pooling):
    embedder = TextEmbedder.from_folder(sentence_folder, _config(pooling, batch_size=3))
    found = embedder(CAPTIONS)
    model = BertModel.from_pretrained(sentence_folder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(sentence_folder)
    for caption, vector in zip(CAPTIONS, found, strict=True):
        # One at a time there is no padding, and no mask that could be wrong.
        with torch.no_grad():
            states = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(
            vector, _unit(states.mean(0) if pooling == "mean" else states[0]), atol=1e-5
        )
    assert found.shape == (5, embedder.dim) == (5, 24)
    np.testing.assert_array_equal(found[0], found[3])


def test_clip(clip_folder):
    embedder = TextEmbedder.from_folder(clip_folder, _config())
    model, tokenizer = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        AutoTokenizer.from_pretrained(clip_folder),
    )
    found = embedder(CAPTIONS)
    for caption, vector in zip(CAPTIONS, found, strict=True):
        with torch.no_grad():
            words = tokenizer(caption, return_tensors="pt")
            states = model.text_model(words["input_ids"], words["attention_mask"])
            expected = model.text_projection(states.pooler_output)[0]
        np.testing.assert_allclose(vector, _unit(expected), atol=1e-5)
    assert found.shape == (5, embedder.dim) == (5, 20)
    # Longer than its twelve positions: cut, not refused.
    assert np.isfinite(embedder(["the dog " * 20])).all()


def test_blip2_for_retrieval(retrieval_folder):
    embedder = TextEmbedder.from_folder(retrieval_folder, _config(batch_size=2))
    found = embedder(CAPTIONS)
    model = Blip2ForImageTextRetrieval.from_pretrained(retrieval_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(retrieval_folder)
    pixels = torch.zeros(1, 3, 28, 28)
    for caption, vector in zip(CAPTIONS, found, strict=True):
        words = tokenizer(caption, return_tensors="pt")
        with torch.no_grad():
            result = model(
                pixels, words["input_ids"], words["attention_mask"], use_image_text_matching_head=False
            )
        np.testing.assert_allclose(vector, _unit(result.text_embeds.reshape(-1)), atol=1e-5)
    assert found.shape == (5, embedder.dim) == (5, 12)


def test_batch_size_does_not_matter(sentence_folder):
    one = TextEmbedder.from_folder(sentence_folder, _config(batch_size=1))(CAPTIONS)
    all_ = TextEmbedder.from_folder(sentence_folder, _config(batch_size=64))(CAPTIONS)
    np.testing.assert_allclose(one, all_, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)


def test_a_blip2_that_writes_has_no_text_projection(blip2_folder):
    with pytest.raises(UserError, match=r"are missing.*text\.embedding\.weights"):
        TextEmbedder.from_folder(blip2_folder, _config())


def test_models_of_other_kinds_are_one_sentence(tmp_path):
    config = T5Config(vocab_size=20, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="'t5'"):
        TextEmbedder.from_folder(tmp_path / "t5", _config())
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(
        tmp_path / "resnet"
    )
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        TextEmbedder.from_folder(tmp_path / "resnet", _config())
    with pytest.raises(UserError, match="could not be loaded"):
        TextEmbedder.from_folder(tmp_path, _config())
