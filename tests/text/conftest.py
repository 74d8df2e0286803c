"""A short film, and tiny random models saved as the hub has them, with real small tokenizers."""

from __future__ import annotations

import json
import subprocess

import imageio_ffmpeg
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from neuroalign.config.video import Video
from neuroalign.video.normalise import normalise

# As in the preprocessor_config.json of Salesforce/blip2-opt-2.7b.
_PICTURES = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "BlipImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "Blip2Processor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "man",
    "woman",
    "photo",
    "of",
    "runs",
    "sits",
    "walks",
    "on",
    "in",
    "street",
    "grass",
    "and",
    "red",
    "blue",
    "small",
]
SIDE = 28


def word_tokenizer(*specials: str, begin: str, end: str = "", **roles: str) -> PreTrainedTokenizerFast:
    """One token per word, between a first and, perhaps, a last special token."""
    vocabulary = {token: k for k, token in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=roles["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=[(t, vocabulary[t]) for t in {begin, end} - {""}]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _qformer(**more) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=40,
        max_position_embeddings=32,
        encoder_hidden_size=16,
        initializer_range=0.4,
        **more,
    )


def _vision() -> Blip2VisionConfig:
    # The default spread of the initial weights, 1e-10, would show every picture as the same one.
    return Blip2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        initializer_range=0.6,
    )


@pytest.fixture(scope="session")
def blip2_pictures():
    """What the published BLIP-2 says about its pictures."""
    return dict(_PICTURES)


@pytest.fixture(scope="session")
def blip2_folder(tmp_path_factory):
    """A BLIP-2 with OPT that sees pictures of 28 pixels, and writes (random) words."""
    folder = tmp_path_factory.mktemp("blip2")
    roles = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = word_tokenizer("<s>", "<pad>", "</s>", "<unk>", begin="</s>", **roles)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        init_std=0.7,
        tie_word_embeddings=False,
    )
    config = Blip2Config(
        vision_config=_vision(),
        qformer_config=_qformer(),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.6,
    )
    model = Blip2ForConditionalGeneration(config)
    # So that the words depend on the picture: by default the queries are zero.
    torch.nn.init.normal_(model.query_tokens)
    torch.nn.init.normal_(model.language_projection.weight, std=2.0)
    model.save_pretrained(folder)
    pictures = _PICTURES | {"size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return word_tokenizer("[PAD]", "[CLS]", "[SEP]", "[UNK]", begin="[CLS]", end="[SEP]", **roles)


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory):
    """A sentence embedder: a BERT saved, as many are, without its pooler."""
    folder = tmp_path_factory.mktemp("sentences")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    _bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A whole CLIP, of which the text tower is wanted."""
    folder = tmp_path_factory.mktemp("clip")
    roles = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<end>"}
    tokenizer = word_tokenizer("<start>", "<end>", begin="<start>", end="<end>", model_max_length=12, **roles)
    torch.manual_seed(2)
    text = CLIPTextConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20, initializer_factor=5.0
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def retrieval_folder(tmp_path_factory):
    """A whole BLIP-2 for image-text retrieval, of which the text projection is wanted."""
    folder = tmp_path_factory.mktemp("retrieval")
    torch.manual_seed(4)
    config = Blip2Config(
        vision_config=_vision(),
        qformer_config=_qformer(use_qformer_text_input=True),
        num_query_tokens=4,
        image_text_hidden_size=12,
        initializer_range=0.4,
    )
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    _bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def film_file(tmp_path_factory):
    """Ten seconds of a moving test pattern as a user has them, 320 x 240 at 25 frames a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-y",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=320x240:r=25:d=10",
    ]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def mezzanine(film_file):
    """The film, normalised as by default."""
    path = film_file.parent / "mezzanine.mp4"
    normalise(film_file, path, path.with_suffix(".json"), Video())
    return path
