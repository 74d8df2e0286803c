"""Files that are not whole films: one sentence each, and nothing left behind."""

from __future__ import annotations

import re
import sys
import time

import pytest

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from neuroalign.video.normalise import normalise
from neuroalign.video.probe import probe


def _refused(path, tmp_path) -> str:
    """The sentence with which a file is refused, after seeing that no output appeared."""
    out = tmp_path / "refused"
    with pytest.raises(UserError) as caught:
        normalise(path, out / "out.mp4", out / "out.json", Video())
    assert not out.exists() or not list(out.iterdir())
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_missing(tmp_path):
    assert "does not exist" in _refused(tmp_path / "none.mp4", tmp_path)


def test_dangling_link(tmp_path):
    link = tmp_path / "link.mp4"
    link.symlink_to("../.git/annex/objects/gone.mp4")
    assert "link to ../.git/annex/objects/gone.mp4" in _refused(link, tmp_path)


def test_folder(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert "not a file" in _refused(tmp_path / "folder.mp4", tmp_path)


def test_zero_bytes(tmp_path):
    (tmp_path / "zero.mp4").touch()
    assert "zero bytes" in _refused(tmp_path / "zero.mp4", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "This is not a film.\n" * 50,
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {film}\n",
    ],
    ids=["prose", "play list", "concatenation"],
)
def test_text_named_mp4_is_refused_and_what_it_names_is_not_read(pattern, tmp_path, text):
    (tmp_path / "text.mp4").write_text(text.format(film=pattern))
    assert "not a video" in _refused(tmp_path / "text.mp4", tmp_path)


def test_sound_only(ffmpeg, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    sentence = _refused(tmp_path / "sound.mp4", tmp_path)
    assert "no video stream" in sentence
    assert "audio" in sentence


def test_sound_with_a_cover(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "sine=d=1", "-f", "lavfi", "-i", "color=red:s=64x64:d=0.04"),
        *("-map", 0, "-map", 1, "-c:v", "mjpeg", "-disposition:v", "attached_pic", tmp_path / "cover.m4a"),
    )
    assert "no video stream" in _refused(tmp_path / "cover.m4a", tmp_path)


def test_video_stream_without_frames(ffmpeg, tmp_path):
    source = "color=red:s=64x64:d=1"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 0, tmp_path / "none.mkv")
    assert "no frames" in _refused(tmp_path / "none.mkv", tmp_path)


def _second(sentence: str) -> float:
    return float(re.search(r"breaks at second (\d+(\.\d+)?)", sentence).group(1))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi"])
def test_cut_off_films_say_where(pattern, ffmpeg, tmp_path, kind):
    whole = tmp_path / f"whole.{kind}"
    ffmpeg("-i", pattern, "-c", "copy", "-movflags", "+faststart", whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(content[: len(content) * 6 // 10])
    assert _second(_refused(cut, tmp_path)) == pytest.approx(3.6, abs=0.7)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_damage_in_the_middle_says_where(pattern, ffmpeg, tmp_path, kind):
    whole = tmp_path / f"whole.{kind}"
    ffmpeg("-i", pattern, "-c", "copy", whole)
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes((i * 7919) % 251 for i in range(4000))
    damaged = tmp_path / f"damaged.{kind}"
    damaged.write_bytes(content)
    assert _second(_refused(damaged, tmp_path)) == pytest.approx(3.0, abs=0.7)


def test_mp4_without_its_index(ffmpeg, pattern, tmp_path):
    ffmpeg("-i", pattern, "-c", "copy", tmp_path / "whole.mp4")
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    assert "index" in _refused(tmp_path / "cut.mp4", tmp_path)


def test_sound_longer_than_the_picture_is_not_damage(ffmpeg, tmp_path):
    # MPEG and Matroska without tags know the length of the whole only.
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x64:d=2:r=25", "-f", "lavfi", "-i", "sine=d=6"),
        *("-fflags", "+bitexact", tmp_path / "long.mkv"),
    )
    normalise(tmp_path / "long.mkv", tmp_path / "a.mp4", tmp_path / "a.json", Video())
    # Versions of ffmpeg differ by the milliseconds that a sound codec needs to begin.
    assert probe(tmp_path / "a.mp4").frames in (16, 17)


def test_a_process_that_stands_still_is_stopped():
    script = "import time; print('frame=3', flush=True)\nwhile True: print('frame=3', flush=True); time.sleep(0.05)"
    began = time.monotonic()
    outcome = run_ffmpeg([sys.executable, "-c", script], stall_s=1.0)
    assert outcome.stalled
    assert outcome.progress["frame"] == 3
    assert time.monotonic() - began < 5


def test_a_slow_process_that_moves_is_left_alone():
    script = "import time\nfor i in range(8): print(f'frame={i}', flush=True); time.sleep(0.2)"
    outcome = run_ffmpeg([sys.executable, "-c", script], stall_s=1.0)
    assert not outcome.stalled
    assert outcome.code == 0


def test_ffmpeg_is_found_without_a_system_package(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    ffmpeg_exe.cache_clear()
    try:
        assert "imageio_ffmpeg" in ffmpeg_exe()
    finally:
        ffmpeg_exe.cache_clear()


def test_the_two_decoders_live_in_one_process(mezzanine):
    """PyAV and decord bring an FFmpeg each; neither may disturb the other, whichever is first."""
    import subprocess

    for order in ("av, decord", "decord, av"):
        script = (
            f"import {order}; p = {str(mezzanine)!r}\n"
            "a = len(decord.VideoReader(p)); b = sum(1 for _ in av.open(p).decode(video=0))\n"
            "assert a == b == len(decord.VideoReader(p)) == 48, (a, b)"
        )
        subprocess.run([sys.executable, "-c", script], check=True)
