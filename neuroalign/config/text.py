"""Configuration of the text side: captions, and the vectors that stand for them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroalign.config._section import Section, UserPath


class TextEmbedding(Section):
    """The model that turns a caption into a vector."""

    weights: str = Field(
        "sentence-transformers/all-mpnet-base-v2",
        description="Hub id or local folder of a text model in transformers' format; a sentence embedder, CLIP or BLIP-2 "
        "(`Salesforce/blip2-itm-vit-g`).",
    )
    revision: str | None = Field(None, description="Revision of hub weights (commit or tag).")
    pooling: Literal["mean", "cls"] = Field(
        "mean",
        description="How a sentence embedder's tokens become one vector; its model card says which. CLIP and BLIP-2 have "
        "a pooling of their own.",
    )


class Text(Section):
    """Text, the third modality: off by default."""

    source: Literal["none", "blip2", "tsv"] = Field(
        "none", description="`none`: video only; `blip2`: captions by BLIP-2; `tsv`: captions you bring."
    )
    captions_dir: UserPath | None = Field(
        None,
        description="Folder of `<stimulus>.tsv` with onset, duration and caption, for `source: tsv`; films without a file have no "
        "captions.",
    )
    weights: str = Field(
        "Salesforce/blip2-opt-2.7b",
        description="Hub id or local folder of a BLIP-2 that generates text; never downloaded in a caption job.",
    )
    revision: str | None = Field(None, description="Revision of hub weights (commit or tag).")
    prompt: str = Field("", description="What BLIP-2 is to continue; empty: a plain caption.")
    beams: int = Field(
        5,
        ge=1,
        le=64,
        description="Width of the beam search that BLIP-2 writes with; 1 is greedy and quicker.",
    )
    max_tokens: int = Field(30, ge=1, le=512, description="Longest caption by BLIP-2, in tokens.")
    embedding: TextEmbedding = Field(
        default_factory=TextEmbedding, description="The model that turns a caption into a vector."
    )
    window_s: float = Field(1.0, gt=0, description="Seconds of the film described by one caption.")
    stride_s: float = Field(1.0, gt=0, description="Seconds between captions.")
    batch_size: int = Field(16, ge=1, description="Pictures, or captions, per forward pass.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where these models run.")
