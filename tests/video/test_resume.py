"""Embedding jobs that stop: killed, failing, two at once; what they leave, and what becomes of it."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video import embed as module
from neuroalign.video.backbones.motion_energy import MotionEnergyBackbone
from neuroalign.video.decode import FilmReader, iterate_frames
from neuroalign.video.embed import embed, embed_with
from neuroalign.video.journal import side_file
from neuroalign.video.luminance import lightness
from neuroalign.video.shards import read_embedding

CONFIG = Video(motion_energy={"size": 32}, batch_size=4, window_s=1.5, stride_s=1)
# The eight frames that two parts share count 32 times: 256 frames a part.
PARTS = 3

# A real process, slow enough to be met in the middle.
SLOW = """
import sys, time
from neuroalign.config.video import Video
from neuroalign.video.backbones import motion_energy
from neuroalign.video.embed import embed
project = motion_energy.MotionEnergy.project
def slow(self, batches):
    for energy in project(self, batches):
        time.sleep(float(sys.argv[4]))
        yield energy
motion_energy.MotionEnergy.project = slow
embed(sys.argv[1], sys.argv[2], Video.model_validate_json(sys.argv[3]))
"""


def _start(film, destination, pause=0.0, config=CONFIG):
    arguments = [film, destination, config.model_dump_json(), pause]
    return subprocess.Popen([sys.executable, "-c", SLOW, *map(str, arguments)], stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def whole(long_film, tmp_path_factory):
    """The file of a job that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "long.h5"
    embed(long_film, path, CONFIG)
    assert [p.name for p in path.parent.iterdir()] == ["long.h5"]
    return path


def _stopping(parts, size=32):
    """A backbone that fails once it has done so many parts."""
    backbone = MotionEnergyBackbone(size, 8.0)
    features, calls = backbone.features, []

    def failing(batches, grid):
        calls.append(grid)
        if len(calls) > parts:
            next(iter(batches))
            raise OSError("the machine stops")
        return features(batches, grid)

    backbone.features = failing
    backbone.calls = calls
    return backbone


def _stop(film, destination, parts):
    backbone = _stopping(parts)
    with pytest.raises(OSError, match="stops"):
        embed_with(backbone, film, destination, CONFIG)
    assert not destination.exists()
    return backbone


@pytest.mark.parametrize("parts", range(PARTS))
def test_a_job_that_failed_goes_on_to_the_same_bytes(long_film, whole, tmp_path, parts, caplog):
    path = tmp_path / "long.h5"
    _stop(long_film, path, parts)
    again = _stopping(PARTS)
    with caplog.at_level(logging.INFO):
        embed_with(again, long_film, path, CONFIG)
    assert len(again.calls) == PARTS - parts
    assert (f"{32 * parts} of 96 windows are there" in caplog.text) == (parts > 0)
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["long.h5"]


def test_a_job_killed_between_its_parts_and_its_file(long_film, whole, tmp_path, monkeypatch):
    path = tmp_path / "long.h5"

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_parts", full)
        with pytest.raises(OSError, match="no space"):
            embed(long_film, path, CONFIG)
    again = _stopping(0)
    embed_with(again, long_film, path, CONFIG)
    assert not again.calls
    assert path.read_bytes() == whole.read_bytes()


def test_a_film_that_breaks_is_told_and_its_whole_parts_are_kept(long_film, whole, tmp_path, monkeypatch):
    path, read = tmp_path / "long.h5", FilmReader.read
    error = UserError("cannot be decoded")

    def breaking(self, index):
        if index[-1] >= 400:
            raise error
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(FilmReader, "read", breaking)
        with pytest.raises(UserError) as caught:
            embed(long_film, path, CONFIG)
    assert caught.value is error
    again = _stopping(PARTS)
    embed_with(again, long_film, path, CONFIG)
    assert len(again.calls) == PARTS - 1
    assert path.read_bytes() == whole.read_bytes()


def _change(name, long_film, tmp_path, monkeypatch):
    """Another film, other settings, another backbone, code or library: (film, config, backbone) for the second job."""
    backbone, film, config = MotionEnergyBackbone(32, 8.0), long_film, CONFIG
    if name == "film":
        film = tmp_path / "other.mp4"
        film.write_bytes(long_film.read_bytes() + bytes(8))
    elif name == "revision":
        backbone.revision = "pymoten 99"
    elif name == "device":
        backbone.device = "cuda"
    elif name == "library":
        monkeypatch.setattr(module, "_version", lambda library: "99")
    elif name == "code":
        sources = module.source_files
        monkeypatch.setattr(module, "source_files", lambda *names: sources(*names)[1:])
    else:
        config = CONFIG.model_copy(update={name: 2 * getattr(CONFIG, name)})
    return film, config, backbone


@pytest.mark.parametrize(
    "what", ["film", "window_s", "stride_s", "batch_size", "revision", "device", "library", "code"]
)
def test_parts_of_anything_else_are_not_used(long_film, tmp_path, monkeypatch, what, caplog):
    folder = tmp_path / "out"
    _stop(long_film, folder / "long.h5", 2)
    film, config, backbone = _change(what, long_film, tmp_path, monkeypatch)
    with caplog.at_level(logging.INFO):
        embed_with(backbone, film, folder / "long.h5", config)
    assert "starting over" in caplog.text
    embed_with(backbone, film, tmp_path / "fresh.h5", config)
    assert (folder / "long.h5").read_bytes() == (tmp_path / "fresh.h5").read_bytes()
    assert [p.name for p in folder.iterdir()] == ["long.h5"]


@pytest.mark.parametrize("size", [0, 10, 200, -1])
def test_a_side_file_that_was_cut(long_film, whole, tmp_path, size):
    path = tmp_path / "long.h5"
    _stop(long_film, path, 2)
    content = side_file(path).read_bytes()
    side_file(path).write_bytes(content[:size])
    embed(long_film, path, CONFIG)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_process_killed_at_any_moment(long_film, tmp_path):
    config = CONFIG.model_copy(update={"window_s": 1.0})
    embed(long_film, tmp_path / "whole.h5", config)
    path = tmp_path / "out" / "long.h5"
    chance = random.Random(4)
    size = 0
    for attempt in range(8):
        job = _start(long_film, path, 0.01, config)
        # Anywhere from the start on, or just after a part was written: each time at least one is gained.
        grown = size if attempt % 2 else -1
        while job.poll() is None and (
            not side_file(path).exists() or side_file(path).stat().st_size <= grown
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        job.send_signal(signal.SIGKILL)
        job.communicate()
        if path.exists():
            break
        assert side_file(path).stat().st_size >= size
        size = side_file(path).stat().st_size
    assert attempt >= 4
    job = _start(long_film, path, 0.0, config)
    _, errors = job.communicate()
    assert job.returncode == 0, errors
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    # A job killed while it wrote its output leaves a temporary file, and nothing under the output's name.
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".partial-")] == ["long.h5"]


@pytest.mark.slow
def test_two_jobs_at_once(long_film, whole, tmp_path):
    path = tmp_path / "long.h5"
    both = [_start(long_film, path, pause) for pause in (0.002, 0.004)]
    for job in both:
        _, errors = job.communicate()
        assert job.returncode == 0, errors
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["long.h5"]


def test_several_readers_give_the_same_bytes(long_film, whole, tmp_path):
    backbone = MotionEnergyBackbone(32, 8.0)
    # Only that it says so: beside a GPU, films are read in several places at once.
    backbone.device = "cuda"
    embed_with(backbone, long_film, tmp_path / "long.h5", CONFIG, threads=4)
    assert (tmp_path / "long.h5").read_bytes() == whole.read_bytes()


def test_parts_make_up_what_the_film_gives_at_once(long_film, whole):
    backbone = MotionEnergyBackbone(32, 8.0)
    grid = module.window_grid(768, 8.0, 1.5, 1.0)
    found = read_embedding(whole)
    expected = np.concatenate(list(backbone.features(iterate_frames(long_film, (32, 32)), grid)))
    np.testing.assert_allclose(np.concatenate(list(found.levels.values()), axis=1), expected, rtol=1e-5)
    # Motion at the borders of parts too.
    light = lightness(np.concatenate([f for _, f in iterate_frames(long_film, (32, 32))])[:, ::2, ::2])
    motion = np.abs(np.diff(light, axis=0, prepend=light[:1])).mean(axis=(1, 2))
    means = [motion[a:b].mean() for a, b in zip(grid.start, grid.stop, strict=True)]
    np.testing.assert_allclose(found.low_level[:, 2], means, rtol=1e-4)


def test_values_that_are_not_finite_are_told(long_film, tmp_path):
    backbone = MotionEnergyBackbone(32, 8.0)
    features = backbone.features

    def broken(batches, grid):
        for rows in features(batches, grid):
            yield np.where(grid.start[0] > 0, np.nan, rows)

    backbone.features = broken
    with pytest.raises(UserError, match=r"not finite for long\.mp4 around second 32"):
        embed_with(backbone, long_film, tmp_path / "long.h5", CONFIG)


def test_the_log_says_how_far_it_is(long_film, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "_REPORT_S", 0.0)
    with caplog.at_level(logging.INFO):
        embed(long_film, tmp_path / "long.h5", CONFIG)
    lines = [r.message for r in caplog.records if "frames/s" in r.message]
    # Within parts too: one may take long.
    assert len(lines) > 10 * PARTS
    done = [int(line.split()[0]) for line in lines]
    assert done == sorted(done)
    assert lines[-1].startswith("96 of 96 windows (100 %), ")
    assert lines[-1].endswith(" frames/s, 0 s left")


def test_parts_of_models_of_clips_are_short_whatever_they_look_at():
    """What a killed job loses is what a part takes to compute: seconds a window, and context is not computed."""
    grid = module.window_grid(8 * 7200, 8.0, 1.0, 1.0)
    backbone = MotionEnergyBackbone(32, 8.0)
    backbone.past = backbone.future = 60
    config = Video(batch_size=32)
    assert module._windows_per_part(backbone, grid, config) == 480
    backbone.by_window = True
    assert module._windows_per_part(backbone, grid, config) == 64


def test_a_backbone_may_leave_frames_unread(long_film, whole, tmp_path):
    backbone = MotionEnergyBackbone(32, 8.0)
    features = backbone.features
    backbone.future = 12

    def hasty(batches, grid):
        needed = grid.end_frame(2) - grid.first_frame(2)
        return features(islice(batches, -(-needed // CONFIG.batch_size)), grid)

    backbone.features = hasty
    embed_with(backbone, long_film, tmp_path / "long.h5", CONFIG)
    found, expected = read_embedding(tmp_path / "long.h5"), read_embedding(whole)
    np.testing.assert_allclose(found.low_level, expected.low_level, rtol=1e-5)
    for level, data in expected.levels.items():
        np.testing.assert_allclose(found.levels[level], data, rtol=1e-5)


def test_where_the_files_go_may_not_exist_yet(long_film, whole, tmp_path):
    path = tmp_path / "new" / "folder" / "long.h5"
    embed(long_film, path, CONFIG)
    assert path.read_bytes() == whole.read_bytes()
    assert os.listdir(path.parent) == ["long.h5"]
