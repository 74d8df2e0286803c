"""Is a film whole? And if not, at which second does it break?

ffmpeg plays on where it can, and invents what is missing. So its complaints are read, what it produced is compared with
what the file claims to hold, and where either gives cause the file is read once more to find the place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from neuroalign.video.probe import VideoInfo, open_container

# Decoders say this of pictures that they patched without failing.
_PATCHED = (
    "corrupt",
    "error while decoding",
    "concealing",
    "damaged",
    "error at mb",
    "overread",
    "invalid level prefix",
)
# Containers round, and the length of the last frame is often a guess: so much may be missing from a whole film.
_TOLERANCE_S = 0.5
_MOST = 20


def complaints(messages: Sequence[str]) -> list[str]:
    """The messages of ffmpeg that may speak of damage: its errors, and warnings of corrupt frames; without repeats.

    Parameters
    ----------
    messages : sequence of str
        Lines written under ``-loglevel level+warning``.
    """
    told = [m for m in messages if "[error]" in m or "[fatal]" in m or "corrupt" in m.lower()]
    return list(dict.fromkeys(told))[:_MOST]


def find_damage(
    source: str | os.PathLike, info: VideoInfo, reached_s: float, told: Sequence[str]
) -> str | None:
    """Say where a film breaks, or None for a whole one.

    Parameters
    ----------
    source : path
    info : VideoInfo
        What `source` claims to hold.
    reached_s : float
        Seconds of film that ffmpeg produced.
    told : sequence of str
        What ffmpeg complained of (see `complaints`).

    Returns
    -------
    str or None
        The end of a sentence that begins with the name of the file. None also for a film at which ffmpeg complained
        but in which every frame decodes, no time is missing and the end is where it should be.
    """
    frame_s = 1 / max(info.fps, 1.0)
    short = info.end_s is not None and reached_s < info.end_s - _TOLERANCE_S - 2 * frame_s
    if not told and not short:
        return None
    patched = any(sign in message.lower() for message in told for sign in _PATCHED)
    reading = _Reading(source, info, strict=patched)
    if reading.bad_s is not None:
        return f"is damaged: it breaks at second {reading.bad_s:.1f}; copy the file again or repair it."
    if short and (info.end_is_exact or reading.end_s < info.end_s - _TOLERANCE_S):
        return (
            f"is cut off: it breaks at second {reached_s:.1f} of the {info.end_s:.1f} s it should last; "
            "copy the file again or repair it."
        )
    if told and reading.gap_s > 2.5 * frame_s:
        # A pause between frames is normal in films of variable rate, but not where ffmpeg lost its way in the file.
        return f"is damaged: {reading.gap_s:.1f} s of it are missing from second {reading.gap_at_s:.1f} on; copy it again."
    return None


class _Reading:
    """A second reading of a film, frame by frame, up to its first bad frame.

    Attributes
    ----------
    bad_s : float or None
        Second of the first frame that does not decode cleanly.
    end_s : float
        End of the last packet of any stream.
    gap_s, gap_at_s : float
        The longest time without a new frame, and when it begins.
    """

    def __init__(self, source: str | os.PathLike, info: VideoInfo, strict: bool):
        import av.error

        self.bad_s: float | None = None
        self.end_s = self.gap_s = self.gap_at_s = 0.0
        self._last = 0.0
        with open_container(source) as container:
            stream = container.streams[info.index]
            if strict:
                stream.codec_context.options = {"err_detect": "explode"}
            try:
                for packet in container.demux():
                    if packet.pts is not None:
                        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                        self.end_s = max(self.end_s, end - info.start_s)
                    if packet.stream_index == info.index:
                        for frame in stream.decode(packet):
                            self._take(frame, info.start_s)
                    if self.bad_s is not None:
                        return
            except (av.error.FFmpegError, EOFError):
                self.bad_s = self._last + 1 / max(info.fps, 1.0)

    def _take(self, frame, start_s: float) -> None:
        now = frame.time - start_s if frame.time is not None else self._last
        if frame.is_corrupt and self.bad_s is None:
            self.bad_s = now
        if now - self._last > self.gap_s:
            self.gap_s, self.gap_at_s = now - self._last, self._last
        self._last = now
