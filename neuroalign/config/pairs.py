"""Configuration of clips and splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from neuroalign.config._section import Section
from neuroalign.config.dataset import _as_list

ENTITIES = ("subject", "session", "task", "run", "stimulus")


class Clips(Section):
    """Which seconds of the stimuli are clips."""

    strategy: Literal["events", "fixed"] = Field(
        "events", description="`events`: one clip per presentation; `fixed`: films are cut on a grid."
    )
    duration_s: float = Field(
        4.0, gt=0, description="Length of a clip in seconds (the longest, for `events`)."
    )
    stride_s: float = Field(4.0, gt=0, description="Seconds between clip starts (`fixed`).")
    step_s: float = Field(1.0, gt=0, description="Length of a clip step: the time resolution of the model.")
    surround_s: float = Field(
        20.0,
        ge=0,
        description="Seconds of the film before and after a clip whose mean features are kept beside it, so that the model can "
        "see films relative to their surround, as high-passed brain series do; never more than split.guard_s. 0: none.",
    )

    @model_validator(mode="after")
    def _steps_fit(self):
        if self.step_s > self.duration_s:
            raise ValueError("step_s must not be longer than duration_s")
        return self


class Split(Section):
    """What the model is trained, chosen and tested on; never shuffled clips."""

    by: Literal["run", "stimulus", "time", "subject"] = Field(
        "run", description="The unit that is held out; runs that share content stay together."
    )
    validation: float = Field(
        0.15, gt=0, lt=0.8, description="Share of the content used to choose the model."
    )
    test: float = Field(0.2, gt=0, lt=0.8, description="Share of the content used once, to report.")
    folds: int = Field(1, ge=1, description="k > 1: cross-validation over k contiguous parts.")
    guard_s: float = Field(
        20.0, ge=0, description="Seconds left unused at every border between parts (HRF, autocorrelation)."
    )
    hold_out: dict[str, list[str]] | None = Field(
        None, description="Test set by entity, e.g. `{task: [sitcomep2]}`; the rest is train and validation."
    )
    new_content: dict[str, list[str]] | None = Field(
        None,
        description="With people held out (`by: subject`): content that nobody is trained on either, by entity, e.g. "
        "`{task: [documentary]}`, so that new people are tested on known and on new films (docs/subjects.md).",
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of parts.")

    @field_validator("hold_out", "new_content", mode="before")
    @classmethod
    def _known_entities(cls, value, info):
        if value is None:
            return None
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{info.field_name} is a mapping such as {{task: [sitcomep2]}}")
        for entity in value:
            if entity not in ENTITIES:
                raise ValueError(f"{info.field_name} knows {', '.join(ENTITIES)}, not '{entity}'")
        return {entity: _as_list(labels) for entity, labels in value.items()}

    @model_validator(mode="after")
    def _leaves_training(self):
        if self.validation + self.test >= 0.95:
            raise ValueError("validation and test together leave nothing to train on")
        if self.new_content and not self.unseen_people:
            raise ValueError("new_content is for splits by subject; otherwise name what is new in hold_out")
        if self.new_content and "subject" in self.new_content:
            raise ValueError("new_content names content; hold people out with hold_out or split.by")
        if self.folds == 1:
            return self
        if self.hold_out:
            raise ValueError("folds and hold_out exclude each other")
        return self

    @property
    def unseen_people(self) -> bool:
        """Whether the test set is people whom the model has never seen."""
        return self.by == "subject" or set(self.hold_out or ()) == {"subject"}
