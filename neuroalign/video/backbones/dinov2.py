"""DINOv2: patch tokens of its layers, averaged over the picture.

Oquab et al. (2024), DINOv2: learning robust visual features without supervision, TMLR. Weights come from the hub
(``facebook/dinov2-base`` by default) or a local folder.
"""

from __future__ import annotations

from os import PathLike

import torch
from transformers import Dinov2Model

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.devices import choose_device
from neuroalign.video.backbones._frames import FrameBackbone
from neuroalign.video.backbones._levels import Taps, layer_numbers, pool_tokens
from neuroalign.video.backbones._preprocessing import Preprocessing, load_preprocessing
from neuroalign.video.backbones._pretrained import find_weights, load_model


class Dinov2Backbone(FrameBackbone):
    """Layers of the encoder, read at the patches by default: half of its objective is on each patch, at every place.

    Parameters
    ----------
    layers : list of int, optional
        See `_levels.layer_numbers`.
    pooling : str
        See `_levels.pool_tokens`.
    """

    name = "dinov2"

    def __init__(
        self,
        model: Dinov2Model,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        revision: str = "",
        *,
        layers: list[int] | None = None,
        pooling: str = "mean",
    ):
        super().__init__(model, preprocessing, device, batch_size, revision)
        numbers = layer_numbers(layers, model.config.num_hidden_layers)
        self._taps = Taps(model.encoder.layer, numbers, pool_tokens(pooling, 1))
        self.levels = {f"layer{n}": model.config.hidden_size for n in numbers}

    @classmethod
    def from_config(cls, config: Video, fps: float, weights: str | PathLike | None = None) -> Dinov2Backbone:
        """Load the weights in a folder (by default the folder ``video.weights``)."""
        found = find_weights(config, weights)
        return cls(
            load_model(Dinov2Model, found, REGISTRY[cls.name].model_types, unused=["layernorm"]),
            load_preprocessing(found.folder),
            choose_device(config.device, "video.device"),
            config.batch_size,
            found.revision,
            layers=config.layers,
            pooling=config.pooling or "mean",
        )

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled layers side by side. Positions are interpolated by the model where its pictures were larger."""
        self._model(pixel_values=pixels)
        return torch.cat(self._taps.rows(), dim=1)
