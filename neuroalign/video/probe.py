"""What is in a video file: the stream that would be shown, its size, rotation, rate and clock.

Uses PyAV, because the wheel that brings ffmpeg brings no ffprobe. The first frame is decoded, so a file that
passes has pictures. Only the file itself is read: play lists and other formats that name further files are refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroalign.errors import UserError

if TYPE_CHECKING:
    import av.container
    import av.video.stream

# Formats that hold their pictures themselves. Absent on purpose: hls, dash, concat, image sequences, sdp and the
# like, which can make a "video" out of any file or address they name.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,"
    "dv,mxf,rm,nut,wtv,yuv4mpegpipe,vob,swf,apng,bink,smacker,dxa,amv,xmv,roq,nsv,vivo,film_cpk"
)


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file.

    Attributes
    ----------
    container, codec, pixel_format : str
        As ffmpeg calls them.
    index : int
        The video stream that is used: the largest picture, of equals the first; covers do not count.
    streams : tuple of str
        Kind of every stream, in order.
    width, height : int
        Coded size in pixels, before rotation.
    sample_aspect : float
        Width of a pixel over its height.
    rotation : int
        Degrees counter-clockwise by which a player turns the picture.
    fps : float
        Average frame rate (nominal for files of variable rate).
    tick_s : float
        Seconds between two time stamps that the container can tell apart.
    start_s : float
        Time stamp of the container's beginning, which is t = 0 of a player.
    lead_s : float
        Seconds from there to the first picture.
    end_s : float or None
        Seconds from there to the end of the last picture, as the file claims.
    end_is_exact : bool
        False if that claim is the container's, which the sound may outlast the picture in.
    colour_space : str
        ``unspecified`` where the file does not say.
    frames : int
        As the file claims; 0 where it does not say.
    """

    container: str
    codec: str
    pixel_format: str
    index: int
    streams: tuple[str, ...]
    width: int
    height: int
    sample_aspect: float
    rotation: int
    fps: float
    tick_s: float
    start_s: float
    lead_s: float
    end_s: float | None
    end_is_exact: bool
    colour_space: str
    frames: int

    @property
    def aspect(self) -> float:
        """Width over height of the picture as a player shows it, upright and with square pixels."""
        aspect = self.width * self.sample_aspect / self.height
        return 1 / aspect if self.rotation % 180 == 90 else aspect

    def as_dict(self) -> dict[str, Any]:
        """For the record beside a normalised video."""
        return asdict(self) | {"streams": list(self.streams)}


def probe(path: str | os.PathLike) -> VideoInfo:
    """Look into a video file.

    Raises
    ------
    UserError
        If the file is missing, a dangling link, empty, not a video, without a video stream, or without frames.
    """
    import av
    import av.error

    with open_container(path) as container:
        kinds = tuple(s.type for s in container.streams)
        stream = _best(container)
        if stream is None:
            found = ", ".join(dict.fromkeys(kinds)) or "none"
            raise UserError(
                f"{path} has no video stream (streams found: {found}); give a file with pictures."
            )
        try:
            frame = next(container.decode(stream), None)
        except (av.error.FFmpegError, EOFError) as error:
            raise UserError(
                f"{path} breaks at second 0: its first frame cannot be decoded ({error.strerror}); "
                "copy the file again or convert it."
            ) from error
        if frame is None or not frame.width:
            raise UserError(f"{path} has a video stream but no frames; the file is empty or was cut off.")
        start = (container.start_time or 0) / 1_000_000
        end, exact = _end(container, stream, start)
        return VideoInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "unknown",
            index=stream.index,
            streams=kinds,
            width=frame.width,
            height=frame.height,
            sample_aspect=float(stream.sample_aspect_ratio or 1) or 1.0,
            rotation=round(frame.rotation) % 360,
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            tick_s=float(stream.time_base),
            start_s=start,
            lead_s=max(0.0, (frame.time or start) - start),
            end_s=end,
            end_is_exact=exact,
            colour_space=_COLOUR_SPACES.get(int(stream.codec_context.colorspace), "other"),
            frames=stream.frames,
        )


def open_container(path: str | os.PathLike) -> av.container.InputContainer:
    """Open a file with PyAV, or say in one sentence why that cannot be done.

    Raises
    ------
    UserError
        If the file is missing, a dangling link, empty, or not a video that ffmpeg can read.
    """
    import av
    import av.error

    check_file(path)
    try:
        # The prefix keeps names such as "concat:a|b" from being read as anything but a name.
        return av.open(f"file:{os.fspath(path)}", options={"format_whitelist": FORMATS})
    except (av.error.FFmpegError, EOFError) as error:
        with open(path, "rb") as file:
            family = file.read(12)[4:8]
        if isinstance(error, EOFError):
            raise UserError(
                f"{path} holds no frames: it ends after its header; copy or make the file again."
            ) from error
        if family == b"ftyp":
            # MP4 and QuickTime keep their index at the end unless told otherwise.
            raise UserError(
                f"{path} is cut off: the index at the end of the file is missing, so that it breaks at second 0; "
                "copy the file again."
            ) from error
        raise UserError(
            f"{path} is not a video that can be read: it is of another kind or damaged ({error.strerror}); "
            "give a video file."
        ) from error


def check_file(path: str | os.PathLike) -> None:
    """See that there is a file with something in it.

    Raises
    ------
    UserError
        If it is missing, a dangling link, a folder, unreadable, or empty.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, which is not there; fetch the file "
            "(for DataLad and git-annex: `datalad get`)."
        )
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a video file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (zero bytes); copy the file again.")


_COLOUR_SPACES = {
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
}


def _best(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The video stream to show: the largest picture, of equals the first; never the cover of a sound file."""
    from av.stream import Disposition

    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return max(films, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


def _end(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, start: float
) -> tuple[float | None, bool]:
    """End of the video on a player's clock, and whether that is known of this very stream."""
    first = float(stream.start_time * stream.time_base) - start if stream.start_time is not None else 0.0
    if container.format.name == "avi" and stream.frames:
        # ffmpeg shortens the duration of an AVI to what the size of the file allows; the header's count stays.
        return first + float(max(stream.frames, stream.duration or 0) * stream.time_base), True
    if stream.duration:
        return first + float(stream.duration * stream.time_base), True
    # Matroska keeps the length of a stream in a tag, as the time stamp of its end.
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())
        return float(hours * 3600 + minutes * 60 + seconds) - start, True
    if container.duration:
        return container.duration / 1_000_000, len(container.streams) == 1
    return None, False
