"""Backbones: what turns frames into hierarchical features, one file each.

To add one, write a module with a class that fulfils `base.Backbone` and can be built by ``from_config``, and name it in
the registry (`neuroalign.config.backbones`); docs/backbones.md shows it. The module is imported only when it is chosen,
so heavy libraries may be imported at its top. `_frames` and `_clips` hold what models of pictures and of clips share.
"""

from __future__ import annotations

import importlib
from os import PathLike

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.errors import UserError, nearest
from neuroalign.video.backbones.base import Backbone

__all__ = ["Backbone", "load_backbone"]


def load_backbone(config: Video, fps: float, weights: str | PathLike | None = None) -> Backbone:
    """Build the backbone that ``video.backbone`` names.

    Parameters
    ----------
    config : Video
    fps : float
        Frames per second of the films it will see.
    weights : path, optional
        Where its weights are: the ``weights.json`` of the role ``backbone``, or a folder. By default ``video.weights``,
        which must then be a folder. Backbones without weights have no use for it.

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
    registered = REGISTRY[config.backbone]
    kind = getattr(importlib.import_module(registered.module), registered.target.partition(":")[2])
    if registered.weights is None:
        return kind.from_config(config, fps)
    return kind.from_config(config, fps, weights)
