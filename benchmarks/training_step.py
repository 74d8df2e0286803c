"""A training step against a hand-written PyTorch loop of the same model and losses, and loading against tensors in memory.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --units 4300 --raw   # voxels, read and scaled batch by batch
    python benchmarks/training_step.py --gpu                                  # 3 people x 13,000 voxels, batches of 256

Steps of both kinds run in turn, so that other work on the machine falls on both; the medians are compared. On processors time is
the process's own, threads that load included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuroalign.config.train import Train
from neuroalign.io import write_tsv
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import BrainInput, NeuroAlign
from neuroalign.models.scaling import Scalers, z_score
from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows, write_brain, write_video
from neuroalign.pairs.stored import open_pairs
from neuroalign.training.data import Batch, fit_scalers, take_batch, to_tensors
from neuroalign.training.device import precision
from neuroalign.training.loop import Trainer, loaded_ahead, parameter_groups
from neuroalign.training.ntcl import architecture_of, encode
from neuroalign.training.terms import ntcl_loss, ntcl_terms

# Dense bfloat16 peak in TFLOP/s, by a part of the name of the card (data sheets of the maker).
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "V100": 125}
STEPS, VOLUMES, FEATURES = 10, 12, 256


def make_pairs(people: int, clips: int, units: int) -> PairedDataset:
    """White noise of the wanted size: 10-s clips, 12 volumes, three brain levels, four of the video."""
    rng = np.random.default_rng(0)
    names = [f"clip{i:05d}" for i in range(clips)]
    split = np.where(np.arange(clips) < clips - 40, "train", "validation")
    rows, brain = [], {}
    times = np.tile(np.arange(VOLUMES) * 1.5, (clips, 1)).astype(np.float32)
    for person in range(people):
        subject = f"{person + 1:02d}"
        first = len(rows)
        rows += [
            (n, "film", 10.0 * i, 10.0, subject, "", "film", "1", 10.0 * i, s, n, 0)
            for i, (n, s) in enumerate(zip(names, split, strict=True))
        ]
        levels = {
            level: rng.standard_normal((clips, VOLUMES, units), np.float32)
            for level in ("early", "intermediate", "high")
        }
        labels = {level: [f"{subject}-{level}-{i}" for i in range(units)] for level in levels}
        valid = np.ones((clips, VOLUMES), bool)
        brain[subject] = BrainWindows(
            np.arange(first, first + clips), levels, times, valid, labels, aligned=False
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
    video = {f"layer{k}": rng.standard_normal((clips, STEPS, FEATURES), np.float32) for k in range(4)}
    steps = np.arange(STEPS, dtype=np.float32) + 0.5
    return PairedDataset(pd.DataFrame(rows, columns=columns), brain, VideoWindows(names, video, steps))


def write(pairs: PairedDataset, folder: Path) -> None:
    """As the pair stage does."""
    write_tsv(folder / "clips.tsv", pairs.clips)
    write_video(folder / "video.h5", pairs.video)
    for subject, windows in pairs.brain.items():
        write_brain(folder / f"sub-{subject}.h5", windows)


def quick_scalers(pairs: PairedDataset) -> Scalers:
    """z-scores of a few windows: the size of the step is what counts."""
    brain = {
        (subject, level): z_score(data[:8].reshape(-1, data.shape[-1]))
        for subject, windows in pairs.brain.items()
        for level, data in windows.levels.items()
    }
    return Scalers(
        brain, {level: z_score(x[:8].reshape(-1, FEATURES)) for level, x in pairs.video.levels.items()}
    )


def plain_step(network: NeuroAlign, config: Train, device: torch.device) -> Callable[..., None]:
    """A step as one would write it for this model alone."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.ntcl.lr, weight_decay=config.ntcl.weight_decay
    )

    def step(
        brain: BrainInput, video: dict[str, Tensor], content: Content, clip: Tensor, rows: Tensor
    ) -> None:
        clips, own = torch.unique(clip[rows], return_inverse=True)
        chosen = BrainInput(
            {name: x[rows] for name, x in brain.levels.items()},
            *(brain.times[rows], brain.valid[rows], brain.subject[rows]),
        )
        films = {name: x[clips] for name, x in video.items()}
        optimiser.zero_grad()
        with precision(config, device):
            a, b = network.encode_fmri(chosen), network.encode_video(films)
        encoded = {"fmri": a.float(), "video": b.float()}
        batch = Batch(chosen, films, own, content.take(clips[own]), content.take(clips))
        terms = ntcl_terms(network, encoded, batch, config.ntcl, config.text)
        loss = ntcl_loss(terms, config.ntcl, config.text)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.ntcl.clip_norm)
        optimiser.step()

    return step


def clock(device: torch.device) -> float:
    """Seconds of this process; on a GPU those on the wall, when it has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = clock(device)
    work()
    return clock(device) - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--clips", type=int, default=200, help="of each person")
    parser.add_argument("--units", type=int, default=200, help="of each of three levels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--raw", action="store_true", help="no principal components: the network sees every unit"
    )
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the card, if it is not known here")
    args = parser.parse_args()
    device = torch.device("cuda" if args.gpu else "cpu")
    if args.gpu:
        if not torch.cuda.is_available():
            raise SystemExit("not run: no GPU is at hand")
        args.units, args.batch, args.clips, args.raw = 4334, 256, 400, True
    config = Train(device=device.type, ntcl={"batch_size": args.batch, "encoder": {"whiten": not args.raw}})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = make_pairs(args.people, args.clips, args.units)
        write(pairs, folder)
        stored = open_pairs(folder)
        scalers = quick_scalers(pairs) if args.raw else fit_scalers(pairs, config.ntcl.encoder)
        data, disk = to_tensors(pairs, scalers).to(device), to_tensors(stored, scalers, 0.001).to(device)
        torch.manual_seed(0)
        network = NeuroAlign(architecture_of(pairs, scalers, config.ntcl)).to(device)
        size = sum(p.numel() for p in network.parameters())
        print(
            f"{args.people} x {3 * args.units} units, batch {args.batch}, {size / 1e6:.2f} M parameters, {device}"
        )

        generator = torch.Generator().manual_seed(0)
        groups = parameter_groups(network, config.ntcl, {})
        trainer = Trainer(network, config.ntcl, groups, generator, folder, "benchmark")

        def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            terms = ntcl_terms(
                *(network, encode(network, batch, precision(config, device)), batch),
                *(config.ntcl, config.text),
            )
            return ntcl_loss(terms, config.ntcl, config.text), terms

        plain = plain_step(network, config, device)
        network.train()
        n = len(data.train.clip)
        rows = [torch.randint(n, (args.batch,), generator=generator) for _ in range(args.repeats)]
        times: dict[str, list[float]] = {}
        for k, part in enumerate(rows):
            here = part.to(device)
            work = {
                "plain": lambda here=here: plain(
                    *(data.train.brain, data.video, data.content, data.train.clip.to(device), here)
                ),
                "ours": lambda part=part: trainer._step(take_batch(data, data.train, part), step, 1.0),
                "indexing": lambda here=here: [x[here] for x in data.train.brain.levels.values()],
                "memory": lambda part=part: take_batch(data, data.train, part),
                "disk": lambda part=part: take_batch(disk, disk.train, part),
            }
            for kind, run in work.items():
                seconds = timed(device, run)
                if k >= min(3, args.repeats // 3):
                    times.setdefault(kind, []).append(seconds)
        median = {kind: statistics.median(values) for kind, values in times.items()}
        ratios = [a / b for a, b in zip(times["ours"], times["plain"], strict=True)]
        print("\n| step | ms | x plain |\n|---|---|---|")
        print(f"| hand-written loop | {1e3 * median['plain']:.1f} | 1 |")
        print(f"| ours | {1e3 * median['ours']:.1f} | {statistics.median(ratios):.2f} |")
        print("\n| a batch | ms | share of a step |\n|---|---|---|")
        for kind, words in (
            ("indexing", "rows of tensors in memory"),
            ("memory", "ours, in memory"),
            ("disk", "ours, read from disk and scaled"),
        ):
            print(f"| {words} | {1e3 * median[kind]:.2f} | {100 * median[kind] / median['ours']:.1f} % |")

        # What the loop waits for when batches are loaded beside it.
        waited, whole = 0.0, time.perf_counter()
        batches = loaded_ahead(rows, lambda part: take_batch(disk, disk.train, part), 2)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - start
            if batch is None:
                break
            trainer._step(batch, step, 1.0)
        if args.gpu:
            torch.cuda.synchronize()
        whole = time.perf_counter() - whole
        print(
            f"\nfrom disk, loaded ahead: {100 * waited / whole:.1f} % of the time on the wall was waited for batches"
        )
        if args.gpu:
            throughput(args, data, network, step, median["ours"])


def throughput(args: argparse.Namespace, data, network: NeuroAlign, step, seconds: float) -> None:
    """Clips per second and the share of the card's peak."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(take_batch(data, data.train, torch.arange(args.batch)))[0].backward()
    flops = counter.get_total_flops()
    card = torch.cuda.get_device_name()
    peak = args.peak_tflops or next((v for k, v in PEAKS.items() if k in card), None)
    share = f"{100 * flops / seconds / peak / 1e12:.1f} % of {peak} TFLOP/s" if peak else "peak not known"
    print(f"\n{card}: {args.batch / seconds:.0f} clips per second, {flops / 1e9:.1f} GFLOP per step, {share}")


if __name__ == "__main__":
    main()
