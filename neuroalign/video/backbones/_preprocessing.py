"""Preprocessing as a model's own files state it: to which size, which square of it, which mean and standard deviation.

Frames are scaled while they are decoded (`Preprocessing.frame_size`), by ffmpeg's default filter, whatever filter the
files name: that spares a second resampling, at a price of one or two grey levels of 255 (docs/backbones.md). All that
follows, cropping and normalising, is exactly the library's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroalign.errors import UserError
from neuroalign.io import read_json

logger = logging.getLogger(__name__)

FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
# A whole processor's file, as newer versions of transformers write it, holds them under these names.
NESTED, PARTS = "processor_config.json", ("video_processor", "image_processor")


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Attributes
    ----------
    size : int
        Frames are scaled until their shorter side has this many pixels; or both sides, where `square`.
    crop : int
        The central square that is then cut out.
    mean, std : tuple of float
        Of the red, green and blue channel, after scaling.
    scale : float
        What bytes are multiplied by first.
    square : bool
        Whether pictures are scaled to a square, whatever their shape.
    """

    size: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    square: bool = False

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Read the content of a ``preprocessor_config.json`` or ``video_preprocessor_config.json``.

        Parameters
        ----------
        content : mapping

        Raises
        ------
        UserError
            If something is missing, or it asks for what is not a centred square.

        Notes
        -----
        As transformers' classes of these names read them:

        - CLIP, BiT (DINOv2) and VideoMAE: the shorter side to ``size`` (a number, or ``shortest_edge``), the central
          ``crop_size`` of it;
        - ConvNeXT (ResNet): one ``size`` and ``crop_pct`` (0.875 unless stated): below 384 pixels the shorter side to
          ``int(size / crop_pct)`` and the central ``size`` of it; from 384 on a square of ``size`` without cropping;
        - V-JEPA 2: the shorter side to ``int(crop_size * 256 / 224)`` whatever ``size`` says, the central ``crop_size``.
        """
        kind = str(
            content.get("video_processor_type")
            or content.get("image_processor_type")
            or content.get("feature_extractor_type", "")
        )
        try:
            size, crop, square = _geometry(kind, content)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise UserError(
                f"the preprocessing of the weights ({kind or 'of no named kind'}) cannot be followed: its sizes are "
                f"{content.get('size')} and {content.get('crop_size')}; it must cut a centred square."
            ) from error
        if not content.get("do_resize", True):
            raise UserError(
                "the preprocessing of the weights scales no pictures (do_resize is false), and frames are scaled here while "
                "they are decoded; save the model's own processor beside the weights."
            )
        normalise, rescale = content.get("do_normalize", True), content.get("do_rescale", True)
        if normalise and not ("image_mean" in content and "image_std" in content):
            raise UserError(
                "the preprocessing of the weights names no image_mean and image_std; save the model's own processor "
                "beside the weights."
            )
        try:
            mean = _channels(content["image_mean"]) if normalise else (0.0, 0.0, 0.0)
            std = _channels(content["image_std"]) if normalise else (1.0, 1.0, 1.0)
            scale = float(content.get("rescale_factor", 1 / 255)) if rescale else 1.0
            if not (all(std) and scale):
                raise ValueError("pictures without any contrast")
        except (TypeError, ValueError) as error:
            raise UserError(
                "the preprocessing of the weights cannot be followed: image_mean and image_std must be three numbers each, and "
                f"rescale_factor one (they are {content.get('image_mean')}, {content.get('image_std')} and "
                f"{content.get('rescale_factor', 1 / 255)}); save the model's own processor beside the weights."
            ) from error
        return cls(size, crop, mean, std, scale, square)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Size, as (width, height), to which a film of the given size is scaled while decoding."""
        short, long = sorted((width, height))
        if short < self.size:
            logger.warning(
                "the model sees %d pixels on the shorter side and the normalised film has %d: set video.height to %d or "
                "more for sharper pictures",
                *(self.size, short, self.size),
            )
        # The library cuts the longer side off to whole pixels, it does not round it.
        longer = self.size if self.square else int(self.size * long / short)
        return (longer, self.size) if width >= height else (self.size, longer)

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """The central square of frames (n, height, width, 3) of the size that `frame_size` gives."""
        top, left = (frames.shape[1] - self.crop) // 2, (frames.shape[2] - self.crop) // 2
        return np.ascontiguousarray(frames[:, top : top + self.crop, left : left + self.crop])

    def __call__(self, frames: np.ndarray, device: torch.device) -> torch.Tensor:
        """Crop and normalise RGB frames (n, height, width, 3) to a tensor (n, 3, crop, crop) on a device."""
        # Bytes cross to the device, four times fewer than floats; from pinned memory they do while it computes.
        pixels = torch.from_numpy(self.cut(frames))
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        pixels = pixels.permute(0, 3, 1, 2).float().mul_(self.scale)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return pixels.sub_(mean).div_(std)


def _geometry(kind: str, content: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Size of the scaled picture, size of the crop, and whether the picture is scaled to a square."""
    if kind.startswith("VJEPA2"):
        crop = _side(content["crop_size"])
        return int(crop * 256 / 224), crop, False
    if kind.startswith("ConvNext") or "crop_pct" in content:
        size = _side(content["size"])
        if size >= 384:
            return size, size, True
        return int(size / (content.get("crop_pct") or 224 / 256)), size, False
    size, square = content["size"], isinstance(content["size"], Mapping) and "height" in content["size"]
    crops = content.get("do_center_crop", "crop_size" in content)
    if not crops and isinstance(size, Mapping) and not square:
        raise ValueError("a picture that is neither cropped nor scaled to a square")
    crop = _side(content["crop_size"]) if crops else _side(size)
    if crop > _side(size):
        raise ValueError("a crop larger than the picture")
    return _side(size), crop, square or not crops


def _channels(values: Any) -> tuple[float, ...]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _side(size: int | Mapping[str, int]) -> int:
    """The one number of a size; a rectangle has none."""
    if isinstance(size, Mapping):
        (side,) = set(size.values())
        return int(side)
    return int(size)


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} states no preprocessing; save the model's own processor beside the weights.")
    return content


def load_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing of the model in a folder.

    Raises
    ------
    UserError
        If its file is missing or cannot be followed.
    """
    for name in FILES:
        if (folder / name).exists():
            return Preprocessing.from_dict(_mapping(folder / name))
    if (folder / NESTED).exists():
        content = _mapping(folder / NESTED)
        for part in PARTS:
            if isinstance(content.get(part), dict):
                return Preprocessing.from_dict(content[part])
    raise UserError(
        f"{folder} holds no {FILES[1]}; save the model's processor there, or fetch the weights with "
        "`neuroalign weights`."
    )
