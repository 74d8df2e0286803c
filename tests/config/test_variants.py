"""Ablations and controls: every name has an entry, overrides are of keys that exist, and one that removes nothing is refused."""

from __future__ import annotations

from typing import get_args

import pytest

from neuroalign.config import parse_config
from neuroalign.config.variants import (
    ABLATIONS,
    CONTROLS,
    AblationName,
    ControlName,
    folder_of,
    nothing_removed,
)
from neuroalign.errors import Problems

DEMO = {"dataset": {"simulate": {}}}


def changes(before: dict, after: dict, where: str = "") -> dict:
    """Dotted keys whose values differ."""
    found = {}
    for key, value in before.items():
        if isinstance(value, dict):
            found |= changes(value, after[key], f"{where}{key}.")
        elif value != after[key]:
            found[f"{where}{key}"] = after[key]
    return found


def test_every_name_has_one_entry():
    assert set(ABLATIONS) == set(get_args(AblationName))
    assert set(CONTROLS) == set(get_args(ControlName))
    folders = [folder_of("ablation", n) for n in ABLATIONS] + [folder_of("control", n) for n in CONTROLS]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_says_and_nothing_else(name):
    config = parse_config(DEMO)
    before, variant = config.train.model_dump(mode="json"), ABLATIONS[name]
    changed = changes(before, variant.train(config))
    assert set(changed) == set(variant.override)
    assert changed or variant.pairs or variant.stage == "ntcl"
    assert nothing_removed(name, config) is None
    for key in changed:
        assert key.rpartition(".")[2] in variant.description, "the description names the key"


def test_factors_keep_to_what_is_configured():
    values = {"train": {"ntcl": {"lr": 2e-4, "hrf_lr": 1e-3, "encoder": {"components": 30}}}}
    config = parse_config(DEMO | values | {"fmri": {"levels": {"a": "x", "b": "y"}}})
    assert ABLATIONS["no_hierarchy"].train(config)["ntcl"]["encoder"]["components"] == 60
    started = ABLATIONS["no_linear_start"].train(config)["ntcl"]
    assert (started["lr"], started["hrf_lr"]) == pytest.approx((2e-3, 1e-2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ablations": ["no_time"], "train": {"ntcl": {"terms": {"time": 0}}}}, "without it already"),
        ({"ablations": ["no_adaptation"], "hrf": {"method": "shift"}}, "hrf.method is 'shift'"),
        ({"ablations": ["no_subjects"], "fmri": {"units": "voxels"}}, "map per person"),
        ({"ablations": ["no_surround"], "clips": {"surround_s": 0}}, "no surround is kept"),
        ({"ablations": ["no_tme"]}, "ablations.0"),
        ({"controls": ["shuffle"]}, "controls.0"),
    ],
)
def test_what_removes_nothing_is_refused(values, words):
    with pytest.raises(Problems, match=words):
        parse_config(DEMO | values)


def test_nothing_is_trained_again_by_default():
    config = parse_config(DEMO)
    assert config.ablations == config.controls == []
    assert parse_config(DEMO | {"ablations": None, "controls": None}).ablations == []
