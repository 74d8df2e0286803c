"""Ablations and retrained controls in the graph: what is trained anew, what is shared, and that nothing else changes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from neuroalign.plan import make_plan

_SPEC = importlib.util.spec_from_file_location("dag", Path(__file__).with_name("test_dag.py"))
_DAG = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_DAG)

# The same fixture as there.
dry_run = _DAG.dry_run


@pytest.fixture
def demo(tmp_path) -> dict:
    return {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"simulate": {}, "bids_dir": str(tmp_path / "demo/bids")},
        "train": {"seeds": [0, 1]},
    }


@pytest.mark.slow
def test_stage_1_is_trained_again_only_where_it_changes(dry_run, demo):
    before = _DAG.jobs(dry_run(demo))
    demo["ablations"] = ["no_time", "no_vq", "no_dynamic", "no_hierarchy"]
    demo["controls"] = ["shuffled"]
    after = _DAG.jobs(dry_run(demo))
    added = after - before
    # Two seeds each. Stage 1: no_time, no_hierarchy, shuffled; stage 2: these and no_dynamic; scores: all five.
    assert {rule: n for rule, n in added.items() if rule != "total"} == {
        "vary_ntcl": 6,
        "vary_vq": 8,
        "vary_score": 10,
    }
    assert not before - after


def test_files_of_variants(demo):
    demo["ablations"], demo["controls"] = ["no_time", "no_vq", "no_depth"], ["time_only"]
    plan = make_plan(demo)
    out = demo["output_dir"]
    assert plan.stage_1("without_depth", "seed-1", "model.json") == f"{out}/models/seed-1/ntcl/model.json"
    assert plan.stage_1("without_time", "seed-1", "x") == f"{out}/models/without_time/seed-1/ntcl/x"
    assert plan.scored_model("without_vq", "seed-0", "x") == f"{out}/models/seed-0/ntcl/x"
    assert plan.scored_model("without_depth", "seed-0", "x") == f"{out}/models/without_depth/seed-0/vq/x"
    scores = f"{out}/evaluation/scores"
    assert f"{scores}/neuroalign_without_time/seed-0.h5" in plan.score_files
    assert plan.control_score_files == [f"{scores}/neuroalign_control_time_only/seed-{s}.h5" for s in (0, 1)]
    assert not set(plan.control_score_files) & set(plan.score_files), "controls are no competitors"
    assert {*plan.score_files, *plan.control_score_files} <= set(plan.intermediate_files)
    assert plan.model_files == make_plan({k: demo[k] for k in ("output_dir", "dataset", "train")}).model_files


def test_a_variant_is_given_the_model_s_configuration_with_its_override(demo):
    demo["ablations"] = ["no_time"]
    demo["train"] |= {"ntcl": {"soften_s": 1.5}}
    plan = make_plan(demo)
    own = plan.section("train", but=("seeds", "vq", *plan.unused_training))
    varied = plan.variant_section("without_time", "vq")
    assert varied.keys() == own.keys()
    assert varied["ntcl"]["terms"].pop("time") == 0
    own["ntcl"]["terms"] = {k: v for k, v in own["ntcl"]["terms"].items() if k != "time"}
    assert varied == own
