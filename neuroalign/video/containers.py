"""Opening a container with PyAV, as nothing but the one file that it is; imports PyAV and the standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av.container
    import av.video.stream

# Formats that hold their pictures themselves. Absent on purpose: hls, dash, concat, image sequences, sdp and the
# like, which can make a "video" out of any file or address they name.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,gif,"
    "dv,mxf,rm,nut,wtv,yuv4mpegpipe,vob,swf,apng,bink,smacker,dxa,amv,xmv,roq,nsv,vivo,film_cpk"
)


class Refused(Exception):
    """The rest of a sentence that begins with the name of the file."""


def open_container(path: str) -> av.container.InputContainer:
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


def packets_of(
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
