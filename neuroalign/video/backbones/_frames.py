"""Backbones that see single frames: features of a window are means over its frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch

from neuroalign.devices import autocast
from neuroalign.video.backbones._preprocessing import Preprocessing
from neuroalign.video.backbones._pretrained import to_host
from neuroalign.video.backbones.base import Batches
from neuroalign.video.windows import WindowGrid, mean_over_windows


class FrameBackbone(ABC):
    """The interface of `base.Backbone` for a model of pictures.

    A subclass names itself (`name`), sets `levels`, and says what the model makes of a batch of pictures (`pooled`).

    Parameters
    ----------
    model : Module
    preprocessing : Preprocessing
    device : torch.device
    batch_size : int
        Frames per forward pass.
    revision : str
        What fixes the weights.
    """

    name: str
    levels: dict[str, int]
    # Residual streams of transformers have a few channels of very large values; single precision holds them all.
    dtype = np.dtype(np.float32)
    past = future = 0
    by_window = False

    def __init__(
        self,
        model: torch.nn.Module,
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

    @abstractmethod
    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of pictures (n, 3, crop, crop): float32 (n, sum of the levels' dims), levels side by side."""

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that the model's preprocessing scales to."""
        return self._preprocessing.frame_size(width, height)

    def features(self, batches: Batches, grid: WindowGrid) -> Iterator[np.ndarray]:
        """Mean over the frames of each window; see `base.Backbone.features`."""
        return mean_over_windows(to_host(self._rows(batches)), grid, sum(self.levels.values()))

    def _rows(self, batches: Batches) -> Iterator[torch.Tensor]:
        for _, frames in batches:
            for first in range(0, len(frames), self._batch_size):
                yield self._forward(frames[first : first + self._batch_size])

    @torch.inference_mode()
    def _forward(self, frames: np.ndarray) -> torch.Tensor:
        pixels = self._preprocessing(frames, self._device)
        with autocast(self._device):
            return self.pooled(pixels)
