"""Every real film, frame by frame against another decoder: which picture, how large, which way up."""

from __future__ import annotations

import json
import shutil
import subprocess

import av
import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.video.decode import film, iterate_frames
from neuroalign.video.embed import embed
from neuroalign.video.normalise import normalise
from neuroalign.video.shards import read_embedding

CONFIG = Video(height=96, motion_energy={"size": 32})
# Seconds of which every picture is compared; more would only take longer.
COMPARED_S = 6
NAMES = (
    *("bigbuckbunny.mp4", "bikes.mp4", "book.mkv", "bottle-detection.mp4", "car-detection.mp4"),
    *("carphone_pristine.mp4", "flipping_a_pancake.mkv", "nasa_13013.mp4", "nasa_13013_rotated.mp4"),
    *(
        "one-by-one-person-detection.mp4",
        "scene_cuts.mp4",
        "testsrc2_odd_height_and_width_vp9.mp4",
        "walk.mkv",
    ),
)


def _largest(container):
    return max(container.streams.video, key=lambda s: s.codec_context.width * s.codec_context.height)


def _player(path, until_s):
    """When pictures appear, in seconds; those of the beginning, upright and grey; and when the last one ends."""
    with av.open(str(path)) as container:
        stream = _largest(container)
        start = container.start_time / 1e6
        pictures, shown = [], []
        for frame in container.decode(stream):
            if frame.time - start > until_s:
                break
            shown.append(frame.time - start)
            grey = frame.reformat(160, 120, format="gray").to_ndarray().astype(float)
            pictures.append(np.rot90(grey, frame.rotation // 90))
    with av.open(str(path)) as container:
        stream = _largest(container)
        packets = [p for p in container.demux(stream) if p.pts is not None]
        ends = [float((p.pts + (p.duration or 0)) * p.time_base) - start for p in packets]
    return np.array(shown), np.array(pictures), max(ends)


def _size(path):
    """Width and height as ffprobe tells them, or PyAV where there is none, after turning and with square pixels."""
    if not shutil.which("ffprobe"):
        with av.open(str(path)) as container:
            stream = _largest(container)
            frame = next(container.decode(stream))
            aspect = frame.width / frame.height * float(stream.sample_aspect_ratio or 1)
            return 1 / aspect if frame.rotation % 180 else aspect
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v", "-show_streams", "-of", "json", str(path)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    stream = max(json.loads(told)["streams"], key=lambda s: s["width"] * s["height"])
    ratio = stream.get("sample_aspect_ratio", "1:1").replace("N/A", "1:1").split(":")
    aspect = stream["width"] / stream["height"] * (int(ratio[0]) / int(ratio[1]) if int(ratio[0]) else 1)
    turned = any(side.get("rotation", 0) % 180 for side in stream.get("side_data_list", []))
    return 1 / aspect if turned else aspect


def test_every_real_film_is_named_here(shared_data):
    assert {p.name for p in (shared_data / "videos").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_those_that_a_player_shows(shared_data, tmp_path, name):
    source = shared_data / "videos" / name
    record = normalise(source, tmp_path / "out.mp4", tmp_path / "out.json", CONFIG)
    found = film(tmp_path / "out.mp4")
    shown, pictures, end = _player(source, COMPARED_S)
    assert found.n_frames == record["mezzanine"]["frames"] == pytest.approx(np.ceil(end * 8 - 0.05), abs=1)
    assert (found.width, found.height, found.fps) == (2 * round(_size(source) * 48), 96, 8)
    assert record["warnings"] == []
    frames = np.concatenate([f for _, f in iterate_frames(tmp_path / "out.mp4")])
    for tick in range(min(len(frames), int((shown[-1] - 0.2) * 8))):
        ours = av.VideoFrame.from_ndarray(frames[tick], format="rgb24")
        high, wide = pictures.shape[1:]
        ours = ours.reformat(wide, high, format="gray").to_ndarray().astype(float)
        # Versions of ffmpeg differ by the milliseconds that the sound needs to begin, which moves the film's beginning.
        moments = tick / 8 + np.array([-0.008, 1e-4, 0.008])
        expected = sorted({max(int(np.searchsorted(shown, m)) - 1, 0) for m in moments})
        distances = {k: np.abs(ours - pictures[k]).mean() for k in expected}
        best = min(distances, key=distances.get)
        assert np.corrcoef(pictures[best].ravel(), ours.ravel())[0, 1] > 0.95
        # Scaling and coding leave a grey level or two; any frame near by that looks different must be farther away.
        for other in pictures[max(0, best - 3) : best + 4]:
            if np.abs(other - pictures[best]).mean() > 3:
                assert np.abs(ours - other).mean() > distances[best], (tick, expected)


@pytest.mark.parametrize("name", NAMES)
def test_through_to_motion_energy(shared_data, tmp_path, name):
    normalise(shared_data / "videos" / name, tmp_path / "out.mp4", tmp_path / "out.json", CONFIG)
    frames = film(tmp_path / "out.mp4").n_frames
    embed(tmp_path / "out.mp4", tmp_path / "out.h5", CONFIG)
    found = read_embedding(tmp_path / "out.h5")
    # Windows of a second, the last one past the end by up to a half.
    assert len(found.times) == max(1, int(frames / 8 + 0.5 + 1e-6))
    assert all(np.isfinite(data).all() and len(data) == len(found.times) for data in found.levels.values())
