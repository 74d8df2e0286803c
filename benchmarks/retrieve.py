"""Ranking clips for brain windows in galleries of growing size: memory that does not grow, and clips per second.

A gallery is one synthetic film under many names (hard links, so that a million clips need no disk), the model an untrained
one of the default size. Each size is ranked in a process of its own, which tells its peak memory and time, reading,
embedding and both passes included; the smallest gallery shows what the libraries and the model take::

    python benchmarks/retrieve.py --clips 1000 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from neuroalign.config.fmri import Hrf
from neuroalign.config.train import Encoder
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.models.model import Architecture, NeuroAlign
from neuroalign.models.scaling import Scaler, Scalers
from neuroalign.models.score import Weights
from neuroalign.models.trained import TrainedModel
from neuroalign.retrieve import retrieve
from neuroalign.video.shards import Embedding, write_embedding

LEVELS = {"early": 64, "high": 64}
CLIP_S, STEP_S, PER_FILM = 4.0, 1.0, 250


def write_model(folder: Path, features: int) -> None:
    """An untrained model with the default encoder."""

    def plain(units: int) -> Scaler:
        return Scaler(np.zeros(units, np.float32), np.ones(units, np.float32), None)

    steps = [(i + 0.5) * STEP_S for i in range(round(CLIP_S / STEP_S))]
    network = NeuroAlign(
        Architecture(
            brain_levels=LEVELS,
            video_levels={"features": features},
            subjects=["01"],
            shared_units=True,
            aligned=False,
            step_times=steps,
            encoder=Encoder().model_dump(mode="json"),
            text_levels={},
        )
    ).eval()
    brain = {(subject, level): plain(units) for subject in ("", "01") for level, units in LEVELS.items()}
    labels = {level: [f"{level}_{i}" for i in range(units)] for level, units in LEVELS.items()}
    geometry = {"duration_s": CLIP_S, "step_s": STEP_S, "hrf": Hrf().model_dump(mode="json")}
    scalers = Scalers(brain, {"features": plain(features)}, {})
    weights, meta = Weights(0.7, 0.0, 1, 0.0), {"stage": "ntcl", "seed": 0}
    TrainedModel(network, scalers, weights, {}, labels, geometry, meta).save(folder)


def write_data(folder: Path, features: int) -> None:
    """One film of `PER_FILM` clips, and one run."""
    rng = np.random.default_rng(0)
    windows = round(PER_FILM * CLIP_S)
    about = {"window_s": 1.0, "stride_s": 1.0, "hrf_convolved": False}
    data = {"features": rng.standard_normal((windows, features)).astype(np.float32)}
    write_embedding(folder / "film.h5", Embedding(data, np.arange(windows) + 0.5, attributes=about))
    levels = {level: rng.standard_normal((300, units)).astype(np.float32) for level, units in LEVELS.items()}
    labels = {level: [f"{level}_{i}" for i in range(units)] for level, units in LEVELS.items()}
    about = {"subject": "01", "task": "film", "tr": 1.5}
    times = (np.arange(300) + 0.5) * 1.5
    write_series(folder / "run.h5", RoiSeries(levels, labels, times, np.ones(300, bool), about))


def job(folder: Path) -> None:
    """Rank one gallery for all windows of the run."""
    began, used = time.perf_counter(), time.process_time()
    table = retrieve(folder / "model", folder / "gallery", fmri=folder / "run.h5", top=10)
    found = {
        "queries": int(table["query_s"].nunique()),
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    print(json.dumps(found))


def main() -> None:
    """Rank galleries of several sizes and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10000, 50000])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job(given.job)
        return
    print("| clips | queries | peak memory, MB | seconds | processor seconds | clips per processor second |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(folder / "model", given.features)
        write_data(folder, given.features)
        (folder / "gallery").mkdir()
        made = 0
        for clips in sorted(given.clips):
            while made * PER_FILM < clips:
                os.link(folder / "film.h5", folder / "gallery" / f"film-{made:06d}.h5")
                made += 1
            command = [sys.executable, __file__, "--job", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {made * PER_FILM} | {found['queries']} | {found['peak_mb']:.0f} | {found['seconds']:.0f} | "
                f"{found['cpu']:.0f} | {made * PER_FILM / found['cpu']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
