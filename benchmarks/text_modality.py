"""What a third modality brings on a paired dataset: one half of its video features as the video, the other as the text.

Real features that complete each other take the part of captions here: no words, but a third modality that does know something
of the brain. Four models are trained on the same pairs and split and scored on the same test windows:

- ``video``: every other feature, no text;
- ``video + text``: the remaining features as the text;
- ``video + noise``: the remaining features of other clips (shuffled over contents) as the text;
- ``all as video``: all features as video, which is what early fusion would give.

Run the workflow to ``pairs`` first (``neuroalign run --config CONFIG --until pair``), then

    python benchmarks/text_modality.py results/movie/pairs [--folds 4] [--epochs 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import neuroalign
from neuroalign.config.train import Train
from neuroalign.models.score import score_pairs
from neuroalign.pairs.build import read_geometry
from neuroalign.pairs.store import PairedDataset, read_pairs
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.validation import retrieval


def variants(pairs: PairedDataset, seed: int) -> dict[str, PairedDataset]:
    """The paired dataset with its features dealt out to video and text."""
    whole = pairs.video.merged("features")
    features = whole.levels["features"]
    half, other = features[..., 0::2], features[..., 1::2]
    everywhere = np.ones(features.shape[:2], bool)
    order = np.random.default_rng(seed).permutation(len(features))
    around = None if whole.surround is None else {"features": whole.surround["features"][:, 0::2]}
    plain = replace(whole, levels={"features": half}, surround=around)
    videos = {
        "video": plain,
        "video + text": replace(plain, text=other, has_text=everywhere),
        "video + noise": replace(plain, text=other[order], has_text=everywhere),
        "all as video": whole,
    }
    return {name: replace(pairs, video=video) for name, video in videos.items()}


def measure(model, pairs: PairedDataset) -> dict[str, dict[str, float]]:
    """Retrieval of test clips by every score, both directions, averaged over subjects."""
    found: dict[str, list[dict[str, float]]] = {}
    ids = pairs.clips["clip_id"].to_numpy()
    for rows, gallery, parts in score_pairs(model, pairs).values():
        own = np.array([gallery.index(clip) for clip in ids[rows]])
        for part, matrix in parts.items():
            found.setdefault(part, []).append(retrieval(matrix, own))
    return {
        part: {k: float(np.mean([row[k] for row in rows])) for k in rows[0]} for part, rows in found.items()
    }


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument(
        "--epochs", type=int, default=3, help="most epochs of stage 1 (stage 2 is not trained)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = Train(device="cpu", ntcl={"epochs": args.epochs})
    table: dict[str, list[dict[str, float]]] = {}
    for fold in range(args.folds):
        for name, pairs in variants(read_pairs(args.pairs, fold), args.seed).items():
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                geometry = read_geometry(args.pairs)
                train_ntcl(pairs, Path(folder), config, args.seed, made_by={}, geometry=geometry)
                model = neuroalign.load(folder)
            found = measure(model, pairs)
            shown = {name: "fused"} | ({f"{name}, its video alone": "video_only"} if "text" in found else {})
            for label, part in shown.items():
                table.setdefault(label, []).append(found[part])
            print(
                f"fold {fold}, {name}: weight of the text {model.weights.text:g}, best epoch "
                f"{model.meta['best_epoch']}, {time.perf_counter() - begin:.0f} s; "
                + "; ".join(f"{part} top-1 {100 * v['top1']:.1f} %" for part, v in found.items()),
                flush=True,
            )
    print("\n| | top-1 | top-5 | MRR |\n|---|---|---|---|")
    for name, rows in table.items():
        one, five, mrr = (np.mean([row[k] for row in rows]) for k in ("top1", "top5", "mrr"))
        print(f"| {name} | {100 * one:.1f} % | {100 * five:.1f} % | {mrr:.3f} |")


if __name__ == "__main__":
    main()
