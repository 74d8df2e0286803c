"""Configuration of baselines, evaluation and report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neuroalign.config._section import Section

BaselineName = Literal[
    "ridge",
    "pooled_ridge",
    "banded_ridge",
    "pooled_banded_ridge",
    "cca",
    "pooled_cca",
    "encoding",
    "pooled_encoding",
    "linear_infonce",
    "pooled_linear_infonce",
    "mlp_infonce",
    "pooled_mlp_infonce",
]


class Evaluate(Section):
    """Retrieval evaluation (no key of this section retrains anything)."""

    galleries: list[Literal["full", "stimulus"] | Annotated[int, Field(ge=2)]] = Field(
        default_factory=lambda: ["full", "stimulus", 50, 300],
        min_length=1,
        description="`full`: all test clips a subject saw; `stimulus`: those of the true clip's own stimulus, where there "
        "are several stimuli; numbers of candidates (N-way). Sizes above the test gallery are left out.",
    )
    draws: int = Field(
        1000,
        ge=0,
        description="Random draws of distractors per query for N-way retrieval; 0 for the exact expectation.",
    )
    exclude_s: list[float] = Field(
        default_factory=lambda: [0.0, 10.0],
        min_length=1,
        description="Candidates of the same stimulus within this many seconds of the true clip are left out.",
    )
    permutations: int = Field(1000, ge=19, description="Circular shifts for p-values.")
    bootstrap: int = Field(1000, ge=100, description="Block-bootstrap resamples for confidence intervals.")
    block_s: float = Field(
        30.0, gt=0, description="Length of bootstrap blocks: longer than the autocorrelation."
    )
    resample: Literal["clips", "clips_and_subjects"] = Field(
        "clips_and_subjects",
        description="What intervals of the pool of all subjects resample besides seeds: `clips_and_subjects` speaks about "
        "other people too, `clips` about these.",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of draws, resamples and shifts.")


class Report(Section):
    """The HTML report."""

    title: str = Field("NeuroAlign report", description="Heading of the report.")
    examples: int = Field(6, ge=0, description="Queries shown with their retrieved clips as thumbnails.")
