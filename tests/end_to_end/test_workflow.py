"""The whole workflow on a tiny simulated dataset: run, rerun, edit, delete, use the model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neuroalign.evaluation.scores import read_scores
from neuroalign.io import read_json, read_tsv
from neuroalign.pairs.store import read_pairs
from neuroalign.plan import make_plan

pytestmark = pytest.mark.slow

CONFIG = {
    "output_dir": "results",
    "dataset": {
        "simulate": {"subjects": 2, "films": 3, "film_s": 36, "films_per_run": 3, "voxel_mm": 6},
        "bids_dir": "results/demo/bids",
    },
    "fmri": {"clean": {"motion": "basic"}},
    "video": {"motion_energy": {"size": 48}, "height": 96},
    "clips": {"strategy": "fixed", "duration_s": 4, "stride_s": 4},
    "split": {"by": "stimulus", "hold_out": {"stimulus": ["film-03"]}, "guard_s": 12},
    "train": {"ntcl": {"epochs": 3}, "vq": {"epochs": 2}},
    "baselines": ["ridge"],
    "evaluate": {"galleries": ["full", 5], "draws": 100, "permutations": 19, "bootstrap": 100, "block_s": 8},
}


class Workflow:
    """A folder with a configuration, and the commands a user types in it."""

    def __init__(self, root: Path, folder: Path, command: Callable):
        self.root, self.folder, self.command = root, folder, command
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        self.configure(CONFIG)

    def configure(self, config: dict) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def call(self, *arguments: str) -> subprocess.CompletedProcess:
        """A command of a new interpreter."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.call("-m", "neuroalign", "run", "--config", "config.yaml", "--cores", "2", *arguments)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """The command that `neuroalign run` goes on with."""
        options = ["--snakefile", self.root / "Snakefile", "--configfile", "config.yaml", "--cores", "2"]
        return self.command("snakemake", *options, *arguments, cwd=self.folder, env=self.environment)

    def planned(self) -> set[str]:
        """Rules that a dry run would execute."""
        result = self.snakemake("-n")
        text = result.stdout + result.stderr
        assert result.returncode == 0, text
        return set(re.findall(r"^(?:local)?rule (\w+):", text, flags=re.MULTILINE)) - {"all"}


@pytest.fixture(scope="module")
def workflow(root, command, tmp_path_factory) -> Workflow:
    flow = Workflow(root, tmp_path_factory.mktemp("a folder (1)"), command)
    result = flow.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "report/index.html" in result.stdout
    return flow


@pytest.fixture
def results(workflow) -> Path:
    return workflow.folder / "results"


def test_the_dataset_holds_what_was_planned_and_no_rule_wrote_into_it(workflow, monkeypatch):
    monkeypatch.chdir(workflow.folder)
    plan = make_plan(CONFIG)
    found = {path for path in Path("results/demo/bids").rglob("*") if path.is_file()}
    assert found == {Path(path) for path in plan.dataset_files}
    written = max((workflow.folder / path).stat().st_mtime for path in found)
    assert written < (workflow.folder / "results/pairs/clips.tsv").stat().st_mtime


def test_every_row_of_the_metrics_has_its_chance_and_interval(results):
    table = read_tsv(results / "evaluation" / "metrics.tsv", text=("subject",))
    assert list(table.columns) == [
        *("model", "seed", "subject", "direction", "gallery", "gallery_size", "exclude_s", "metric", "value"),
        *("ci_low", "ci_high", "chance", "p_value", "n_queries"),
    ]
    assert set(table["model"]) == {"neuroalign", "neuroalign_continuous", "neuroalign_quantised", "ridge"}
    assert set(table["direction"]) == {"fmri_to_video", "video_to_fmri"}
    assert set(table["subject"]) == {"01", "02", "all"}
    full = table[table["metric"].isin(["top1", "top5", "mrr"])]
    assert full["chance"].between(0, 1).all()
    assert (full["ci_low"] <= full["value"] + 1e-9).all()
    assert (full["value"] <= full["ci_high"] + 1e-9).all()


def test_brain_and_film_are_paired_in_time_on_both_sides_of_the_split(results):
    pairs = read_pairs(results / "pairs")
    assert set(pairs.clips["split"]) >= {"train", "validation", "test"}
    assert set(pairs.clips.loc[pairs.clips["split"] == "test", "stimulus"]) == {"film-03"}
    presentations = read_tsv(results / "index" / "presentations.tsv", text=("subject", "run"))
    first = pairs.clips[pairs.clips["start_s"] == 0].iloc[0]
    same = presentations[
        (presentations["subject"] == first["subject"]) & (presentations["stimulus"] == first["stimulus"])
    ]
    assert np.isclose(same["onset"], first["onset_s"]).any()


def test_the_report_is_one_file_that_needs_nothing_else(results):
    class Links(HTMLParser):
        def __init__(self):
            super().__init__()
            self.links: list[str] = []

        def handle_starttag(self, tag, attrs):
            wanted = {"img": "src", "script": "src", "link": "href"}.get(tag)
            self.links += [value for name, value in attrs if name == wanted and value]

    parser = Links()
    parser.feed((results / "report" / "index.html").read_text())
    assert len(parser.links) >= 8
    assert all(link.startswith("data:") for link in parser.links)


def test_every_run_and_stimulus_has_a_page_that_a_copied_report_leads_to(results, tmp_path):
    runs = {path.name.removesuffix("_qc.h5") for path in (results / "roi").glob("*_qc.h5")}
    pages = {path.stem for path in (results / "quality").glob("*.html")}
    assert pages == runs
    for folder in ("report", "quality"):
        shutil.copytree(results / folder, tmp_path / folder)
    html = (tmp_path / "report" / "index.html").read_text()
    links = re.findall(r'href="(\.\./quality/[^"]+)"', html)
    stimuli = {path.stem for path in (results / "stimuli").glob("*.mp4")}
    assert {Path(link).stem for link in links} == runs | stimuli
    assert all((tmp_path / "report" / link).is_file() for link in links)


def test_a_second_run_does_nothing(workflow):
    assert "Nothing to be done" in (result := workflow.run()).stderr + result.stdout


def test_editing_a_key_reruns_the_stages_that_read_it(workflow):
    try:
        workflow.configure(CONFIG | {"evaluate": CONFIG["evaluate"] | {"draws": 50}})
        assert workflow.planned() == {"evaluate", "report"}
        workflow.configure(CONFIG | {"hrf": {"method": "shift"}})
        from_pairs = {
            "pair",
            "train_ntcl",
            "train_vq",
            "score",
            "contribution",
            "baseline",
            "evaluate",
            "report",
        }
        assert workflow.planned() == from_pairs
        # Which units are kept is decided when clips are paired: no image is read again.
        workflow.configure(CONFIG | {"fmri": CONFIG["fmri"] | {"selection": {"minimum_r": 0.2}}})
        assert workflow.planned() == from_pairs
        # What is done to the BOLD leaves the films and their pages alone.
        workflow.configure(CONFIG | {"fmri": CONFIG["fmri"] | {"clean": {"high_pass_hz": 0.02}}})
        planned = workflow.planned()
        assert {"extract", "run_quality"} <= planned
        assert not planned & {"normalise", "embed", "stimulus_quality"}
        workflow.configure(CONFIG | {"train": CONFIG["train"] | {"vq": {"epochs": 1}}})
        assert workflow.planned() == {"train_vq", "score", "contribution", "evaluate", "report"}
    finally:
        workflow.configure(CONFIG)
    assert not workflow.planned()


def test_deleting_an_intermediate_file_rebuilds_it_and_what_follows(workflow, results):
    path = results / "embeddings" / "motion_energy" / "film-01.h5"
    content = path.read_bytes()
    path.unlink()
    planned = workflow.planned()
    assert "embed" in planned
    assert not planned & {"simulate", "normalise", "preprocess", "preprocess_anatomy", "extract"}
    result = workflow.snakemake("--until", "embed")
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == content


def test_the_loaded_model_scores_as_the_workflow_did(results, monkeypatch):
    import neuroalign
    from neuroalign.fmri.series import read_series
    from neuroalign.video.shards import read_embedding

    model = neuroalign.load(results / "models" / "seed-0")
    clips = read_tsv(results / "pairs" / "clips.tsv", text=("subject", "session", "run"))
    scores = read_scores(results / "evaluation" / "scores" / "neuroalign" / "seed-0.h5")["02"]
    rows = clips.iloc[scores.clip_rows]
    run = rows["run"].iloc[0]
    here = (rows["run"] == run).to_numpy()
    series = read_series(next((results / "roi").glob(f"sub-02*_run-{run}_timeseries.h5")))
    starts = [float(re.search(r"@([\d.]+)\+", clip).group(1)) for clip in scores.gallery]
    film = read_embedding(results / "embeddings" / "motion_energy" / "film-03.h5")
    found = model.score(
        model.embed_fmri(series, "02", rows["onset_s"].to_numpy()[here]),
        model.embed_video(film, np.array(starts)),
    )
    np.testing.assert_allclose(found, scores.parts["fused"][here], atol=1e-4)


def test_retrieval_in_both_directions(workflow, results):
    run = next((results / "roi").glob("sub-01*_timeseries.h5"))
    model, films = ["--model", "results/models/seed-0"], "results/embeddings/motion_energy"
    for query in (
        ["--fmri", str(run), "--gallery", films],
        ["--video", f"{films}/film-03.h5", "--gallery", "results/roi"],
    ):
        result = workflow.call(
            "-m", "neuroalign", "retrieve", *model, *query, "--top", "3", "--output", "found.tsv"
        )
        assert result.returncode == 0, result.stderr
        table = pd.read_csv(workflow.folder / "found.tsv", sep="\t")
        assert (table.groupby("query_s")["rank"].apply(list).map(len) == 3).all()
        assert table.groupby("query_s")["score"].apply(lambda s: s.is_monotonic_decreasing).all()


def test_the_readme_is_true(workflow, root):
    code = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)
    assert code
    for snippet in code:
        # The README speaks of the demo's films; this dataset has fewer.
        snippet = snippet.replace("film-07", "film-03")
        result = workflow.call("-c", snippet)
        assert result.returncode == 0, result.stderr


def test_outputs_say_what_made_them(workflow, results):
    for path in ("roi/*_timeseries.h5", "embeddings/*/film-01.h5", "evaluation/scores/neuroalign/seed-0.h5"):
        result = workflow.command("neuroalign", "info", next(results.glob(path)), cwd=workflow.folder)
        assert "made by neuroalign" in result.stdout, path
    assert (
        read_json(results / "models" / "seed-0" / "vq" / "model.json")["provenance"]["generated_by"]["name"]
        == "neuroalign"
    )


def test_a_damaged_image_is_one_sentence_and_leaves_nothing(workflow, results):
    """Last, because it damages the dataset: a truncated image ends its job with a sentence, and no output."""
    image = next((results / "demo" / "bids").rglob("sub-02*_run-1_bold.nii.gz"))
    done = next((results / "preproc").rglob("sub-02*_run-1*desc-preproc_bold.nii.gz"))
    image.write_bytes(image.read_bytes()[:20000])
    done.unlink()
    result = workflow.snakemake("--until", "preprocess", "--allowed-rules", "preprocess")
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert image.name in text
    assert "Traceback" not in text
    assert not done.exists()
    assert not list((results / "preproc").rglob(".partial*"))
