"""Configuration of the brain side: preprocessing, regions, cleaning, haemodynamics."""

from __future__ import annotations

import re
import shlex
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


class Fmriprep(Section):
    """fMRIPrep as the engine (only when `fmri.preprocess.engine` is `fmriprep`)."""

    container: str = Field(
        "docker://nipreps/fmriprep:25.2.5",
        description="Image of fMRIPrep 21 or later, or a local `.sif`, used with `--sdm apptainer`; without that option the "
        "command `fmriprep` of the machine is used.",
    )
    resolution: str | None = Field(
        None,
        description="TemplateFlow's `res` of the output grid, such as `2`; null keeps the resolution of the BOLD.",
    )
    fs_license: str | None = Field(
        None, description="FreeSurfer's license file; null looks where `FS_LICENSE` and FreeSurfer have it."
    )
    fs_reconall: bool = Field(
        False, description="Reconstruct cortical surfaces with FreeSurfer: hours more for every person."
    )
    skip_bids_validation: bool = Field(False, description="Do not let fMRIPrep validate the dataset first.")
    options: str = Field(
        "", description="Further options of the command line, such as `--use-syn-sdc warn --dummy-scans 4`."
    )
    work_dir: str | None = Field(
        None,
        description="Existing folder for intermediate files (tens of GB per person, removed on success); null is "
        "`<output_dir>/scratch/fmriprep`.",
    )
    threads: int = Field(8, ge=1, description="Threads of the job of one person.")
    mem_mb: int = Field(16000, ge=4000, description="Memory of the job of one person, in MB.")

    @field_validator("container")
    @classmethod
    def _container_is_one_word(cls, container: str) -> str:
        if not container or any(character.isspace() for character in container):
            raise ValueError("give an image such as docker://nipreps/fmriprep:25.2.5, without spaces")
        return container

    @field_validator("resolution", mode="before")
    @classmethod
    def _resolution_is_a_label(cls, resolution):
        # YAML reads `resolution: 2` as a number, and `02` as 2; the label is text.
        label = str(resolution) if isinstance(resolution, int) else resolution
        if isinstance(label, str) and not re.fullmatch(r"[A-Za-z0-9]+", label):
            raise ValueError("give TemplateFlow's label of the resolution: letters and digits, such as 2")
        if label == "native":
            raise ValueError("null keeps the resolution of the BOLD")
        return label

    @field_validator("options")
    @classmethod
    def _options_are_further_ones(cls, options: str) -> str:
        try:
            words = shlex.split(options)
        except ValueError as error:
            raise ValueError(f"the quotes do not match ({error})") from error
        taken = sorted({word.split("=", 1)[0] for word in words} & set(_FMRIPREP_TAKEN))
        if taken:
            raise ValueError(f"{taken[0]} is set by NeuroAlign: {_FMRIPREP_TAKEN[taken[0]]}")
        return options


# Options of fMRIPrep that decide what the workflow plans with, and what sets them.
_FMRIPREP_TAKEN = {
    **dict.fromkeys(("--output-spaces",), "set fmri.space and fmri.preprocess.fmriprep.resolution"),
    **dict.fromkeys(("--participant-label", "--participant_label"), "set dataset.filters.subject"),
    **dict.fromkeys(("-t", "--task-id"), "set dataset.filters.task"),
    **dict.fromkeys(("--session-label",), "set dataset.filters.session"),
    **dict.fromkeys(("--bids-filter-file",), "set dataset.filters"),
    **dict.fromkeys(("-w", "--work-dir"), "set fmri.preprocess.fmriprep.work_dir"),
    **dict.fromkeys(
        ("--nprocs", "--nthreads", "--n-cpus", "--n_cpus"), "set fmri.preprocess.fmriprep.threads"
    ),
    **dict.fromkeys(("--omp-nthreads",), "set fmri.preprocess.fmriprep.threads"),
    **dict.fromkeys(("--mem", "--mem-mb", "--mem_mb"), "set fmri.preprocess.fmriprep.mem_mb"),
    **dict.fromkeys(("--fs-license-file",), "set fmri.preprocess.fmriprep.fs_license"),
    **dict.fromkeys(("--fs-no-reconall",), "set fmri.preprocess.fmriprep.fs_reconall"),
    **dict.fromkeys(
        ("--output-layout", "--anat-only", "--level"), "its outputs are the full ones of one layout"
    ),
}


class Preprocess(Section):
    """How raw BOLD becomes preprocessed BOLD (only when `fmri.source` is `raw`)."""

    engine: Literal["native", "fmriprep"] = Field(
        "native",
        description="`native` is our own realignment with ANTs; `fmriprep` runs fMRIPrep, in its container or as installed.",
    )
    fmriprep: Fmriprep = Field(default_factory=Fmriprep, description="fMRIPrep as the engine.")
    slice_timing: bool = Field(
        True, description="Correct slice timing where the sidecar gives `SliceTiming` (native engine)."
    )
    template: str | None = Field(
        None,
        description="Brain-extracted T1w template image of `fmri.space`; null is nilearn's MNI template.",
    )
    resolution_mm: float | None = Field(
        None,
        gt=0.5,
        description="Voxel size of the output grid in mm (native engine); null keeps that of the BOLD.",
    )


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
