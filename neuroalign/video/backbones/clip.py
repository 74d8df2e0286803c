"""CLIP's vision tower: class tokens of its layers, and its image embedding as the last level.

Radford et al. (2021), Learning transferable visual models from natural language supervision, ICML. Weights come from
the hub (``openai/clip-vit-large-patch14`` by default) or a local folder, of the whole CLIP or of its vision tower.
"""

from __future__ import annotations

from os import PathLike

import torch
from transformers import CLIPVisionModelWithProjection

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.devices import choose_device
from neuroalign.video.backbones._frames import FrameBackbone
from neuroalign.video.backbones._levels import Taps, layer_numbers, pool_tokens
from neuroalign.video.backbones._preprocessing import Preprocessing, load_preprocessing
from neuroalign.video.backbones._pretrained import find_weights, load_model, same_size


class ClipBackbone(FrameBackbone):
    """Layers of the vision tower, then ``embedding``: what the tower was trained to give, the projected class token.

    The embedding is not normalised to unit length, as in the library's ``image_embeds``. Layers are read at the class
    token by default: the last layers' patches got no training signal but through it.

    Parameters
    ----------
    layers : list of int, optional
        See `_levels.layer_numbers`.
    pooling : str
        See `_levels.pool_tokens`.
    """

    name = "clip"

    def __init__(
        self,
        model: CLIPVisionModelWithProjection,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        revision: str = "",
        *,
        layers: list[int] | None = None,
        pooling: str = "cls",
    ):
        super().__init__(model, preprocessing, device, batch_size, revision)
        config = model.config
        numbers = layer_numbers(layers, config.num_hidden_layers)
        self._taps = Taps(model.vision_model.encoder.layers, numbers, pool_tokens(pooling, 1), whole=True)
        self.levels = {f"layer{n}": config.hidden_size for n in numbers} | {
            "embedding": model.visual_projection.out_features
        }

    @classmethod
    def from_config(cls, config: Video, fps: float, weights: str | PathLike | None = None) -> ClipBackbone:
        """Load the weights in a folder (by default the folder ``video.weights``)."""
        found = find_weights(config, weights)
        model = load_model(CLIPVisionModelWithProjection, found, REGISTRY[cls.name].model_types)
        preprocessing = load_preprocessing(found.folder)
        same_size(preprocessing, model.config.image_size, found)
        return cls(
            model,
            preprocessing,
            choose_device(config.device, "video.device"),
            config.batch_size,
            found.revision,
            layers=config.layers,
            pooling=config.pooling or "cls",
        )

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled layers and the image embedding side by side."""
        embedding = self._model(pixel_values=pixels).image_embeds.float()
        return torch.cat([*self._taps.rows(), embedding], dim=1)
