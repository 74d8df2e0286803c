"""What is done to the pictures of a film on their way into the mezzanine: ffmpeg's filters, and the same in words."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from neuroalign.video.probe import VideoInfo
from neuroalign.video.tone import needs_table

TABLE = "tone.cube"
_LUT_PIXELS = "gbrp12le"


def film_filters(stream: Any, info: VideoInfo, fps: Fraction, size: tuple[int, int]) -> Any:
    """Put the filters behind a stream of ffmpeg-python.

    Parameters
    ----------
    stream : ffmpeg-python stream
    info : VideoInfo
        Of the film.
    fps : Fraction
    size : tuple of int
        Width and height in pixels that come out.

    Returns
    -------
    ffmpeg-python stream
        Its frame `i` is what a player shows ``i / fps`` seconds after the beginning. Where `tone.needs_table` says so,
        the table must lie as `TABLE` in ffmpeg's working directory.
    """
    if info.interlaced:
        stream = stream.filter("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    # Containers round time stamps (Matroska to milliseconds). Without this allowance of half a tick, a frame that was
    # rounded past the instant at which it begins would be missed there.
    early = f"PTS-{max(2, round(info.tick_s * 5e5))}"
    # ffmpeg itself takes off a beginning that is announced.
    begin = "" if info.start_is_announced else "-STARTPTS"
    stream = stream.filter("settb", "AVTB").filter("setpts", early + begin)
    # Dropping frames before scaling saves scaling those that nobody will see.
    stream = stream.filter("fps", fps=str(fps), start_time=0, round="up")
    matrix = _matrix(info)
    if info.transparent:
        # Before scaling, which would mix in the colours of pixels that nobody sees.
        stream = stream.filter("scale", in_color_matrix=matrix).filter("format", "gbrap")
        stream = stream.filter("premultiply", inplace=1).filter("format", "gbrp")
        matrix = "auto"
    # ffmpeg has turned the picture already.
    shown = info.height if info.lies_on_its_side else info.width
    flags = "area+accurate_rnd" if shown > 2 * size[0] else "bicubic+accurate_rnd"
    if needs_table(info.transfer, info.primaries):
        stream = stream.filter("scale", *size, flags=flags, in_color_matrix=matrix)
        stream = stream.filter("format", _LUT_PIXELS).filter("lut3d", file=TABLE, interp="tetrahedral")
        matrix = "auto"
    # decord assumes BT.601 unless told otherwise, and so do we: one matrix for all, and written in the file.
    stream = stream.filter(
        "scale",
        *size,
        flags=flags,
        in_color_matrix=matrix,
        out_color_matrix="bt601",
        out_range="tv",
    )
    # What the frames carry beside their pixels (how bright they may be, captions) is done with.
    stream = stream.filter("sidedata", mode="delete")
    stream = stream.filter("setsar", 1).filter("format", "yuv420p")
    return stream.filter(
        "setparams", colorspace="smpte170m", color_primaries="bt709", color_trc="bt709", range="tv"
    )


def _matrix(info: VideoInfo) -> str:
    """The matrix that turns the source's YUV to RGB; players take silence as BT.709 from 720 lines up."""
    if info.colour_space == "unspecified":
        if needs_table(info.transfer, info.primaries) and info.primaries != "displayp3":
            return "bt2020"
        if min(info.width, info.height) >= 720:
            return "bt709"
    return "auto"


def steps(info: VideoInfo, fps: Fraction, size: tuple[int, int]) -> list[str]:
    """What was done to this film, in words."""
    found = []
    if info.streams.count("video") > 1:
        found.append(f"took stream {info.index} of {info.streams.count('video')} video streams")
    if info.interlaced:
        found.append("made whole pictures of interlaced fields")
    if info.mirrored:
        found.append("flipped left to right")
    if info.rotation:
        found.append(f"turned by {info.rotation:g} degrees")
    if abs(info.sample_aspect - 1) > 1e-6:
        found.append(f"made pixels square (they were {info.sample_aspect:.4f} wide)")
    if info.transparent:
        found.append("laid transparent pixels on black")
    if info.transfer in ("pq", "hlg"):
        found.append(
            f"compressed the high dynamic range ({info.transfer.upper()}) to that of standard screens"
        )
    elif needs_table(info.transfer, info.primaries):
        found.append(f"converted colours from {info.primaries} primaries")
    found.append(f"scaled from {info.width} x {info.height} to {size[0]} x {size[1]}")
    found.append(f"resampled from {info.fps:.6g} to {float(fps):.6g} frames/s")
    if info.start_s:
        found.append(f"moved the beginning from {info.start_s:.6g} s to 0")
    if info.lead_s > 1 / float(fps):
        found.append(f"held the first frame through the {info.lead_s:.6g} s before it")
    if "audio" in info.streams:
        found.append("dropped the sound")
    return found
