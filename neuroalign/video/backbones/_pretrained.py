"""What neural backbones share: preprocessing as their model card states it, device, precision, missing weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from neuroalign.errors import UserError

logger = logging.getLogger(__name__)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Attributes
    ----------
    shortest : int
        Frames are scaled until their shorter side has this many pixels.
    crop : int
        The central square that is then cut out.
    mean, std : tuple of float
        Of the red, green and blue channel, on a scale from 0 to 1.
    """

    shortest: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Read the content of a ``preprocessor_config.json``.

        Notes
        -----
        The ResNet and ConvNeXT family states one size and ``crop_pct``: below 384 pixels the picture is scaled to
        ``size / crop_pct`` and cropped to ``size``; from 384 on it is scaled to a square without cropping, for which
        the central square comes close enough. The CLIP family states ``size`` and ``crop_size``.
        """
        size = _side(content.get("size", 224))
        crop = size
        if content.get("crop_pct") and size < 384:
            size = int(size / content["crop_pct"])
        elif content.get("do_center_crop") and "crop_size" in content:
            crop = _side(content["crop_size"])
        return cls(size, crop, tuple(content["image_mean"]), tuple(content["image_std"]))

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Size, as (width, height), to which a film of the given size is scaled while decoding."""
        scale = self.shortest / min(width, height)
        return max(self.shortest, round(width * scale)), max(self.shortest, round(height * scale))

    def __call__(self, frames: np.ndarray, device: torch.device) -> torch.Tensor:
        """Crop and normalise RGB frames (n, height, width, 3) to a tensor (n, 3, crop, crop) on a device."""
        top, left = (frames.shape[1] - self.crop) // 2, (frames.shape[2] - self.crop) // 2
        cut = np.ascontiguousarray(frames[:, top : top + self.crop, left : left + self.crop])
        # Bytes cross to the device, four times fewer than floats; from pinned memory they do while it computes.
        pixels = torch.from_numpy(cut)
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        pixels = pixels.permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return pixels.sub_(mean).div_(std)


def _side(size: int | Mapping[str, int]) -> int:
    if isinstance(size, Mapping):
        return int(size.get("shortest_edge", size.get("height", 224)))
    return int(size)


def load_preprocessing(weights: str, revision: str | None) -> Preprocessing:
    """The preprocessing of a model, from the hub or a local folder."""
    from transformers.utils import cached_file

    path = fetch(
        weights, revision, lambda: cached_file(weights, "preprocessor_config.json", revision=revision)
    )
    return Preprocessing.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def fetch(weights: str, revision: str | None, load: Callable[[], Loaded]) -> Loaded:
    """Call a transformers loader; missing weights become one sentence.

    Raises
    ------
    UserError
        If the weights are neither a folder with the needed files, nor in the local cache, nor reachable.
    """
    try:
        return load()
    except (OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"the weights '{weights}'{at} could not be loaded ({reason}); set video.weights to a hub id that this "
            "machine can reach, or to a folder saved with save_pretrained, with its preprocessor_config.json."
        ) from error


def choose_device(name: str) -> torch.device:
    """The device for ``video.device``: ``auto`` takes the GPU where there is one.

    Raises
    ------
    UserError
        If ``cuda`` is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("video.device is 'cuda' but PyTorch sees no GPU here; use 'auto' or 'cpu'.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def precision(device: torch.device) -> AbstractContextManager:
    """Autocast to bfloat16 on GPUs that have it; float32 elsewhere, so that CPU numbers are exact."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def to_host(results: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Copy results to numpy, on a GPU one behind: the next is under way before the last is waited for.

    Parameters
    ----------
    results : iterable of tensor
        Made when asked for; on a GPU that only starts the computation.
    """
    waiting: torch.Tensor | None = None
    for result in results:
        if waiting is not None:
            yield waiting.cpu().numpy()
        waiting = result
    if waiting is not None:
        yield waiting.cpu().numpy()
