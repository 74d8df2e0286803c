"""Is a film whole? And if not, at which second does it break?

ffmpeg plays on where it can, and invents what is missing. So its complaints are read, what it produced is compared with
what the file claims to hold, and where either gives cause the file is read once more to find the place. A film that
gives no cause is read once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from neuroalign.video.extent import missing_bytes
from neuroalign.video.filters import LONGEST_GAP_S
from neuroalign.video.probe import Inspector, VideoInfo

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


@dataclass(frozen=True)
class Damage:
    """Where a film breaks.

    Attributes
    ----------
    at_s : float
        Seconds from its beginning: every picture that is shown before is whole.
    reason : str
        What is wrong there, in words.
    """

    at_s: float
    reason: str


@dataclass(frozen=True)
class Reading:
    """A second reading of a film, up to its first bad frame; times are seconds from its beginning.

    Attributes
    ----------
    bad_s : float or None
        When the first picture that does not decode cleanly should appear.
    reason : str
        What is wrong with it.
    end_s : float
        End of the last packet of any stream.
    last_s : float or None
        When the last whole picture appears.
    gap_s, gap_at_s : float
        The longest time without a new frame, and when it begins.
    frames : int
        Whole frames.
    """

    bad_s: float | None
    reason: str
    end_s: float
    last_s: float | None
    gap_s: float
    gap_at_s: float
    frames: int


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
    inspector: Inspector,
    source: str | os.PathLike,
    info: VideoInfo,
    reached_s: float,
    told: Sequence[str],
    stalled_s: float = 0.0,
) -> tuple[Damage | None, list[str]]:
    """Say where a film breaks.

    Parameters
    ----------
    inspector : Inspector
    source : path
    info : VideoInfo
        What `source` claims to hold.
    reached_s : float
        Seconds of film that ffmpeg produced.
    told : sequence of str
        What ffmpeg complained of (see `complaints`).
    stalled_s : float
        How long ffmpeg had made no progress when it was stopped; 0 if it came to an end.

    Returns
    -------
    damage : Damage or None
        None for a whole film, also for one at which ffmpeg complained but in which every frame decodes, no time is
        missing and the end is where it should be.
    remarks : list of str
        What is odd about the file without being damage.
    """
    frame_s = 1 / max(info.fps, 1.0)
    short = info.end_s is not None and reached_s < info.end_s - _TOLERANCE_S - 2 * frame_s
    if not (told or short or stalled_s):
        return None, []
    patched = stalled_s > 0 or any(sign in message.lower() for message in told for sign in _PATCHED)
    reading = Reading(
        **inspector.read_through(
            source,
            index=info.index,
            start_s=info.start_s,
            fps=info.fps,
            strict=patched,
            until_s=reached_s if stalled_s else None,
        )
    )
    if reading.bad_s is not None:
        return Damage(reading.bad_s, reading.reason), []
    if stalled_s:
        return Damage(reached_s, f"ffmpeg made no progress for {stalled_s:.0f} s there"), []
    if reading.gap_s > LONGEST_GAP_S:
        return Damage(
            reading.gap_at_s + frame_s,
            f"there is no new picture for {reading.gap_s:.0f} s, which only wrong time stamps explain",
        ), []
    if told and reading.gap_s > 2.5 * frame_s:
        # A pause between frames is normal in films of variable rate, but not where ffmpeg lost its way in the file.
        return Damage(reading.gap_at_s + frame_s, f"{reading.gap_s:.1f} s are missing"), []
    if short and (info.end_is_exact or reading.end_s < info.end_s - _TOLERANCE_S):
        end = min(reached_s, (reading.last_s or 0.0) + frame_s)
        if not told and missing_bytes(source) == 0:
            return None, [f"the header claims {info.end_s:.1f} s, but the whole file holds {end:.1f} s"]
        return Damage(end, f"the file is cut off: it should last {info.end_s:.1f} s"), []
    return None, []
