"""The base of every configuration section: typed, closed to unknown keys, described key by key."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

# A path of the user's, in which `~` stands for the home folder.
UserPath = Annotated[str, AfterValidator(os.path.expanduser)]


class Section(BaseModel):
    """One section of the configuration; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
