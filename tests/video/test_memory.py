"""Films are never held in memory: eight minutes take no more than one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
from neuroalign.config.video import Video
from neuroalign.video.decode import iterate_frames
from neuroalign.video.normalise import normalise

normalise(sys.argv[1], sys.argv[2] + "/out.mp4", sys.argv[2] + "/out.json", Video(fps=4, height=96))
frames = sum(len(batch) for _, batch in iterate_frames(sys.argv[2] + "/out.mp4"))
peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([frames, *peaks]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(ffmpeg, root, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=320x240:r=10:d=60", "-pix_fmt", "yuv420p", tmp_path / "film1.mp4")
    )
    ffmpeg("-stream_loop", 7, "-i", tmp_path / "film1.mp4", "-c", "copy", tmp_path / "film8.mp4")
    found = {}
    for minutes in (1, 8):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / f"film{minutes}.mp4"), str(tmp_path)],
            cwd=root,
            capture_output=True,
            check=True,
            text=True,
        )
        found[minutes] = json.loads(done.stdout.splitlines()[-1])
    assert [found[1][0], found[8][0]] == [240, 1920]
    # Seven minutes more are 1680 frames, 65 MB at the size they are stored in.
    assert found[8][1] - found[1][1] < 25
    assert found[8][2] - found[1][2] < 25
