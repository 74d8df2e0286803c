"""Metrics of two directions at scale, against the bare product of the same embeddings in the same run.

Each side runs in a process of its own, one after the other in turns, and tells its time and its peak memory; the ratio
is of the best times. The bare product computes the same blocks into the same buffer and keeps nothing::

    python benchmarks/metrics.py --clips 50000 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from neuroalign.evaluation.at_scale import retrieval_metrics

FILM, CLIP_S = 450, 4.0


def embeddings(clips: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of brain and video that share a little, as real ones do."""
    rng = np.random.default_rng(0)
    video = rng.standard_normal((clips, dim), dtype=np.float32)
    brain = rng.standard_normal((clips, dim), dtype=np.float32)
    brain += np.float32(0.15) * video
    for x in (brain, video):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return brain, video


def bare(brain: np.ndarray, video: np.ndarray) -> None:
    """The product alone."""
    rows, columns = 1020, 1024
    out = np.empty((rows, columns), np.float32)
    for i in range(0, len(brain), rows):
        block = brain[i : i + rows]
        for j in range(0, len(video), columns):
            part = video[j : j + columns]
            np.matmul(block, part.T, out=out[: len(block), : len(part)])


def job(given: argparse.Namespace) -> None:
    """One side, in this process: prints seconds, processor seconds and peak memory as JSON."""
    brain, video = embeddings(given.clips, given.dim)
    place = np.arange(given.clips)
    began, used = time.perf_counter(), time.process_time()
    if given.job == "bare":
        bare(brain, video)
    else:
        table = retrieval_metrics(
            brain,
            video,
            stimulus=place // FILM,
            start_s=place % FILM * CLIP_S,
            duration_s=np.full(given.clips, CLIP_S),
            exclude_s=(float(given.job),),
            galleries=("full", 50, 300),
        )
        print(table[table["metric"].isin(["top1", "mrr"])].to_string(index=False), file=sys.stderr)
    found = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    print(json.dumps(found))


def main() -> None:
    """Run both sides in turns and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job(given)
        return
    size = ["--clips", str(given.clips), "--dim", str(given.dim)]
    threads = {f"{name}_NUM_THREADS": str(given.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    names = {"bare": "bare product", "0": "metrics", "10": "metrics, neighbours within 10 s excluded"}
    best: dict[str, dict[str, float]] = {}
    for _ in range(given.repeats):
        for name in names:
            command = [sys.executable, __file__, "--job", name, *size]
            done = subprocess.run(
                command, env=os.environ | threads, check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            best[name] = {k: min(v, best.get(name, found)[k]) for k, v in found.items()}
    print(
        f"{given.clips} x {given.clips} clips, d = {given.dim}, {given.threads} threads, best of {given.repeats}\n"
    )
    print("| | seconds | × | processor seconds | × | peak memory, MB |\n|---|---|---|---|---|---|")
    for name, label in names.items():
        row, reference = best[name], best["bare"]
        print(
            f"| {label} | {row['seconds']:.1f} | {row['seconds'] / reference['seconds']:.2f} | {row['cpu']:.1f} | "
            f"{row['cpu'] / reference['cpu']:.2f} | {row['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
