"""Configuration of the model and its two training stages (METHOD: docs/method.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from neuroalign.config._section import Section


class Encoder(Section):
    """Size of the encoders and of the shared space, and the linear model they start from."""

    dim: int = Field(64, ge=8, description="Width of tokens and of the shared space.")
    depth: int = Field(2, ge=0, description="Transformer blocks per encoder.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide dim.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout inside the transformer blocks.")
    input_dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of brain and video inputs dropped in training."
    )
    subject_rank: int = Field(
        16, ge=0, description="Rank of the subject-specific part of a parcel map; 0 shares all."
    )
    whiten: bool = Field(
        True,
        description="Turn brain units and video features to principal components, scaled by `shrinkage` (fitted on train only).",
    )
    components: int = Field(
        100, ge=1, description="Most principal components kept per level; more data bear more."
    )
    shrinkage: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Shrinkage of the whitening towards the identity; 1 turns to principal components and scales nothing.",
    )
    surround: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="How much of the film's mean around a clip (`clips.surround_s`) is taken from its features, which makes up for the "
        "high-pass of brain series; `auto` chooses by cross-validation inside the training clips.",
    )
    decorrelate: bool = Field(
        True,
        description="Whiten over time what the brain does besides following the film, where cross-validation inside the training clips "
        "says so; false: its noise counts as uncorrelated over time.",
    )
    linear_start: bool = Field(
        True,
        description="Start the maps at a regularised canonical correlation of the training pairs; false: random, which wants "
        "`lr` and `hrf_lr` ten times as large.",
    )
    mixing: Literal["learned", "uniform"] = Field(
        "learned",
        description="How brain levels hear video levels: with weights that are learned from a diagonal start, or all alike.",
    )
    pooling: Literal["steps", "mean"] = Field(
        "steps",
        description="`steps` keeps the order of a clip's steps in the pooled vector; `mean` averages them.",
    )

    @model_validator(mode="after")
    def _heads_fit(self):
        if self.dim % self.heads:
            raise ValueError(f"encoder.heads ({self.heads}) must divide encoder.dim ({self.dim})")
        return self


class NtclTerms(Section):
    """Weights of the NTCL terms; 0 switches a term off."""

    level: float = Field(0.5, ge=0, description="L_level: InfoNCE level by level.")
    time: float = Field(0.25, ge=0, description="L_time: token-level contrast inside a stimulus.")
    pred: float = Field(0.25, ge=0, description="L_pred: bidirectional prediction of later tokens.")
    shift: float = Field(
        0.1, ge=0, description="Penalty on squared subject-specific delay shifts (per second squared)."
    )


class Optimiser(Section):
    """What both training stages share."""

    epochs: int = Field(30, ge=1, description="Most epochs.")
    batch_size: int = Field(64, ge=2, description="Presentations per step.")
    lr: float = Field(
        1e-4,
        gt=0,
        description="Peak learning rate (AdamW, warm-up then cosine); small, as training starts at a good linear model.",
    )
    weight_decay: float = Field(0.05, ge=0, description="Decoupled weight decay.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps spent warming up.")
    patience: int = Field(10, ge=1, description="Epochs without a better validation score before stopping.")
    clip_norm: float = Field(1.0, gt=0, description="Largest gradient norm.")
    average: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="Decay per step of the running mean of the weights, which is what is kept; 0: the last weights.",
    )


class Ntcl(Optimiser):
    """Stage 1: neural-temporal contrastive learning."""

    epochs: int = Field(30, ge=0, description="Most epochs; 0 keeps the model that training starts from.")
    encoder: Encoder = Field(default_factory=Encoder, description="Size of the encoders.")
    terms: NtclTerms = Field(default_factory=NtclTerms, description="Weights of the loss terms.")
    soften_s: float = Field(
        4.0, ge=0, description="Width of the kernel that softens targets of clips near in time; 0 is off."
    )
    neighbour_s: float = Field(
        30.0,
        ge=0,
        description="Clips of the same stimulus this near are candidates of L_time; 0: own clip only.",
    )
    horizon: int = Field(2, ge=1, description="Steps ahead that L_pred predicts (K).")
    temperature: float = Field(0.1, gt=0, description="Temperature at the start; it is learned.")
    hrf_lr: float = Field(
        5e-4,
        ge=0,
        description="Learning rate of the haemodynamic parameters; 0 keeps one canonical response for all levels and people.",
    )


class VqTerms(Section):
    """Weights of the stage-2 losses; 0 switches a term off."""

    commitment: float = Field(
        0.25, ge=0, description="Commitment to the own code (half of it to the partner's)."
    )
    agreement: float = Field(1.0, ge=0, description="Agreement of the code distributions of paired tokens.")
    prediction: float = Field(0.25, ge=0, description="Bidirectional prediction from quantised tokens.")
    reconstruction: float = Field(0.5, ge=0, description="Reconstruction of the stage-1 tokens.")
    contrast: float = Field(1.0, ge=0, description="The stage-1 objective, kept while quantising.")


class Vq(Optimiser):
    """Stage 2: vector quantisation with DynaSyncMM-EMA."""

    lr: float = Field(2e-3, gt=0, description="Peak learning rate of what stage 2 adds.")
    encoder_lr: float = Field(
        0.01, ge=0, description="Learning rate of the stage-1 weights as a share of lr; 0 freezes them."
    )
    codes: int = Field(64, ge=2, description="Codes per level and depth.")
    code_dim: int = Field(32, ge=1, description="Width of the codes.")
    depth: int = Field(4, ge=1, description="Residual depth R.")
    decay: float = Field(0.99, gt=0, lt=1, description="Decay of the moving averages (gamma).")
    tau: float = Field(0.5, gt=0, description="Temperature of the dynamic modality weights.")
    dynamic: bool = Field(
        True, description="Weigh modalities dynamically per code; false fixes every weight at 1."
    )
    revive_after: int = Field(
        50, ge=1, description="Steps without use before a code restarts from a live token."
    )
    temperature: float = Field(0.2, gt=0, description="Temperature of the code distributions of `agreement`.")
    near_steps: int = Field(
        1, ge=0, description="How far (steps) late interaction looks for the best video step."
    )
    terms: VqTerms = Field(default_factory=VqTerms, description="Weights of the loss terms.")


class TextPairs(Section):
    """Weights of the losses that text takes part in, where `text.source` is not none.

    0 removes the losses of a pair and no more: the start of training, the codebooks and the score hear captions all the same.
    """

    fmri_text: float = Field(0.5, ge=0, description="Of every loss term between fMRI and text.")
    video_text: float = Field(0.25, ge=0, description="Of every loss term between video and text.")

    def of(self, first: str, second: str) -> float:
        """The weight of a pair of modalities."""
        return getattr(self, f"{first}_{second}")


def _as_seeds(value):
    return value if isinstance(value, (list, tuple)) else [value]


class Train(Section):
    """Training."""

    seeds: Annotated[list[int], BeforeValidator(_as_seeds)] = Field(
        default_factory=lambda: [0], min_length=1, description="One model is trained per seed."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto` takes a GPU where there is one."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto` is bfloat16 on GPUs that have it, float32 elsewhere."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that train one model together, each with its share of every batch and, where there are GPUs, a GPU "
        "of its own. Steps are those of one process, up to rounding; dropout is drawn anew.",
    )
    memory_mb: int = Field(
        8000,
        ge=1000,
        description="Memory of a training job in megabytes. Brain windows stay in memory if they take at most half of it (shared by "
        "all processes); else each batch is read from disk. Results are the same.",
    )
    text: TextPairs = Field(
        default_factory=TextPairs,
        description="Weights of the losses that text adds to both stages; of no effect without text. 0 removes losses only: the "
        "linear start, the codebooks and the score hear captions all the same (`text.source: none` is without).",
    )
    ntcl: Ntcl = Field(default_factory=Ntcl, description="Stage 1.")
    vq: Vq = Field(default_factory=Vq, description="Stage 2.")
