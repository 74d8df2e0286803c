"""Training as the workflow runs it: the real rules on tiny pairs, killed, taken up, and in two processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors import safe_open

from neuroalign.config.train import Train
from neuroalign.io import write_json, write_tsv
from neuroalign.pairs.store import write_brain, write_video

# The rules of training with a stand-in for the plan and for the stages before.
SNAKEFILE = """
import shutil
from types import SimpleNamespace
CONFIG = {{"train": config["train"]}}
PLAN = SimpleNamespace(
    train_gpus=0, unused_training=("text",),
    section=lambda name, but: {{k: v for k, v in sorted(config[name].items()) if k not in but}},
)
OUT = "out"
def source_files(*modules):
    return []
rule pair:
    output: "out/pairs/clips.tsv"
    shell: "cp -r {pairs} out"
include: "{root}/workflow/rules/train.smk"
"""


@pytest.fixture
def folder(tmp_path, root) -> Path:
    """A folder with a Snakefile, its configuration, and pairs to be copied."""
    source = root / "tests" / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("synthetic_pairs_of_a_job", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pairs, made = (
        module.make_pairs(clips=(20, 8, 4), subjects=2, units=(6, 5, 7)),
        tmp_path / "made" / "pairs",
    )
    write_tsv(made / "clips.tsv", pairs.clips)
    write_video(made / "video.h5", pairs.video)
    for subject, windows in pairs.brain.items():
        write_brain(made / f"sub-{subject}.h5", windows)
    geometry = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}
    write_json(made / "summary.json", {"geometry": geometry})
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=root, pairs=made))
    return tmp_path


def snakemake(folder: Path, target: str, **ntcl) -> subprocess.Popen:
    encoder = {"dim": 8, "depth": 1, "heads": 2, "subject_rank": 2, "linear_start": False}
    processes = ntcl.pop("processes", 1)
    train = Train(
        device="cpu",
        processes=processes,
        ntcl={"encoder": encoder, "batch_size": 20, "epochs": 2, "patience": 10**6} | ntcl,
        vq={"codes": 8, "code_dim": 8, "depth": 1, "epochs": 1},
    )
    (folder / "config.json").write_text(yaml.safe_dump({"train": train.model_dump(mode="json")}))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--rerun-incomplete", "--resources", "gpu=0", "--", target],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_both_stages_in_two_processes_through_the_rules(folder):
    job = snakemake(folder, "out/models/seed-0/vq/model.safetensors", processes=2)
    said, _ = job.communicate(timeout=900)
    assert job.returncode == 0, said
    for stage in ("ntcl", "vq"):
        history = pd.read_csv(folder / "out" / "models" / "seed-0" / stage / "history.tsv", sep="\t")
        assert history["epoch"].max() == (2 if stage == "ntcl" else 1)
        log = (folder / "out" / "logs" / f"train_{stage}" / "seed-0.log").read_text()
        assert "validation" in log
        assert "Traceback" not in log
    with safe_open(folder / "out" / "models" / "seed-0" / "vq" / "model.safetensors", "np") as file:
        assert any("codebooks" in name for name in file.keys())  # noqa: SIM118


@pytest.mark.slow
def test_the_checkpoint_outlives_a_killed_workflow_and_is_taken_up(folder):
    stage = folder / "out" / "models" / "seed-0" / "ntcl"
    checkpoint, target = stage / "checkpoint.safetensors", "out/models/seed-0/ntcl/model.safetensors"
    job = snakemake(folder, target, epochs=100_000)
    end = time.monotonic() + 600
    while not checkpoint.exists() and time.monotonic() < end and job.poll() is None:
        time.sleep(0.2)
    assert job.poll() is None, job.communicate()[0]
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    assert checkpoint.exists(), "a checkpoint was written while the job ran"
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--unlock", "--configfile", "config.json"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    before = checkpoint.stat().st_mtime_ns
    again = snakemake(folder, target, epochs=100_000)
    log = folder / "out" / "logs" / "train_ntcl" / "seed-0.log"
    while time.monotonic() < end and again.poll() is None:
        if checkpoint.stat().st_mtime_ns != before:
            break
        time.sleep(0.2)
    assert again.poll() is None, again.communicate()[0]
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate()
    assert "taken up after epoch" in log.read_text()
