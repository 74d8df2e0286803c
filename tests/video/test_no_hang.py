"""Whatever a process does or does not do, it is given up after a while, and what it said is bounded."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video import inspection
from neuroalign.video import normalise as normalising
from neuroalign.video.decode import iterate_frames
from neuroalign.video.ffmpeg import run_ffmpeg
from neuroalign.video.normalise import normalise
from neuroalign.video.probe import Inspector, probe
from neuroalign.video.watchdog import Child

REPEATS = "import time\nwhile True: print('frame=7', flush=True); time.sleep(0.02)"
COUNTS = "import itertools\nfor i in itertools.count(): print(f'frame={i}', flush=True)"
SILENT = "import time\nprint('frame=3', flush=True); time.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('frame=3', flush=True); time.sleep(600)"


def _python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


@pytest.mark.parametrize("script", [REPEATS, SILENT, DEAF])
def test_no_progress_ends_a_process(script):
    began = time.monotonic()
    outcome = run_ffmpeg(_python(script), stall_s=1.0)
    assert outcome.stalled
    assert outcome.code == -9
    assert time.monotonic() - began < 8


def test_progress_without_end_ends_a_process_too():
    outcome = run_ffmpeg(_python(COUNTS), stall_s=60, most_frames=1000)
    assert outcome.endless
    assert outcome.frames == 1001


def test_a_process_that_complains_for_ever_fills_no_disk_and_no_memory():
    script = "import sys\nfor i in range(300000): print('complaint', i, file=sys.stderr)\nprint('frame=1')"
    outcome = run_ffmpeg(_python(script), stall_s=30)
    assert outcome.code == 0
    assert len(outcome.messages) == 220
    assert outcome.messages[0] == "complaint 0"
    assert outcome.messages[-1] == "complaint 299999"


def test_a_process_whose_pipes_stay_open_is_not_waited_for():
    # Its child inherits the pipes and lives on; the output has no end.
    script = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])"
    began = time.monotonic()
    outcome = run_ffmpeg(_python(script), stall_s=1.0)
    assert outcome.stalled
    assert time.monotonic() - began < 15


@pytest.fixture
def broken_inspector(monkeypatch):
    """Replace the inspecting process by a script."""
    return lambda script: monkeypatch.setattr(inspection, "command", lambda: _python(script))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import time; time.sleep(600)", "made no progress for 1 s"),
        (
            "import time\nwhile True: print('at 5 1.0', flush=True); time.sleep(0.02)",
            "made no progress for 1 s",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            r"brings the decoder down \(exit status -11\)",
        ),
        ("pass", "brings the decoder down"),
    ],
)
def test_a_decoder_that_spins_or_dies_is_one_sentence(broken_inspector, pattern, script, words):
    broken_inspector(script)
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        probe(pattern, stall_s=1.0)
    assert time.monotonic() - began < 8


def test_the_next_file_is_inspected_after_one_that_brought_the_process_down(
    broken_inspector, pattern, monkeypatch
):
    broken_inspector("pass")
    with Inspector(stall_s=30) as inspector:
        with pytest.raises(UserError):
            inspector.probe(pattern)
        monkeypatch.undo()
        assert inspector.probe(pattern).width == 320


def test_reading_through_goes_on_as_long_as_it_moves(pattern):
    with Inspector(stall_s=30) as inspector:
        found = inspector.read_through(pattern, index=0, start_s=0.0, fps=25.0, strict=True, until_s=None)
        part = inspector.read_through(pattern, index=0, start_s=0.0, fps=25.0, strict=True, until_s=2.0)
    assert found["bad_s"] is None
    assert found["last_s"] == pytest.approx(5.96)
    assert part["last_s"] == pytest.approx(2.0, abs=0.3)


def _stall_after(frames: int) -> str:
    return f"import time\nfor i in range({frames + 1}): print(f'frame={{i}}', flush=True)\ntime.sleep(600)"


def test_a_film_at_which_ffmpeg_stands_still_is_an_error(pattern, tmp_path, monkeypatch):
    monkeypatch.setattr(normalising, "build_command", lambda *_: _python(_stall_after(20)))
    with pytest.raises(UserError, match=r"breaks at second 2\.5 \(ffmpeg made no progress for 1 s"):
        normalise(pattern, tmp_path / "a.mp4", tmp_path / "a.json", Video(), stall_s=1.0)
    assert not list(tmp_path.iterdir())


def test_or_is_kept_up_to_there(pattern, tmp_path, monkeypatch):
    build = normalising.build_command
    calls = []

    def stalls_first(*arguments):
        calls.append(arguments)
        return _python(_stall_after(20)) if len(calls) == 1 else build(*arguments)

    monkeypatch.setattr(normalising, "build_command", stalls_first)
    record = normalise(
        pattern, tmp_path / "a.mp4", tmp_path / "a.json", Video(on_damage="truncate"), stall_s=5.0
    )
    assert record["mezzanine"]["frames"] == 20
    assert record["damage"]["at_s"] == 2.5


@pytest.mark.parametrize("jump", [pytest.param(4000, marks=pytest.mark.slow), 90000])
def test_time_stamps_that_jump_by_hours_are_damage_not_hours_of_a_still(
    write_numbered, read_number, tmp_path, jump
):
    # Found before it is encoded where the header tells, and from a mezzanine that stands still where it does not.
    times = [k / 25 for k in range(50)] + [jump + k / 25 for k in range(50)]
    film = write_numbered(tmp_path / "in.mkv", times)
    with pytest.raises(UserError, match=rf"breaks at second 2\.0 \(there is no new picture for {jump - 2}"):
        normalise(film, tmp_path / "a.mp4", tmp_path / "a.json", Video(height=64))
    normalise(film, tmp_path / "a.mp4", tmp_path / "a.json", Video(height=64, on_damage="truncate"))
    frames = np.concatenate([f for _, f in iterate_frames(tmp_path / "a.mp4")])
    assert [read_number(f) for f in frames] == [int(i / 8 * 25 + 1e-6) for i in range(16)]


def test_an_hour_of_one_slide_is_a_film(ffmpeg, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:r=1:d=4000", "-pix_fmt", "yuv420p", tmp_path / "slide.mkv")
    record = normalise(
        tmp_path / "slide.mkv", tmp_path / "a.mp4", tmp_path / "a.json", Video(height=64, fps=2)
    )
    assert record["mezzanine"]["frames"] == 8000
    assert record["damage"] is None


def test_a_film_that_lasts_for_days_by_its_time_stamps_is_refused(pattern, tmp_path, monkeypatch):
    monkeypatch.setattr(normalising, "LONGEST_S", 3)
    with pytest.raises(UserError, match="by its time stamps, which must be wrong"):
        normalise(pattern, tmp_path / "a.mp4", tmp_path / "a.json", Video())


def test_a_child_that_is_gone_can_be_asked_and_stopped():
    child = Child(_python("pass"), asked=True)
    assert child.line(10) is None
    child.ask("anything")
    assert child.stop() == 0
    assert child.stop() == 0
