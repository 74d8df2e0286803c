"""Weights in the workflow: a step of their own where they are needed, and what depends on them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def project(tmp_path) -> dict:
    """A configuration with one film and a run without content."""
    root = tmp_path / "bids"
    for folder in ("sub-01/func", "sub-01/anat", "stimuli"):
        (root / folder).mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "task-film_bold.json").write_text('{"RepetitionTime": 2.0}')
    (root / "sub-01/anat/sub-01_T1w.nii.gz").touch()
    (root / "sub-01/func/sub-01_task-film_bold.nii.gz").touch()
    (root / "sub-01/func/sub-01_task-film_events.tsv").write_text(
        "onset\tduration\tstim_file\n0\t2\tfilm.mp4\n"
    )
    (root / "stimuli/film.mp4").touch()
    return {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"bids_dir": str(root)},
        "fmri": {"atlas": {"image": "atlas-X_space-MNI152NLin2009cAsym_dseg.nii.gz"}},
    }


@pytest.fixture
def snakemake(root, command, tmp_path):
    """A function: run Snakemake on a configuration; what it printed."""

    def run(config: dict, *arguments: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        options = ["--snakefile", root / "Snakefile", "--configfile", path, "--cores", "2"]
        done = command("snakemake", *options, *arguments, cwd=tmp_path)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        return text

    return run


def rules(text: str) -> set[str]:
    """Rules of which a dry run would run jobs."""
    lines = text.splitlines()
    if not any(line.startswith("job ") for line in lines):
        return set()
    start = next(i for i, line in enumerate(lines) if line.startswith("job ")) + 2
    table = lines[start : lines.index("", start)]
    return {line.split()[0] for line in table} - {"total"}


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ({"backbone": "motion_energy"}, set()),
        ({"backbone": "dinov2"}, {"weights"}),
        ({"backbone": "vjepa2", "revision": "main"}, {"weights"}),
    ],
)
def test_only_backbones_with_weights_have_the_step(snakemake, project, video, expected):
    project["video"] = video
    embedding = f"{project['output_dir']}/embeddings/{video['backbone']}/film.h5"
    found = rules(snakemake(project, "-n", embedding))
    assert found == {"normalise", "embed"} | expected


@pytest.fixture
def resnet(tmp_path) -> Path:
    """A folder with a tiny ResNet."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1])
    ResNetModel(config).save_pretrained(tmp_path / "resnet")
    content = {"size": 56, "crop_pct": 0.875, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "resnet/preprocessor_config.json").write_text(json.dumps(content))
    return tmp_path / "resnet"


def test_weights_fetched_by_hand_are_not_fetched_again(snakemake, command, tmp_path, project, resnet):
    project["video"] = {"backbone": "resnet101", "weights": str(resnet)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(project))
    done = command("neuroalign", "weights", "--config", tmp_path / "config.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    embedding = f"{project['output_dir']}/embeddings/resnet101/film.h5"
    assert rules(snakemake(project, "-n", embedding)) == {"normalise", "embed"}


def test_a_folder_of_another_model_is_refused_before_anything_runs(snakemake, project, resnet):
    project["video"] = {"backbone": "clip", "weights": str(resnet)}
    with pytest.raises(AssertionError, match="are of a resnet model, and this backbone needs clip or"):
        snakemake(project, "-n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "before", "changes"),
    [
        (
            "resnet101",
            {"precomputed_dir": "one"},
            [({"motion_energy": {"size": 48}}, False), ({"precomputed_dir": "two"}, False)],
        ),
        (
            "motion_energy",
            {"device": "auto"},
            [({"motion_energy": {"size": 48}}, True), ({"device": "cpu"}, False)],
        ),
    ],
)
def test_only_keys_that_a_backbone_reads_embed_again(snakemake, project, resnet, backbone, before, changes):
    from imageio_ffmpeg import get_ffmpeg_exe

    film = Path(project["dataset"]["bids_dir"]) / "stimuli/film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=2", "-pix_fmt", "yuv420p"]
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, str(film)], check=True)
    common = {"backbone": backbone, "height": 64}
    common |= {"weights": str(resnet), "device": "cpu"} if backbone == "resnet101" else {}
    project["video"] = common | before
    target = f"{project['output_dir']}/embeddings/{backbone}/film.h5"
    snakemake(project, target)
    for after, reruns in changes:
        project["video"] = common | before | after
        assert rules(snakemake(project, "-n", target)) == ({"embed"} if reruns else set()), after


@pytest.mark.slow
def test_from_a_film_to_features_and_what_reruns(snakemake, project, resnet):
    from imageio_ffmpeg import get_ffmpeg_exe

    from neuroalign.video.shards import read_embedding

    film = Path(project["dataset"]["bids_dir"]) / "stimuli/film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=2", "-pix_fmt", "yuv420p"]
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, str(film)], check=True)
    project["video"] = {"backbone": "resnet101", "weights": str(resnet), "device": "cpu", "height": 64}
    out = Path(project["output_dir"])
    target = str(out / "embeddings/resnet101/film.h5")
    snakemake(project, target)
    record = json.loads((out / "weights/backbone/weights.json").read_text())
    assert record["folder"] == str(resnet)
    first = read_embedding(target).attributes["revision"]
    assert first.startswith(f"{resnet}@sha256:")
    # Nothing to do; nor if the files are touched.
    assert rules(snakemake(project, "-n", target)) == set()
    for file in resnet.iterdir():
        file.touch()
    assert rules(snakemake(project, "-n", target)) == set()
    # Other preprocessing, other features.
    content = json.loads((resnet / "preprocessor_config.json").read_text())
    (resnet / "preprocessor_config.json").write_text(json.dumps({**content, "size": 49}))
    text = snakemake(project, "-n", target)
    assert rules(text) == {"weights", "embed"}
    snakemake(project, target)
    assert read_embedding(target).attributes["revision"] != first
    # What to do with damage is nothing to a film that is whole.
    project["video"]["on_damage"] = "truncate"
    assert rules(snakemake(project, "-n", target)) == set()
    # The hub id of weights is a change of the step's params, and of nothing before it.
    project["video"]["weights"] = "lab/other"
    assert rules(snakemake(project, "-n", target)) == {"weights", "embed"}
    # Without weights, no step and no record.
    project["video"] = {"backbone": "motion_energy", "height": 64, "motion_energy": {"size": 32}}
    snakemake(project, str(out / "embeddings/motion_energy/film.h5"))
    assert read_embedding(out / "embeddings/motion_energy/film.h5").attributes["backbone"] == "motion_energy"
