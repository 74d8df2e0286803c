"""Small still pictures of a film, for the report."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np

from neuroalign.video.decode import FilmReader, film

QUALITY = 80
_TOGETHER = 32


def thumbnail(mezzanine: str | os.PathLike, time_s: float, height: int = 72) -> bytes:
    """The picture at one time of a film, as JPEG.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    time_s : float
        Seconds from its beginning; times outside the film give its first or last picture.
    height : int
        In pixels; the width follows.
    """
    return thumbnails(mezzanine, [time_s], height)[0]


def thumbnails(mezzanine: str | os.PathLike, times: Sequence[float], height: int = 72) -> list[bytes]:
    """The pictures at several times of a film, as JPEG, in the order asked for.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    times : sequence of float
        Seconds from its beginning; times outside the film give its first or last picture.
    height : int
        In pixels; the width follows.
    """
    return [jpeg(frame) for frame in frames_at(mezzanine, times, height)]


def frames_at(mezzanine: str | os.PathLike, times: Sequence[float], height: int = 72) -> list[np.ndarray]:
    """The pictures at several times of a film, in the order asked for; every frame is decoded once, and in order.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    times : sequence of float
        Seconds from its beginning; times outside the film give its first or last picture.
    height : int
        In pixels; the width follows.

    Returns
    -------
    list of uint8 arrays of shape (height, width, 3)
        RGB.
    """
    if not len(times):
        return []
    source = film(mezzanine)
    width = max(1, round(height * source.width / source.height))
    reader = FilmReader(mezzanine, (width, height))
    wanted = [min(max(int(np.floor(t * reader.fps + 1e-6)), 0), len(reader) - 1) for t in times]
    order, pictures = sorted(set(wanted)), {}
    # A few at a time: a film's worth of frames at once would not fit.
    for first in range(0, len(order), _TOGETHER):
        some = order[first : first + _TOGETHER]
        pictures |= dict(zip(some, reader.read(some), strict=True))
    return [pictures[index] for index in wanted]


def jpeg(picture: np.ndarray) -> bytes:
    """A picture, uint8 of shape (height, width, 3), as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
