"""Any film in, one predictable film out: the mezzanine that every later stage decodes.

A mezzanine is H.264 at the constant rate ``video.fps`` and the height ``video.height``: the rate and size at which
films are embedded, so that decoding it later costs as little as it can. It is upright, has square pixels and even
sides, a key frame every second, no sound, and its frame ``i`` is what a player of the original shows ``i / fps``
seconds after the film's beginning. The frame filter is told to round time stamps *up* to get just that: a frame
that begins between two ticks is first seen at the later one.
"""

from __future__ import annotations

import logging
import math
import os
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.io import atomic_path, provenance, write_json
from neuroalign.video.containers import FORMATS
from neuroalign.video.damage import LONGEST_GAP_S, Damage, complaints, find_damage
from neuroalign.video.ffmpeg import Outcome, ffmpeg_exe, ffmpeg_version, run_ffmpeg
from neuroalign.video.filters import TABLE, film_filters, steps
from neuroalign.video.probe import Inspector, VideoInfo
from neuroalign.video.tone import needs_table, write_table
from neuroalign.video.windows import exact_rate

logger = logging.getLogger(__name__)

# More than 50 dB from the picture that went in, at the least cost: the file is read a few times and never shown.
PRESET = "ultrafast"
QUANTISER = 16
LARGEST_SIDE = 8192
LONGEST_S = 24 * 3600


def normalise(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    record: str | os.PathLike,
    config: Video,
    *,
    threads: int = 0,
    stall_s: float = 120.0,
) -> dict[str, Any]:
    """Write the mezzanine of a film, and beside it what was found and done.

    Parameters
    ----------
    source : path
        Any video that ffmpeg reads.
    destination : path
        The mezzanine, an ``.mp4`` file.
    record : path
        A ``.json`` file.
    config : Video
        `fps`, `height` and `on_damage` are used.
    threads : int
        Threads that decode, 0 for one per core; the result does not depend on them.
    stall_s : float
        Seconds without progress after which the source is given up.

    Returns
    -------
    dict
        What `record` holds: `source` (see `probe.VideoInfo`), `mezzanine` (`width`, `height`, `fps`, `frames`,
        `duration_s`), `damage` (None, or `at_s` and `reason`), `done` (the steps that this film needed), `warnings`,
        `ffmpeg`, `provenance`.

    Raises
    ------
    UserError
        If the source is missing or not a video, or damaged while ``config.on_damage`` is ``error`` (the sentence says at
        which second), or damaged before its first whole picture.
    """
    fps = exact_rate(config.fps)
    longest = math.ceil(LONGEST_S * fps)
    with Inspector(stall_s) as inspector, TemporaryDirectory() as folder, atomic_path(destination) as made:
        version = ffmpeg_version()
        info = inspector.probe(source)
        size = mezzanine_size(info.aspect, config.height)
        if max(size) > LARGEST_SIDE:
            raise UserError(
                f"{source} is {info.aspect:.0f} times as wide as high: {size[0]} x {size[1]} pixels at video.height "
                f"{config.height}, more than can be encoded; crop it."
            )
        if needs_table(info.transfer, info.primaries):
            write_table(Path(folder) / TABLE, info.transfer, info.primaries)

        def run(frames: int) -> Outcome:
            command = build_command(source, made, info, fps, size, threads, frames)
            return run_ffmpeg(command, stall_s, longest, folder)

        logger.info("normalising %s to %d x %d at %s frames/s", Path(source).name, *size, fps)
        endless = (info.end_s or 0) > LONGEST_S
        outcome = run(1 if endless else longest)
        endless |= outcome.endless or outcome.frames >= longest
        reached = outcome.frames / float(fps)
        # A clock that jumps ahead shows as a still of hours, which nothing else would tell from a film.
        whole = reached > LONGEST_GAP_S and outcome.code == 0
        still = whole and inspector.longest_still(made) / float(fps) > 0.9 * LONGEST_GAP_S
        told = complaints(outcome.messages)
        stalled_s = stall_s if outcome.stalled else 0.0
        damage, remarks = find_damage(inspector, source, info, reached, told, stalled_s, endless or still)
        if damage is None and endless:
            raise UserError(
                f"{source} lasts more than {LONGEST_S / 3600:.0f} hours by its time stamps, which must be wrong; "
                "convert it, or cut it into films."
            )
        if damage is not None:
            outcome = run(_whole_frames(source, damage, fps, config.on_damage))
            logger.warning(
                "%s is damaged: it breaks at second %.1f (%s); what comes before is kept",
                *(Path(source).name, damage.at_s, damage.reason),
            )
        if outcome.stalled or outcome.code != 0 or not outcome.frames:
            reason = outcome.messages[-1] if outcome.messages else f"exit status {outcome.code}"
            raise UserError(
                f"{source} could not be normalised by ffmpeg after second {outcome.frames / float(fps):.1f}: {reason}"
            )
        written = inspector.probe(made)
    content = {
        "source": info.as_dict(),
        "mezzanine": {
            "width": written.width,
            "height": written.height,
            "fps": float(fps),
            "frames": written.frames,
            "duration_s": written.frames / float(fps),
        },
        "damage": None if damage is None else {"at_s": damage.at_s, "reason": damage.reason},
        "done": steps(info, fps, size) + _kept(damage),
        "warnings": told + remarks,
        "ffmpeg": version,
        "provenance": provenance(
            {"fps": config.fps, "height": config.height, "on_damage": config.on_damage}, {"video": source}
        ),
    }
    write_json(record, content)
    return content


def _whole_frames(source: str | os.PathLike, damage: Damage, fps: Fraction, on_damage: str) -> int:
    """How many frames of the mezzanine end before the break, if the configuration lets them be used.

    Raises
    ------
    UserError
        If it does not, or there are none.
    """
    told = f"{source} is damaged: it breaks at second {damage.at_s:.1f} ({damage.reason})"
    if on_damage == "error":
        raise UserError(
            f"{told}; copy the file again or repair it, or set video.on_damage to truncate to use what comes before."
        )
    frames = math.floor(damage.at_s * fps + 1e-6)
    if frames < 1:
        raise UserError(f"{told}, so that no whole picture is left; copy the file again or repair it.")
    return frames


def _kept(damage: Damage | None) -> list[str]:
    return [] if damage is None else [f"kept what comes before second {damage.at_s:.3f}, where it breaks"]


def mezzanine_size(aspect: float, height: int) -> tuple[int, int]:
    """Width and height in pixels, both even, of a picture of the given aspect (width over height).

    Every mezzanine has the configured height (rounded down to even), larger and smaller originals alike.
    """
    height -= height % 2
    return max(2, 2 * round(aspect * height / 2)), height


def build_command(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    info: VideoInfo,
    fps: Fraction,
    size: tuple[int, int],
    threads: int,
    frames: int,
) -> list[str]:
    """The ffmpeg command that makes a mezzanine.

    Parameters
    ----------
    source, destination : path
    info : VideoInfo
        Of the source.
    fps : Fraction
    size : tuple of int
        Width and height in pixels.
    threads : int
        Threads that decode.
    frames : int
        The most frames that are written.
    """
    import ffmpeg

    stream = ffmpeg.input(
        f"file:{os.path.abspath(source)}",
        format_whitelist=FORMATS,
        protocol_whitelist="file",
        threads=threads,
    )[str(info.index)]
    output = film_filters(stream, info, fps, size).output(
        f"file:{os.path.abspath(destination)}",
        format="mp4",
        vcodec="libx264",
        preset=PRESET,
        qp=QUANTISER,
        g=math.ceil(fps),
        bf=0,
        threads=1,
        colorspace="smpte170m",
        color_range="tv",
        map_metadata=-1,
        map_chapters=-1,
        movflags="+faststart",
        fflags="+bitexact",
        flags="+bitexact",
        loglevel="level+warning",
        progress="pipe:1",
        **{"frames:v": frames},
    )
    return (
        output.global_args("-nostdin", "-filter_complex_threads", "1")
        .overwrite_output()
        .compile(ffmpeg_exe())
    )
