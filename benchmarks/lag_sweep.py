"""Does the sweep of the lag find the true delays of the simulated brain?

On the output folder of a finished demo (`make demo`, or `snakemake --until pair`):

    python benchmarks/lag_sweep.py results

Pairs are cut anew, with `hrf.shift_s: sweep`, for the split of the demo and for cross-validation over its films, and the chosen
lag of every level and fold is set beside the true time to peak (`truth/delays.tsv`). With ``--features seen`` the films are
described by what the simulated brain sees in them instead of by motion energy, so that every level can be predicted, also the
high one, which answers to the content of scenes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.config.fmri import Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.io import read_tsv
from neuroalign.pairs.build import build_pairs
from neuroalign.pairs.lags import ALL

SPLITS = {
    "as the demo": Split(by="stimulus", hold_out={"stimulus": ["film-07", "film-08"]}),
    "4 folds by stimulus": Split(by="stimulus", folds=4),
    "2 folds by stimulus": Split(by="stimulus", folds=2),
}


def seen_features(results: Path, films: list[str], config: Path, folder: Path) -> dict[str, Path]:
    """Write what the simulated brain sees in each film as feature files, one window a second."""
    from neuroalign.config import load_config
    from neuroalign.simulate.features import FEATURE_HZ, film_features
    from neuroalign.simulate.scenes import write_script
    from neuroalign.video.shards import Embedding, write_embedding

    simulate, per_window = load_config(config).dataset.simulate, round(FEATURE_HZ)
    paths = {}
    for film in films:
        script = write_script(simulate, film)
        video = next((results / "demo" / "bids" / "stimuli").glob(f"{film}.*"))
        found = film_features(video, script, script[-1].end_s)
        count = len(found["high"]) // per_window
        levels = {
            level: data[: count * per_window].reshape(count, per_window, -1).mean(axis=1).astype(np.float32)
            for level, data in found.items()
        }
        paths[film] = folder / f"{film}.h5"
        about = {"backbone": "seen", "revision": "", "window_s": 1.0, "stride_s": 1.0, "hrf_convolved": False}
        write_embedding(paths[film], Embedding(levels, np.arange(count) + 0.5, attributes=about))
    return paths


def draw(curves: pd.DataFrame, true: dict[str, float], path: Path) -> None:
    """One panel per level: a curve per fold, the chosen lags, and the true time to peak."""
    import matplotlib.pyplot as plt

    levels = [level for level in dict.fromkeys(curves["level"]) if level != ALL]
    figure, axes = plt.subplots(1, len(levels), figsize=(7.2, 2.2), sharey=True, layout="constrained")
    for ax, level in zip(axes, levels, strict=True):
        for _, curve in curves[curves["level"] == level].groupby("fold"):
            ax.plot(curve["lag_s"], curve["r"], color="#0072B2", lw=1.2)
            point = curve[curve["chosen"]]
            ax.plot(point["lag_s"], point["r"], "o", color="#0072B2", ms=4)
        ax.axvline(true[level], color="#D55E00", ls="--", lw=1.2)
        ax.set(title=level, xlabel="lag (s)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("correlation")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print one line per split, fold and level, and the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="output folder of the demo")
    parser.add_argument("--tr", type=float, default=2.0, help="repetition time of the demo in seconds")
    parser.add_argument(
        "--figure", type=Path, help="also draw the curves of the cross-validation into this image"
    )
    parser.add_argument("--features", choices=("motion_energy", "seen"), default="motion_energy")
    parser.add_argument("--config", type=Path, default=Path("config/demo.yaml"), help="what made the demo")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(given, Path(scratch))


def measure(given: argparse.Namespace, scratch: Path) -> None:
    """Sweep with every split and print what is found."""
    text = ("run_id", "subject", "session", "task", "run", "stimulus")
    shown = read_tsv(given.results / "index" / "presentations.tsv", text=text)
    series = {run: given.results / "roi" / f"{run}_timeseries.h5" for run in shown["run_id"].unique()}
    names = [str(name) for name in shown["stimulus"].unique()]
    if given.features == "seen":
        films = seen_features(given.results, names, given.config, scratch)
    else:
        films = {name: given.results / "embeddings" / "motion_energy" / f"{name}.h5" for name in names}
    truth = pd.read_csv(given.results / "demo" / "truth" / "delays.tsv", sep="\t").groupby("level")["delay_s"]
    true = truth.mean().to_dict()
    for name, split in SPLITS.items():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            build_pairs(
                shown,
                series,
                films,
                Path(folder),
                clips=Clips(strategy="fixed", duration_s=4, stride_s=4),
                hrf=Hrf(method="shift", shift_s="sweep"),
                split=split,
                made_by={},
            )
            curves = pd.read_csv(Path(folder) / "lag_sweep.tsv", sep="\t")
        print(f"\n{name} ({time.perf_counter() - began:.1f} s)")
        if given.figure and split.folds == 4:
            draw(curves, true, given.figure)
        chosen = curves[curves["chosen"]]
        for level, rows in chosen.groupby("level", sort=False):
            told = ", ".join(f"{r.lag_s:g} s ({r.r:.2f})" for r in rows.itertuples())
            known = (
                f"true {true[level]:.2f} s"
                if level != ALL
                else f"mean of the true {np.mean(list(true.values())):.2f} s"
            )
            print(f"  {level:14s} {told}; {known}")
        own = chosen[(chosen["level"] != ALL) & chosen["own"]]
        error = (own["lag_s"] - own["level"].map(true)).abs()
        print(
            f"  levels with a clear curve: within half a TR {(error <= given.tr / 2).sum()} of {len(error)}, "
            f"mean error {error.mean():.2f} s"
        )


if __name__ == "__main__":
    main()
