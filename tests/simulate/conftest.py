"""A tiny simulated dataset shared by the tests of this package."""

from __future__ import annotations

import pytest

from neuroalign.simulate import PRESETS, DatasetPlan, make_dataset


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> DatasetPlan:
    """The `tiny` preset with two sessions, made once."""
    simulate = PRESETS["tiny"].model_copy(update={"sessions": 2})
    return make_dataset(simulate, tmp_path_factory.mktemp("tiny") / "bids")


@pytest.fixture(scope="session")
def silent(tmp_path_factory) -> DatasetPlan:
    """A noise-free dataset of one subject."""
    simulate = PRESETS["tiny"].model_copy(update={"subjects": 1, "films": 2, "repeats": 1, "noise": 0.0})
    return make_dataset(simulate, tmp_path_factory.mktemp("silent") / "bids")
