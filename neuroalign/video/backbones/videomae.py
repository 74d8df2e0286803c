"""VideoMAE: tokens of its layers, averaged over place and over the window.

Tong, Song, Wang & Wang (2022), VideoMAE: masked autoencoders are data-efficient learners for self-supervised video
pre-training, NeurIPS. Clips are as in its pre-training on Kinetics: 16 frames, every fourth of a film of 30 frames per
second, two seconds in all. Weights come from the hub (``MCG-NJU/videomae-base`` by default) or a local folder,
pre-trained or fine-tuned.
"""

from __future__ import annotations

from os import PathLike

import torch
from transformers import VideoMAEModel

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.devices import choose_device
from neuroalign.errors import UserError
from neuroalign.video.backbones._clips import VideoBackbone, sampling_of
from neuroalign.video.backbones._preprocessing import load_preprocessing
from neuroalign.video.backbones._pretrained import find_weights, load_model, same_size

# Every fourth of 30 frames per second.
RATE = 7.5


class VideoMaeBackbone(VideoBackbone):
    """Layers of the encoder. There is no class token: features are means over tokens, as its classifiers take them."""

    name = "videomae"

    @classmethod
    def from_config(
        cls, config: Video, fps: float, weights: str | PathLike | None = None
    ) -> VideoMaeBackbone:
        """Load the weights in a folder (by default the folder ``video.weights``)."""
        found = find_weights(config, weights)
        model = load_model(VideoMAEModel, found, REGISTRY[cls.name].model_types, unused=["layernorm"])
        frames = model.config.num_frames
        if config.clip_frames not in (None, frames):
            raise UserError(
                f"video.clip_frames is {config.clip_frames}, but the positions of {found.name} are those of {frames} "
                f"frames; set it to {frames} or null."
            )
        preprocessing = load_preprocessing(found.folder)
        same_size(preprocessing, model.config.image_size, found)
        return cls(
            model,
            preprocessing,
            choose_device(config.device, "video.device"),
            config.batch_size,
            sampling_of(config, fps, frames, RATE, model.config.tubelet_size),
            found.revision,
            layers=config.layers,
            tokens=config.clip_tokens,
        )

    def run(self, pixels: torch.Tensor) -> None:
        """Put clips through the model."""
        self._model(pixel_values=pixels)
