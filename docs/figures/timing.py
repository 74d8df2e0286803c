"""Draw ``docs/images/timing.png``: where the volume times of docs/timing.md lie. Run ``python docs/figures/timing.py``.

The times in the picture are those that `neuroalign.fmri.timing` computes for the sidecars that it shows.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from neuroalign.bids.raw_run import RawRun
from neuroalign.config.fmri import Timing
from neuroalign.fmri.timing import run_clock

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, MUTED, PALE = "#22272e", "#6b7480", "#e6eaf0"
TR, SLICES, VOLUMES, DUMMIES = 2.0, 6, 6, 2
FILM = (4.6, 11.4)
OUT = Path(__file__).parents[1] / "images" / "timing.png"


def first(metadata: dict, **timing) -> float:
    """Time of the first row by the package, for a raw run with the slices of the picture."""
    raw = RawRun(
        Path("raw"), {"RepetitionTime": TR, "SliceTiming": (np.arange(SLICES) * TR / SLICES).tolist()}
    )
    return float(
        run_clock(VOLUMES, {"RepetitionTime": TR} | metadata, raw, Timing(**timing), "figure").times[0]
    )


def main() -> None:
    """Draw and save."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK})
    figure, axis = plt.subplots(figsize=(9.2, 4.7), dpi=110)
    figure.subplots_adjust(left=0.25, right=0.985, top=0.985, bottom=0.11)

    axis.barh(6.0, FILM[1] - FILM[0], left=FILM[0], height=0.5, color=GREEN, alpha=0.85)
    axis.text(
        np.mean(FILM), 6.0, "film: onset 4.6 s, duration 6.8 s", ha="center", va="center", color="white"
    )

    for volume in range(VOLUMES):
        begin = volume * TR
        dummy = volume < DUMMIES
        axis.barh(4.4, TR * 0.985, left=begin, height=1.7, color="#f7dcc9" if dummy else PALE)
        for number in range(SLICES):
            moment = begin + number * TR / SLICES
            y = 3.68 + number * 1.44 / (SLICES - 1)
            axis.plot(
                [moment, moment + TR / SLICES * 0.8], [y, y], color=VERMILLION if dummy else MUTED, lw=2.2
            )
        axis.text(begin + TR / 2, 5.37, str(volume), ha="center", va="center", fontsize=8.5, color=MUTED)
        axis.axvline(begin, ymax=0.83, color=MUTED, lw=0.5, alpha=0.35)

    corrected = first({"SliceTimingCorrected": True, "StartTime": round((SLICES - 1) * TR / SLICES / 2, 3)})
    lines = (
        (2.65, "slices corrected:\nStartTime + i·TR", corrected, 0, BLUE),
        (1.75, "not corrected:\nTR/2 + i·TR", first({"SliceTimingCorrected": False}), 0, ORANGE),
        (
            0.85, "file without its first 2 volumes:\ndiscarded_volumes: 2",
            first({"SliceTimingCorrected": True, "StartTime": corrected}, discarded_volumes=DUMMIES), DUMMIES, BLUE,
        ),
    )  # fmt: skip
    for y, _, start, skipped, colour in lines:
        for row in range(VOLUMES - skipped):
            censored = row + skipped < DUMMIES
            axis.plot(
                start + row * TR,
                y,
                "o",
                ms=9,
                color=colour,
                mfc="white" if censored else colour,
                mew=1.6,
                zorder=3,
            )
            axis.text(
                start + row * TR,
                y - 0.33,
                f"{start + row * TR:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color=colour,
            )
    axis.annotate(
        "",
        (corrected, 3.32),
        (0, 3.32),
        arrowprops={"arrowstyle": "<->", "color": BLUE, "lw": 1.3, "shrinkA": 0, "shrinkB": 0},
    )
    axis.text(
        corrected + 0.12,
        3.32,
        "StartTime 0.833 s",
        va="center",
        color=BLUE,
        fontsize=8.5,
        bbox={"fc": "white", "ec": "none", "pad": 1},
    )
    axis.text(
        4.05, 3.32, "○ dummy scan: keeps its time, keep = false", va="center", color=MUTED, fontsize=8.5
    )
    ticks = [6.0, 4.4, *(y for y, *_ in lines)]
    names = [
        "events.tsv",
        "slices of each volume\n(TR 2 s; one line per slice)",
        *(text for _, text, *_ in lines),
    ]
    axis.set_yticks(ticks, names)
    axis.set_xticks(range(0, 13))
    axis.set_xlim(-0.25, VOLUMES * TR + 0.1)
    axis.set_ylim(0.2, 6.45)
    axis.set_xlabel("seconds after the first stored volume began = the clock of events.tsv")
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT)
    print(OUT, OUT.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
