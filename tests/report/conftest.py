"""A synthetic results folder: random but plausible tables in the formats that the stages write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from neuroalign.config import parse_config
from neuroalign.fmri.qc import PLANES, RunQc, write_qc
from neuroalign.io import write_json, write_tsv

SUBJECTS = ("01", "02", "03")
FILMS = ("film-1", "film-2", "film-3", "film-4")
LEVELS = ("early", "intermediate", "high")
MODELS = {
    "neuroalign": 0.16,
    "neuroalign_continuous": 0.14,
    "neuroalign_quantised": 0.09,
    "ridge": 0.10,
    "linear_infonce": 0.12,
}
CHANCE = {"top1": 1 / 40, "top5": 5 / 40, "top10": 10 / 40, "mrr": 0.107, "median_rank": 20.5}


@dataclass
class Made:
    """A synthetic results folder."""

    output: Path
    truth: Path
    config: dict


def metric_rows(
    models: dict[str, float],
    subjects=(*SUBJECTS, "all"),
    *,
    seed: str = "0",
    name: str = "model",
    spread: float = 0.04,
) -> pd.DataFrame:
    """Metric rows in the fixed format; a model's number is its top-1."""
    rows = []
    for model, top1 in models.items():
        for subject in subjects:
            for direction in ("fmri_to_video", "video_to_fmri"):
                for gallery, size, excluded in (("full", 40, 0.0), ("full", 40, 10.0), ("20-way", 20, 0.0)):
                    easier = 40 / size
                    for metric, chance in CHANCE.items():
                        scale = {"top1": 1.0, "top5": 2.6, "top10": 3.6}.get(metric)
                        value = (
                            min(0.98, top1 * scale * easier)
                            if scale
                            else {"mrr": top1 * 1.8}.get(metric, 20.5 - 60 * top1)
                        )
                        value += 0.01 * (direction == "fmri_to_video")
                        rows.append(
                            {
                                name: model,
                                "seed": seed,
                                "subject": subject,
                                "direction": direction,
                                "gallery": gallery,
                                "gallery_size": size,
                                "exclude_s": excluded,
                                "metric": metric,
                                "value": value,
                                "ci_low": max(0.0, value - spread),
                                "ci_high": value + spread,
                                "chance": chance * (easier if scale else 1),
                                "p_value": 0.001 if top1 > 0.05 else 0.5,
                                "n_queries": 120 if subject == "all" else 40,
                            }
                        )
    return pd.DataFrame(rows)


def summary_rows() -> pd.DataFrame:
    """One row per group, direction and metric; the part without L_time is worth 4 points, that without L_pred nothing."""
    groups = {
        "neuroalign": ("model", 0.16, None),
        "neuroalign_continuous": ("part", 0.14, -0.02),
        "neuroalign_without_time": ("ablation", 0.12, -0.04),
        "neuroalign_without_pred": ("ablation", 0.161, 0.001),
        "ridge": ("baseline", 0.10, -0.06),
        "shuffled": ("control", 0.02, None),
        "subject_to_group": ("ceiling", 0.4, None),
    }
    rows = []
    for model, (group, value, gap) in groups.items():
        for direction in ("fmri_to_video", "video_to_fmri"):
            for metric in ("top1", "mrr"):
                row = {
                    "group": group,
                    "model": model,
                    "direction": direction,
                    "metric": metric,
                    "value": value,
                }
                row |= {"chance": 0.025, "clips_low": value - 0.02, "clips_high": value + 0.02, "seeds": 2}
                row |= {
                    "people_low": np.nan,
                    "people_high": np.nan,
                    "seeds_low": value - 0.01,
                    "seeds_high": value + 0.01,
                }
                if gap is not None:
                    row |= {"difference": gap, "difference_low": gap - 0.015, "difference_high": gap + 0.015}
                rows.append(row)
    return pd.DataFrame(rows)


def control_rows() -> pd.DataFrame:
    """Controls that hold, as the evaluator writes them."""
    expected = {"shifted": "chance", "shuffled": "chance", "time_only": "chance", "low_level": "below_model"}
    rows = metric_rows(
        {"shifted": 0.024, "shuffled": 0.026, "time_only": 0.03, "low_level": 0.04}, name="control"
    )
    rows = rows[(rows["gallery"] == "full") & (rows["exclude_s"] == 0)].drop(columns=["seed", "p_value"])
    rows.insert(1, "model", "neuroalign")
    rows.insert(12, "reference", rows["chance"])
    rows.insert(13, "expected", rows["control"].map(expected))
    rows.insert(14, "passed", True)
    return rows


def clip_table(subjects=SUBJECTS) -> pd.DataFrame:
    """Four films of two minutes in two runs, cut every 4 s; the last 40 s of every run are test."""
    rows = []
    for subject in subjects:
        for run, films in (("1", FILMS[:2]), ("2", FILMS[2:])):
            for k, film in enumerate(films):
                for start in np.arange(0.0, 120.0, 4.0):
                    onset = 8 + 124 * k + start
                    split = (
                        "train"
                        if onset < 160
                        else "guard"
                        if onset < 176
                        else "validation"
                        if onset < 204
                        else "test"
                    )
                    rows.append(
                        (
                            f"{film}@{start:g}",
                            film,
                            start,
                            4.0,
                            subject,
                            "",
                            "film",
                            run,
                            onset,
                            split,
                            film,
                            0,
                        )
                    )
    columns = [
        "clip_id",
        "stimulus",
        "start_s",
        "duration_s",
        "subject",
        "session",
        "task",
        "run",
        "onset_s",
        "split",
        "group",
        "repeat",
    ]
    return pd.DataFrame(rows, columns=columns)


def _index(output: Path, clips: pd.DataFrame) -> None:
    runs = clips.drop_duplicates(["subject", "run"])[["subject", "session", "task", "run"]].copy()
    runs.insert(
        0, "run_id", [f"sub-{s}_task-film_run-{r}" for s, r in zip(runs["subject"], runs["run"], strict=True)]
    )
    write_tsv(output / "index" / "runs.tsv", runs.assign(tr=2.0))
    shown = clips.drop_duplicates(["subject", "run", "stimulus"])
    shown = shown[["subject", "session", "task", "run", "stimulus"]].assign(
        onset=8.0, duration=120.0, offset=0.0
    )
    write_tsv(output / "index" / "presentations.tsv", shown)


def write_quality(path: Path, run_id: str, subject: str, *, images: bool, rng: np.random.Generator) -> None:
    """A quality file of 130 volumes; without `images` as a timeseries source leaves it."""
    volumes = 130
    slow = np.cumsum(rng.standard_normal(volumes)) * 0.05
    fd = np.abs(rng.gamma(1.5, 0.08, volumes))
    fd[rng.integers(5, volumes, 3)] += 0.8
    y, x = np.mgrid[-1:1:46j, -1:1:40j]
    head = (x**2 + y**2 < 0.8) * (70 + 15 * rng.standard_normal((46, 40)))
    qc = RunQc(
        carpet=rng.standard_normal((400, volumes)) + slow,
        times=1.0 + 2.0 * np.arange(volumes),
        keep=fd < 0.5 if images else np.ones(volumes, bool),
        tsnr=dict.fromkeys(PLANES, head) if images else {},
        tsnr_median=70.0 if images else np.nan,
        fd=fd if images else None,
        motion=np.cumsum(rng.standard_normal((volumes, 6)) * 0.02, axis=0) if images else None,
        attributes={"run_id": run_id, "subject": subject, "source": "raw" if images else "timeseries"},
    )
    write_qc(path, qc)


def _model(folder: Path, rng: np.random.Generator) -> None:
    for stage, terms in (
        ("ntcl", ("total", "global", "level", "time", "prediction", "mrr", "top1", "top5")),
        ("vq", ("total", "commitment", "agreement", "continuous_mrr", "quantised_mrr")),
    ):
        rows = []
        for epoch in range(1, 31):
            for term in terms:
                score = term.endswith(("mrr", "top1", "top5"))
                for split, gap in (
                    (("validation", 0.35),) if score else (("train", 0.0), ("validation", 0.35))
                ):
                    fall = np.exp(-epoch / 9)
                    value = (
                        0.05 + 0.4 * (1 - fall) - gap * 0.3
                        if term == "mrr"
                        else 1.2 + 3 * fall + gap * epoch / 20
                    )
                    rows.append((epoch, split, term, value + 0.03 * rng.standard_normal()))
        write_tsv(
            folder / stage / "history.tsv", pd.DataFrame(rows, columns=["epoch", "split", "term", "value"])
        )
        write_json(
            folder / stage / "model.json",
            {"best_epoch": 24, "score": {"alpha": 0.5, "beta": 0.3, "near_steps": 1}},
        )
    delays = [
        (s, level, d + 0.2 * rng.standard_normal() * (s != "all"), 1.0)
        for s in ("all", *SUBJECTS)
        for level, d in zip(LEVELS, (4.6, 5.3, 6.1), strict=True)
    ]
    write_tsv(
        folder / "ntcl" / "delays.tsv",
        pd.DataFrame(delays, columns=["subject", "level", "delay_s", "dispersion_s"]),
    )
    usage = [
        (
            epoch,
            level,
            depth,
            60 * (1 - np.exp(-epoch / 8)) - 8 * depth,
            min(1.0, epoch / 12),
            0.35 * (1 - np.exp(-epoch / 10)),
        )
        for epoch in range(1, 31)
        for level in LEVELS
        for depth in (1, 2)
    ]
    columns = ["epoch", "level", "depth", "perplexity", "used_share", "same_code_share"]
    write_tsv(folder / "vq" / "usage.tsv", pd.DataFrame(usage, columns=columns))
    counts = [
        (level, depth, code, modality, int(rng.gamma(1.0, 60)))
        for level in LEVELS
        for depth in (1, 2)
        for code in range(64)
        for modality in ("fmri", "video")
    ]
    write_tsv(
        folder / "vq" / "codes.tsv",
        pd.DataFrame(counts, columns=["level", "depth", "code", "modality", "count"]),
    )


def _rankings(clips: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for subject in SUBJECTS:
        test = list(clips[(clips["subject"] == subject) & (clips["split"] == "test")]["clip_id"])
        for direction in ("fmri_to_video", "video_to_fmri"):
            for clip in test:
                order = list(rng.permutation([c for c in test if c != clip]))
                rank = int(min(len(test), 1 + rng.geometric(0.15)))
                order.insert(rank - 1, clip)
                rows.append(("neuroalign", "0", 0, subject, direction, 0, clip, float(rank), *order[:5]))
    names = [
        "model",
        "seed",
        "fold",
        "subject",
        "direction",
        "clip_row",
        "clip_id",
        "rank",
        *(f"top_{k}" for k in range(1, 6)),
    ]
    return pd.DataFrame(rows, columns=names)


def curve_rows() -> pd.DataFrame:
    """A learning curve as the evaluator writes it: 10 minutes help where content is known."""
    rows = []
    for content, start, gain in (("known", 0.10, 0.05), ("new", 0.05, 0.01)):
        for model in ("neuroalign", "ridge_from_scratch", "cca_from_scratch"):
            for minutes in (0.0, 1.0, 10.0) if model == "neuroalign" else (1.0, 10.0):
                more = gain * minutes / 10 - (0.03 if model != "neuroalign" else 0.0)
                part = metric_rows({model: start + more}, subjects=("02", "all"), spread=0.03)
                part = part[(part["gallery"] == "full") & (part["exclude_s"] == 0)].drop(columns="p_value")
                # The builder tells the directions apart by a point; here both are the plain number.
                top = part["metric"] == "top1"
                part.loc[top, "value"] = start + more
                part = part.assign(
                    content=content, minutes=minutes, gain=more, gain_low=more - 0.03, gain_high=more + 0.03
                )
                rows.append(part.assign(people_low=more - 0.05, people_high=more + 0.05))
    return pd.concat(rows, ignore_index=True)


def make_results(folder: Path, *, models: dict[str, float] = MODELS, images: bool = True) -> Made:
    """Write a whole synthetic results folder."""
    rng = np.random.default_rng(0)
    output, truth = folder / "results", folder / "truth"
    clips = clip_table()
    write_tsv(output / "pairs" / "clips.tsv", clips)
    _index(output, clips)
    for subject in SUBJECTS:
        for run in ("1", "2"):
            name = f"sub-{subject}_task-film_run-{run}"
            write_quality(output / "roi" / f"{name}_qc.h5", name, subject, images=images, rng=rng)
    _model(output / "models" / "seed-0", rng)
    evaluation = output / "evaluation"
    write_tsv(evaluation / "metrics.tsv", metric_rows(models))
    write_tsv(evaluation / "controls.tsv", control_rows())
    write_tsv(evaluation / "summary.tsv", summary_rows())
    write_json(
        evaluation / "scores/ridge/seed-0.json",
        {
            "name": "ridge",
            "seed": 0,
            "alpha": 3.2,
            "lags_s": [3.0, 4.5],
            "options": 22,
            "chosen_by": "the stars",
        },
    )
    ceilings = metric_rows({"repeat_to_repeat": 0.3, "subject_to_group": 0.4}, name="ceiling").drop(
        columns="seed"
    )
    write_tsv(evaluation / "ceilings.tsv", ceilings)
    write_tsv(evaluation / "learning_curve.tsv", curve_rows())
    differences = metric_rows(
        {"ridge": 0.06, "linear_infonce": 0.03, "neuroalign_continuous": -0.01}, name="model_b"
    )
    differences.insert(0, "model_a", "neuroalign")
    differences = differences.rename(columns={"value": "difference"}).drop(
        columns=["seed", "gallery_size", "chance"]
    )
    differences["ci_low"] = differences["difference"] - 0.04
    write_tsv(evaluation / "comparisons.tsv", differences)
    write_tsv(evaluation / "rankings.tsv", _rankings(clips, rng))
    true = [(s, level, d) for s in SUBJECTS for level, d in zip(LEVELS, (4.5, 5.5, 6.3), strict=True)]
    write_tsv(truth / "delays.tsv", pd.DataFrame(true, columns=["subject", "level", "delay_s"]))
    return Made(output, truth, parse_config({"dataset": {"simulate": {}}, "output_dir": "results"}).plain())


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    """A complete results folder without video; read only."""
    return make_results(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The builders of the synthetic tables."""
    return SimpleNamespace(
        metric_rows=metric_rows, control_rows=control_rows, clip_table=clip_table, write_quality=write_quality
    )
