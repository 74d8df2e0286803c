"""Awkward but whole films, each with the right frames; and files that are none, each with the right sentence."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.decode import iterate_frames
from neuroalign.video.normalise import normalise
from neuroalign.video.probe import probe

NUMBERED = [Fraction(k, 25) for k in range(50)]


def _normalise(source, folder, **config):
    record = normalise(source, folder / "out.mp4", folder / "out.json", Video(**{"height": 64} | config))
    return record, np.concatenate([f for _, f in iterate_frames(folder / "out.mp4")])


def _numbers(times=NUMBERED, fps=8, start=0.0):
    """Numbers that a film with one frame per time shows at each tick."""
    count = int(np.ceil(float(times[-1] + Fraction(1, 25) - times[0]) * fps))
    return [
        max((k for k, t in enumerate(times) if t - times[0] <= i / fps - start + 1e-9), default=0)
        for i in range(count)
    ]


NAMES = [
    "with space.mp4",
    'it\'s "quoted".mp4',
    "-dash.mp4",
    "%d.mp4",
    "frame%03d.mp4",
    "co:lon.mp4",
    "http:__x.mp4",
    "concat:a|b.mp4",
    "[a],b;c=d\\e.mp4",
    "film é 映画.mp4",
    "$HOME & `ls`.mp4",
    "no_suffix",
    "new\nline.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(write_numbered, read_number, tmp_path, monkeypatch, name):
    film = write_numbered(tmp_path / "in.mp4", NUMBERED)
    film.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    _, frames = _normalise(name, tmp_path / f"out of {name}")
    assert [read_number(f) for f in frames] == _numbers()


@pytest.mark.parametrize(
    # A transport stream has 33 bits of 90 kHz: from 95443.7 s on its clock starts anew, here within the film.
    ("suffix", "shift"),
    [("mp4", 5000), ("mkv", 5000), ("nut", 5000), ("ts", 5000), ("ts", 95442.9), ("flv", 60)],
)
def test_time_stamps_may_begin_anywhere(write_numbered, read_number, ffmpeg, tmp_path, suffix, shift):
    film = write_numbered(tmp_path / "in.mp4", NUMBERED, options={"bf": "0"})
    ffmpeg(
        *("-itsoffset", shift, "-i", film, "-c", "copy", "-fflags", "+bitexact"),
        *(("-muxdelay", 0) if suffix == "ts" else ()),
        *("-copyts", tmp_path / f"moved.{suffix}"),
    )
    record, frames = _normalise(tmp_path / f"moved.{suffix}", tmp_path)
    assert [read_number(f) for f in frames] == _numbers()
    assert record["damage"] is None


def test_what_lies_before_the_beginning_is_not_shown(write_numbered, read_number, ffmpeg, tmp_path):
    # Time stamps from -0.32 s on: MP4 says with an edit list that the film begins at 0, with frame 8.
    film = write_numbered(tmp_path / "in.mp4", NUMBERED)
    ffmpeg(
        *("-itsoffset", -0.32, "-i", film, "-c", "copy", "-avoid_negative_ts", "disabled", "-copyts"),
        tmp_path / "moved.mp4",
    )
    _, frames = _normalise(tmp_path / "moved.mp4", tmp_path)
    assert [read_number(f) for f in frames] == [min(int(8 + i / 8 * 25 + 1e-6), 49) for i in range(14)]


def test_an_edit_list_says_where_the_film_begins(write_numbered, read_number, ffmpeg, tmp_path):
    # Cut at 0.72 s without encoding: the frames from the key frame before are in the file, but not shown.
    film = write_numbered(tmp_path / "in.mp4", NUMBERED)
    ffmpeg("-ss", 0.72, "-i", film, "-c", "copy", tmp_path / "cut.mp4")
    _, frames = _normalise(tmp_path / "cut.mp4", tmp_path)
    # Old versions of ffmpeg forget how long the last frame of such a film lasts.
    assert [read_number(f) for f in frames[:10]] == [int(18 + i / 8 * 25 + 1e-6) for i in range(10)]
    assert len(frames) in (10, 11)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "gif"])
def test_a_single_frame(ffmpeg, tmp_path, suffix):
    pixels = () if suffix == "gif" else ("-pix_fmt", "yuv420p")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=66x50:r=25:d=0.04", *pixels, tmp_path / f"one.{suffix}")
    record, frames = _normalise(tmp_path / f"one.{suffix}", tmp_path)
    assert frames.shape == (1, 64, 84, 3)
    assert frames[0, 30, 30].argmax() == 0
    assert record["damage"] is None


def test_an_animated_gif(ffmpeg, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=3", tmp_path / "moving.gif")
    _, frames = _normalise(tmp_path / "moving.gif", tmp_path)
    assert frames.shape == (24, 64, 86, 3)


def test_a_transport_stream_that_begins_between_key_frames(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=8", "-pix_fmt", "yuv420p", "-g", 50, "-bf", 2),
        tmp_path / "all.ts",
    )
    content = (tmp_path / "all.ts").read_bytes()
    packets = len(content) // 188
    (tmp_path / "late.ts").write_bytes(content[188 * (packets // 6) :])
    record, frames = _normalise(tmp_path / "late.ts", tmp_path, height=120)
    _, whole = _normalise(tmp_path / "all.ts", tmp_path / "whole", height=120)
    # What cannot be decoded is not invented: the first whole picture stands in for the beginning.
    lead = record["source"]["lead_s"]
    assert 0.1 < lead < 2
    first = round(lead * 8) + 1
    offset = len(whole) - len(frames)
    difference = np.abs(frames[first:].astype(int) - whole[offset + first :]).mean((1, 2, 3))
    assert np.median(difference) < 12
    assert np.abs(frames[0].astype(int) - frames[int(lead * 8)]).mean() < 1


def test_two_recordings_one_after_the_other(ffmpeg, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=3", "-pix_fmt", "yuv420p", tmp_path / "one.ts")
    content = (tmp_path / "one.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(content + content)
    record, frames = _normalise(tmp_path / "two.ts", tmp_path)
    assert len(frames) == 48
    np.testing.assert_allclose(frames[:24], frames[24:], atol=40)
    assert record["damage"] is None


def test_a_group_of_pictures_as_long_as_the_film(write_numbered, read_number, tmp_path):
    film = write_numbered(tmp_path / "in.mp4", NUMBERED, options={"g": "1000", "bf": "8"})
    _, frames = _normalise(film, tmp_path)
    assert [read_number(f) for f in frames] == _numbers()


def test_very_large_pictures(ffmpeg, tmp_path):
    source = "color=blue:s=7680x4320:r=2:d=1"
    ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", "-preset", "ultrafast", tmp_path / "8k.mp4")
    _, frames = _normalise(tmp_path / "8k.mp4", tmp_path)
    assert frames.shape == (8, 64, 114, 3)


@pytest.mark.slow
def test_pictures_too_large_for_memory_are_refused_before_they_are_decoded(ffmpeg, tmp_path):
    ffmpeg(
        *(
            "-f",
            "lavfi",
            "-i",
            "color=blue:s=16000x8000:r=1:d=1",
            "-frames:v",
            1,
            "-pix_fmt",
            "monob",
            "-c:v",
            "png",
        ),
        tmp_path / "huge.mkv",
    )
    with pytest.raises(UserError, match="16000 x 8000 pixels, more than can be held"):
        probe(tmp_path / "huge.mkv")


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg2video", "mpg"), ("libx264", "mkv")])
def test_fields_become_whole_pictures(ffmpeg, tmp_path, codec, suffix):
    # A bar that moves 24 pixels from field to field: woven together, its edges are combs.
    bar = "color=black:s=720x576:r=50:d=1,format=yuv420p,geq=lum='if(between(X-N*12,40,120),235,16)':cb=128:cr=128"
    ffmpeg(
        *("-f", "lavfi", "-i", f"{bar},interlace=scan=tff", "-c:v", codec, "-flags", "+ilme+ildct"),
        *("-qscale", 2, tmp_path / f"in.{suffix}"),
    )
    record, frames = _normalise(tmp_path / f"in.{suffix}", tmp_path, height=576)
    assert record["source"]["interlaced"]
    assert any("fields" in step for step in record["done"])
    light = frames[3].astype(int).mean(2)
    comb = np.abs(light[1:-1:2] - (light[0:-2:2] + light[2::2]) / 2).mean()
    assert comb < 2
    assert len(frames) == 8


MIRRORS = {
    "mirrored": ((-1, 0, 0, 1), (0, 1)),
    "upside down mirrored": ((1, 0, 0, -1), (1, 0)),
    "transposed": ((0, 1, 1, 0), (0, 0)),
    "anti-transposed": ((0, -1, -1, 0), (1, 1)),
    "quarter turn": ((0, 1, -1, 0), (0, 1)),
    "no matrix at all": ((0, 0, 0, 0), (0, 0)),
}


@pytest.mark.parametrize("case", MIRRORS)
def test_every_orientation_of_a_display_matrix(ffmpeg, tmp_path, case):
    matrix, corner = MIRRORS[case]
    source = "color=black:s=160x96:d=1:r=8,drawbox=0:0:80:48:white:fill"
    ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", tmp_path / "in.mp4")
    content = bytearray((tmp_path / "in.mp4").read_bytes())
    # The matrix of the track header: nine numbers, of which a, b, c and d say how the picture lies.
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    _, frames = _normalise(tmp_path / "turned.mp4", tmp_path, height=96)
    lies = matrix[1] != 0
    assert frames.shape[1:3] == ((96, 58) if lies else (96, 160))
    middle = frames[0][24::48, frames.shape[2] // 4 :: frames.shape[2] // 2, 0][:2, :2]
    assert np.unravel_index(middle.argmax(), (2, 2)) == corner


@pytest.mark.parametrize(
    ("marks", "colour"),
    # The larger picture, unless a later stream alone is marked; a mark on the first is put there by programs.
    [(("default", "0"), 2), (("0", "0"), 2), (("default", "default"), 2)],
)
def test_the_larger_of_two_streams(ffmpeg, tmp_path, marks, colour):
    ffmpeg(
        *("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-f", "lavfi", "-i", "color=blue:s=160x90:d=1"),
        *("-map", 0, "-map", 1, "-disposition:v:0", marks[0], "-disposition:v:1", marks[1]),
        tmp_path / "two.mkv",
    )
    _, frames = _normalise(tmp_path / "two.mkv", tmp_path)
    assert frames[0, 32, 32].argmax() == colour


def test_a_later_stream_that_alone_is_marked_as_default_is_taken(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "color=blue:s=160x90:d=1", "-f", "lavfi", "-i", "color=red:s=64x64:d=1"),
        *("-map", 0, "-map", 1, "-disposition:v:0", "0", "-disposition:v:1", "default"),
        tmp_path / "two.mkv",
    )
    record, frames = _normalise(tmp_path / "two.mkv", tmp_path)
    assert record["source"]["index"] == 1
    assert frames[0, 32, 32].argmax() == 0


def test_a_film_with_a_cover(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "color=red:s=640x640:d=0.04", "-f", "lavfi", "-i", "color=blue:s=160x90:d=1"),
        *("-map", 0, "-map", 1, "-c:v:0", "mjpeg", "-disposition:v:0", "attached_pic", tmp_path / "film.mp4"),
    )
    _, frames = _normalise(tmp_path / "film.mp4", tmp_path)
    assert frames[0, 32, 32].argmax() == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff"])
def test_a_picture_named_mp4(ffmpeg, tmp_path, suffix):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=0.04", tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="is a picture, not a video"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "head", [b"version https://git-lfs.github.com/spec/v1\n", b"/annex/objects/MD5E-s1\n"]
)
def test_a_pointer_to_content_elsewhere(tmp_path, head):
    (tmp_path / "a.mp4").write_bytes(head + b"oid sha256:0\n")
    with pytest.raises(UserError, match="pointer to content that is not here"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("kind", [b"alis", b"url "])
def test_pictures_that_lie_in_another_file_are_not_read(ffmpeg, tmp_path, kind):
    """QuickTime may keep its samples elsewhere (a data reference): the file with the path alone shows nothing."""
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-pix_fmt", "yuv420p", "-f", "mov"),
        tmp_path / "secret.mov",
    )
    content = (tmp_path / "secret.mov").read_bytes()
    target = str(tmp_path / "secret.mov").encode()
    moov = content[content.index(b"moov") - 4 :]
    reference = _alias(target) if kind == b"alis" else b"file://" + target + b"\0"
    entry = struct.pack(">I4sI", 12 + len(reference), kind, 0) + reference
    kind_of_file = content[: struct.unpack(">I", content[:4])[0]]
    (tmp_path / "thief.mp4").write_bytes(kind_of_file + _replace_dref(moov, entry))
    with pytest.raises(UserError, match=r"thief\.mp4 (has a video stream but no frames|breaks at second 0)"):
        normalise(tmp_path / "thief.mp4", tmp_path / "o.mp4", tmp_path / "o.json", Video())


def _alias(target: bytes) -> bytes:
    """An alias record of a data reference, with the path that ffmpeg would take (type 2)."""
    fixed = bytes(10) + bytes([1]) + b"v".ljust(27, b"\0") + bytes(12)
    fixed += bytes([6]) + b"secret".ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    path = target + b"\0" * (len(target) % 2)
    return fixed + struct.pack(">hH", 2, len(target)) + path + struct.pack(">hH", -1, 0)


def _replace_dref(moov: bytes, entry: bytes) -> bytes:
    """The movie box with another data reference of its first track, and all boxes around it resized."""
    at = moov.index(b"dref") - 4
    size = struct.unpack(">I", moov[at : at + 4])[0]
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = bytearray(moov[:at] + box + moov[at + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        where = moov.index(name) - 4 if name != b"dinf" else moov.rindex(name, 0, at) - 4
        old = struct.unpack(">I", grown[where : where + 4])[0]
        grown[where : where + 4] = struct.pack(">I", old + len(box) - size)
    return bytes(grown)
