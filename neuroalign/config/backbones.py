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
    model_types : tuple of str
        Values of ``model_type`` in the ``config.json`` of weights that it can load.
    reads : tuple of str
        Keys of the section ``video`` that it reads beside those that all read (`keys_read`).
    """

    target: str
    weights: str | None = None
    model_types: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return self.target.partition(":")[0]


_HERE = "neuroalign.video.backbones"
_PICTURES = ("layers", "pooling")
_CLIPS = ("layers", "clip_frames", "clip_fps", "clip_tokens")
# What films and windows are, and how many frames are decoded at a time.
_ALL_READ = ("backbone", "batch_size", "fps", "height", "stride_s", "window_s")
_WEIGHTS_READ = ("device", "revision", "weights")

REGISTRY: dict[str, Registered] = {
    "motion_energy": Registered(f"{_HERE}.motion_energy:MotionEnergyBackbone", reads=("motion_energy",)),
    "resnet101": Registered(f"{_HERE}.resnet101:ResNetBackbone", "microsoft/resnet-101", ("resnet",)),
    "clip": Registered(
        f"{_HERE}.clip:ClipBackbone",
        "openai/clip-vit-large-patch14",
        ("clip", "clip_vision_model"),
        _PICTURES,
    ),
    "dinov2": Registered(f"{_HERE}.dinov2:Dinov2Backbone", "facebook/dinov2-base", ("dinov2",), _PICTURES),
    "videomae": Registered(
        f"{_HERE}.videomae:VideoMaeBackbone", "MCG-NJU/videomae-base", ("videomae",), _CLIPS
    ),
    "vjepa2": Registered(
        f"{_HERE}.vjepa2:Vjepa2Backbone", "facebook/vjepa2-vitl-fpc64-256", ("vjepa2",), _CLIPS
    ),
}


def keys_read(name: str) -> list[str]:
    """Keys of the section ``video`` that embeddings of a backbone depend on, sorted.

    Nothing else is given to a job, so that no other key computes features anew.
    """
    registered = REGISTRY.get(name)
    if registered is None:
        return sorted(_ALL_READ)
    return sorted({*_ALL_READ, *registered.reads, *(_WEIGHTS_READ if registered.weights else ())})


def keys_of_some() -> list[str]:
    """Keys of the section ``video`` that some backbones read and others do not, sorted."""
    return sorted({key for name in REGISTRY for key in keys_read(name)} - set(_ALL_READ))


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
