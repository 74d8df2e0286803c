"""Looking into a video file with PyAV, in a process of its own.

A decoder may spin for ever on a file that was made or broken to that end, or bring its process down, and a thread in C
cannot be stopped. So what is here runs in a child (`serve`) that `probe.Inspector` asks, watches, and ends if need be.
The child imports PyAV and the standard library only, so that starting it costs a fraction of a second.

PyAV is used because the wheel that brings ffmpeg brings no ffprobe.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av.container
    import av.video.frame
    import av.video.stream

# Formats that hold their pictures themselves. Absent on purpose: hls, dash, concat, image sequences, sdp and the
# like, which can make a "video" out of any file or address they name.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,"
    "dv,mxf,rm,nut,wtv,yuv4mpegpipe,vob,swf,apng,bink,smacker,dxa,amv,xmv,roq,nsv,vivo,film_cpk"
)
# A frame and the few that a decoder keeps beside it must fit into the memory of a job.
MOST_PIXELS = 2**26
# Interlaced broadcasts may begin with a progressive title or the reverse: a few frames tell most of them.
_GLANCE = 8
_TELL_S = 0.2
# Decoders reorder at most so many pictures: where a film is cut off, some of the last may lack those between them.
TAIL = 17
# A picture that repeats the one before says so for every block, in a few bits for whole rows of them.
_STILL_BYTES = 100

_SPACES = {
    0: "rgb",
    1: "bt709",
    2: "unspecified",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
_TRANSFERS = {1: "bt709", 2: "unspecified", 6: "smpte170m", 13: "srgb", 14: "bt2020", 15: "bt2020"} | {
    8: "linear",
    16: "pq",
    18: "hlg",
}
_PRIMARIES = {1: "bt709", 2: "unspecified", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m"} | {
    9: "bt2020",
    11: "dcip3",
    12: "displayp3",
}


class Refused(Exception):
    """The rest of a sentence that begins with the name of the file."""


def serve() -> None:
    """Answer questions, one JSON object a line on standard input, until there are no more.

    Answers are lines ``answer <JSON>``: ``{"refused": sentence}`` or what the functions in `_ANSWERS` return. Lines
    ``at <anything>`` between them say that work is being done.
    """
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = _ANSWERS[question.pop("do")](**question)
        except Refused as refusal:
            answer = {"refused": str(refusal)}
        print("answer", json.dumps(answer), flush=True)


# --- a look at the beginning ------------------------------------------------------------------------------------


def look(path: str) -> dict[str, Any]:
    """The fields of `probe.VideoInfo`, from the headers and the first frames.

    Raises
    ------
    Refused
        If the file is not a video, has no video stream, no frames, or none that decodes.
    """
    import av.error

    with _open(path) as container:
        kinds = [s.type for s in container.streams]
        stream = _shown(container)
        if stream is None:
            found = ", ".join(dict.fromkeys(kinds)) or "none"
            raise Refused(f"has no video stream (streams found: {found}); give a file with pictures.")
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            raise Refused(
                f"has pictures of {context.width} x {context.height} pixels, more than can be held in memory; "
                "scale it down first."
            )
        frames: list[av.video.frame.VideoFrame] = []
        keyed = False
        for packet in _packets(container, stream):
            keyed |= packet.is_keyframe
            try:
                frames += stream.decode(packet)
            except (av.error.FFmpegError, EOFError) as error:
                # Before the first key frame nothing can be decoded: a recording may begin anywhere.
                if frames or not keyed:
                    continue
                raise Refused(
                    f"breaks at second 0: its first frame cannot be decoded ({error.strerror}); "
                    "copy the file again or convert it."
                ) from error
            if len(frames) >= _GLANCE:
                break
        if not frames or not frames[0].width:
            raise Refused(
                "has a video stream but no frames that can be decoded: it is empty, or breaks at second 0; copy the file again."
            )
        first = frames[0]
        announced = container.start_time is not None
        start = container.start_time / 1_000_000 if announced else first.time or 0.0
        end, exact = _end(container, stream, start)
        rotation, mirrored = _orientation(first)
        return {
            "container": container.format.name,
            "codec": context.name,
            "pixel_format": first.format.name,
            "index": stream.index,
            "streams": kinds,
            "width": first.width,
            "height": first.height,
            "sample_aspect": float(stream.sample_aspect_ratio or 1) or 1.0,
            "rotation": rotation,
            "mirrored": mirrored,
            "interlaced": any(f.interlaced_frame for f in frames),
            "transparent": any(c.is_alpha for c in first.format.components),
            "fps": float(stream.average_rate or stream.guessed_rate or 0),
            "tick_s": float(stream.time_base),
            "start_s": start,
            "start_is_announced": announced,
            "lead_s": max(0.0, (first.time if first.time is not None else start) - start),
            "end_s": end,
            "end_is_exact": exact,
            "colour_space": _named(_SPACES, first.colorspace, context.colorspace),
            "transfer": _named(_TRANSFERS, first.color_trc, context.color_trc),
            "primaries": _named(_PRIMARIES, first.color_primaries, context.color_primaries),
            "frames": stream.frames,
        }


def _open(path: str) -> av.container.InputContainer:
    import av
    import av.error

    try:
        # The prefix keeps names such as "concat:a|b" from being read as anything but a name.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        return av.open(f"file:{path}", options=options)
    except (av.error.FFmpegError, EOFError) as error:
        with open(path, "rb") as file:
            head = file.read(12)
        if isinstance(error, EOFError):
            raise Refused(
                "holds no frames: it ends after its header; copy or make the file again."
            ) from error
        if head[4:8] == b"ftyp":
            # MP4 and QuickTime keep their index at the end unless told otherwise.
            raise Refused(
                "is cut off: the index at the end of the file is missing, so that it breaks at second 0; "
                "copy the file again."
            ) from error
        if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")) or head[8:] == b"WEBP":
            raise Refused("is a picture, not a video that can be read; give a video file.") from error
        raise Refused(
            f"is not a video that can be read: it is of another kind or damaged ({error.strerror}); "
            "give a video file."
        ) from error


def _packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream | None
) -> Iterator[av.Packet]:
    """Packets of a stream, or of all, up to what can be read of them; the stream's last one is empty (it ends decoding)."""
    import av.error

    ended = set()
    packets = container.demux(stream) if stream is not None else container.demux()
    while True:
        try:
            packet = next(packets, None)
        except EOFError:
            packet = None
        except av.error.FFmpegError:
            if stream is None:
                raise
            packet = None
        if packet is None:
            return
        if not packet.size and packet.pts is None:
            # Where programs of a broadcast change, a stream may be ended twice.
            if packet.stream_index in ended:
                continue
            ended.add(packet.stream_index)
        yield packet


def _shown(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The video stream to show; see `probe.VideoInfo.index` for the rule."""
    from av.stream import Disposition

    stills = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    films = [s for s in container.streams.video if not s.disposition & stills]
    chosen = [s for s in films if s.disposition & Disposition.default]
    if chosen and chosen[0] is not films[0]:
        films = chosen
    return max(films, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


def _orientation(frame: av.video.frame.VideoFrame) -> tuple[float, bool]:
    """Degrees counter-clockwise by which the picture is turned, after a left-right flip if the second is true."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            # Rows (a, b, u), (c, d, v), (x, y, w): a pixel (x, y) is shown at (a x + c y, b x + d y), y being down.
            a, b, _, c, d = struct.unpack("<9i" if sys.byteorder == "little" else ">9i", bytes(data)[:36])[:5]
            mirrored = a * d - b * c < 0
            if mirrored:
                a, b = -a, -b
            if not math.hypot(a, b):
                return 0.0, False
            angle = -math.degrees(math.atan2(b, a)) % 360
            quarter = round(angle / 90) * 90
            return (float(quarter % 360) if abs(angle - quarter) < 1 else angle), mirrored
    return 0.0, False


def _named(names: dict[int, str], *values: int) -> str:
    """The name of the first of some codes that says anything (2 is "unspecified")."""
    return names.get(next((int(v) for v in values if int(v) not in (2, 3)), 2), "other")


def _end(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, start: float
) -> tuple[float | None, bool]:
    """End of the video on a player's clock, and whether that is known of this very stream."""
    first = float(stream.start_time * stream.time_base) - start if stream.start_time is not None else 0.0
    if container.format.name == "avi" and stream.frames:
        # ffmpeg shortens the duration of an AVI to what the size of the file allows; the header's count stays.
        return first + float(max(stream.frames, stream.duration or 0) * stream.time_base), True
    if stream.duration and container.format.name != "nut":
        return first + float(stream.duration * stream.time_base), True
    # Matroska keeps the length of a stream in a tag, as the time stamp of its end.
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())
        return float(hours * 3600 + minutes * 60 + seconds) - start, True
    if container.duration:
        # Where a container tells its length by the time stamp of its end, its beginning is to be taken off.
        absolute = container.format.name == "nut" or container.format.name.startswith("matroska")
        return container.duration / 1_000_000 - start * absolute, len(container.streams) == 1
    return None, False


# --- a reading to the end -----------------------------------------------------------------------------------------


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

        with _open(path) as container:
            stream = container.streams[index]
            self._tick_s = float(stream.time_base)
            if strict:
                stream.codec_context.options = {"err_detect": "explode"}
            packets = _packets(container, None)
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
    with _open(path) as container:
        for packet in container.demux(video=0):
            if not packet.is_keyframe:
                run = run + 1 if packet.size < _STILL_BYTES else 0
            longest = max(longest, run)
    return {"frames": longest}


_ANSWERS = {"look": look, "read": read_through, "still": longest_still}


def command() -> list[str]:
    """The command that runs `serve` with this interpreter and this copy of the package."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from neuroalign.video.inspection import serve; serve()"
    )
    return [sys.executable, "-c", code, root]
