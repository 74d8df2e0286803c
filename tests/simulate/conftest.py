"""Small simulated datasets that the tests of this package read."""

from __future__ import annotations

import pytest

from neuroalign.config.dataset import Simulate
from neuroalign.simulate import PRESETS, DatasetPlan, make_dataset, plan_dataset


@pytest.fixture(scope="session")
def make(made_once):
    """A function: a dataset by name and settings, made once for all test processes."""

    def of(name: str, simulate: Simulate) -> DatasetPlan:
        folder = made_once(name, lambda folder: make_dataset(simulate, folder / "bids"))
        return plan_dataset(simulate, folder / "bids")

    return of


@pytest.fixture(scope="session")
def tiny(make) -> DatasetPlan:
    """The `tiny` preset with two sessions."""
    return make("tiny", PRESETS["tiny"].model_copy(update={"sessions": 2}))


@pytest.fixture(scope="session")
def silent(make) -> DatasetPlan:
    """A noise-free dataset of one subject."""
    changes = {"subjects": 1, "films": 2, "repeats": 1, "noise": 0.0}
    return make("silent", PRESETS["tiny"].model_copy(update=changes))
