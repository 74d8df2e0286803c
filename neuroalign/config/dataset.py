"""Configuration of the data set: where it is, or how to make one."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from neuroalign.config._section import Section, UserPath


def _as_list(value):
    # A single label is a list of one. A number that YAML made of a label (`subject: 01`) stays one: whether it was
    # written in octal (`010` is read as 8) is only seen beside the labels that there are.
    if value is None:
        return None
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v if type(v) is int else str(v) for v in values]


def _empty_is_none(value):
    return [] if value is None else value


Labels = Annotated[list[str | int] | None, BeforeValidator(_as_list)]


class Simulate(Section):
    """The demo dataset: a raw BIDS dataset made on the spot, with known ground truth."""

    subjects: int = Field(3, ge=1, description="Number of simulated people.")
    sessions: int = Field(
        2, ge=1, description="Sessions of the first subject; the others have one, so layouts differ."
    )
    films: int = Field(8, ge=2, description="Number of different films (stimulus files).")
    film_s: float = Field(90.0, ge=20, description="Length of each film in seconds.")
    films_per_run: int = Field(2, ge=1, description="Films shown one after the other in a run.")
    repeats: int = Field(
        2, ge=1, description="How often the films of the last run are shown: repeats give the noise ceiling."
    )
    tr_s: float = Field(2.0, gt=0.2, le=10, description="Repetition time in seconds.")
    voxel_mm: float = Field(4.0, gt=0.8, le=12, description="Edge of the BOLD voxels in mm.")
    noise: float = Field(
        1.0,
        ge=0,
        description="Noise relative to published 3 T data (see docs/simulation.md); 0 is noise-free.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything random in the dataset.")


class Filters(Section):
    """Which part of the dataset is used; null takes everything."""

    subject: Labels = Field(None, description="Subject labels, with or without `sub-`.")
    session: Labels = Field(None, description="Session labels.")
    task: Labels = Field(None, description="Task labels.")
    run: Labels = Field(None, description="Run indices; `1` and `01` are the same run.")
    bids_filter_file: UserPath | None = Field(
        None,
        description="BIDS filter file (JSON) in fMRIPrep's form; its queries `bold` and `t1w` choose among the images.",
    )


class Presentation(Section):
    """A film that was shown in runs whose events tables do not tell."""

    stimulus: str = Field(description="File of the stimulus, relative to the stimuli folder.")
    onset: float = Field(
        0.0,
        description="Seconds from the first volume to the first frame shown (a lead-in makes it positive).",
    )
    duration: float | None = Field(
        None, gt=0, description="Seconds it was shown; null is to the end of the stimulus."
    )
    offset: float = Field(0.0, ge=0, description="Seconds into the stimulus at which it began.")
    subject: Labels = Field(None, description="Subjects that saw it; null is all.")
    session: Labels = Field(None, description="Sessions it was shown in; null is all.")
    task: Labels = Field(None, description="Tasks it was shown in; null is all but rest.")
    run: Labels = Field(None, description="Runs it was shown in; null is all.")
    replace_events: bool = Field(
        False, description="Also where the events table of a run names stimuli: the table is then not used."
    )


class Dataset(Section):
    """Where the data are."""

    simulate: Simulate | None = Field(
        None, description="Make this demo dataset at `bids_dir` first; absent or null for real data."
    )
    bids_dir: UserPath = Field("results/demo/bids", description="Root of the BIDS dataset; only ever read.")
    derivatives: UserPath | None = Field(
        None, description="Root of the fMRIPrep or XCP-D outputs, when `fmri.source` is not `raw`."
    )
    stimuli_dir: UserPath | None = Field(
        None, description="Folder of the stimulus files; null is `<bids_dir>/stimuli`."
    )
    filters: Filters = Field(default_factory=Filters, description="Which part of the dataset is used.")
    presentations: Annotated[list[Presentation], BeforeValidator(_empty_is_none)] = Field(
        default_factory=list,
        description="What was shown in runs without events that tell; a list of entries with these keys.",
    )
