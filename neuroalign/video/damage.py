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
# A pause this long is no slide that is shown for a while but a broken clock.
LONGEST_GAP_S = 3600
# Broadcast streams say nowhere how long they are: ffmpeg guesses from what is there.
_WITHOUT_CLAIM = ("mpegts", "mpeg")


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
    step_s, longest_s, longest_at_s, hole_s, hole_at_s, ragged_at_s : float
        How regularly pictures follow each other; see `reading.rhythm`.
    """

    bad_s: float | None
    reason: str
    end_s: float
    last_s: float | None
    step_s: float
    longest_s: float
    longest_at_s: float
    hole_s: float
    hole_at_s: float
    ragged_at_s: float | None


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
    suspect: bool = False,
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
    suspect : bool
        Whether the film shall be read again in any case.

    Returns
    -------
    damage : Damage or None
        None for a whole film, also for one at which ffmpeg complained but in which every frame decodes, no time is
        missing and the end is where it should be.
    remarks : list of str
        What is odd about the file without being damage.
    """
    lacking = missing_bytes(source)
    # The length of the last frame counts, and is often a guess; where bytes are missing, nothing is forgiven.
    least = (info.end_s or 0.0) - (0.0 if lacking else _TOLERANCE_S) - 2 / max(info.fps, 1.0)
    if not (told or stalled_s or suspect or lacking or reached_s < least):
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
        return Damage(_first_missing(reading), reading.reason), []
    if stalled_s:
        return Damage(reached_s, f"ffmpeg made no progress for {stalled_s:.0f} s there"), []
    if reading.longest_s > LONGEST_GAP_S:
        return Damage(
            reading.longest_at_s + reading.step_s,
            f"there is no new picture for {reading.longest_s:.0f} s, which only wrong time stamps explain",
        ), []
    if told and reading.hole_s:
        # A pause between frames is normal in films of variable rate, but not where ffmpeg lost its way in the file.
        return Damage(reading.hole_at_s + reading.step_s, f"{reading.hole_s:.1f} s are missing"), []
    return _end(info, reading, reached_s, lacking, bool(told))


def _first_missing(reading: Reading) -> float:
    """When the first picture is due that is not there: one before the bad one may be missing without a trace."""
    if reading.last_s is None or reading.bad_s <= reading.last_s + 1.5 * reading.step_s:
        return reading.bad_s
    return reading.last_s + reading.step_s


def _end(
    info: VideoInfo, reading: Reading, reached_s: float, lacking: int | None, told: bool
) -> tuple[Damage | None, list[str]]:
    """Whether a film whose every frame decodes lacks its end."""
    last = reading.last_s if reading.ragged_at_s is None else reading.ragged_at_s
    end = min(reached_s, last + reading.step_s)
    if info.end_s is None or info.container in _WITHOUT_CLAIM:
        # Nothing tells whether the last picture is whole.
        return (Damage(last, "the file is cut off"), []) if lacking else (None, [])
    slack = 1.5 * reading.step_s if lacking else _TOLERANCE_S + 2 * reading.step_s
    if reading.last_s + reading.step_s >= info.end_s - slack:
        return None, ["the end of the file is missing, but no picture of it"] if lacking else []
    if lacking == 0 and not told:
        return None, [f"the header claims {info.end_s:.1f} s, but the whole file holds {end:.1f} s"]
    if info.end_is_exact or reading.end_s < info.end_s - slack:
        return Damage(end, f"the file is cut off: it should last {info.end_s:.1f} s"), []
    return None, []
