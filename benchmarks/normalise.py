"""Normalising and decoding a film against ffmpeg alone; and, with ``--hours``, the memory that a long film takes.

Run by hand::

    python benchmarks/normalise.py
    python benchmarks/normalise.py --hours 2

The first makes a minute of 640 x 360 pixels at 30 frames/s, then times in turn ffmpeg alone (decoding it, keeping 8
frames/s, scaling them to 224 lines, raw pictures thrown away) and `normalise` followed by decoding every frame. Both
decode with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from neuroalign.config.video import Video
from neuroalign.video.decode import film, iterate_frames
from neuroalign.video.ffmpeg import ffmpeg_exe
from neuroalign.video.normalise import normalise


def main() -> None:
    """Make the film, take the times or the memory, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="length of the film")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads that decode, on both sides")
    parser.add_argument("--film", type=Path, help="take this film instead of making one")
    parser.add_argument("--hours", type=float, help="measure memory, with a film of this length")
    parser.add_argument("--size", type=int, default=48, help="pixels that motion energy sees, with --hours")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.hours:
            memory(folder, options.hours, options.size)
        else:
            speed(folder, options)


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Print the ratio of both times, repeated."""
    source = options.film or folder / "film.mp4"
    if not options.film:
        # Smooth motion with some noise compresses like a film; a test pattern alone is too easy to decode.
        picture = f"testsrc2=s=640x360:r=30:d={options.seconds},noise=alls=8:allf=t"
        run("-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "-preset", "medium", "-crf", "23", source)
    config = Video(fps=8, height=224)
    size = f"{2 * round(640 / 360 * 112)}:224"
    ratios, parts = [], []
    for _ in range(options.repeats):
        began = time.perf_counter()
        run(
            *("-threads", str(options.threads), "-i", source, "-an", "-vf", f"fps=8,scale={size}"),
            *("-f", "rawvideo", "-y", "/dev/null"),
        )
        alone = time.perf_counter() - began
        began = time.perf_counter()
        normalise(source, folder / "out.mp4", folder / "out.json", config, threads=options.threads)
        made = time.perf_counter() - began
        frames = sum(len(batch) for _, batch in iterate_frames(folder / "out.mp4", threads=options.threads))
        ours = time.perf_counter() - began
        ratios.append(ours / alone)
        parts.append((alone, made, ours - made))
        print(
            f"ffmpeg alone {alone:5.2f} s, normalise {made:5.2f} s, decode {ours - made:5.2f} s ({frames} frames): "
            f"{ratios[-1]:.2f}"
        )
    middle = [statistics.median(values) for values in zip(*parts, strict=True)]
    print("medians: ffmpeg alone {:.2f} s, normalise {:.2f} s, decode {:.2f} s".format(*middle))
    print(f"median ratio {statistics.median(ratios):.2f} (at most 1.5 is wanted)")
    print(f"mezzanine {(folder / 'out.mp4').stat().st_size / 1e6:.2f} MB")


def memory(folder: Path, hours: float, size: int) -> None:
    """Take a long film through normalise, decode and motion energy; print the peaks."""
    from neuroalign.video.embed import embed

    piece, source = folder / "piece.mp4", folder / "film.mp4"
    run("-f", "lavfi", "-i", "testsrc2=s=320x240:r=5:d=60", "-pix_fmt", "yuv420p", piece)
    run("-stream_loop", str(round(hours * 60) - 1), "-i", piece, "-c", "copy", source)
    config = Video(motion_energy={"size": size})
    began = time.perf_counter()
    record = normalise(source, folder / "out.mp4", folder / "out.json", config, threads=2)
    print(
        f"normalised {json.dumps(record['mezzanine'])} in {time.perf_counter() - began:.0f} s: "
        f"peak {peak():.0f} MB, of its processes {peak(resource.RUSAGE_CHILDREN):.0f} MB"
    )
    began = time.perf_counter()
    frames = sum(len(batch) for _, batch in iterate_frames(folder / "out.mp4"))
    print(f"decoded {frames} frames in {time.perf_counter() - began:.0f} s: peak {peak():.0f} MB")
    assert frames == film(folder / "out.mp4").n_frames == round(hours * 3600 * config.fps)
    began = time.perf_counter()
    embedding = embed(folder / "out.mp4", folder / "out.h5", config, threads=2)
    print(
        f"motion energy at {size} pixels, {len(embedding.times)} windows in {time.perf_counter() - began:.0f} s: "
        f"peak {peak():.0f} MB (at most 1500 MB is wanted)"
    )


def peak(whose: int = resource.RUSAGE_SELF) -> float:
    """Largest memory in MB of this process, or of the largest child."""
    return resource.getrusage(whose).ru_maxrss / 1024


def run(*arguments: object) -> None:
    """Run ffmpeg."""
    subprocess.run([ffmpeg_exe(), "-v", "error", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
