"""Configuration of the brain side: preprocessing, regions, cleaning, haemodynamics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from neuroalign.config._section import Section
from neuroalign.config.levels import SCHAEFER, TABLES, check_patterns, resolve_levels

# A table's name becomes its mapping when the configuration is read: the rest of the package sees mappings only.
Levels = Annotated[
    dict[str, str],
    BeforeValidator(resolve_levels),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "string", "enum": list(TABLES)},
            ]
        }
    ),
]


class Preprocess(Section):
    """How raw BOLD becomes preprocessed BOLD (only when `fmri.source` is `raw`)."""

    engine: Literal["native", "fmriprep"] = Field(
        "native", description="`native` is our own realignment with ANTs; `fmriprep` is reserved and refused."
    )
    slice_timing: bool = Field(
        True, description="Correct slice timing where the sidecar gives `SliceTiming`."
    )
    template: str | None = Field(
        None,
        description="Brain-extracted T1w template image of `fmri.space`; null is nilearn's MNI template.",
    )
    resolution_mm: float | None = Field(
        None, gt=0.5, description="Voxel size of the output grid in mm; null keeps that of the BOLD."
    )

    @field_validator("engine")
    @classmethod
    def _engine_exists(cls, engine: str) -> str:
        if engine == "fmriprep":
            raise ValueError(
                "fMRIPrep is not run by NeuroAlign yet: run it yourself and set fmri.source to fmriprep"
            )
        return engine


class Atlas(Section):
    """The regions."""

    name: str | None = Field(
        None,
        description="Atlas fetched by nilearn (e.g. `schaefer_2018_200`; docs/atlases.md lists them), or a name to record.",
    )
    image: str | None = Field(None, description="Label image (NIfTI) in `fmri.space`; wins over `name`.")
    labels: str | None = Field(
        None,
        description="Label table: TSV with columns `index` and `label` (or `name`), a FreeSurfer look-up table, or two columns "
        "of text; null looks beside `image`.",
    )


class Clean(Section):
    """Signal cleaning of the regional series (nilearn)."""

    strategy: Literal["none", "simple", "scrubbing", "compcor", "motion"] = Field(
        "simple", description="Confound columns regressed out; docs/confounds.md maps each to its columns."
    )
    motion: Literal["basic", "power2", "derivatives", "full"] = Field(
        "full",
        description="Motion columns of the strategy: 6 parameters, with squares (12), derivatives (12) or both (24).",
    )
    high_pass_hz: float | None = Field(
        0.01, ge=0, description="High-pass cut-off in Hz; null filters nothing."
    )
    low_pass_hz: float | None = Field(None, gt=0, description="Low-pass cut-off in Hz; null filters nothing.")
    fd_threshold_mm: float | None = Field(
        0.5, gt=0, description="Volumes with a larger framewise displacement are censored; null keeps all."
    )
    standardize: bool = Field(True, description="Scale every unit to unit variance within its run.")


class Fmri(Section):
    """The brain side."""

    source: Literal["raw", "fmriprep", "timeseries"] = Field(
        "raw", description="What there is: raw BIDS, fMRIPrep outputs, or regional time series (XCP-D)."
    )
    space: str = Field("MNI152NLin2009cAsym", description="Space of the preprocessed images and the atlas.")
    preprocess: Preprocess = Field(default_factory=Preprocess, description="Preprocessing of raw BOLD.")
    atlas: Atlas = Field(default_factory=Atlas, description="The regions.")
    levels: Levels = Field(
        default_factory=SCHAEFER.patterns,
        description="Brain levels in visual-hierarchy order, each a regular expression on region labels; or the name of "
        "a table for a published atlas (docs/atlases.md): " + ", ".join(f"`{name}`" for name in TABLES) + ".",
    )
    units: Literal["parcels", "voxels"] = Field("parcels", description="What a level's columns are.")
    clean: Clean = Field(default_factory=Clean, description="Signal cleaning.")

    @field_validator("levels")
    @classmethod
    def _patterns_compile(cls, levels: dict[str, str]) -> dict[str, str]:
        check_patterns(levels)
        return levels


class Hrf(Section):
    """How brain time and video time are brought together."""

    method: Literal["adaptive", "shift", "glm", "none"] = Field(
        "adaptive",
        description="`adaptive` learns the delay per level; `shift` is one fixed lag; `glm` one beta per clip; "
        "`none` for features that are already convolved.",
    )
    window_s: tuple[float, float] = Field(
        (0.0, 12.0),
        description="Volumes from this long after clip start to this long after clip end (adaptive).",
    )
    shift_s: float = Field(5.0, ge=0, le=15, description="The lag of `shift`, in seconds.")

    @model_validator(mode="after")
    def _ordered(self):
        if self.window_s[0] >= self.window_s[1]:
            raise ValueError("window_s must be [first, last] with first < last")
        return self
