"""Damaged films: the second at which they break, and, if wanted, exactly the whole pictures before it."""

from __future__ import annotations

import random
import re

import av
import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.decode import iterate_frames
from neuroalign.video.extent import missing_bytes
from neuroalign.video.normalise import normalise
from neuroalign.video.reading import rhythm

KINDS = ("mp4", "mkv", "ts", "avi", "flv", "frag.mp4")
TRUNCATE = Video(on_damage="truncate", height=96)


@pytest.fixture(scope="module")
def films(ffmpeg, tmp_path_factory):
    """Six seconds with B-frames and a key frame a second, in several containers."""
    folder = tmp_path_factory.mktemp("films")
    source = ("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=6")
    ffmpeg(*source, *("-pix_fmt", "yuv420p", "-g", 25, "-bf", 3, "-movflags", "+faststart"), folder / "w.mp4")
    for kind in KINDS[1:]:
        flags = ("-movflags", "+frag_keyframe+empty_moov") if kind == "frag.mp4" else ()
        ffmpeg("-i", folder / "w.mp4", "-c", "copy", *flags, folder / f"w.{kind}")
    return {kind: folder / f"w.{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory):
    """The mezzanine frames of the whole films."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: _frames(path, folder)[1] for kind, path in films.items()}


def _frames(path, folder, config=TRUNCATE):
    record = normalise(path, folder / "out.mp4", folder / "out.json", config)
    return record, np.concatenate([f for _, f in iterate_frames(folder / "out.mp4")]).astype(int)


def _spoil(content: bytes, how: str, where: float) -> tuple[bytes, range]:
    """The content spoilt from some place on, and the bytes that are lost."""
    # Odd, so that a transport stream is not cut between two of its packets, which nobody could see.
    at = int(where * len(content)) | 1
    noise = random.Random(0).randbytes(4000)
    if how == "cut":
        return content[:at], range(at, len(content))
    return content[:at] + noise + content[at + len(noise) :], range(at, at + len(noise))


def _first_lost(path, lost: range) -> float | None:
    """Second of the first picture of which bytes are lost, in the order in which pictures are shown."""
    with av.open(str(path)) as container:
        start = container.start_time / 1e6
        packets = [p for p in container.demux(video=0) if p.size]
        hit = [p for p in packets if p.pos < lost.stop and p.pos + p.size > lost.start]
        return min((float(p.pts * p.time_base) - start for p in hit), default=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cut", "overwritten"])
@pytest.mark.parametrize("where", [0.35, 0.6, 0.83])
def test_what_is_kept_is_whole_and_nearly_all_that_there_is(films, whole, tmp_path, kind, how, where):
    path = tmp_path / f"spoilt.{kind}"
    content, lost = _spoil(films[kind].read_bytes(), how, where)
    path.write_bytes(content)
    expected = _first_lost(films[kind], lost)
    record, frames = _frames(path, tmp_path)
    damage = record["damage"]
    if expected is None:
        # The index of an AVI, at its end, is long: the pictures are all there.
        assert (damage, len(frames), kind) == (None, len(whole[kind]), "avi")
        return
    # Sooner only by the pictures that a decoder holds back; later only where a lost byte does not show in the picture.
    assert expected - 0.45 <= damage["at_s"] <= expected + (0.001 if how == "cut" else 0.25)
    assert len(frames) == int(damage["at_s"] * 8 + 1e-6)
    assert record["mezzanine"]["duration_s"] <= damage["at_s"]
    # Encoding differs by a grey level where the end is near; a patched or frozen picture by many.
    assert np.abs(frames - whole[kind][: len(frames)]).mean((1, 2, 3)).max() < 2
    assert any("where it breaks" in step for step in record["done"])


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_by_default_it_is_an_error_that_names_the_second_and_the_way_out(films, tmp_path, how):
    path = tmp_path / "spoilt.mkv"
    path.write_bytes(_spoil(films["mkv"].read_bytes(), how, 0.5)[0])
    with pytest.raises(UserError) as caught:
        normalise(path, tmp_path / "out.mp4", tmp_path / "out.json", Video())
    sentence = str(caught.value)
    second = float(re.search(r"breaks at second (\d+\.\d)", sentence).group(1))
    assert second == pytest.approx(3.0, abs=0.75)
    assert "set video.on_damage to truncate" in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["spoilt.mkv"]


@pytest.mark.parametrize("on_damage", ["error", "truncate"])
def test_damage_at_the_very_beginning_is_always_an_error(films, tmp_path, on_damage):
    content = films["mp4"].read_bytes()
    at = content.index(b"mdat") + 4
    (tmp_path / "spoilt.mp4").write_bytes(content[:at] + bytes(len(content) - at))
    with pytest.raises(UserError, match="breaks at second 0"):
        normalise(
            tmp_path / "spoilt.mp4", tmp_path / "o.mp4", tmp_path / "o.json", Video(on_damage=on_damage)
        )


def test_a_wrong_length_in_the_header_is_no_damage(films, tmp_path):
    # Whole by its own boxes, and every frame decodes: only the number is wrong.
    content = bytearray(films["mkv"].read_bytes())
    at = content.index(b"\x44\x89\x88") + 3
    assert np.frombuffer(bytes(content[at : at + 8]), ">f8")[0] == pytest.approx(6000, abs=50)
    content[at : at + 8] = np.array([60000.0], ">f8").tobytes()
    tag = content.index(b"00:00:06.")
    content[tag : tag + 8] = b"00:01:00"
    (tmp_path / "long.mkv").write_bytes(content)
    record, frames = _frames(tmp_path / "long.mkv", tmp_path, Video())
    assert len(frames) == 48
    assert record["damage"] is None
    assert any("header claims" in warning for warning in record["warnings"])


def test_losing_only_what_follows_the_pictures_is_no_damage(films, tmp_path):
    # The last box of a fragmented film is an index for seeking.
    content = films["frag.mp4"].read_bytes()
    at = content.rindex(b"mfra") - 4
    (tmp_path / "cut.mp4").write_bytes(content[: at + 20])
    record, frames = _frames(tmp_path / "cut.mp4", tmp_path, Video(height=96))
    assert (len(frames), record["damage"]) == (48, None)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_lack_nothing_by_their_own_account(films, kind):
    content = films[kind].read_bytes()
    assert not missing_bytes(films[kind])
    if kind != "flv":
        short = films[kind].with_suffix(".short")
        short.write_bytes(content[:-77])
        # Transport streams are counted in packets of 188 bytes; the others know to the byte.
        assert missing_bytes(short) == 77


def test_rhythm_finds_the_first_hole_and_forgives_variable_rates():
    regular = [k * 0.04 for k in range(100)]
    found = rhythm(regular, 1.0)
    assert found["step_s"] == pytest.approx(0.04)
    assert (found["hole_s"], found["ragged_at_s"]) == (0.0, None)
    holes = [t for k, t in enumerate(regular) if k not in (50, 51, 90)]
    found = rhythm(holes, 1.0)
    assert found["hole_at_s"] == pytest.approx(regular[49])
    assert found["ragged_at_s"] == pytest.approx(regular[89])
    assert found["longest_s"] == pytest.approx(0.12)
    uneven = np.cumsum(np.tile([0.02, 0.02, 0.5], 40)).tolist()
    assert rhythm(uneven, 1.0)["hole_s"] == 0.0
    assert rhythm([3.0], 0.04)["step_s"] == 0.04
