"""The whole configuration, and how it is read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from neuroalign.config._section import Section, UserPath
from neuroalign.config.adapt import Adapt
from neuroalign.config.dataset import Dataset
from neuroalign.config.evaluate import BaselineName, Evaluate, Report
from neuroalign.config.fmri import Fmri, Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.config.text import Text
from neuroalign.config.train import Train
from neuroalign.config.variants import AblationName, ControlName, nothing_removed
from neuroalign.config.video import Video
from neuroalign.errors import Problems, UserError, nearest


def _empty_is_none(value):
    return [] if value is None else value


class Config(Section):
    """Everything that can be configured."""

    output_dir: UserPath = Field("results", description="Folder of everything the workflow writes.")
    dataset: Dataset = Field(default_factory=Dataset, description="The data set.")
    fmri: Fmri = Field(default_factory=Fmri, description="Brain side.")
    video: Video = Field(default_factory=Video, description="Video side.")
    text: Text = Field(default_factory=Text, description="Text, the third modality: off by default.")
    clips: Clips = Field(default_factory=Clips, description="Which seconds of the stimuli are clips.")
    hrf: Hrf = Field(default_factory=Hrf, description="How brain time meets video time.")
    split: Split = Field(default_factory=Split, description="Train, validation and test.")
    train: Train = Field(default_factory=Train, description="Model and training.")
    baselines: Annotated[list[BaselineName], BeforeValidator(_empty_is_none)] = Field(
        default_factory=lambda: ["ridge", "linear_infonce"],
        description="Other methods evaluated on the same pairs; `pooled_*` share one model over subjects.",
    )
    adapt: Adapt = Field(default_factory=Adapt, description="Adaptation to unseen people.")
    ablations: Annotated[list[AblationName], BeforeValidator(_empty_is_none)] = Field(
        default_factory=list,
        description="Parts of the model to train it without, each a model of its own in every table; every one trains both stages "
        "again, or stage 2 where the part belongs to it (docs/baselines.md).",
    )
    controls: Annotated[list[ControlName], BeforeValidator(_empty_is_none)] = Field(
        default_factory=list,
        description="Controls for which the whole model is trained again: on `shuffled` pairs, on brain series `shifted` in time, on "
        "clip `time_only` in place of the brain. Off by default because of what they cost; the same controls with ridge always run.",
    )
    evaluate: Evaluate = Field(default_factory=Evaluate, description="Retrieval evaluation.")
    report: Report = Field(default_factory=Report, description="The HTML report.")

    @model_validator(mode="after")
    def _sections_agree(self):
        if self.dataset.simulate and self.fmri.source != "raw":
            raise ValueError(
                "dataset.simulate makes raw data: set fmri.source to raw, or dataset.simulate to null"
            )
        if self.fmri.source != "raw" and not self.dataset.derivatives:
            raise ValueError(
                f"fmri.source is '{self.fmri.source}': set dataset.derivatives to the folder of its outputs"
            )
        if self.video.backbone == "precomputed" and not self.video.precomputed_dir:
            raise ValueError(
                "video.backbone is 'precomputed': set video.precomputed_dir to the folder of feature files"
            )
        if self.text.source == "tsv" and not self.text.captions_dir:
            raise ValueError(
                "text.source is 'tsv': set text.captions_dir to the folder of <stimulus>.tsv files"
            )
        if self.text.source != "none" and self.text.window_s * self.video.fps < 1 - 1e-6:
            raise ValueError(
                f"text.window_s {self.text.window_s:g} is shorter than one frame at video.fps {self.video.fps:g}; "
                "make the window longer or the rate higher"
            )
        if self.dataset.simulate and (self.dataset.filters.bids_filter_file or self.dataset.presentations):
            raise ValueError(
                "dataset.filters.bids_filter_file and dataset.presentations are for real data: remove them, or set "
                "dataset.simulate to null"
            )
        for name in self.ablations:
            if reason := nothing_removed(name, self):
                raise ValueError(f"ablations: '{name}' has nothing to remove here ({reason}); take it out")
        alone = [name for name in self.baselines if not name.startswith("pooled_")]
        if self.split.unseen_people and alone:
            raise ValueError(
                f"baselines: {', '.join(alone)} learn from one person and cannot be tested on unseen people; "
                "use pooled_* ones with a split by subject"
            )
        if (
            self.fmri.source != "timeseries"
            and not (self.fmri.atlas.name or self.fmri.atlas.image)
            and not self.dataset.simulate
        ):
            raise ValueError("set fmri.atlas.image (or fmri.atlas.name) to the atlas that names the regions")
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as plain, JSON-like values with every default filled in."""
        return self.model_dump(mode="json")


def load_config(path: str | os.PathLike) -> Config:
    """Read a YAML configuration file.

    Raises
    ------
    UserError
        If the file is missing or unreadable, is no YAML mapping, or has wrong keys or values (`Problems`).
    """
    return parse_config(read_values(path))


def read_values(path: str | os.PathLike) -> dict[str, Any]:
    """The values that a YAML configuration file gives, unchecked and without defaults.

    Raises
    ------
    UserError
        If the file is missing or unreadable, or is no YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"The configuration file {path} does not exist; name it with --config.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"The configuration file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines.")
    return content or {}


def parse_config(values: Mapping[str, Any]) -> Config:
    """Validate a mapping of configuration values.

    Raises
    ------
    Problems
        Naming every unknown key (with the nearest valid one) and every wrong value.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise Problems(_sentence(item) for item in error.errors()) from None


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, with a description and default for every key."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "NeuroAlign configuration"
    return schema


def _sentence(item: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence that names the key in dotted form."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        return f"Config: unknown key '{key}'{nearest(location[-1], _keys_beside(location))}"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return f"Config: {message}."
    if isinstance(item["input"], (str, int, float, bool, type(None))):
        return f"Config: '{key}' is {item['input']!r}: {message}."
    return f"Config: '{key}': {message}."


def _keys_beside(location: list[str]) -> list[str]:
    """Valid keys of the section that holds the last part of `location`."""
    section: type[BaseModel] | None = Config
    for part in location[:-1]:
        if part.isdigit():
            # The place in a list of sections.
            continue
        field = section.model_fields.get(part) if section else None
        section = section_type(field.annotation) if field else None
    return list(section.model_fields) if section else []


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one (``Simulate | None`` holds `Simulate`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None or isinstance(annotation, Union.__class__):
        return next((s for s in map(section_type, get_args(annotation)) if s), None)
    return None
