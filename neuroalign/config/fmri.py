"""Configuration of the brain side: preprocessing, regions, cleaning, haemodynamics."""

from __future__ import annotations

import re
from typing import Annotated, Literal

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


class Selection(Section):
    """Which units are kept: by how reliably they answer to training clips shown more than once."""

    method: Literal["none", "reliability"] = Field(
        "none",
        description="`none` keeps every unit; `reliability` those that answer alike whenever a training clip is shown again.",
    )
    minimum_r: float | None = Field(
        0.1,
        ge=-1,
        lt=1,
        description="Least reliability: the correlation expected between two presentations; null sets no limit.",
    )
    keep: float | None = Field(
        None,
        gt=0,
        description="At most this share (below 1) or number (from 1) of each level's units, the most reliable ones; "
        "null sets no limit.",
    )

    @model_validator(mode="after")
    def _selects(self):
        if self.keep is not None and self.keep > 1 and self.keep != int(self.keep):
            raise ValueError("keep must be a share below 1 or a whole number of units")
        if self.method == "reliability" and self.minimum_r is None and self.keep is None:
            raise ValueError("selection by reliability needs minimum_r or keep")
        return self


class Fmri(Section):
    """The brain side."""

    source: Literal["raw", "fmriprep", "timeseries"] = Field(
        "raw", description="What there is: raw BIDS, fMRIPrep outputs, or regional time series (XCP-D)."
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
    selection: Selection = Field(default_factory=Selection, description="Which units are kept.")

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
    shift_s: Annotated[float, Field(ge=0, le=15)] | Literal["sweep"] = Field(
        5.0,
        description="The lag of `shift`, in seconds; `sweep` chooses it per brain level and fold on validation clips.",
    )
    sweep_s: tuple[float, float, float] = Field(
        (2.0, 9.0, 0.5), description="First lag, last lag and step of the sweep, in seconds."
    )

    @field_validator("shift_s", mode="before")
    @classmethod
    def _lag_or_sweep(cls, value: object) -> object:
        """One sentence instead of one per member of the union."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 15
        if value != "sweep" and not number:
            raise ValueError("shift_s must be a number of seconds from 0 to 15, or sweep")
        return value

    @model_validator(mode="after")
    def _ordered(self):
        if self.window_s[0] >= self.window_s[1]:
            raise ValueError("window_s must be [first, last] with first < last")
        first, last, step = self.sweep_s
        if not (0 <= first < last <= 20 and step > 0):
            raise ValueError("sweep_s must be [first, last, step] with 0 <= first < last <= 20 and step > 0")
        if (last - first) / step > 100:
            raise ValueError("sweep_s asks for more than 100 lags: take a larger step")
        return self

    @property
    def sweeps(self) -> bool:
        """Whether the lag is chosen on validation clips."""
        return self.method == "shift" and self.shift_s == "sweep"

    @property
    def lags_s(self) -> tuple[float, ...]:
        """The lags of the sweep."""
        first, last, step = self.sweep_s
        return tuple(round(first + i * step, 6) for i in range(int((last - first) / step + 1e-6) + 1))

    @property
    def aligned(self) -> bool:
        """Whether windows are cut with the delay dealt with already."""
        return self.method != "adaptive" and not self.sweeps
