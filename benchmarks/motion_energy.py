"""Motion energy: our projection against pymoten's own, on the same frames, and their agreement.

Run by hand, with one thread for a fair comparison::

    OMP_NUM_THREADS=1 python benchmarks/motion_energy.py --seconds 90
"""

from __future__ import annotations

import argparse
import resource
import time

import moten
import numpy as np

from neuroalign.video.backbones.motion_energy import MotionEnergy


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90, help="length of the film")
    parser.add_argument("--fps", type=int, default=8, help="frames per second")
    parser.add_argument("--size", type=int, default=96, help="pixels on each side")
    parser.add_argument("--batch", type=int, default=32, help="frames per batch")
    options = parser.parse_args()

    frames = round(options.seconds * options.fps)
    light = np.random.default_rng(0).uniform(0, 100, (frames, options.size, options.size))

    began = time.perf_counter()
    energy = MotionEnergy(options.size, options.fps)
    built = time.perf_counter()
    ours = np.concatenate(
        list(energy.project(light[i : i + options.batch] for i in range(0, frames, options.batch)))
    )
    ended = time.perf_counter()
    print(f"{frames} frames of {options.size} x {options.size}, {len(energy.filters)} filters")
    print(f"ours            {built - began:7.2f} s to build, {ended - built:7.2f} s to project")

    pyramid = moten.pyramids.MotionEnergyPyramid(
        stimulus_vhsize=(options.size, options.size), stimulus_fps=options.fps
    )
    times = {}
    for name, project in (
        ("pymoten", moten.core.project_stimulus),
        ("pymoten batched", moten.core.project_stimulus_batched),
    ):
        began = time.perf_counter()
        theirs = project(light, pyramid.filters, dtype="float64")
        times[name] = time.perf_counter() - began
        worst = np.abs(np.exp(ours) / np.exp(theirs) - 1).max()
        print(f"{name:15} {times[name]:7.2f} s, largest relative difference {worst:.1e}")
    print(f"pymoten / ours: {min(times.values()) / (ended - built):.1f} (building left out)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
