"""Whole films of many kinds through `normalise`: the right frames at the right times, upright and in colour."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.video.decode import iterate_frames
from neuroalign.video.normalise import mezzanine_size, normalise
from neuroalign.video.probe import probe

MILLISECOND = Fraction(1, 1000)


def _normalise(source, folder, **config):
    record = normalise(source, folder / "out.mp4", folder / "out.json", Video(**config))
    frames = np.concatenate([f for _, f in iterate_frames(folder / "out.mp4")])
    return record, frames


def _shown(times, moment):
    """Number of the frame on the screen at a moment: the last that has begun; the first before any has."""
    return max((k for k, t in enumerate(times) if t <= moment + 1e-9), default=0)


CLOCKS = {
    "25 to 8": ([Fraction(k, 25) for k in range(60)], 8),
    "ntsc to 8": ([Fraction(1001 * k, 30000) for k in range(70)], 8),
    "ntsc to itself": ([Fraction(1001 * k, 30000) for k in range(70)], 29.97),
    "10 to 30": ([Fraction(k, 10) for k in range(25)], 30),
    "variable": (
        list(np.cumsum([Fraction(n, 100) for n in [0, 3, 3, 9, 1, 1, 40, 2, 5, 70, 4, 4, 4, 20, 3]])),
        12,
    ),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_frame_for_each_time_is_the_one_a_player_shows(write_numbered, read_number, tmp_path, clock, suffix):
    times, fps = CLOCKS[clock]
    source = write_numbered(tmp_path / f"in.{suffix}", times)
    record, frames = _normalise(source, tmp_path, fps=fps, height=64)
    rate = Fraction(30000, 1001) if fps == 29.97 else fps
    expected = [_shown(times, Fraction(i) / rate) for i in range(len(frames))]
    assert [read_number(f) for f in frames] == expected
    assert expected[-1] >= len(times) - math.ceil(30 / fps) - 1
    assert record["mezzanine"]["frames"] == len(frames)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_stamps_that_begin_late_are_moved_to_zero(write_numbered, read_number, tmp_path, suffix):
    times = [Fraction(k, 25) for k in range(50)]
    source = write_numbered(tmp_path / f"in.{suffix}", [t + Fraction(7, 2) for t in times])
    record, frames = _normalise(source, tmp_path, height=64)
    assert [read_number(f) for f in frames] == [_shown(times, i / 8) for i in range(len(frames))]
    assert len(frames) == 16
    assert record["mezzanine"]["duration_s"] == 2


def test_picture_that_begins_after_the_sound_keeps_its_place(write_numbered, read_number, ffmpeg, tmp_path):
    times = [Fraction(k, 25) for k in range(50)]
    source = write_numbered(tmp_path / "in.mkv", times)
    ffmpeg(
        *("-f", "lavfi", "-i", "sine=d=3.5", "-itsoffset", 1.5, "-i", source),
        *("-map", "1:v", "-map", "0:a", "-c:v", "copy", "-c:a", "flac", tmp_path / "late.mkv"),
    )
    record, frames = _normalise(tmp_path / "late.mkv", tmp_path, height=64)
    assert [read_number(f) for f in frames] == [_shown(times, i / 8 - 1.5) for i in range(len(frames))]
    assert len(frames) == 28
    assert any("held the first frame" in step for step in record["done"])


def test_rounded_time_stamps_lose_no_frame(write_numbered, read_number, tmp_path):
    times = [Fraction(1001 * k, 30000) for k in range(90)]
    source = write_numbered(
        tmp_path / "in.mkv", [Fraction(round(t / MILLISECOND)) * MILLISECOND for t in times]
    )
    _, frames = _normalise(source, tmp_path, fps=29.97, height=64)
    assert [read_number(f) for f in frames] == list(range(90))


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_rotation_is_applied(ffmpeg, tmp_path, rotation, corner):
    # White only in the first quarter, top left; a display matrix turns the picture counter-clockwise.
    source = "color=black:s=160x96:d=1:r=8,drawbox=0:0:80:48:white:fill"
    ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", tmp_path / "flat.mp4")
    ffmpeg("-display_rotation", rotation, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    record, frames = _normalise(tmp_path / "turned.mp4", tmp_path, height=96)
    upright = rotation % 180 == 0
    assert frames.shape[1:3] == ((96, 160) if upright else (96, 58))
    middle = frames[0][24::48, frames.shape[2] // 4 :: frames.shape[2] // 2, 0][:2, :2]
    assert np.unravel_index(middle.argmax(), (2, 2)) == corner
    assert record["source"]["rotation"] == rotation


def test_two_video_streams_the_larger_is_taken(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-f", "lavfi", "-i", "color=blue:s=160x90:d=1"),
        *("-f", "lavfi", "-i", "sine=d=1", "-map", 0, "-map", 2, "-map", 1, tmp_path / "two.mp4"),
    )
    record, frames = _normalise(tmp_path / "two.mp4", tmp_path)
    assert record["source"]["index"] == 2
    assert frames.shape[1:3] == (224, 398)
    assert frames[0, 100, 100].argmax() == 2
    assert "audio" not in probe(tmp_path / "out.mp4").streams


def test_odd_size_and_pixels_that_are_not_square(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=175x145:d=1:r=8,setsar=2"),
        *("-pix_fmt", "yuv444p", tmp_path / "odd.mkv"),
    )
    record, frames = _normalise(tmp_path / "odd.mkv", tmp_path, height=101)
    assert frames.shape[1:3] == (100, 2 * round(2 * 175 / 145 * 50))
    assert probe(tmp_path / "out.mp4").sample_aspect == 1
    assert any("square" in step for step in record["done"])


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuvj420p", "yuv444p"])
@pytest.mark.parametrize("space", ["bt709", "smpte170m"])
def test_colours_survive(ffmpeg, tmp_path, pixels, space):
    matrix = "bt709" if space == "bt709" else "bt601"
    levels = "pc" if pixels == "yuvj420p" else "tv"
    ffmpeg(
        *("-f", "lavfi", "-i", "color=0xC83C28:s=96x96:d=1:r=8,format=gbrp"),
        *("-vf", f"scale=out_color_matrix={matrix}:out_range={levels},format={pixels}"),
        *("-colorspace", space, "-color_range", levels, "-crf", 4, tmp_path / "in.mkv"),
    )
    _, frames = _normalise(tmp_path / "in.mkv", tmp_path, height=96)
    assert np.abs(frames[2].reshape(-1, 3).mean(0) - [0xC8, 0x3C, 0x28]).max() < 4


def test_same_input_same_bytes(pattern, tmp_path):
    made = []
    for threads in (1, 2):
        normalise(pattern, tmp_path / "a.mp4", tmp_path / "a.json", Video(), threads=threads)
        made.append((tmp_path / "a.mp4").read_bytes() + (tmp_path / "a.json").read_bytes())
    assert made[0] == made[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.mp4"]


def test_the_record_says_what_was_found_and_done(pattern, tmp_path):
    returned = normalise(pattern, tmp_path / "a.mp4", tmp_path / "a.json", Video(fps=8, height=120))
    record = json.loads((tmp_path / "a.json").read_text())
    assert record == returned
    assert record["mezzanine"] == {"width": 160, "height": 120, "fps": 8.0, "frames": 48, "duration_s": 6.0}
    assert record["source"]["codec"] == "h264"
    assert record["provenance"]["inputs"]["video"]["file"] == "pattern.mp4"
    assert record["warnings"] == []


def test_a_key_frame_every_second(mezzanine):
    import av

    with av.open(str(mezzanine)) as container:
        stream = container.streams.video[0]
        keys = [p.pts * p.time_base for p in container.demux(stream) if p.is_keyframe and p.size]
    assert keys == [0, 1, 2, 3, 4, 5]


def test_mezzanine_size_is_even():
    assert mezzanine_size(16 / 9, 224) == (398, 224)
    assert mezzanine_size(9 / 16, 225) == (126, 224)


def test_the_rotated_film_is_upright(shared_data, tmp_path):
    """Its pixels are those of the flat film, turned: the same seconds must agree after turning back."""
    flat, turned = tmp_path / "flat", tmp_path / "turned"
    videos = shared_data / "videos"
    _, upright = _normalise(videos / "nasa_13013.mp4", flat, height=128)
    _, rotated = _normalise(videos / "nasa_13013_rotated.mp4", turned, height=228)
    back = np.rot90(rotated[0], -1)
    a = upright[0][:, ::1].mean(2)
    b = back[:, :].mean(2)
    assert a.shape == b.shape
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95
