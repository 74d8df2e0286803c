"""How long a dataset takes to index: the first time, again, and with one subject more or a changed root sidecar.

Run by hand, e.g. ``python benchmarks/indexing.py --subjects 200 --runs 10``. A raw dataset of empty images is made in a
temporary folder. A bare walk of the same tree with `os.scandir` and bare layouts of pybids are timed in the same
process, as references: the ratios (of processor time) are what to compare between machines.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from neuroalign.bids.cache import load_index
from neuroalign.config import parse_config

CLIPS = 10


def make_subject(root: Path, subject: str, runs: int) -> None:
    """Empty images of one subject, with events and a T1w image."""
    for folder in ("func", "anat"):
        (root / f"sub-{subject}" / folder).mkdir(parents=True)
    (root / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz").touch()
    for run in range(1, runs + 1):
        stem = root / f"sub-{subject}/func/sub-{subject}_task-film_run-{run}"
        Path(f"{stem}_bold.nii.gz").touch()
        # Real onsets jitter: no two tables are equal.
        late = (hash((subject, run)) % 1000) / 1000
        rows = [f"{4 * i + late:.3f}\t3\tclips/{i:03d}.mp4" for i in range(CLIPS)]
        Path(f"{stem}_events.tsv").write_text("\n".join(["onset\tduration\tstim_file", *rows, ""]))


def walk(root: str) -> int:
    """Number of files below a folder: the least that anybody must do."""
    count = 0
    with os.scandir(root) as entries:
        for entry in entries:
            count += walk(entry.path) if entry.is_dir(follow_symlinks=False) else 1
    return count


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor: others may be at work on the machine."""
    began, worked = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - began, time.process_time() - worked


def measure(root: Path, subjects: int, runs: int) -> dict[str, tuple[float, float]]:
    """Seconds of every step; importing pybids is left out."""
    from bids import BIDSLayout, BIDSLayoutIndexer

    (root / "dataset_description.json").write_text('{"Name": "benchmark", "BIDSVersion": "1.10.0"}')
    (root / "bold.json").write_text('{"RepetitionTime": 2.0}')
    for subject in range(1, subjects + 1):
        make_subject(root, f"{subject:03d}", runs)
    out = str(root.parent / "out")
    config = parse_config(
        {"output_dir": out, "dataset": {"bids_dir": str(root)}, "fmri": {"atlas": {"name": "x"}}}
    )

    def index() -> None:
        found = load_index(config, Path(out) / "cache")
        assert not found.problems
        assert len(found.presentations) == CLIPS * len(found.runs)

    def bare() -> None:
        BIDSLayout(root, validate=False, indexer=BIDSLayoutIndexer(validate=False, index_metadata=False))

    seconds = {"walk": min(timed(lambda: walk(str(root))) for _ in range(3)), "bare": timed(bare)}
    seconds["full"] = timed(lambda: BIDSLayout(root, validate=False))
    seconds["first"] = timed(index)
    seconds["second"] = min(timed(index) for _ in range(3))
    make_subject(root, f"{subjects + 1:03d}", runs)
    seconds["added"] = timed(index)
    (root / "bold.json").write_text('{"RepetitionTime": 1.5}')
    seconds["root"] = timed(index)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--runs", type=int, default=10, help="runs of each subject")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bids"
        root.mkdir()
        seconds = measure(root, args.subjects, args.runs)
    names = {
        "walk": "os.scandir, names only",
        "bare": "BIDSLayout without metadata",
        "full": "BIDSLayout as it comes",
        "first": "index, first time",
        "second": "index, nothing changed",
        "added": "index, one subject more",
        "root": "index, a sidecar at the root changed",
    }
    print(f"{args.subjects} subjects x {args.runs} runs\n")
    print("| | seconds | CPU seconds | × walk | × BIDSLayout without metadata |\n|---|---|---|---|---|")
    for key, name in names.items():
        wall, worked = seconds[key]
        ratios = f"{worked / seconds['walk'][1]:.1f} | {worked / seconds['bare'][1]:.2f}"
        print(f"| {name} | {wall:.2f} | {worked:.2f} | {ratios} |")


if __name__ == "__main__":
    main()
