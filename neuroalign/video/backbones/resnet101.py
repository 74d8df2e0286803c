"""ResNet-101: its four stages, averaged over the picture, are the levels (2048 values at the last).

He, Zhang, Ren & Sun (2016), Deep residual learning for image recognition, CVPR. Weights come from the hub
(``microsoft/resnet-101`` by default) or a local folder; any ResNet in transformers' format will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from transformers import ResNetModel

from neuroalign.config.video import Video
from neuroalign.video.backbones._pretrained import (
    Preprocessing,
    choose_device,
    fetch,
    load_preprocessing,
    precision,
    to_host,
)
from neuroalign.video.backbones.base import Batches
from neuroalign.video.windows import WindowGrid, mean_over_windows

DEFAULT_WEIGHTS = "microsoft/resnet-101"


class ResNetBackbone:
    """A ResNet's stages behind the interface of `base.Backbone`.

    Features of a window are means, over its frames, of each stage's globally averaged activations.

    Parameters
    ----------
    model : ResNetModel
    preprocessing : Preprocessing
    device : torch.device
    batch_size : int
        Frames per forward pass.
    revision : str
        Where the weights come from.
    """

    name = "resnet101"
    dtype = np.dtype(np.float16)
    past = future = 0

    def __init__(
        self,
        model: ResNetModel,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        revision: str = "",
    ):
        self._model = model.to(device).eval()
        self._preprocessing = preprocessing
        self._device, self.device = device, device.type
        self._batch_size = batch_size
        self.revision = revision
        self.levels = {f"stage{i}": int(dim) for i, dim in enumerate(model.config.hidden_sizes, start=1)}

    @classmethod
    def from_config(cls, config: Video, fps: float) -> ResNetBackbone:
        """Load what ``video.weights`` and ``video.revision`` name."""
        weights = config.weights or DEFAULT_WEIGHTS
        device = choose_device(config.device)
        preprocessing = load_preprocessing(weights, config.revision)
        model = fetch(
            weights,
            config.revision,
            lambda: ResNetModel.from_pretrained(weights, revision=config.revision, use_safetensors=True),
        )
        commit = getattr(model.config, "_commit_hash", None) or config.revision or "local"
        return cls(model, preprocessing, device, config.batch_size, f"{weights}@{commit}")

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The shorter side as the model's preprocessing wants it."""
        return self._preprocessing.frame_size(width, height)

    def features(self, batches: Batches, grid: WindowGrid) -> Iterator[np.ndarray]:
        """Mean stage activations of each window; see `base.Backbone.features`."""
        return mean_over_windows(to_host(self._stages(batches)), grid, sum(self.levels.values()))

    def _stages(self, batches: Batches) -> Iterator[torch.Tensor]:
        """Pooled activations of all stages side by side, one row per frame."""
        for _, frames in batches:
            for first in range(0, len(frames), self._batch_size):
                yield self._forward(frames[first : first + self._batch_size])

    @torch.inference_mode()
    def _forward(self, frames: np.ndarray) -> torch.Tensor:
        pixels = self._preprocessing(frames, self._device)
        with precision(self._device):
            states = self._model(pixels, output_hidden_states=True).hidden_states
        # The first of the hidden states is the stem's; pooling in float32 keeps what bfloat16 would round away.
        return torch.cat([state.float().mean(dim=(2, 3)) for state in states[1:]], dim=1)
