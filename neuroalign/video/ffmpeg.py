"""Where ffmpeg is, and how it is run: nothing here knows what is in a video.

The binary comes from the machine where there is one, and from the `imageio-ffmpeg` wheel otherwise, so that no
system package is ever needed.
"""

from __future__ import annotations

import functools
import shutil

from neuroalign.errors import UserError


@functools.cache
def ffmpeg_exe() -> str:
    """Path of the ffmpeg binary: the one on ``PATH``, or the one that `imageio-ffmpeg` brings.

    Raises
    ------
    UserError
        If there is neither.
    """
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"no ffmpeg was found ({error}); install ffmpeg or `pip install imageio-ffmpeg`."
        ) from error
