"""Is a film whole? And if not, at which second does it break?"""

from __future__ import annotations

import os

from neuroalign.video.probe import VideoInfo, open_container

# What ffmpeg says of pictures it had to invent or leave out. Its other warnings (time stamps, unused streams,
# deprecated pixel formats) are about files that play as they should.
_SIGNS = (
    "corrupt",
    "error while decoding",
    "error submitting packet",
    "error submitting a packet",
    "invalid data found",
    "partial file",
    "concealing",
    "invalid nal unit size",
    "error splitting the input into nal units",
    "missing picture in access unit",
    "truncat",
    "read error",
    "end of file",
)

# Containers round, and the length of the last frame is often a guess: so much may be missing from a whole film.
_TOLERANCE_S = 0.5


def complaints(messages: tuple[str, ...]) -> list[str]:
    """The messages of ffmpeg that speak of damage, without repeats."""
    told = [m for m in messages if any(sign in m.lower() for sign in _SIGNS)]
    return list(dict.fromkeys(told))[:20]


def find_damage(source: str | os.PathLike, info: VideoInfo, reached_s: float, suspicious: bool) -> str | None:
    """Say where a film breaks, or None for a whole one.

    Parameters
    ----------
    source : path
    info : VideoInfo
        What `source` claims to hold.
    reached_s : float
        Seconds of film that ffmpeg produced.
    suspicious : bool
        True if ffmpeg complained: the film is then decoded once more to find the first bad frame.

    Returns
    -------
    str or None
        The end of a sentence that begins with the name of the file.
    """
    claimed = info.end_s
    short = claimed is not None and reached_s < claimed - _TOLERANCE_S - 2 / max(info.fps, 1.0)
    if not suspicious and not short:
        return None
    broken_s, packets_end_s = _first_bad_frame(source, info)
    if broken_s is not None:
        return f"is damaged: it breaks at second {broken_s:.1f}; copy the file again or repair it."
    if short and (info.end_is_exact or packets_end_s < claimed - _TOLERANCE_S):
        return (
            f"is cut off: it breaks at second {reached_s:.1f} of the {claimed:.1f} s it should last; "
            "copy the file again or repair it."
        )
    return None


def _first_bad_frame(source: str | os.PathLike, info: VideoInfo) -> tuple[float | None, float]:
    """Second of the first frame that does not decode cleanly, and of the end of the last packet of any stream."""
    import av.error

    packets_end = 0.0
    last = 0.0
    with open_container(source) as container:
        stream = container.streams[info.index]
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - info.start_s
                    packets_end = max(packets_end, end)
                if packet.stream_index != info.index:
                    continue
                for frame in stream.decode(packet):
                    if frame.is_corrupt:
                        return (frame.time - info.start_s if frame.time is not None else last), packets_end
                    if frame.time is not None:
                        last = frame.time - info.start_s
        except (av.error.FFmpegError, EOFError):
            return last + 1 / max(info.fps, 1.0), packets_end
    return None, packets_end
