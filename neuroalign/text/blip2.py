"""Captions by BLIP-2: one per picture.

Li, Li, Savarese & Hoi (2023), BLIP-2: Bootstrapping language-image pre-training with frozen image encoders and large
language models, ICML. Weights are those of a `Blip2ForConditionalGeneration` in transformers' format, with OPT
(``Salesforce/blip2-opt-2.7b``) or Flan-T5 (``Salesforce/blip2-flan-t5-xl``) as the language model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from neuroalign.config.text import Text
from neuroalign.devices import choose_device
from neuroalign.errors import UserError
from neuroalign.io import read_json
from neuroalign.text._pretrained import load_model, load_tokenizer

_KEY = "text.weights"


@dataclass(frozen=True)
class Pictures:
    """How BLIP wants its pictures: squashed to a square, without a crop.

    Attributes
    ----------
    height, width : int
        In pixels.
    mean, std : tuple of float
        Of the red, green and blue channel, on a scale from 0 to 1.
    resample : int
        Pillow's number of the interpolation; 3 is bicubic.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Pictures:
        """Read the content of a ``preprocessor_config.json`` (or, as newer versions save it, ``processor_config.json``)."""
        content = content.get("image_processor", content)
        size = content["size"]
        return cls(
            int(size["height"]),
            int(size["width"]),
            tuple(content["image_mean"]),
            tuple(content["image_std"]),
            int(content.get("resample", 3)),
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Pictures:
        """Read what is saved with the weights.

        Raises
        ------
        UserError
            If nothing, or something else, is saved there.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                try:
                    return cls.from_dict(read_json(folder / name))
                except (KeyError, TypeError) as error:
                    raise UserError(
                        f"{folder / name} does not say {error}, which BLIP-2's pictures need; copy the original file."
                    ) from error
        raise UserError(
            f"the weights in {folder} have no preprocessor_config.json; copy it there, or set {_KEY} to other weights."
        )

    def __call__(self, frames: np.ndarray, device: torch.device) -> torch.Tensor:
        """Scale and normalise RGB frames, uint8 (n, height, width, 3), to a tensor (n, 3, height, width) on a device.

        Pillow scales, as it did for the published weights.
        """
        size, resample = (self.width, self.height), Image.Resampling(self.resample)
        scaled = np.stack([np.asarray(Image.fromarray(frame).resize(size, resample)) for frame in frames])
        pixels = torch.from_numpy(scaled).to(device).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return pixels.sub_(mean).div_(std)


class Blip2Captioner:
    """Writes a caption for each picture; the same pictures get the same words (nothing is sampled).

    Parameters
    ----------
    model : Blip2ForConditionalGeneration
    tokenizer : PreTrainedTokenizerBase
        Of its language model.
    pictures : Pictures
    device : torch.device
    prompt : str
        What the caption continues; it is not part of the caption.
    beams, max_tokens : int
        Width of the beam search (1 is greedy), and length of the longest caption.

    Raises
    ------
    UserError
        If the model does not say which token stands for a picture (weights saved before transformers 4.46).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pictures: Pictures,
        device: torch.device,
        *,
        prompt: str = "",
        beams: int = 1,
        max_tokens: int = 30,
    ):
        config = model.config
        if config.image_token_index is None:
            raise UserError(
                f"the BLIP-2 weights of {_KEY} have no image_token_index in their config.json; take a newer revision."
            )
        self._model, self._tokenizer, self._pictures = model.to(device), tokenizer, pictures
        self._device = device
        self._search = {"do_sample": False, "num_beams": beams, "max_new_tokens": max_tokens}
        start = getattr(config.text_config, "bos_token_id", None)
        words = tokenizer(prompt)["input_ids"] if prompt or start is None else [start]
        # The Q-Former's queries stand where these tokens are, before all words.
        self._prompt = torch.tensor(
            [config.image_token_index] * config.num_query_tokens + words, device=device
        )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, config: Text) -> Blip2Captioner:
        """Load weights from a local folder: bfloat16 on GPUs that have it, float32 elsewhere.

        Raises
        ------
        UserError
            If the folder does not hold a whole BLIP-2 that generates text, with tokenizer and preprocessing.
        """
        from transformers import Blip2ForConditionalGeneration

        folder = Path(folder)
        device = choose_device(config.device, "text.device")
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if half else torch.float32
        return cls(
            load_model(folder, _KEY, Blip2ForConditionalGeneration, dtype=dtype),
            load_tokenizer(folder, _KEY),
            Pictures.from_folder(folder),
            device,
            prompt=config.prompt,
            beams=config.beams,
            max_tokens=config.max_tokens,
        )

    @property
    def setting(self) -> dict[str, str]:
        """Where and how it computes: what may change a word beside the configuration."""
        import transformers

        return {
            "device": self._device.type,
            "dtype": str(self._model.vision_model.dtype),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> list[str]:
        """Captions of RGB frames, uint8 of shape (n, height, width, 3): one line each, without the prompt."""
        prompt = self._prompt.expand(len(frames), -1)
        pixels = self._pictures(frames, self._device).to(self._model.vision_model.dtype)
        tokens = self._model.generate(
            pixel_values=pixels, input_ids=prompt, attention_mask=torch.ones_like(prompt), **self._search
        )
        if not self._model.config.text_config.is_encoder_decoder:
            # A decoder gives the prompt back before what it adds.
            tokens = tokens[:, prompt.shape[1] :]
        return [
            " ".join(words.split())
            for words in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ]
