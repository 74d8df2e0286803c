"""Looking into a video file with PyAV, in a process of its own.

A decoder may spin for ever on a file that was made or broken to that end, or bring its process down, and a thread in C
cannot be stopped. So what is here runs in a child (`serve`) that `probe.Inspector` asks, watches, and ends if need be.
The child imports PyAV and the standard library only, so that starting it costs a fraction of a second.

PyAV is used because the wheel that brings ffmpeg brings no ffprobe.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from neuroalign.video.containers import Refused, open_container, packets_of
from neuroalign.video.reading import longest_still, read_through

if TYPE_CHECKING:
    import av.container
    import av.video.frame
    import av.video.stream

# A frame and the few that a decoder keeps beside it must fit into the memory of a job.
MOST_PIXELS = 2**26
# Interlaced broadcasts may begin with a progressive title or the reverse: a few frames tell most of them.
_GLANCE = 8
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

    with open_container(path) as container:
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
        for packet in packets_of(container, stream):
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


_ANSWERS = {"look": look, "read": read_through, "still": longest_still}


def command() -> list[str]:
    """The command that runs `serve` with this interpreter and this copy of the package."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from neuroalign.video.inspection import serve; serve()"
    )
    return [sys.executable, "-c", code, root]
