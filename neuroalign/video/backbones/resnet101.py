"""ResNet-101: its four stages, averaged over the picture, are the levels (2048 values at the last).

He, Zhang, Ren & Sun (2016), Deep residual learning for image recognition, CVPR. Weights come from the hub
(``microsoft/resnet-101`` by default) or a local folder; any ResNet in transformers' format will do.
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from transformers import ResNetModel

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.devices import choose_device
from neuroalign.video.backbones._frames import FrameBackbone
from neuroalign.video.backbones._preprocessing import Preprocessing, load_preprocessing
from neuroalign.video.backbones._pretrained import find_weights, load_model


class ResNetBackbone(FrameBackbone):
    """A ResNet's stages; features of a frame are each stage's globally averaged activations.

    Stored in half precision: averages after batch normalisation and rectification are small numbers.
    """

    name = "resnet101"
    dtype = np.dtype(np.float16)

    def __init__(
        self,
        model: ResNetModel,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        revision: str = "",
    ):
        super().__init__(model, preprocessing, device, batch_size, revision)
        self.levels = {f"stage{i}": int(dim) for i, dim in enumerate(model.config.hidden_sizes, start=1)}

    @classmethod
    def from_config(cls, config: Video, fps: float, weights: str | PathLike | None = None) -> ResNetBackbone:
        """Load the weights in a folder (by default the folder ``video.weights``)."""
        found = find_weights(config, weights)
        model = load_model(ResNetModel, found, REGISTRY[cls.name].model_types)
        preprocessing = load_preprocessing(found.folder)
        return cls(
            model,
            preprocessing,
            choose_device(config.device, "video.device"),
            config.batch_size,
            found.revision,
        )

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Averaged activations of all stages side by side."""
        states = self._model(pixels, output_hidden_states=True).hidden_states
        # The first of the hidden states is the stem's; pooling in float32 keeps what bfloat16 would round away.
        return torch.cat([state.float().mean(dim=(2, 3)) for state in states[1:]], dim=1)
