"""Where ffmpeg is, and how it is run: nothing here knows what is in a video.

The binary comes from the machine where there is one, and from the `imageio-ffmpeg` wheel otherwise, so that no
system package is ever needed.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from neuroalign.errors import UserError
from neuroalign.video.watchdog import Child

# A watchdog may only trust the fields that grow when work is done: ffmpeg repeats the others for ever.
_PROGRESS = ("frame", "total_size", "out_time_us")


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
    code : int or None
        Exit status; None if it could not even be killed.
    messages : tuple of str
        The first and last lines of its error stream.
    progress : dict of str to int
        Last values of `frame`, `total_size` (bytes) and `out_time_us` (microseconds).
    stalled : bool
        True if it was stopped because nothing had moved for too long.
    endless : bool
        True if it was stopped because it made more frames than it may.
    """

    code: int | None
    messages: tuple[str, ...]
    progress: dict[str, int]
    stalled: bool = False
    endless: bool = False

    @property
    def frames(self) -> int:
        """Frames written."""
        return self.progress.get("frame", 0)


def run_ffmpeg(
    command: Sequence[str],
    stall_s: float,
    most_frames: int | None = None,
    folder: str | os.PathLike | None = None,
) -> Outcome:
    """Run an ffmpeg command and stop it once it makes no progress.

    The time allowed is per step, not in total: a three-hour film may take as long as it needs, and a file on which
    the decoder spins is given up after `stall_s`.

    Parameters
    ----------
    command : sequence of str
        The whole command; ``-progress pipe:1`` must be among its options.
    stall_s : float
        Seconds without a new frame, byte or time stamp after which the process is killed.
    most_frames : int, optional
        Frames after which the process is killed: moving is not enough if there is no end.
    folder : path, optional
        Working directory of the process.
    """
    progress: dict[str, int] = {}
    stalled = endless = False
    with Child(command, folder) as child:
        moved = time.monotonic()
        while not (stalled or endless):
            try:
                line = child.line(moved + stall_s - time.monotonic())
            except TimeoutError:
                stalled = True
                break
            if line is None:
                stalled = child.wait(stall_s) is None
                break
            key, _, value = line.strip().partition("=")
            if key in _PROGRESS and value.lstrip("-").isdigit() and progress.get(key) != int(value):
                progress[key] = int(value)
                moved = time.monotonic()
                endless = most_frames is not None and progress.get("frame", 0) > most_frames
            else:
                stalled = time.monotonic() > moved + stall_s
        code = child.stop()
    return Outcome(code, child.messages, progress, stalled, endless)
