"""Reading a film to its end, for where and how it breaks; runs in the inspecting process (`inspection`)."""

from __future__ import annotations

import contextlib
import math
import time
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from neuroalign.video.containers import open_container, packets_of

if TYPE_CHECKING:
    import av
    import av.video.frame
    import av.video.stream

_TELL_S = 0.2
# Decoders reorder at most so many pictures: where a film is cut off, some of the last may lack those between them.
TAIL = 17
# A picture that repeats the one before says so for every block, in a few bits for whole rows of them.
_STILL_BYTES = 100


def read_through(
    path: str, index: int, start_s: float, fps: float, strict: bool, until_s: float | None
) -> dict[str, Any]:
    """Decode a film frame by frame, up to its first bad frame.

    Parameters
    ----------
    path : str
    index : int
        Of the video stream.
    start_s : float
        Time stamp that is second 0.
    fps : float
        Nominal rate: how long a frame lasts where its successor does not tell.
    strict : bool
        Whether decoders shall fail where they would patch.
    until_s : float or None
        Second at which the reading ends.

    Returns
    -------
    dict
        The fields of `damage.Reading`.
    """
    return _Reading(start_s, 1 / max(fps, 1.0)).run(path, index, strict, until_s)


class _Reading:
    """State of a reading; all times in seconds from the film's beginning."""

    def __init__(self, start_s: float, frame_s: float):
        self._start = start_s
        self._frame_s = frame_s
        self._tick_s = 0.0
        self._bad: float | None = None
        self._reason = ""
        self._end = 0.0
        self._times = array("d")
        # Time stamps of pictures that went into the decoder and did not come out yet.
        self._pending: set[float] = set()
        self._keyed = False
        self._told = 0.0

    def run(self, path: str, index: int, strict: bool, until_s: float | None) -> dict[str, Any]:
        import av.error

        with open_container(path) as container:
            stream = container.streams[index]
            self._tick_s = float(stream.time_base)
            if strict:
                stream.codec_context.options = {"err_detect": "explode"}
            packets = packets_of(container, None)
            while self._bad is None and (until_s is None or not self._times or self._times[-1] < until_s):
                try:
                    packet = next(packets, None)
                except av.error.FFmpegError as error:
                    self._break(stream, error)
                    break
                if packet is None:
                    break
                self._note(packet, index)
                if packet.stream_index != index:
                    continue
                try:
                    for frame in stream.decode(packet):
                        self._take(frame)
                except (av.error.FFmpegError, EOFError) as error:
                    # Before the first key frame nothing can be decoded: the film was cut there, not damaged.
                    if self._keyed:
                        self._break(stream, error)
        if self._bad is None and not self._times:
            self._bad, self._reason = 0.0, "no frame can be decoded"
        return {
            "bad_s": self._bad,
            "reason": self._reason,
            "end_s": self._end,
            "last_s": self._times[-1] if self._times else None,
            **rhythm(self._times, self._frame_s),
        }

    def _seconds(self, stamp: int) -> float:
        return stamp * self._tick_s - self._start

    def _note(self, packet: av.Packet, index: int) -> None:
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._start
            self._end = max(self._end, end)
        if packet.stream_index == index and packet.size:
            self._keyed |= packet.is_keyframe
            if packet.pts is not None and self._keyed and not packet.is_discard:
                self._pending.add(self._seconds(packet.pts))
        if time.monotonic() > self._told + _TELL_S:
            # The parent takes a change of this line for progress, and only such.
            print("at", packet.pos, round(self._end, 3), flush=True)
            self._told = time.monotonic()

    def _take(self, frame: av.video.frame.VideoFrame) -> None:
        if self._bad is not None:
            return
        after = self._times[-1] + self._frame_s if self._times else 0.0
        now = self._seconds(frame.pts) if frame.pts is not None else after
        if frame.is_corrupt:
            # A picture that should have come before may be missing altogether.
            self._bad, self._reason = min(self._pending | {now}), "a damaged picture"
            return
        self._times.append(now)
        self._pending = {stamp for stamp in self._pending if stamp > now}

    def _break(self, stream: av.video.stream.VideoStream, error: Exception) -> None:
        """A packet could not be read or decoded: take what the decoder still holds of those before it."""
        import av.error

        with contextlib.suppress(av.error.FFmpegError, EOFError):
            for frame in stream.decode(None):
                due = min(self._pending, default=math.inf)
                if frame.is_corrupt or frame.pts is None or self._seconds(frame.pts) > due + 1e-6:
                    break
                self._take(frame)
        # The first time at which a picture should have appeared and none that is whole did.
        after = self._times[-1] + self._frame_s if self._times else 0.0
        self._bad = min(self._pending, default=after)
        self._reason = f"a picture that cannot be decoded ({error.strerror or 'end of file'})"


def rhythm(times: Sequence[float], frame_s: float) -> dict[str, float]:
    """How regularly pictures follow each other.

    Parameters
    ----------
    times : sequence of float
        When they appear, in seconds.
    frame_s : float
        What to take for the usual time from one to the next where there are too few.

    Returns
    -------
    dict
        `step_s`, the median time to the next; `longest_s` and `longest_at_s`, the longest and when it begins; `hole_s` and
        `hole_at_s`, the first that is longer than nearly all (0 if none is); `ragged_at_s`, when the first pause among
        the last `TAIL` begins, or None.
    """
    steps = [b - a for a, b in pairwise(times)]
    if not steps:
        nothing = {"longest_s": 0.0, "longest_at_s": 0.0, "hole_s": 0.0, "hole_at_s": 0.0}
        return {"step_s": frame_s, "ragged_at_s": None, **nothing}
    ordered = sorted(steps)
    usual, most = ordered[len(steps) // 2], ordered[int(len(steps) * 0.95)]
    longest = steps.index(ordered[-1])
    hole = next((i for i, step in enumerate(steps) if step > 1.75 * max(usual, most)), None)
    tail = range(max(0, len(steps) - TAIL), len(steps))
    ragged = next((i for i in tail if steps[i] > 1.5 * usual), None)
    return {
        "step_s": usual,
        "longest_s": steps[longest],
        "longest_at_s": times[longest],
        "hole_s": 0.0 if hole is None else steps[hole],
        "hole_at_s": 0.0 if hole is None else times[hole],
        "ragged_at_s": None if ragged is None else times[ragged],
    }


def longest_still(path: str) -> dict[str, Any]:
    """How long nothing changes in a mezzanine: ``frames``, the longest run of pictures that hold next to no bytes.

    Key frames, which come every second, are passed over.
    """
    run = longest = 0
    with open_container(path) as container:
        for packet in container.demux(video=0):
            if not packet.is_keyframe:
                run = run + 1 if packet.size < _STILL_BYTES else 0
            longest = max(longest, run)
    return {"frames": longest}
