"""Configuration of the adaptation to unseen people and its learning curve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neuroalign.config._section import Section


class Adapt(Section):
    """Adaptation of a trained model to people it has never seen, with a split by subject (docs/subjects.md)."""

    minutes: list[Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: [0, 1, 2, 5, 10, 20],
        description="Points of the learning curve: minutes of an unseen person that the model is adapted on. Points that leave "
        "less than `test` of the person's time are left out; an empty list makes no curve.",
    )
    test: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Share of an unseen person's time, the last of it, kept for the test at least.",
    )
    prior_minutes: float = Field(
        100.0,
        gt=0,
        description="The shared brain map counts as much as so many minutes of the person's own data, unless cross-validation inside "
        "the minutes is clearly better with another value.",
    )
