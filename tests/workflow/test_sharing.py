"""Films and their features shared between workflows through Snakemake's cache, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
import yaml

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.plan_video import embed_needs, shared_rules
from neuroalign.video.shards import read_embedding

COMMIT = "d0a4bd4d9ad3f8ae2d2b8b1c2d2d9d4a3f6e6a5b"


def test_without_the_option_nothing_is_shared():
    assert shared_rules(Video(), None) == set()


@pytest.mark.parametrize("asked", [[], ["embed"], ["normalise", "embed"]])
def test_rules_on_stimuli_may_be_shared(asked):
    assert shared_rules(Video(), asked) == {"normalise", "embed"}


@pytest.mark.parametrize("rule", ["extract", "pair", "preprocess", "train_ntcl"])
def test_nothing_of_a_subject_may_be_shared(rule):
    with pytest.raises(UserError, match=f"'{rule}'"):
        shared_rules(Video(), ["embed", rule])


@pytest.mark.parametrize("weights", [None, "microsoft/resnet-101"])
def test_embeddings_of_a_network_are_shared_with_a_commit(weights):
    pinned = Video(backbone="resnet101", weights=weights, revision=COMMIT)
    assert shared_rules(pinned, ["embed"]) == {"normalise", "embed"}


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "refs/pr/3", COMMIT[:12], COMMIT + "0"])
def test_embeddings_are_not_shared_where_the_weights_may_change(revision):
    loose = Video(backbone="resnet101", weights="microsoft/resnet-101", revision=revision)
    assert shared_rules(loose, []) == {"normalise"}
    with pytest.raises(UserError, match=r"video\.revision"):
        shared_rules(loose, ["embed"])


def test_embeddings_of_weights_in_a_folder_are_not_shared(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (str(tmp_path / "mine"), "~/mine"):
        video = Video(backbone="resnet101", weights=folder, revision=COMMIT)
        assert shared_rules(video, []) == {"normalise"}


def test_what_a_job_asks_for_suits_its_backbone():
    light, card, slow = (
        embed_needs(Video(), 0),
        embed_needs(Video(backbone="resnet101"), 1),
        embed_needs(Video(backbone="resnet101"), 0),
    )
    assert light["mem_mb"] <= 1500 < card["mem_mb"] == slow["mem_mb"]
    assert light["threads"] < card["threads"] == slow["threads"]
    assert card["runtime"] < slow["runtime"]


class Workflow:
    """A dataset of one film in a folder of its own, embedded with a shared cache."""

    def __init__(self, root: Path, command: Callable, folder: Path, film: Path, cache: Path, **video):
        self.root, self.command, self.folder, self.cache = root, command, folder, cache
        bids = folder / "bids"
        for name in ("sub-01/func", "sub-01/anat", "stimuli"):
            (bids / name).mkdir(parents=True)
        (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
        (bids / "task-film_bold.json").write_text('{"RepetitionTime": 2.0}')
        (bids / "sub-01/anat/sub-01_T1w.nii.gz").touch()
        (bids / "sub-01/func/sub-01_task-film_bold.nii.gz").touch()
        (bids / "sub-01/func/sub-01_task-film_events.tsv").write_text(
            "onset\tduration\tstim_file\n0\t8\tone.mp4\n"
        )
        shutil.copy(film, bids / "stimuli/one.mp4")
        config = {
            "output_dir": str(folder / "out"),
            "dataset": {"bids_dir": str(bids)},
            "fmri": {"atlas": {"image": "atlas-X_space-MNI152NLin2009cAsym_dseg.nii.gz"}},
            "video": {"height": 64, "motion_energy": {"size": 32}} | video,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self.embedding = folder / "out/embeddings/motion_energy/one.h5"

    def snakemake(self, *arguments: str) -> str:
        options = ["--snakefile", self.root / "Snakefile", "--configfile", "config.yaml", "--cores", "1"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        environment |= {"SNAKEMAKE_OUTPUT_CACHE": str(self.cache)}
        result = self.command("snakemake", *options, *arguments, cwd=self.folder, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def embed(self, *arguments: str) -> str:
        return self.snakemake(str(self.embedding), *arguments)

    @property
    def computed(self) -> set[str]:
        """Rules whose script ran: it writes into its log."""
        logs = (self.folder / "out/logs").glob("*/one.log")
        return {path.parent.name for path in logs if path.stat().st_size}


def _film(path: Path, seconds: int) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
    subprocess.run([*command, f"testsrc2=s=64x48:r=8:d={seconds}", str(path)], check=True)
    return path


@pytest.mark.slow
def test_a_second_workflow_takes_films_and_features_from_the_cache(root, command, tmp_path):
    film, other = _film(tmp_path / "film.mp4", 8), _film(tmp_path / "other.mp4", 9)
    cache = tmp_path / "cache"
    cache.mkdir()

    def workflow(name, film=film, **video):
        (tmp_path / name).mkdir()
        return Workflow(root, command, tmp_path / name, film, cache, **video)

    first = workflow("first")
    first.embed("--cache", "normalise", "embed")
    assert first.computed == {"normalise", "embed"}
    # The film with its record, and its features.
    assert len(list(cache.iterdir())) == 3
    assert first.embedding.resolve().parent == cache
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in cache.iterdir())

    second = workflow("second")
    second.embed("--cache")
    assert second.computed == set()
    assert second.embedding.read_bytes() == first.embedding.read_bytes()
    assert len(list(cache.iterdir())) == 3
    assert "Nothing to be done" in second.embed("-n")

    wider = workflow("wider", window_s=2)
    wider.embed("--cache")
    assert wider.computed == {"embed"}
    assert read_embedding(wider.embedding).attributes["window_s"] == 2
    assert read_embedding(first.embedding).attributes["window_s"] == 1

    longer = workflow("longer", other)
    longer.embed("--cache")
    assert longer.computed == {"normalise", "embed"}
    assert len(read_embedding(longer.embedding).times) == 9

    alone = workflow("alone")
    alone.embed()
    assert alone.computed == {"normalise", "embed"}
    assert not alone.embedding.is_symlink()
    assert alone.embedding.read_bytes() == first.embedding.read_bytes()


def test_a_rule_on_subjects_is_refused_before_anything_runs(root, command, tmp_path):
    film = _film(tmp_path / "film.mp4", 1)
    (tmp_path / "one").mkdir()
    flow = Workflow(root, command, tmp_path / "one", film, tmp_path / "cache")
    with pytest.raises(AssertionError, match=r"neuroalign: --cache cannot share .* 'extract'"):
        flow.embed("-n", "--cache", "extract")
