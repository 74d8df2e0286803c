"""Configuration of the brain side: preprocessing, regions, cleaning, haemodynamics."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from neuroalign.config._section import Section

# Levels for the Schaefer parcellation in its 7-network order: sensory cortex, attention networks,
# and association cortex (Schaefer et al. 2018, Yeo et al. 2011).
SCHAEFER_LEVELS = {
    "early": r"(^|_)(Vis|SomMot)_",
    "intermediate": r"(^|_)(DorsAttn|SalVentAttn)_",
    "high": r"(^|_)(Limbic|Cont|Default)_",
}


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
        None, description="Atlas fetched by nilearn (e.g. `schaefer_2018_200`), or a name to record."
    )
    image: str | None = Field(None, description="Label image (NIfTI) in `fmri.space`; wins over `name`.")
    labels: str | None = Field(
        None, description="TSV with columns `index` and `label` (or `name`); null looks beside `image`."
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


class Timing(Section):
    """The clock of the volumes; docs/timing.md has the rules and a figure."""

    dummy_scans: int | None = Field(
        None,
        ge=0,
        description="The first volumes of a run that are never used (they stay on the clock); null takes those that the "
        "confounds call `non_steady_state_outlier`.",
    )
    discarded_volumes: int | None = Field(
        None,
        ge=0,
        description="Volumes of the raw run that are missing at the start of the preprocessed image or series (XCP-D "
        "`--dummy-scans`); null takes what `StartTime`, the sidecar or the raw run's number of volumes say.",
    )
    onset_shift_s: float = Field(
        0.0,
        ge=-600,
        le=600,
        description="Seconds added to the times of all volumes, for events whose zero is not the first stored volume: "
        "positive if the clock of the events started before the first volume.",
    )


class Fmri(Section):
    """The brain side."""

    source: Literal["raw", "fmriprep", "timeseries"] = Field(
        "raw",
        description="What there is: raw BIDS, fMRIPrep outputs, or regional time series (XCP-D, giga_connectome, HDF5).",
    )
    space: str = Field("MNI152NLin2009cAsym", description="Space of the preprocessed images and the atlas.")
    preprocess: Preprocess = Field(default_factory=Preprocess, description="Preprocessing of raw BOLD.")
    atlas: Atlas = Field(default_factory=Atlas, description="The regions.")
    levels: dict[str, str] = Field(
        default_factory=lambda: dict(SCHAEFER_LEVELS),
        description="Brain levels in visual-hierarchy order, each a regular expression on region labels.",
    )
    units: Literal["parcels", "voxels"] = Field("parcels", description="What a level's columns are.")
    clean: Clean = Field(default_factory=Clean, description="Signal cleaning.")
    timing: Timing = Field(default_factory=Timing, description="The clock of the volumes.")

    @field_validator("levels")
    @classmethod
    def _patterns_compile(cls, levels: dict[str, str]) -> dict[str, str]:
        if not levels:
            raise ValueError("name at least one level")
        for level, pattern in levels.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", level):
                raise ValueError(f"level name '{level}' may hold letters, digits and '-' only")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"the pattern of level '{level}' is no regular expression: {error}"
                ) from error
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
