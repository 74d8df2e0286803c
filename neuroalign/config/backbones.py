"""The registry of backbones: the one line that adds one (docs/backbones.md).

It lies beside the configuration because ``video.backbone`` is checked against it, and because adding a line here must
not recompute the features of other backbones: modules of the configuration are not tracked (`neuroalign.modules`).
Nothing is imported here; a backbone's module is imported when it is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from neuroalign.errors import nearest

PRECOMPUTED = "precomputed"


@dataclass(frozen=True)
class Registered:
    """Where a backbone is, and what it needs.

    Attributes
    ----------
    target : str
        ``module:Class``; the class fulfils `neuroalign.video.backbones.base.Backbone` and has a `from_config`.
    weights : str or None
        Hub id of the weights that are used where ``video.weights`` names none. None marks a backbone without weights:
        it has no `weights` step and asks for no GPU.
    """

    target: str
    weights: str | None = None

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return self.target.partition(":")[0]


_HERE = "neuroalign.video.backbones"

REGISTRY: dict[str, Registered] = {
    "motion_energy": Registered(f"{_HERE}.motion_energy:MotionEnergyBackbone"),
    "resnet101": Registered(f"{_HERE}.resnet101:ResNetBackbone", weights="microsoft/resnet-101"),
    "clip": Registered(f"{_HERE}.clip:ClipBackbone", weights="openai/clip-vit-large-patch14"),
    "dinov2": Registered(f"{_HERE}.dinov2:Dinov2Backbone", weights="facebook/dinov2-base"),
    "videomae": Registered(f"{_HERE}.videomae:VideoMaeBackbone", weights="MCG-NJU/videomae-base"),
    "vjepa2": Registered(f"{_HERE}.vjepa2:Vjepa2Backbone", weights="facebook/vjepa2-vitl-fpc64-256"),
}


def names() -> list[str]:
    """What ``video.backbone`` may be."""
    return [*REGISTRY, PRECOMPUTED]


def known(name: str) -> str:
    """`name` if there is such a backbone.

    Raises
    ------
    ValueError
        If not, with the nearest name.
    """
    if name not in names():
        raise ValueError(f"there is no such backbone{nearest(name, names())}; there are {_listed(names())}")
    return name


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}"
