"""V-JEPA 2: tokens of its encoder's layers, averaged over place and over the window.

Assran et al. (2025), V-JEPA 2: self-supervised video models enable understanding, prediction and planning,
arXiv:2506.09985. Clips are as in its pre-training: four frames per second, as many as the weights were made for (64 of
``facebook/vjepa2-vitl-fpc64-256``, the default). Its positions are rotary, so that shorter clips may be chosen
(``video.clip_frames: 16``), at a fraction of the cost. The predictor is not used.
"""

from __future__ import annotations

from os import PathLike

import torch
from transformers import VJEPA2Model

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.devices import choose_device
from neuroalign.video.backbones._clips import VideoBackbone, sampling_of
from neuroalign.video.backbones._preprocessing import load_preprocessing
from neuroalign.video.backbones._pretrained import find_weights, load_model, same_size

RATE = 4.0


class Vjepa2Backbone(VideoBackbone):
    """Layers of the encoder. There is no class token: features are means over tokens."""

    name = "vjepa2"

    @classmethod
    def from_config(cls, config: Video, fps: float, weights: str | PathLike | None = None) -> Vjepa2Backbone:
        """Load the weights in a folder (by default the folder ``video.weights``)."""
        found = find_weights(config, weights)
        model = load_model(
            VJEPA2Model, found, REGISTRY[cls.name].model_types, unused=["predictor", "encoder.layernorm"]
        )
        preprocessing = load_preprocessing(found.folder)
        same_size(preprocessing, model.config.crop_size, found)
        return cls(
            model,
            preprocessing,
            choose_device(config.device, "video.device"),
            config.batch_size,
            sampling_of(config, fps, model.config.frames_per_clip, RATE, model.config.tubelet_size),
            found.revision,
            layers=config.layers,
            tokens=config.clip_tokens,
        )

    def run(self, pixels: torch.Tensor) -> None:
        """Put clips through the model's encoder."""
        self._model(pixel_values_videos=pixels, skip_predictor=True)
