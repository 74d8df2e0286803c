"""The assembled network: one encoder and pool per modality, temperatures, predictors, quantiser.

What is here is the architecture alone; losses are in `models.losses` and `models.quantise.losses`, training in
`neuroalign.training`, files and raw inputs in `models.trained`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuroalign.models.encoders.brain import BrainEncoder
from neuroalign.models.encoders.haemodynamic import HaemodynamicAttention
from neuroalign.models.encoders.video import VideoEncoder
from neuroalign.models.losses.prediction import Predictor
from neuroalign.models.pooling import Pool
from neuroalign.models.quantise.residual import TokenQuantiser

FMRI, VIDEO, TEXT = "fmri", "video", "text"
# Pairs of modalities that are contrasted beside fMRI and video; their terms are named after them.
TEXT_PAIRS = ((FMRI, TEXT), (VIDEO, TEXT))


def pair_name(first: str, second: str) -> str:
    """The suffix of what belongs to a pair of modalities; none for fMRI and video, which are always there."""
    return "" if (first, second) == (FMRI, VIDEO) else f"_{first}_{second}"


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build the network again.

    Attributes
    ----------
    brain_levels, video_levels : dict of str to int
        Inputs per level after scaling, early to late.
    subjects : list of str
        Subjects with parameters of their own, in index order.
    shared_units, aligned : bool
    step_times : list of float
        Centre of each clip step in seconds after clip start.
    encoder : dict
        `config.train.Encoder` as plain values.
    horizon : int
    temperature : float
    vq : dict, optional
        `config.train.Vq` as plain values; None before stage 2.
    text_levels : dict of str to int
        As `video_levels`, of the third modality; empty without text.
    adapted : int
        How many of the subjects, the last ones, were added to the trained model (`models.subjects`).
    """

    brain_levels: dict[str, int]
    video_levels: dict[str, int]
    subjects: list[str]
    shared_units: bool
    aligned: bool
    step_times: list[float]
    encoder: dict[str, Any]
    horizon: int = 2
    temperature: float = 0.1
    vq: dict[str, Any] | None = field(default=None)
    text_levels: dict[str, int] = field(default_factory=dict)
    adapted: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON-like form; level mappings become lists of pairs because their order matters."""
        values = asdict(self)
        values["brain_levels"] = list(map(list, self.brain_levels.items()))
        values["video_levels"] = list(map(list, self.video_levels.items()))
        text = list(map(list, values.pop("text_levels").items()))
        return values | ({"text_levels": text} if text else {})

    @classmethod
    def of(cls, values: dict[str, Any]) -> Architecture:
        """The inverse of `plain`."""
        names = ("brain_levels", "video_levels", "text_levels")
        levels = {name: dict(values[name]) for name in names if name in values}
        return cls(**{**values, **levels})


@dataclass
class BrainInput:
    """Scaled fMRI windows on tensors.

    Attributes
    ----------
    levels : dict of str to Tensor (n, volumes, inputs)
    times : Tensor (n, volumes)
    valid : bool Tensor (n, volumes)
    subject : int Tensor (n,)
        -1 for a subject the model does not know.
    """

    levels: dict[str, Tensor]
    times: Tensor
    valid: Tensor
    subject: Tensor

    def take(self, rows: Tensor) -> BrainInput:
        """The windows at `rows`."""
        levels = {name: data[rows] for name, data in self.levels.items()}
        return BrainInput(levels, self.times[rows], self.valid[rows], self.subject[rows])

    def to(self, device: torch.device) -> BrainInput:
        """The same on another device."""
        levels = {name: data.to(device) for name, data in self.levels.items()}
        return BrainInput(levels, self.times.to(device), self.valid.to(device), self.subject.to(device))

    def __len__(self) -> int:
        return len(self.subject)


@dataclass
class TextInput:
    """Scaled text windows on tensors.

    Attributes
    ----------
    levels : dict of str to Tensor (n, steps, inputs)
        One level; zeros where there is no text.
    present : bool Tensor (n, steps)
    """

    levels: dict[str, Tensor]
    present: Tensor

    def take(self, rows: Tensor) -> TextInput:
        """The clips at `rows`."""
        return TextInput({name: x[rows] for name, x in self.levels.items()}, self.present[rows])

    def to(self, device: torch.device) -> TextInput:
        """The same on another device."""
        return TextInput({name: x.to(device) for name, x in self.levels.items()}, self.present.to(device))

    def __len__(self) -> int:
        return len(self.present)


@dataclass
class Encoded:
    """What the encoders say about n clips.

    Attributes
    ----------
    tokens : Tensor (n, steps, levels, dim)
    steps : Tensor (n, steps, dim)
        Joint step vectors.
    pooled : Tensor (n, width)
    present : bool Tensor (n, steps), optional
        Of text: the steps that there are; everything else is zero. None where all are.
    """

    tokens: Tensor
    steps: Tensor
    pooled: Tensor
    present: Tensor | None = None

    def take(self, rows: Tensor) -> Encoded:
        """The clips at `rows`."""
        present = None if self.present is None else self.present[rows]
        return Encoded(self.tokens[rows], self.steps[rows], self.pooled[rows], present)

    def float(self) -> Encoded:
        """The same in float32."""
        return Encoded(self.tokens.float(), self.steps.float(), self.pooled.float(), self.present)


class NeuroAlign(nn.Module):
    """The network z^m = f_vq(f_s(f_e(x^m))) for every modality m.

    Parameters
    ----------
    architecture : Architecture

    Attributes
    ----------
    encoders, pools : ModuleDict by modality
    predictors : ModuleDict by modality predicted *from*
    log_scale : ParameterDict
        Logarithm of inverse temperatures of `global`, `level`, `time` and `pred`; with text also of its pairs.
    quantiser : TokenQuantiser, optional
    brain_whitener, video_whitener : Tensor (steps, steps)
        What tokens are multiplied by over the steps of a clip, so that noise of the brain is equal and uncorrelated over steps: slow
        fluctuations, which neighbouring steps share, then count less. Lower triangular (no token learns of a later step);
        estimated by `training.linear_start`, the identity until then. Where haemodynamic attention reads the brain it whitens by itself.
        Text is treated as video.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        encoder = architecture.encoder
        levels, steps, dim = len(architecture.brain_levels), len(architecture.step_times), encoder["dim"]
        common = {k: encoder[k] for k in ("dim", "depth", "heads", "dropout", "input_dropout")}
        # Absent from models of versions before mixing could be switched off.
        mixing = encoder.get("mixing", "learned")
        self.register_buffer("step_times", torch.tensor(architecture.step_times, dtype=torch.float32))
        for name in ("brain_whitener", "video_whitener"):
            self.register_buffer(name, torch.eye(steps))
        self.encoders = nn.ModuleDict(
            {
                FMRI: BrainEncoder(
                    architecture.brain_levels,
                    len(architecture.subjects),
                    steps,
                    aligned=architecture.aligned,
                    shared=architecture.shared_units,
                    subject_rank=encoder["subject_rank"],
                    adapted=architecture.adapted,
                    **common,
                ),
                VIDEO: VideoEncoder(architecture.video_levels, levels, steps, mixing=mixing, **common),
            }
        )
        pairs = [(FMRI, VIDEO)]
        if architecture.text_levels:
            self.encoders[TEXT] = VideoEncoder(architecture.text_levels, levels, steps, **common)
            pairs += TEXT_PAIRS
        self.pools = nn.ModuleDict({m: Pool(steps, levels, dim, encoder["pooling"]) for m in self.encoders})
        self.predictors = nn.ModuleDict({m: Predictor(dim, architecture.horizon) for m in self.encoders})
        self.log_scale = nn.ParameterDict(
            {
                f"{term}{pair_name(*pair)}": nn.Parameter(torch.tensor(-math.log(architecture.temperature)))
                for pair in pairs
                for term in ("global", "level", "time", "pred")
            }
        )
        self.quantiser = None
        if architecture.vq is not None:
            vq = architecture.vq
            keys = ("codes", "code_dim", "depth", "decay", "tau", "dynamic", "revive_after")
            self.quantiser = TokenQuantiser(levels, dim, list(self.encoders), **{k: vq[k] for k in keys})

    @property
    def reads_text(self) -> bool:
        """Whether the network knows the third modality."""
        return TEXT in self.encoders

    @property
    def haemodynamic(self) -> HaemodynamicAttention | None:
        """The layer with the learned delays; None where the data are already aligned."""
        layer = self.encoders[FMRI].resample
        return layer if isinstance(layer, HaemodynamicAttention) else None

    def scale(self, term: str) -> Tensor:
        """Inverse temperature of a term, at most 100 (as CLIP)."""
        return self.log_scale[term].clamp(max=math.log(100.0)).exp()

    def encode_fmri(self, brain: BrainInput) -> Encoded:
        """Encode fMRI windows."""
        return self._finish(
            FMRI,
            self.encoders[FMRI](brain.levels, brain.times, brain.valid, self.step_times, brain.subject),
        )

    def encode_video(self, levels: dict[str, Tensor]) -> Encoded:
        """Encode video windows: mapping of level to Tensor (n, steps, dim)."""
        return self._finish(VIDEO, self.encoders[VIDEO](levels))

    def encode_text(self, text: TextInput) -> Encoded:
        """Encode text windows."""
        return self._finish(TEXT, self.encoders[TEXT](text.levels, text.present), text.present)

    def _finish(self, modality: str, tokens: Tensor, present: Tensor | None = None) -> Encoded:
        whitener = self.brain_whitener if modality == FMRI else self.video_whitener
        tokens = torch.einsum("tu,nuld->ntld", whitener.to(tokens.dtype), tokens)
        if present is not None:
            tokens = torch.where(present[..., None, None], tokens, 0.0)
        pool = self.pools[modality]
        steps = pool.steps(tokens)
        return Encoded(tokens, steps, pool(steps, present), present)
