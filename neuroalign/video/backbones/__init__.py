"""Backbones: what turns frames into hierarchical features, one file each.

To add one, write a module with a class that fulfils `base.Backbone` and can be built by
``from_config(config: Video, fps: float)``, and name it in `REGISTRY`. The module is imported only when it is chosen, so
heavy libraries may be imported at its top.
"""

from __future__ import annotations

import importlib

from neuroalign.config.video import Video
from neuroalign.errors import UserError, nearest
from neuroalign.video.backbones.base import Backbone

REGISTRY = {
    "motion_energy": "neuroalign.video.backbones.motion_energy:MotionEnergyBackbone",
    "resnet101": "neuroalign.video.backbones.resnet101:ResNetBackbone",
}

__all__ = ["REGISTRY", "Backbone", "load_backbone"]


def load_backbone(config: Video, fps: float) -> Backbone:
    """Build the backbone that ``video.backbone`` names.

    Parameters
    ----------
    config : Video
    fps : float
        Frames per second of the films it will see.

    Raises
    ------
    UserError
        If there is no such backbone, or its weights are missing.
    """
    if config.backbone not in REGISTRY:
        raise UserError(
            f"video.backbone '{config.backbone}' computes nothing from frames{nearest(config.backbone, REGISTRY)}; "
            f"those that do: {', '.join(REGISTRY)}."
        )
    module, _, name = REGISTRY[config.backbone].partition(":")
    return getattr(importlib.import_module(module), name).from_config(config, fps)
