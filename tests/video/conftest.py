"""Films made on the spot: numbered frames with any time stamps, and whatever ffmpeg can be asked for."""

from __future__ import annotations

import subprocess
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.video.normalise import normalise

COLUMNS, ROWS = 5, 2


def number_picture(number: int, width: int = 160, height: int = 64) -> np.ndarray:
    """A picture, (height, width, 3), whose ten blocks spell `number` in black and white."""
    bits = [(number >> i) & 1 for i in range(COLUMNS * ROWS)]
    blocks = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 200 + 28
    picture = np.kron(blocks, np.ones((height // ROWS, width // COLUMNS), np.uint8))
    return np.repeat(picture[:, :, None], 3, axis=2)


def _read_number(picture: np.ndarray) -> int:
    """The number that a picture of `number_picture` shows, at whatever size."""
    high, wide = picture.shape[0] // ROWS, picture.shape[1] // COLUMNS
    middle = picture[high // 2 :: high, wide // 2 :: wide, 1][:ROWS, :COLUMNS] > 128
    return int(sum(1 << i for i, bit in enumerate(middle.ravel()) if bit))


@pytest.fixture(scope="session")
def read_number():
    """The number that a picture of a numbered film shows."""
    return _read_number


@pytest.fixture(scope="session")
def write_numbered():
    """Write a film whose frame `k` shows the number `k` from ``times[k]`` on, with PyAV."""

    def write(path, times, tick=Fraction(1, 90000), codec="libx264", last_s=None, options=None):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30, options={"g": "12", **(options or {})})
            stream.width, stream.height, stream.pix_fmt = 160, 64, "yuv420p"
            stream.codec_context.time_base = tick
            for k, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(number_picture(k), format="rgb24")
                frame.pts, frame.time_base = round(Fraction(time) / tick), tick
                if k + 1 == len(times) and last_s is not None:
                    frame.duration = round(Fraction(last_s) / tick)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def ffmpeg():
    """Run ffmpeg with some arguments: that of the wheel, because films are made with options newer than some systems."""
    executable = imageio_ffmpeg.get_ffmpeg_exe()

    def run(*arguments):
        subprocess.run([executable, "-y", "-v", "error", *map(str, arguments)], check=True)

    return run


@pytest.fixture(scope="session")
def pattern(ffmpeg, tmp_path_factory):
    """Six seconds of a moving test pattern, 320 x 240, H.264 in MP4 with its index first."""
    path = tmp_path_factory.mktemp("pattern") / "pattern.mp4"
    source = "testsrc2=s=320x240:r=25:d=6"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        source,
        "-pix_fmt",
        "yuv420p",
        "-g",
        25,
        "-bf",
        0,
        "-movflags",
        "+faststart",
        path,
    )
    return path


@pytest.fixture(scope="session")
def mezzanine(pattern, tmp_path_factory):
    """The pattern, normalised as by default."""
    folder = tmp_path_factory.mktemp("mezzanine")
    normalise(pattern, folder / "pattern.mp4", folder / "pattern.json", Video())
    return folder / "pattern.mp4"


@pytest.fixture(scope="session")
def long_film(write_numbered, tmp_path_factory):
    """A mezzanine of 96 seconds, small, whose frame `i` shows `i`: several parts of an embedding."""
    folder = tmp_path_factory.mktemp("long")
    write_numbered(folder / "in.mp4", [Fraction(k, 8) for k in range(768)])
    normalise(folder / "in.mp4", folder / "long.mp4", folder / "long.json", Video(height=64))
    return folder / "long.mp4"
