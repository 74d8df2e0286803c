"""The plan of the workflow, read from real dry runs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import yaml


@pytest.fixture
def dry_run(root, command, tmp_path):
    """A function: a dry run of a configuration."""

    def run(config: dict, *arguments: str) -> subprocess.CompletedProcess:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        options = ["--snakefile", root / "Snakefile", "--configfile", path, "--cores", "2", "-n"]
        return command("snakemake", *options, *arguments, cwd=tmp_path)

    return run


def jobs(result: subprocess.CompletedProcess) -> Counter:
    """Jobs by rule, from the table that Snakemake prints."""
    assert result.returncode == 0, result.stdout + result.stderr
    lines = (result.stdout + result.stderr).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("job ") and "count" in line)
    table = Counter()
    for line in lines[start + 2 :]:
        if not line.strip():
            break
        rule, count = line.split()[:2]
        table[rule] = int(count)
    return table


@pytest.fixture
def demo(tmp_path) -> dict:
    return {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"simulate": {}, "bids_dir": str(tmp_path / "demo/bids")},
    }


def test_a_dry_run_of_the_demo_shows_every_job(dry_run, demo):
    demo["baselines"] = ["ridge", "pooled_cca"]
    demo["train"] = {"seeds": [0, 1]}
    table = jobs(dry_run(demo))
    # 3 subjects, the first in two sessions with a T1w each or one; 5 runs each; 8 films; 2 seeds.
    assert table["preprocess"] == table["extract"] == table["run_quality"] == 15
    assert table["normalise"] == table["embed"] == table["stimulus_quality"] == 8
    assert "stimuli_overview" not in table
    assert table["train_ntcl"] == table["train_vq"] == table["score"] == 2
    # Of the first seed alone.
    assert table["contribution"] == 1
    assert table["template_outline"] == table["region_map"] == 1
    assert table["baseline"] == 4
    assert table["simulate"] == table["index"] == table["pair"] == table["evaluate"] == table["report"] == 1
    assert table["preprocess_anatomy"] >= 3


def test_folds_are_branches_of_the_graph(dry_run, demo):
    demo["split"] = {"by": "run", "folds": 3}
    demo["baselines"] = ["ridge"]
    table = jobs(dry_run(demo))
    assert table["train_ntcl"] == table["baseline"] == 3
    assert table["pair"] == table["evaluate"] == 1


def test_people_that_are_held_out_have_a_learning_curve(dry_run, demo):
    demo["split"] = {"by": "subject", "folds": 3}
    demo["baselines"] = ["pooled_ridge"]
    table = jobs(dry_run(demo))
    assert table["adapt"] == table["train_vq"] == 3
    assert table["learning_curve"] == 1
    demo["adapt"] = {"minutes": []}
    assert not {"adapt", "learning_curve"} & set(jobs(dry_run(demo)))


def test_the_curves_of_a_sweep_are_an_output(dry_run, demo):
    demo["hrf"] = {"method": "shift", "shift_s": "sweep"}
    demo["fmri"] = {"units": "voxels", "selection": {"method": "reliability"}}
    result = dry_run(demo)
    assert jobs(result)["pair"] == 1
    assert "pairs/lag_sweep.tsv" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trian": {"seeds": [0]}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"dataset": {"bids_dir": "nowhere"}, "fmri": {"atlas": {"name": "x"}}}, "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_no_traceback(dry_run, demo, change, words):
    result = dry_run(demo | change)
    assert result.returncode != 0
    assert words in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_real_time_series_need_no_preprocessing_and_no_video(dry_run, root, tmp_path, shared_data):
    config = yaml.safe_load((root / "config" / "examples" / "timeseries.yaml").read_text())
    config["output_dir"] = str(tmp_path / "out")
    config["dataset"] |= {
        "bids_dir": str(shared_data / "movie_fmri"),
        "derivatives": str(shared_data / "movie_fmri" / "derivatives" / "xcp_d"),
    }
    config["video"]["precomputed_dir"] = str(shared_data / "movie_fmri" / "features")
    table = jobs(dry_run(config))
    assert table["extract"] == table["run_quality"] == 28
    # Regions of series that others made are drawn as bars: there is no image of the atlas.
    assert table["contribution"] == 1
    assert "region_map" not in table
    # The two films are described by their features alone.
    assert table["stimulus_quality"] == 2
    assert not {"simulate", "preprocess", "preprocess_anatomy", "normalise", "embed"} & set(table)


def test_many_stimuli_have_a_page_that_shows_them_all(dry_run, demo):
    demo["dataset"]["simulate"] = {"subjects": 1, "films": 26}
    table = jobs(dry_run(demo))
    assert table["stimulus_quality"] == 26
    assert table["stimuli_overview"] == 1


def test_pages_of_stimuli_read_nothing_of_the_brain(demo):
    """Neither its files nor its code: what is done to the BOLD redraws none of them."""
    from neuroalign.modules import source_files
    from neuroalign.plan import make_plan

    plan = make_plan(demo)
    read = set(plan.look_inputs("film-01").values())
    out = demo["output_dir"]
    assert read == {
        f"{out}/{name}"
        for name in ("stimuli/film-01.mp4", "stimuli/film-01.json", "embeddings/motion_energy/film-01.h5")
    }
    code = source_files("neuroalign.report.stimulus_page", "neuroalign.report.stimuli_overview")
    assert not [
        file for file in code if any(part in file for part in ("/fmri/", "/bids/", "/pairs/", "/models/"))
    ]


def test_environments_agree_with_the_tested_set(root):
    pins = {line.strip() for line in (root / "requirements.txt").read_text().splitlines() if "==" in line}
    for path in (root / "envs").glob("*.yaml"):
        environment = yaml.safe_load(path.read_text())
        pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
        assert set(pip) <= pins, path.name


def test_every_rule_has_a_log_and_an_environment(root):
    for path in (root / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        for body in text.split("\nrule ")[1:]:
            assert "log:" in body, (path.name, body.split(":")[0])
            assert "conda:" in body or "container:" in body, (path.name, body.split(":")[0])


def test_what_a_stage_reads_is_what_it_is_given(root, tmp_path, demo, monkeypatch):
    """Stage 2 keeps the stage-1 objective: a term switched off there must be off here too."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    from neuroalign.plan import make_plan

    demo["train"] = {"ntcl": {"terms": {"level": 0}, "soften_s": 0}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(demo))
    monkeypatch.chdir(tmp_path)
    # Parsing the workflow quotes the interpreter's path and extends the search path: both are put back.
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with SnakemakeApi(OutputSettings()) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[path]),
            snakefile=root / "Snakefile",
        )
        workflow.dag()
        rules = {rule.name: rule for rule in workflow._workflow.rules}
    given = rules["train_vq"].params.train
    assert given["ntcl"]["terms"]["level"] == 0
    assert given["ntcl"]["soften_s"] == 0
    assert "vq" not in rules["train_ntcl"].params.train
    # Without text its weights are of no effect, and changing them changes nothing.
    assert "text" not in given
    assert "text" not in rules["train_ntcl"].params.train
    assert make_plan(demo).unused_training == ("text",)
    assert make_plan(demo | {"text": {"source": "blip2"}}).unused_training == ()
    # Units are chosen when they are paired: no image is read again for another choice.
    assert "selection" not in rules["extract"].params.fmri
    assert rules["pair"].params.selection == {"method": "none", "minimum_r": 0.1, "keep": None}
    assert not rules["pair"].output.sweep


def test_filters_of_the_command_line_reach_the_workflow_and_plain_snakemake(dry_run, tmp_path, demo):
    """`neuroalign run` writes the configuration that it runs with: snakemake goes on with that file."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(demo))
    command = [sys.executable, "-m", "neuroalign", "run", "--config", str(path), "-n", "--cores", "2"]
    filters = ["--participant-label", "sub-02", "03"]
    result = subprocess.run([*command, *filters], cwd=tmp_path, capture_output=True, text=True, check=False)
    table = jobs(result)
    assert table["extract"] == table["preprocess"] == 10
    written = tmp_path / "out/config_with_filters.yaml"
    config = yaml.safe_load(written.read_text())
    assert config["dataset"]["filters"] == {"subject": ["sub-02", "03"]}
    assert jobs(dry_run(config)) == table


def test_a_filter_file_in_the_configuration_is_enough(dry_run, root, tmp_path, shared_data):
    config = yaml.safe_load((root / "config" / "examples" / "timeseries.yaml").read_text())
    config["output_dir"] = str(tmp_path / "out")
    (tmp_path / "filter.json").write_text('{"bold": {"task": "sitcomep1", "suffix": "bold"}}')
    config["dataset"] |= {
        "bids_dir": str(shared_data / "movie_fmri"),
        "derivatives": str(shared_data / "movie_fmri" / "derivatives" / "xcp_d"),
        "filters": {"bids_filter_file": str(tmp_path / "filter.json")},
    }
    config["split"] = {"by": "time"}
    config["video"]["precomputed_dir"] = str(shared_data / "movie_fmri" / "features")
    assert jobs(dry_run(config))["extract"] == 14
