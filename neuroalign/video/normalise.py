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
from typing import Any

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.io import atomic_path, provenance, write_json
from neuroalign.video.damage import complaints, find_damage
from neuroalign.video.ffmpeg import ffmpeg_exe, ffmpeg_version, run_ffmpeg
from neuroalign.video.probe import FORMATS, VideoInfo, probe
from neuroalign.video.windows import exact_rate

logger = logging.getLogger(__name__)

CRF = 16
PRESET = "veryfast"
LARGEST_SIDE = 8192


def normalise(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    record: str | os.PathLike,
    config: Video,
    *,
    threads: int = 1,
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
        `fps` and `height` are used.
    threads : int
        Threads that decode; the result does not depend on them.
    stall_s : float
        Seconds without progress after which the source is given up.

    Returns
    -------
    dict
        What `record` holds: `source` (see `probe.VideoInfo`), `mezzanine` (`width`, `height`, `fps`, `frames`,
        `duration_s`), `done` (the steps that this film needed), `warnings`, `ffmpeg`, `provenance`.

    Raises
    ------
    UserError
        If the source is missing, not a video, or damaged: the sentence says at which second.
    """
    info = probe(source)
    fps = exact_rate(config.fps)
    width, height = mezzanine_size(info.aspect, config.height)
    if width > LARGEST_SIDE:
        raise UserError(
            f"{source} is {info.aspect:.0f} times as wide as high: {width} x {height} pixels at video.height "
            f"{config.height}, more than can be encoded; crop it."
        )
    with atomic_path(destination) as temporary:
        command = build_command(source, temporary, info, fps, (width, height), threads)
        logger.info("normalising %s to %d x %d at %s frames/s", Path(source).name, width, height, fps)
        outcome = run_ffmpeg(command, stall_s)
        reached = outcome.progress.get("frame", 0) / float(fps)
        if outcome.stalled:
            raise UserError(
                f"{source} breaks at second {reached:.1f}: ffmpeg made no progress for {stall_s:.0f} s there; "
                "copy the file again or convert it."
            )
        warnings = complaints(outcome.messages)
        damage = find_damage(source, info, reached, warnings)
        if damage is not None:
            raise UserError(f"{source} {damage}")
        if outcome.code != 0:
            reason = outcome.messages[-1] if outcome.messages else f"exit status {outcome.code}"
            raise UserError(
                f"{source} could not be normalised by ffmpeg after second {reached:.1f}: {reason}"
            )
        written = probe(temporary)
    content = {
        "source": info.as_dict(),
        "mezzanine": {
            "width": written.width,
            "height": written.height,
            "fps": float(fps),
            "frames": written.frames,
            "duration_s": written.frames / float(fps),
        },
        "done": _steps(info, fps, (width, height)),
        "warnings": warnings,
        "ffmpeg": ffmpeg_version(),
        "provenance": provenance({"fps": config.fps, "height": config.height}, {"video": source}),
    }
    write_json(record, content)
    return content


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
    """
    import ffmpeg

    stream = ffmpeg.input(
        f"file:{os.fspath(source)}", format_whitelist=FORMATS, protocol_whitelist="file", threads=threads
    )[str(info.index)]
    # Containers round time stamps (Matroska to milliseconds). Without this allowance of half a tick, a frame that was
    # rounded past the instant at which it begins would be missed there.
    stream = stream.filter("settb", "AVTB").filter("setpts", f"PTS-{max(2, round(info.tick_s * 5e5))}")
    # Dropping frames before scaling saves scaling those that nobody will see.
    stream = stream.filter("fps", fps=str(fps), start_time=0, round="up")
    # decord assumes BT.601 unless told otherwise, and so do we: one matrix for all, and written in the file.
    stream = stream.filter(
        "scale",
        *size,
        flags="area+accurate_rnd" if info.width > 2 * size[0] else "bicubic+accurate_rnd",
        in_color_matrix=_matrix(info),
        out_color_matrix="bt601",
        out_range="tv",
    )
    stream = stream.filter("setsar", 1).filter("format", "yuv420p")
    output = stream.output(
        f"file:{os.fspath(destination)}",
        format="mp4",
        vcodec="libx264",
        preset=PRESET,
        crf=CRF,
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
    )
    return (
        output.global_args("-nostdin", "-filter_complex_threads", "1")
        .overwrite_output()
        .compile(ffmpeg_exe())
    )


def _matrix(info: VideoInfo) -> str:
    """The matrix that turns the source's YUV to RGB; players take silence as BT.709 from 720 lines up."""
    if info.colour_space == "unspecified" and min(info.width, info.height) >= 720:
        return "bt709"
    return "auto"


def _steps(info: VideoInfo, fps: Fraction, size: tuple[int, int]) -> list[str]:
    """What was done to this film, in words."""
    upright = f"{info.width} x {info.height}"
    steps = []
    if info.streams.count("video") > 1:
        steps.append(f"took stream {info.index} of {info.streams.count('video')} video streams")
    if info.rotation:
        steps.append(f"turned by {info.rotation} degrees")
    if abs(info.sample_aspect - 1) > 1e-6:
        steps.append(f"made pixels square (they were {info.sample_aspect:.4f} wide)")
    steps.append(f"scaled from {upright} to {size[0]} x {size[1]}")
    steps.append(f"resampled from {info.fps:.6g} to {float(fps):.6g} frames/s")
    if info.start_s:
        steps.append(f"moved the beginning from {info.start_s:.6g} s to 0")
    if info.lead_s > 1 / float(fps):
        steps.append(f"held the first frame through the {info.lead_s:.6g} s before it")
    if "audio" in info.streams:
        steps.append("dropped the sound")
    return steps
