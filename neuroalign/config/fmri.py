"""Configuration of the brain side: preprocessing, regions, cleaning, haemodynamics."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from neuroalign.config._section import Section, UserPath
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


def _as_label(value):
    # YAML reads `resolution: 2` as a number, and `02` as 2; the label is text.
    label = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(label, str) and not re.fullmatch(r"[A-Za-z0-9]+", label.removeprefix("res-")):
        raise ValueError("give TemplateFlow's label of the resolution: letters and digits, such as 2")
    return label.removeprefix("res-") if isinstance(label, str) else label


class Fmriprep(Section):
    """fMRIPrep as the engine (only when `fmri.preprocess.engine` is `fmriprep`)."""

    container: str = Field(
        "docker://nipreps/fmriprep:25.2.5",
        description="Image of fMRIPrep 21 or later, or a local `.sif`, used with `--sdm apptainer`; without that option the "
        "command `fmriprep` of the machine is used.",
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
    **dict.fromkeys(("--output-spaces",), "set fmri.space and fmri.resolution"),
    **dict.fromkeys(("--participant-label", "--participant_label"), "set dataset.filters.subject"),
    **dict.fromkeys(("-t", "--task-id"), "set dataset.filters.task"),
    **dict.fromkeys(("--session-label",), "set dataset.filters.session"),
    **dict.fromkeys(("--bids-filter-file",), "set dataset.filters"),
    **dict.fromkeys(("--echo-idx",), "all echoes are combined"),
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
    template: UserPath | None = Field(
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
        None,
        description="Atlas fetched by nilearn (e.g. `schaefer_2018_200`; docs/atlases.md lists them), or a name to record.",
    )
    image: UserPath | None = Field(None, description="Label image (NIfTI) in `fmri.space`; wins over `name`.")
    labels: UserPath | None = Field(
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
    resolution: Annotated[str | None, BeforeValidator(_as_label)] = Field(
        None,
        description="TemplateFlow's `res-` label of fMRIPrep's images, such as `2`: which to use where there are several (null "
        "takes those without a label, then `native`, then the first), or which the engine `fmriprep` makes (null keeps "
        "the resolution of the BOLD).",
    )
    preprocess: Preprocess = Field(default_factory=Preprocess, description="Preprocessing of raw BOLD.")
    atlas: Atlas = Field(default_factory=Atlas, description="The regions.")
    levels: Levels = Field(
        default_factory=SCHAEFER.patterns,
        description="Brain levels in visual-hierarchy order, each a regular expression on region labels; or the name of "
        "a table for a published atlas (docs/atlases.md): " + ", ".join(f"`{name}`" for name in TABLES) + ".",
    )
    units: Literal["parcels", "voxels"] = Field("parcels", description="What a level's columns are.")
    clean: Clean = Field(default_factory=Clean, description="Signal cleaning.")
    selection: Selection = Field(default_factory=Selection, description="Which units are kept.")
    timing: Timing = Field(default_factory=Timing, description="The clock of the volumes.")

    @model_validator(mode="after")
    def _resolution_can_be_made(self):
        if self.source == "raw" and self.preprocess.engine == "fmriprep" and self.resolution == "native":
            raise ValueError(
                "resolution: null keeps the resolution of the BOLD; fMRIPrep makes no res-native"
            )
        return self

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
