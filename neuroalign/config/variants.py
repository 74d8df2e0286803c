"""Variants of NeuroAlign that are trained beside it: ablations (a part removed) and controls (a signal removed).

Each is one entry of a table: what it changes in ``train``, and what it changes in the pairs that it learns from. The rules
in ``workflow/rules/variants.smk`` train and score every variant as the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from neuroalign.config.train import Train

if TYPE_CHECKING:
    from neuroalign.config.load import Config

AblationName = Literal[
    "no_level",
    "no_time",
    "no_pred",
    "no_gradient",
    "no_hierarchy",
    "no_mixing",
    "no_vq",
    "no_dynamic",
    "no_depth",
    "no_linear_start",
    "no_adaptation",
    "no_whitening",
    "no_surround",
    "no_decorrelation",
    "no_subjects",
]
ControlName = Literal["shuffled", "shifted", "time_only"]
PairsChange = Literal["merged", "shuffled", "shifted", "time_only"]


@dataclass(frozen=True)
class Variant:
    """A way to train the model differently.

    Attributes
    ----------
    title : str
        What is removed, in words for tables.
    description : str
        What is overridden, key by key, and what that leaves.
    override : mapping of dotted key below ``train`` to value
        A callable is given the configuration and returns the value.
    pairs : PairsChange, optional
        Change of the pairs that are learned from (`pairs.variants`).
    stage : {"vq", "ntcl"}
        The stage whose model is scored.
    """

    title: str
    description: str
    override: Mapping[str, Any] = field(default_factory=dict)
    pairs: PairsChange | None = None
    stage: Literal["vq", "ntcl"] = "vq"

    def train(self, config: Config) -> dict[str, Any]:
        """The section ``train`` with the overrides, checked, as plain values."""
        values = config.train.model_dump(mode="json")
        for key, value in self.override.items():
            *path, last = key.split(".")
            section = values
            for part in path:
                section = section[part]
            section[last] = value(config) if callable(value) else value
        return Train(**values).model_dump(mode="json")


def _times(key: str, factor: Callable[[Config], float]) -> Callable[[Config], Any]:
    """A value of ``train`` times a factor, of the same type."""

    def value(config: Config) -> Any:
        found: Any = config.train
        for part in key.split("."):
            found = getattr(found, part)
        return type(found)(found * factor(config))

    return value


def _ten_times(*keys: str) -> dict[str, Callable[[Config], Any]]:
    return {key: _times(key, lambda config: 10) for key in keys}


ABLATIONS: dict[str, Variant] = {
    "no_level": Variant(
        "L_level", "`train.ntcl.terms.level: 0`: levels are trained together only.", {"ntcl.terms.level": 0}
    ),
    "no_time": Variant(
        "L_time", "`train.ntcl.terms.time: 0`: nothing says which step is which.", {"ntcl.terms.time": 0}
    ),
    "no_pred": Variant(
        "L_pred",
        "`train.ntcl.terms.pred: 0`: no modality predicts the other's next steps.",
        {"ntcl.terms.pred": 0},
    ),
    "no_gradient": Variant(
        "gradient training of the encoders",
        "`train.ntcl.epochs: 0` and `train.vq.encoder_lr: 0`: the encoders stay at the linear start; only what stage 2 adds is trained.",
        {"ntcl.epochs": 0, "vq.encoder_lr": 0},
    ),
    "no_hierarchy": Variant(
        "the hierarchy",
        "All brain levels are one level and all video levels another; `train.ntcl.encoder.components` times the number of brain "
        "levels, so that as much of the input is kept.",
        {"ntcl.encoder.components": _times("ntcl.encoder.components", lambda c: len(c.fmri.levels) or 1)},
        pairs="merged",
    ),
    "no_mixing": Variant(
        "learned level mixing",
        "`train.ntcl.encoder.mixing: uniform`: every brain level hears all video levels alike.",
        {"ntcl.encoder.mixing": "uniform"},
    ),
    "no_vq": Variant(
        "vector quantisation",
        "The model of stage 1, continuous only; nothing is trained again.",
        stage="ntcl",
    ),
    "no_dynamic": Variant(
        "dynamic weights",
        "`train.vq.dynamic: false`: every modality weighs 1 in the codebook's average.",
        {"vq.dynamic": False},
    ),
    "no_depth": Variant(
        "residual depth", "`train.vq.depth: 1`: one code per token, no residual codes.", {"vq.depth": 1}
    ),
    "no_linear_start": Variant(
        "the linear start",
        "`train.ntcl.encoder.linear_start: false`: random weights, with `lr` and `hrf_lr` of stage 1 times 10, as these want.",
        {"ntcl.encoder.linear_start": False, **_ten_times("ntcl.lr", "ntcl.hrf_lr")},
    ),
    "no_adaptation": Variant(
        "temporal adaptation",
        "`train.ntcl.hrf_lr: 0`: one canonical response (peak at 5 s) for all levels and people, nothing of it learned.",
        {"ntcl.hrf_lr": 0},
    ),
    "no_whitening": Variant(
        "principal components",
        "`train.ntcl.encoder.whiten: false`: inputs are z-scored units and features.",
        {"ntcl.encoder.whiten": False},
    ),
    "no_surround": Variant(
        "the surround",
        "`train.ntcl.encoder.surround: 0`: films are seen as they are, not relative to what surrounds a clip.",
        {"ntcl.encoder.surround": 0.0},
    ),
    "no_decorrelation": Variant(
        "whitening over time",
        "`train.ntcl.encoder.decorrelate: false`: noise of the brain counts as uncorrelated over time.",
        {"ntcl.encoder.decorrelate": False},
    ),
    "no_subjects": Variant(
        "subject terms",
        "`train.ntcl.encoder.subject_rank: 0`: one map of parcels for all people (each keeps a shift of the delay).",
        {"ntcl.encoder.subject_rank": 0},
    ),
}
CONTROLS: dict[str, Variant] = {
    "shuffled": Variant(
        "shuffled pairs",
        "Training and validation windows are dealt out anew among the clips of the same person and part.",
        pairs="shuffled",
    ),
    "shifted": Variant(
        "brain series shifted in time",
        "In every run, every clip has the brain window of half a run later (in a circle).",
        pairs="shifted",
    ),
    "time_only": Variant(
        "clip time in place of the brain",
        "The brain's units are smooth functions of time in the film and in the run.",
        pairs="time_only",
    ),
}


def folder_of(kind: Literal["ablation", "control"], name: str) -> str:
    """How a variant is called in paths, and after ``neuroalign_`` in tables."""
    return f"without_{name.removeprefix('no_')}" if kind == "ablation" else f"control_{name}"


def nothing_removed(name: str, config: Config) -> str | None:
    """Why an ablation would be the model itself under this configuration; None where it is not."""
    if name == "no_adaptation" and config.hrf.method != "adaptive":
        return f"hrf.method is '{config.hrf.method}', so no delay is learned"
    if name == "no_surround" and not min(config.clips.surround_s, config.split.guard_s):
        return "clips.surround_s or split.guard_s is 0, so no surround is kept"
    if name == "no_subjects" and config.fmri.units != "parcels":
        return "voxels have a map per person and no shared one"
    variant = ABLATIONS[name]
    same = variant.train(config) == config.train.model_dump(mode="json")
    if same and variant.pairs is None and variant.stage == "vq":
        return "the configuration is without it already"
    return None
