"""Where ffmpeg is, and how it is run: nothing here knows what is in a video.

The binary comes from the machine where there is one, and from the `imageio-ffmpeg` wheel otherwise, so that no
system package is ever needed.
"""

from __future__ import annotations

import functools
import itertools
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from neuroalign.errors import UserError

# A watchdog may only trust the fields that grow when work is done: ffmpeg repeats the others for ever.
_PROGRESS = ("frame", "total_size", "out_time_us")
# A damaged film can complain about every frame; the first complaints say what is wrong.
_MESSAGES = 200


@functools.cache
def ffmpeg_exe() -> str:
    """Path of the ffmpeg binary: the one on ``PATH``, or the one that `imageio-ffmpeg` brings.

    Raises
    ------
    UserError
        If there is neither.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"no ffmpeg was found ({error}); install ffmpeg or `pip install imageio-ffmpeg`."
        ) from error


@functools.cache
def ffmpeg_version() -> str:
    """The version that the binary states, e.g. ``7.1``."""
    done = subprocess.run([ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True)
    return done.stdout.split("version", 1)[1].split()[0]


@dataclass(frozen=True)
class Outcome:
    """How an ffmpeg run ended.

    Attributes
    ----------
    code : int
        Exit status.
    messages : tuple of str
        The first lines of its error stream.
    progress : dict of str to int
        Last values of `frame`, `total_size` (bytes) and `out_time_us` (microseconds).
    stalled : bool
        True if it was stopped because nothing had moved for too long.
    """

    code: int
    messages: tuple[str, ...]
    progress: dict[str, int]
    stalled: bool


def run_ffmpeg(command: Sequence[str], stall_s: float) -> Outcome:
    """Run an ffmpeg command and stop it once it makes no progress.

    The time allowed is per step, not in total: a three-hour film may take as long as it needs, and a file on which
    the decoder spins is given up after `stall_s`.

    Parameters
    ----------
    command : sequence of str
        The whole command; ``-progress pipe:1`` must be among its options.
    stall_s : float
        Seconds without a new frame, byte or time stamp after which the process is killed.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            progress, stalled = _watch(process.stdout, stall_s)
            if not stalled:
                process.wait(timeout=stall_s)
        except subprocess.TimeoutExpired:
            stalled = True
        finally:
            # Whatever ended the watch (a stall, an interrupt), no process is left behind.
            if process.poll() is None:
                process.kill()
            process.wait()
        errors.seek(0)
        messages = tuple(line.rstrip() for line in itertools.islice(errors, _MESSAGES) if line.strip())
    return Outcome(process.returncode, messages, progress, stalled)


def _watch(stream: IO[str], stall_s: float) -> tuple[dict[str, int], bool]:
    """Follow ``-progress`` output to its end; beside the last values, whether it stalled."""
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_forward, args=(stream, lines), daemon=True).start()
    progress: dict[str, int] = {}
    moved = time.monotonic()
    while True:
        left = moved + stall_s - time.monotonic()
        if left <= 0:
            return progress, True
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            continue
        if line is None:
            return progress, False
        key, _, value = line.strip().partition("=")
        if key in _PROGRESS and value.lstrip("-").isdigit() and progress.get(key) != int(value):
            progress[key] = int(value)
            moved = time.monotonic()


def _forward(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Hand on a pipe line by line: a queue can be waited for with a time-out, a pipe cannot everywhere."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)
