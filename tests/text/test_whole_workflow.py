"""A whole workflow with captions: run, look at what it wrote, change text, switch it off."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from neuroalign.evaluation.scores import read_scores
from neuroalign.io import read_json, read_tsv
from neuroalign.pairs.store import read_pairs

pytestmark = pytest.mark.slow
WORDS = ["dog", "cat", "man", "woman", "street", "grass", "red", "blue"]


def write_captions(folder: Path, features: Path) -> None:
    """A caption every 5 s that tells the signs of three features; none in the fourth minute."""
    folder.mkdir()
    for path in sorted(features.glob("*.h5")):
        with h5py.File(path) as file:
            signs = file["features"][::5, :3] > 0
        rows = [
            f"{5 * k}\t5\t{WORDS[int(code @ [1, 2, 4])]}" for k, code in enumerate(signs) if not 36 <= k < 48
        ]
        (folder / f"{path.stem}.tsv").write_text("onset\tduration\tcaption\n" + "\n".join(rows) + "\n")


def write_features(folder: Path, source: Path) -> None:
    """Features on the times of others, not convolved: the captions are not either."""
    folder.mkdir()
    for number, path in enumerate(sorted(source.glob("*.h5"))):
        with h5py.File(path) as given, h5py.File(folder / path.name, "w") as file:
            file["times"] = given["times"][()]
            rng = np.random.default_rng(number)
            file["features"] = rng.standard_normal((len(given["times"]), 12)).astype(np.float32)


class Flow:
    """A folder with a configuration, and the commands a user types in it."""

    def __init__(self, root: Path, folder: Path, command: Callable, config: dict):
        self.root, self.folder, self.command, self.config = root, folder, command, config

    def run(self, *arguments: str, **changes) -> str:
        """Run with changes to sections of the configuration; what was printed."""
        config = self.config | {k: self.config.get(k, {}) | v for k, v in changes.items()}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
        options = ["--snakefile", self.root / "Snakefile", "--configfile", "config.yaml", "--cores", "2"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        done = self.command("snakemake", *options, *arguments, cwd=self.folder, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, **changes) -> set[str]:
        """Rules that a dry run would execute."""
        found = re.findall(r"^(?:local)?rule (\w+):", self.run("-n", **changes), flags=re.MULTILINE)
        return set(found) - {"all"}


@pytest.fixture(scope="module")
def flow(root, command, shared_data, sentence_folder, tmp_path_factory) -> Flow:
    folder, movie = tmp_path_factory.mktemp("flow"), shared_data / "movie_fmri"
    write_features(folder / "features", movie / "features")
    write_captions(folder / "captions", folder / "features")
    encoder = {"dim": 16, "depth": 1, "heads": 2, "components": 20}
    config = {
        "output_dir": "results",
        "dataset": {
            "bids_dir": str(movie),
            "derivatives": str(movie / "derivatives/xcp_d"),
            "filters": {"subject": ["001"]},
        },
        "fmri": {
            "source": "timeseries",
            "space": "MNI152NLin2009cAsym",
            "atlas": {"name": "Schaefer200"},
            "levels": {"early": "_(Vis|SomMot)_", "high": "_(Limbic|Cont|Default)_"},
        },
        "video": {"backbone": "precomputed", "precomputed_dir": str(folder / "features")},
        "text": {
            "source": "tsv",
            "captions_dir": str(folder / "captions"),
            "embedding": {"weights": str(sentence_folder)},
        },
        "clips": {"strategy": "fixed", "duration_s": 10, "stride_s": 10, "step_s": 2},
        "hrf": {"method": "none"},
        "split": {"hold_out": {"task": ["documentary"]}, "validation": 0.15},
        "train": {"ntcl": {"epochs": 1, "encoder": encoder}, "vq": {"epochs": 1, "codes": 16, "code_dim": 8}},
        "baselines": [],
        "evaluate": {"galleries": ["full"], "exclude_s": [0], "permutations": 19, "bootstrap": 100},
    }
    made = Flow(root, folder, command, config)
    made.run()
    return made


def test_captions_reach_the_tables_and_the_report(flow):
    results = flow.folder / "results"
    video = read_pairs(results / "pairs").video
    assert video.text.shape[2] == 24
    share = read_json(results / "pairs/summary.json")["captioned_steps"]
    assert share == pytest.approx(video.has_text.mean())
    assert 0.9 < share < 1
    provenance = read_json(results / "pairs/summary.json")["made_by"]
    assert any(name.startswith("captions/") for name in provenance["inputs"])
    metrics = read_tsv(results / "evaluation/metrics.tsv", text=("model",))
    parts = {"neuroalign", *(f"neuroalign_{p}" for p in ("continuous", "quantised", "video_only", "text"))}
    assert set(metrics["model"]) == parts
    assert set(metrics["direction"]) == {"fmri_to_video", "video_to_fmri"}
    compared = read_tsv(results / "evaluation/comparisons.tsv", text=("model_b",))
    assert "neuroalign_video_only" in set(compared["model_b"])
    weight = read_json(results / "models/seed-0/vq/model.json")["score"]["text"]
    for item in read_scores(results / "evaluation/scores/neuroalign/seed-0.h5").values():
        assert (weight == 0) == np.array_equal(item.parts["fused"], item.parts["video_only"])
    page = (results / "report/index.html").read_text()
    assert "captions alone reach" in page
    assert "NeuroAlign without captions" in page
    assert flow.planned() == set()


def test_what_is_rerun_when_text_changes(flow):
    after_pairs = {"pair", "train_ntcl", "train_vq", "score", "contribution", "evaluate", "report"}
    assert flow.planned(text={"window_s": 2.0}) == {"caption", "stimulus_quality", *after_pairs}
    assert flow.planned(train={"text": {"fmri_text": 1.0, "video_text": 0.25}}) == after_pairs - {"pair"}
    off = flow.planned(text={"source": "none"})
    assert off == {"stimulus_quality", *after_pairs}


def test_switched_off_it_leaves_nothing_behind(flow):
    flow.run(text={"source": "none"})
    results = flow.folder / "results"
    assert read_pairs(results / "pairs").video.text is None
    metrics = read_tsv(results / "evaluation/metrics.tsv", text=("model",))
    assert set(metrics["model"]) == {"neuroalign", "neuroalign_continuous", "neuroalign_quantised"}
    assert "text" not in read_json(results / "models/seed-0/vq/model.json")["score"]
    assert "captions alone" not in (results / "report/index.html").read_text()
