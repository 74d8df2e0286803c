"""Small still pictures of a film, for the report."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np

from neuroalign.video.decode import FilmReader, film

QUALITY = 80


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
    return [_jpeg(frame) for frame in _frames(mezzanine, times, height)]


def contact_sheet(mezzanine: str | os.PathLike, columns: int = 6, rows: int = 3, height: int = 72) -> bytes:
    """Pictures from evenly spaced times of a film, left to right and top to bottom, as one JPEG.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    columns, rows : int
        Pictures in each direction.
    height : int
        Of each picture, in pixels.
    """
    count = columns * rows
    times = (np.arange(count) + 0.5) / count * film(mezzanine).duration_s
    frames = np.stack(_frames(mezzanine, list(times), height))
    _, high, wide, _ = frames.shape
    sheet = (
        frames.reshape(rows, columns, high, wide, 3).swapaxes(1, 2).reshape(rows * high, columns * wide, 3)
    )
    return _jpeg(sheet)


def _frames(mezzanine: str | os.PathLike, times: Sequence[float], height: int) -> list[np.ndarray]:
    """Frames at the given times, (height, width, 3) uint8 each, decoding every frame once and in order."""
    if not len(times):
        return []
    source = film(mezzanine)
    width = max(1, round(height * source.width / source.height))
    reader = FilmReader(mezzanine, (width, height))
    wanted = [min(max(int(np.floor(t * reader.fps + 1e-6)), 0), len(reader) - 1) for t in times]
    # One by one: a film's worth of frames at once would not fit, and the key frame before each is near.
    pictures = {index: reader.read([index])[0] for index in sorted(set(wanted))}
    return [pictures[index] for index in wanted]


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
