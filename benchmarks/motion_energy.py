"""Motion energy: our projection against pymoten's own, on the same frames, and their agreement.

Ours sees the frames batch by batch, as a film is decoded, and its peak memory is told before pymoten, which takes them all
at once, has begun. With ``--film`` a film is embedded too, from its file to the embedding, in a process of its own. Run by
hand, with one thread for a fair comparison::

    OMP_NUM_THREADS=1 python benchmarks/motion_energy.py --seconds 600 --film 7200
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import moten
import numpy as np

from neuroalign.config.video import Video
from neuroalign.video.backbones.motion_energy import MotionEnergy
from neuroalign.video.decode import film
from neuroalign.video.normalise import normalise

EMBED = """
import sys
from neuroalign.config.video import Video
from neuroalign.video.embed import embed
embed(sys.argv[1], sys.argv[2], Video())
"""


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90, help="length of the film")
    parser.add_argument("--fps", type=int, default=8, help="frames per second")
    parser.add_argument("--size", type=int, default=96, help="pixels on each side")
    parser.add_argument("--batch", type=int, default=32, help="frames per batch")
    parser.add_argument("--film", type=float, default=0, help="seconds of a film that is embedded too")
    options = parser.parse_args()

    if options.film:
        _embed(options.film)
    frames = round(options.seconds * options.fps)
    began = time.perf_counter()
    energy = MotionEnergy(options.size, options.fps)
    built = time.perf_counter() - began
    print(f"{frames} frames of {options.size} x {options.size}, {len(energy.filters)} filters")

    before, made, found = _peak(), 0.0, []

    def timed() -> Iterator[np.ndarray]:
        nonlocal made
        for batch in _batches(frames, options):
            began = time.perf_counter()
            yield batch
            made += time.perf_counter() - began

    for rows in energy.project(timed()):
        found.append(rows)
    ours = np.concatenate(found)
    # What is projected after the last batch was taken in is little: the frames that filters look ahead.
    print(f"ours            {built:7.2f} s to build, {made:7.2f} s to project")
    results = ours.nbytes / 2**20
    print(
        f"ours            {_peak():.0f} MB at most, {before:.0f} MB before; the results alone are {results:.0f} MB"
    )

    light = np.concatenate(list(_batches(frames, options)))
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
        print(
            f"{name:15} {times[name]:7.2f} s, largest relative difference {worst:.1e}, {_peak():.0f} MB at most"
        )
    print(f"pymoten / ours: {min(times.values()) / made:.1f} (building left out)")


def _batches(frames: int, options: argparse.Namespace) -> Iterator[np.ndarray]:
    """Lightness of random frames, the same each time."""
    rng = np.random.default_rng(0)
    for first in range(0, frames, options.batch):
        yield rng.uniform(0, 100, (min(options.batch, frames - first), options.size, options.size))


def _embed(seconds: float) -> None:
    """Time the whole way of a film, from the normalised file to its embedding, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
        source = "testsrc2=s=640x360:r=8:d=60"
        subprocess.run([*command, source, "-pix_fmt", "yuv420p", str(folder / "in.mp4")], check=True)
        normalise(folder / "in.mp4", folder / "minute.mp4", folder / "minute.json", Video())
        # The minute again and again: what it shows does not matter.
        again = ["-stream_loop", "-1", "-i", str(folder / "minute.mp4"), "-t", str(seconds), "-c", "copy"]
        subprocess.run([*command[:3], *again, str(folder / "film.mp4")], check=True)
        frames = film(folder / "film.mp4").n_frames
        began = time.perf_counter()
        child = [sys.executable, "-c", EMBED, str(folder / "film.mp4"), str(folder / "out.h5")]
        status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.executable, child), 0)[1:]
        if status:
            sys.exit("the film could not be embedded")
        taken = time.perf_counter() - began
        print(
            f"embedding a film of {seconds:g} s: {taken:.1f} s with all imports, {frames / taken:.0f} frames/s, "
            f"{usage.ru_maxrss / 1024:.0f} MB at most"
        )


def _peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
