"""The evaluation of a whole study: time and peak memory, for a number of people, folds, seeds and models.

Scores are random with a little truth in them, in files as the workflow writes them; `evaluate` runs in a process of its own,
with the default configuration. The trained controls fit ridge maps, so that small brains leave the time to the statistics::

    python benchmarks/evaluate.py --subjects 14 --folds 4 --seeds 5 --models 12
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation.evaluate import ScoreFile, evaluate
from neuroalign.evaluation.scores import SubjectScores, write_scores
from neuroalign.io import write_tsv
from neuroalign.pairs.store import BrainWindows, VideoWindows, write_brain, write_video

COLUMNS = (
    *("clip_id", "stimulus", "start_s", "duration_s", "subject", "session", "task", "run", "onset_s"),
    *("split", "group", "repeat"),
)
CLIP_S, FILMS, STEPS, UNITS, FEATURES = 10.0, 2, 2, 8, 6


def write_study(folder: Path, given: argparse.Namespace) -> None:
    """Pairs of two films in contiguous time blocks, a fold each, and the scores of every model."""
    rng = np.random.default_rng(0)
    per_film = given.clips // FILMS
    contents = [(f"film-{film}", CLIP_S * i) for film in range(FILMS) for i in range(per_film)]
    ids = [f"{film}@{start:.3f}+{CLIP_S:.3f}" for film, start in contents]
    fold = np.tile(np.arange(per_film) * given.folds // per_film, FILMS)
    people = [f"{i + 1:02d}" for i in range(given.subjects)]
    table = pd.DataFrame(
        [
            (ids[i], film, start, CLIP_S, person, "", film, "1", start, film, film, 0)
            for person in people
            for i, (film, start) in enumerate(contents)
        ],
        columns=list(COLUMNS),
    )
    held = np.tile(fold, len(people))
    for number in range(given.folds):
        later = (number + 1) % given.folds
        table[f"split_{number}"] = np.select([held == number, held == later], ["test", "validation"], "train")
    table["split"] = table["split_0"]
    write_tsv(folder / "pairs" / "clips.tsv", table)
    features = rng.standard_normal((len(ids), STEPS, FEATURES)).astype(np.float32)
    steps = ((np.arange(STEPS) + 0.5) * CLIP_S / STEPS).astype(np.float32)
    for number, person in enumerate(people):
        rows = np.arange(len(ids)) + number * len(ids)
        data = rng.standard_normal((len(ids), STEPS, UNITS)).astype(np.float32)
        labels = {"early": [f"unit-{i}" for i in range(UNITS)]}
        times, valid = np.tile(steps, (len(ids), 1)), np.ones((len(ids), STEPS), bool)
        write_brain(
            folder / "pairs" / f"sub-{person}.h5",
            BrainWindows(rows, {"early": data}, times, valid, labels, True),
        )
    write_video(folder / "pairs" / "video.h5", VideoWindows(ids, {"features": features}, steps))
    for model in range(given.models):
        name = "neuroalign" if model == 0 else f"baseline-{model}"
        for seed in range(given.seeds):
            for number in range(given.folds):
                test = np.flatnonzero(fold == number)
                scores = {}
                for i, person in enumerate(people):
                    matrix = rng.standard_normal((len(test), len(test))).astype(np.float32)
                    matrix[np.diag_indices(len(test))] += 1
                    parts = {"fused": matrix, "continuous": matrix + 1} if model == 0 else {"score": matrix}
                    scores[person] = SubjectScores(test + i * len(ids), [ids[c] for c in test], parts)
                write_scores(folder / "scores" / f"{name}_{seed}_{number}.h5", scores)


def job(given: argparse.Namespace) -> None:
    """Evaluate, in this process."""
    files = []
    for path in sorted((given.job / "scores").glob("*.h5")):
        name, seed, fold = path.stem.split("_")
        files.append(ScoreFile(name, int(seed), int(fold), path))
    began, used = time.perf_counter(), time.process_time()
    results = evaluate(files, given.job / "pairs", Evaluate(), given.folds)
    found = {
        "rows": len(results.metrics),
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    print(json.dumps(found))


def main() -> None:
    """Make a study, evaluate it, and print time and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=14)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--clips", type=int, default=276, help="clips of both films together")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="make the study here and keep it")
    given = parser.parse_args()
    if given.job:
        job(given)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        write_study(folder, given)
        command = [sys.executable, __file__, "--job", str(folder), "--folds", str(given.folds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{given.subjects} subjects, {given.folds} folds, {given.seeds} seeds, {given.models} models, {given.clips} clips: "
        f"{found['rows']} rows of metrics, {found['seconds']:.0f} s, {found['cpu']:.0f} s of processor, "
        f"{found['peak_mb']:.0f} MB at most"
    )


if __name__ == "__main__":
    main()
