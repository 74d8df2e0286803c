"""NeuroAlign and every baseline in the hard simulated setting, beside what an ideal observer reaches.

    python benchmarks/hard_simulation.py [--seeds 5] [--ablations] [--out FOLDER]

Every seed is a world of its own: other films, people, noise, and another training seed. Data take the way of real ones (`index`,
`extract`, `pair` of the workflow, on files), all models learn from the same pairs, and the package's evaluator judges all of them, the ideal
observer (`neuroalign.simulate.observer`) included. Intervals are 95 % t-intervals over seeds, so they hold everything that differs between
seeds; those of differences are paired. The last table sets learned delays beside true ones.

    python benchmarks/hard_simulation.py --write data/hard

only writes one such dataset and its configuration, for the workflow (`neuroalign run --config data/hard/config.yaml`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import t as student

import neuroalign
from neuroalign.config.evaluate import Evaluate
from neuroalign.config.fmri import Fmri, Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.config.train import Train
from neuroalign.evaluation.baselines import NAMES, run_baseline
from neuroalign.evaluation.evaluate import ScoreFile, evaluate
from neuroalign.evaluation.scores import SubjectScores, write_scores
from neuroalign.fmri.extract import extract_run
from neuroalign.io import read_tsv, write_tsv
from neuroalign.models.score import score_pairs
from neuroalign.pairs.build import build_pairs, read_geometry
from neuroalign.pairs.store import PairedDataset, read_pairs
from neuroalign.plan import make_plan
from neuroalign.simulate.observer import ideal_scores
from neuroalign.simulate.responses import Responses, World, make_world, write_world
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.vq import train_vq

MODEL, IDEAL = "neuroalign", "ideal_observer"
METRICS = ("top1", "top5", "mrr")

ABLATIONS: dict[str, dict[str, Any]] = {
    "without L_level": {"ntcl": {"terms": {"level": 0.0}}},
    "without L_time": {"ntcl": {"terms": {"time": 0.0}}},
    "without L_pred": {"ntcl": {"terms": {"pred": 0.0}}},
    "without subject maps": {"ntcl": {"encoder": {"subject_rank": 0}}},
    "without transformer": {"ntcl": {"encoder": {"depth": 0}}},
    "mean over steps": {"ntcl": {"encoder": {"pooling": "mean"}}},
    "from a random start": {"ntcl": {"encoder": {"linear_start": False}, "lr": 1e-3, "hrf_lr": 5e-3}},
    "linear start alone": {"ntcl": {"epochs": 1, "lr": 1e-12, "hrf_lr": 1e-12}},
    "fixed modality weights": {"vq": {"dynamic": False}},
    "residual depth 1": {"vq": {"depth": 1}},
    "one level": {},
}
"""What is changed in the `train` section; ``one level`` instead joins the levels of brain and video."""


@dataclass(frozen=True)
class Prepared:
    """One world on disk, paired.

    Attributes
    ----------
    world : World
    pairs : PairedDataset
    geometry : dict
    folder : path
        The ``pairs`` folder.
    guard_s : float
    """

    world: World
    pairs: PairedDataset
    geometry: dict[str, Any]
    folder: Path
    guard_s: float


def prepare(settings: Responses, folder: Path) -> Prepared:
    """Make a world, write it, and take it through index, extract and pair."""
    world = make_world(settings)
    config = write_world(world, folder) | {"output_dir": str(folder / "results")}
    plan = make_plan(config)
    series = {}
    for row in plan.runs.to_dict("records"):
        path = folder / "roi" / f"{row['run_id']}_timeseries.h5"
        extract_run(
            row,
            Fmri(**config["fmri"]),
            path,
            path.with_name(f"{row['run_id']}_qc.h5"),
            bids_dir=config["dataset"]["bids_dir"],
            preproc_dir=None,
        )
        series[row["run_id"]] = path
    split = Split(**config["split"])
    build_pairs(
        plan.presentations,
        series,
        {film: folder / "features" / f"{film}.h5" for film in settings.films},
        folder / "pairs",
        clips=Clips(**config["clips"]),
        hrf=Hrf(**config["hrf"]),
        split=split,
        made_by={},
    )
    pairs = read_pairs(folder / "pairs")
    return Prepared(world, pairs, read_geometry(folder / "pairs"), folder / "pairs", split.guard_s)


def ideal(prepared: Prepared) -> dict[str, SubjectScores]:
    """Scores of the ideal observer of the windows that all other models are tested on."""
    clips, geometry, out = prepared.pairs.clips, prepared.geometry, {}
    about = clips.drop_duplicates("clip_id").set_index("clip_id")
    for subject in prepared.pairs.subjects:
        rows = prepared.pairs.of(subject, "test")[0].rows
        shown = clips.iloc[rows]
        gallery = list(dict.fromkeys(shown["clip_id"]))
        scores = ideal_scores(
            prepared.world,
            subject,
            list(zip(shown["stimulus"], shown["start_s"], strict=True)),
            list(about.loc[gallery, ["stimulus", "start_s"]].itertuples(index=False, name=None)),
            geometry["duration_s"],
            tuple(geometry["hrf"]["window_s"]),
        )
        out[subject] = SubjectScores(rows, gallery, {"score": scores.astype(np.float32)})
    return out


def train(
    prepared: Prepared, config: Train, seed: int, folder: Path
) -> tuple[dict[str, SubjectScores], pd.DataFrame]:
    """Both stages of NeuroAlign; scores of the test windows, and the learned delays."""
    train_ntcl(prepared.pairs, folder / "ntcl", config, seed, made_by={}, geometry=prepared.geometry)
    train_vq(prepared.pairs, folder / "ntcl", folder / "vq", config, seed, made_by={})
    scores = score_pairs(neuroalign.load(folder / "vq"), prepared.pairs)
    return {s: SubjectScores(*item) for s, item in scores.items()}, read_tsv(folder / "vq" / "delays.tsv")


def one_level(pairs: PairedDataset) -> PairedDataset:
    """The same pairs without a hierarchy: all units are one level, all features another."""

    def joined(levels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"all": np.concatenate(list(levels.values()), axis=2)}

    brain = {
        subject: replace(
            windows,
            levels=joined(windows.levels),
            unit_labels={"all": list(chain(*windows.unit_labels.values()))},
        )
        for subject, windows in pairs.brain.items()
    }
    return replace(pairs, brain=brain, video=pairs.video.merged())


def run_seed(
    settings: Responses, baselines: Sequence[str], ablations: Sequence[str], train_config: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics of every model, and true and learned delays, of one seed."""
    seed, begin = settings.seed, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(settings, folder)
        scores = {IDEAL: ideal(prepared)}
        print(f"seed {seed}: data and ceiling {time.perf_counter() - begin:.0f} s", flush=True)
        begin = time.perf_counter()
        scores[MODEL], learned = train(prepared, Train(device="cpu", **train_config), seed, folder / MODEL)
        print(f"seed {seed}: {MODEL} {time.perf_counter() - begin:.0f} s", flush=True)
        for baseline in baselines:
            scores[baseline] = run_baseline(baseline, prepared.pairs, seed)[0]
        for ablation in ablations:
            changed = (
                replace(prepared, pairs=one_level(prepared.pairs)) if ablation == "one level" else prepared
            )
            config = Train(device="cpu", **_merged(train_config, ABLATIONS[ablation]))
            scores[ablation] = train(changed, config, seed, folder / ablation)[0]
            print(f"seed {seed}: {ablation}", flush=True)
        files = []
        for model, found in scores.items():
            path = folder / "scores" / model / f"seed-{seed}.h5"
            write_scores(path, found)
            files.append(ScoreFile(model, seed, 0, path))
        judged = Evaluate(galleries=["full"], exclude_s=[0.0], permutations=19, bootstrap=100)
        metrics = evaluate(files, prepared.folder, judged, guard_s=prepared.guard_s).metrics
    true = read_delays(prepared.world)
    learned = learned[learned["subject"] == "all"].set_index("level")["delay_s"]
    delays = pd.DataFrame(
        {"seed": seed, "level": true.index, "true_s": true, "learned_s": learned.reindex(true.index)}
    )
    return metrics[metrics["subject"] == "all"], delays


def read_delays(world: World) -> pd.Series:
    """Mean true delay of every level over the people of a world."""
    return pd.DataFrame([person.delays_s for person in world.people.values()]).mean()


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(first)
    for key, value in second.items():
        out[key] = _merged(out.get(key, {}), value) if isinstance(value, Mapping) else value
    return out


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % t-interval over seeds (no width from a single one)."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
    return values.mean(), values.mean() - half, values.mean() + half


def results_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per model: every metric in both directions, share of the ceiling, and what NeuroAlign is better by."""
    rows = []
    for direction in ("fmri_to_video", "video_to_fmri"):
        part = metrics[metrics["direction"] == direction]
        for metric in METRICS:
            wide = part[part["metric"] == metric].pivot(index="seed", columns="model", values="value")
            for model in wide:
                mean, low, high = interval(wide[model].to_numpy())
                gain = interval((wide[MODEL] - wide[model]).to_numpy())
                rows.append(
                    {"model": model, "direction": direction, "metric": metric}
                    | {"value": mean, "ci_low": low, "ci_high": high}
                    | {"share_of_ceiling": (wide[model] / wide[IDEAL]).mean()}
                    | dict(zip(("neuroalign_minus", "minus_low", "minus_high"), gain, strict=True))
                )
    return pd.DataFrame(rows)


def _percent(value: float, low: float, high: float) -> str:
    # A single seed has no interval.
    return f"{100 * value:.1f}" + ("" if np.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})")


def show(table: pd.DataFrame, delays: pd.DataFrame) -> None:
    """Print the tables as Markdown."""
    for metric in METRICS:
        part = table[table["metric"] == metric].set_index(["model", "direction"])
        order = part.xs("fmri_to_video", level=1)["value"].sort_values(ascending=False).index
        print(
            f"\n| {metric} (%) | f→v | v→f | share of the ceiling | NeuroAlign better by (f→v, v→f) |\n|---|---|---|---|---|"
        )
        for model in order:
            both = [part.loc[(model, d)] for d in ("fmri_to_video", "video_to_fmri")]
            shown = [_percent(r.value, r.ci_low, r.ci_high) for r in both]
            share = ", ".join(f"{100 * r.share_of_ceiling:.0f} %" for r in both)
            gain = ", ".join(_percent(r.neuroalign_minus, r.minus_low, r.minus_high) for r in both)
            print(f"| {model} | {' | '.join(shown)} | {share} | {gain} |")
    print("\n| delay (s) | true | learned | largest error |\n|---|---|---|---|")
    for level, rows in delays.groupby("level", sort=False):
        error = (rows["learned_s"] - rows["true_s"]).abs().max()
        print(f"| {level} | {rows['true_s'].mean():.2f} | {rows['learned_s'].mean():.2f} | {error:.2f} |")


def main() -> None:
    """Run the seeds and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--people", type=int, default=Responses.people)
    parser.add_argument("--train-films", type=int, default=Responses.train_films, help="of five minutes each")
    parser.add_argument("--noise", type=float, default=Responses.noise)
    parser.add_argument("--baselines", nargs="*", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument(
        "--ablations", nargs="*", metavar="NAME", help="all of them, or those named: " + ", ".join(ABLATIONS)
    )
    parser.add_argument(
        "--train", type=yaml.safe_load, default={}, help="overrides of the `train` section, as YAML"
    )
    parser.add_argument("--out", type=Path, help="also write metrics.tsv, table.tsv and delays.tsv there")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="only write the data of --first, and config.yaml"
    )
    given = parser.parse_args()
    settings = Responses(
        people=given.people, train_films=given.train_films, noise=given.noise, seed=given.first
    )
    if given.write:
        config = write_world(make_world(settings), given.write) | {"output_dir": str(given.write / "results")}
        (given.write / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return
    chosen = [] if given.ablations is None else given.ablations or list(ABLATIONS)
    metrics, delays = [], []
    for seed in range(given.first, given.first + given.seeds):
        found = run_seed(replace(settings, seed=seed), given.baselines, chosen, given.train)
        metrics.append(found[0])
        delays.append(found[1])
        table = results_table(pd.concat(metrics))
        if given.out:
            write_tsv(given.out / "metrics.tsv", pd.concat(metrics))
            write_tsv(given.out / "table.tsv", table)
            write_tsv(given.out / "delays.tsv", pd.concat(delays))
    show(table, pd.concat(delays))


if __name__ == "__main__":
    main()
