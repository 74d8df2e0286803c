"""Configuration of the model and its two training stages (METHOD: docs/method.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from neuroalign.config._section import Section


class Encoder(Section):
    """Size of the encoders and of the shared space."""

    dim: int = Field(64, ge=8, description="Width of tokens and of the shared space.")
    depth: int = Field(2, ge=0, description="Transformer blocks per encoder.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout inside the encoders.")
    input_dropout: float = Field(0.1, ge=0, lt=1, description="Share of brain units dropped in training.")
    subject_rank: int = Field(8, ge=0, description="Rank of the subject-specific part of a parcel map.")


class NtclTerms(Section):
    """Weights of the NTCL terms; 0 switches a term off."""

    level: float = Field(0.5, ge=0, description="L_level: InfoNCE level by level.")
    time: float = Field(0.25, ge=0, description="L_time: token-level contrast inside a stimulus.")
    pred: float = Field(0.25, ge=0, description="L_pred: bidirectional prediction of later tokens.")


class Optimiser(Section):
    """What both training stages share."""

    epochs: int = Field(60, ge=1, description="Most epochs.")
    batch_size: int = Field(64, ge=2, description="Presentations per step.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate (AdamW, warm-up then cosine).")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled weight decay.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps spent warming up.")
    patience: int = Field(15, ge=1, description="Epochs without a better validation score before stopping.")
    clip_norm: float = Field(1.0, gt=0, description="Largest gradient norm.")


class Ntcl(Optimiser):
    """Stage 1: neural-temporal contrastive learning."""

    encoder: Encoder = Field(default_factory=Encoder, description="Size of the encoders.")
    terms: NtclTerms = Field(default_factory=NtclTerms, description="Weights of the loss terms.")
    soften_s: float = Field(
        4.0, ge=0, description="Width of the kernel that softens targets of clips near in time; 0 is off."
    )
    horizon: int = Field(2, ge=1, description="Steps ahead that L_pred predicts (K).")
    hrf_lr: float = Field(0.02, gt=0, description="Learning rate of the haemodynamic parameters.")


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

    epochs: int = Field(30, ge=1, description="Most epochs.")
    lr: float = Field(5e-4, gt=0, description="Peak learning rate.")
    patience: int = Field(10, ge=1, description="Epochs without a better validation score before stopping.")
    codes: int = Field(64, ge=2, description="Codes per level and depth.")
    depth: int = Field(2, ge=1, description="Residual depth R.")
    decay: float = Field(0.99, gt=0, lt=1, description="Decay of the moving averages (gamma).")
    tau: float = Field(0.5, gt=0, description="Temperature of the dynamic modality weights.")
    dynamic: bool = Field(
        True, description="Weigh modalities dynamically per code; false fixes every weight at 1."
    )
    revive_after: int = Field(
        50, ge=1, description="Steps without use before a code restarts from a live token."
    )
    terms: VqTerms = Field(default_factory=VqTerms, description="Weights of the loss terms.")


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
    ntcl: Ntcl = Field(default_factory=Ntcl, description="Stage 1.")
    vq: Vq = Field(default_factory=Vq, description="Stage 2.")
