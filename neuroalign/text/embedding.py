"""Vectors of captions, with a text model of transformers.

Three families, told apart by the ``model_type`` of their ``config.json``:

- a sentence embedder (anything that `AutoModel` loads as an encoder): its last states, averaged over the tokens or those
  of the first token, as its model card says (``text.embedding.pooling``);
- ``clip``: the text tower's projection into the space that it shares with pictures;
- ``blip-2``: the Q-Former's projection of the first token into the space that it shares with pictures, as in image-text
  retrieval (weights with that projection, such as ``Salesforce/blip2-itm-vit-g``).

All vectors have length 1, so that their products are cosines, whatever the family.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroalign.config.text import Text
from neuroalign.devices import choose_device
from neuroalign.errors import UserError
from neuroalign.text._pretrained import load, load_model, load_tokenizer

logger = logging.getLogger(__name__)

_KEY = "text.embedding.weights"
# Tokenizers that know no limit say a number like 10^30.
_NO_LIMIT = 100_000


class TextEmbedder:
    """Turns captions into vectors.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    device : torch.device
    pooling : {"mean", "cls"}
        Of sentence embedders.
    batch_size : int
        Captions per forward pass.

    Attributes
    ----------
    dim : int
        Length of a vector.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: torch.device, *, pooling: str = "mean", batch_size: int = 16
    ):
        self._model, self._tokenizer, self._device = model.to(device), tokenizer, device
        self._pooling, self._batch_size = pooling, batch_size
        self._limit = _limit(model.config, tokenizer)
        self.dim = _dim(model.config)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, config: Text) -> TextEmbedder:
        """Load weights from a local folder, in float32: these models are small beside a captioner.

        Raises
        ------
        UserError
            If the folder does not hold a whole text model of one of the families, with its tokenizer.
        """
        from transformers import (
            AutoConfig,
            AutoModel,
            Blip2TextModelWithProjection,
            CLIPTextModelWithProjection,
        )

        folder = Path(folder)
        kind = load(folder, _KEY, AutoConfig.from_pretrained)
        family = {
            "clip": CLIPTextModelWithProjection,
            "clip_text_model": CLIPTextModelWithProjection,
            "blip-2": Blip2TextModelWithProjection,
        }.get(kind.model_type, AutoModel)
        if family is AutoModel and (
            hasattr(kind, "vision_config") or getattr(kind, "is_encoder_decoder", False)
        ):
            raise UserError(
                f"{_KEY}: the weights in {folder} are of a '{kind.model_type}', which is neither an encoder of sentences "
                "nor CLIP nor BLIP-2; set it to other weights."
            )
        if kind.model_type == "clip":
            # The width of the shared space is said once for both towers.
            kind.text_config.projection_dim = kind.projection_dim
            kind = kind.text_config
        return cls(
            load_model(folder, _KEY, family, config=kind),
            load_tokenizer(folder, _KEY),
            choose_device(config.device, "text.device"),
            pooling=config.embedding.pooling,
            batch_size=config.batch_size,
        )

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Vectors of captions.

        Parameters
        ----------
        captions : sequence of str
            At least one, none of them empty.

        Returns
        -------
        float32 array of shape (captions, dim)
            Of length 1.
        """
        # Captions come again and again, from window to window; those of like length need little padding.
        different = sorted(set(captions), key=lambda caption: (len(caption), caption))
        row = {caption: k for k, caption in enumerate(different)}
        vectors = []
        for first in range(0, len(different), self._batch_size):
            vectors.append(self._vectors(different[first : first + self._batch_size]))
        return np.concatenate(vectors)[[row[caption] for caption in captions]]

    def _vectors(self, captions: list[str]) -> np.ndarray:
        encoded = self._tokenizer(
            captions, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
        ).to(self._device)
        words = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        kind = self._model.config.model_type
        if kind.startswith("clip"):
            pooled = self._model(**words).text_embeds
        elif kind == "blip-2":
            pooled = self._model(**words).text_embeds[:, 0]
        else:
            states = self._model(**words).last_hidden_state
            mask = words["attention_mask"][:, :, None].to(states.dtype)
            pooled = states[:, 0] if self._pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled.float(), dim=-1).cpu().numpy()


def _dim(config: Any) -> int:
    if config.model_type == "blip-2":
        return config.image_text_hidden_size
    return config.projection_dim if config.model_type.startswith("clip") else config.hidden_size


def _limit(config: Any, tokenizer: Any) -> int:
    """Tokens that the model has positions for."""
    if tokenizer.model_max_length < _NO_LIMIT:
        return tokenizer.model_max_length
    words = getattr(config, "qformer_config", getattr(config, "text_config", config))
    # RoBERTa and MPNet leave the first positions, up to that of the padding, unused.
    return getattr(words, "max_position_embeddings", 514) - 2
