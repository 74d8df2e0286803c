"""From a film to its captions file: BLIP-2 describes each window."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np

from neuroalign.config.text import Text
from neuroalign.io import checksum
from neuroalign.text.blip2 import Blip2Captioner
from neuroalign.text.build import build_captions
from neuroalign.text.captions import Captions
from neuroalign.text.progress import Progress
from neuroalign.video.decode import FilmReader
from neuroalign.video.weights_record import open_weights
from neuroalign.video.windows import WindowGrid, window_grid

logger = logging.getLogger(__name__)

# Keys of the configuration that decide the words; the rest is about vectors, or about where things run.
_WORDS = ("prompt", "beams", "max_tokens", "window_s", "stride_s", "batch_size")
SECTION = ("source", "weights", "revision", "embedding", *_WORDS)
_REPORT_S = 30


def caption_from_film(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    config: Text,
    blip2_weights: str | os.PathLike,
    text_weights: str | os.PathLike,
    *,
    threads: int = 1,
) -> Captions:
    """Describe each window of a film, and write the captions with their vectors.

    Captions go to a side file batch by batch, so that a job that was killed goes on with the first whole batch that is
    not there. The side file is removed when the result is written.

    Parameters
    ----------
    source : path
        A film written by `normalise`.
    destination : path
        An ``.h5`` file in the format of `captions`.
    config : Text
    blip2_weights, text_weights : path
        A ``weights.json`` or folder each, see `weights_record.open_weights`.
    threads : int
        Threads that decode.

    Raises
    ------
    UserError
        If the film cannot be decoded, or the weights cannot be used.
    """
    reader = FilmReader(source, threads=threads)
    grid = window_grid(len(reader), reader.fps, config.window_s, config.stride_s)
    weights = open_weights(blip2_weights)
    captioner = Blip2Captioner.from_folder(weights.folder, config)
    fingerprint = {
        **config.model_dump(mode="json", include=set(_WORDS)),
        **captioner.setting,
        "weights": weights.revision,
        "film": checksum(source),
    }
    progress = Progress(Path(destination).with_suffix(".partial.jsonl"), fingerprint)
    with progress:
        _describe(reader, grid, captioner, progress, config.batch_size)
    # The captioner makes room for the text model.
    del captioner
    result = build_captions(
        destination,
        progress.done,
        grid,
        config,
        text_weights,
        writer=weights,
        section=SECTION,
        inputs={"film": source},
    )
    progress.remove()
    return result


def middle_frames(grid: WindowGrid) -> np.ndarray:
    """The frame that stands for each window: the one at its centre, or at that of what the film has of the last window."""
    return (grid.start + grid.stop) // 2


def _describe(
    reader: FilmReader, grid: WindowGrid, captioner: Blip2Captioner, progress: Progress, batch_size: int
) -> None:
    """Captions of the windows that have none yet, each batch on disk before the next begins."""
    frames, first = middle_frames(grid), len(progress.done)
    began = told = time.monotonic()
    for k in range(first, len(grid), batch_size):
        progress.add(captioner(reader.read(frames[k : k + batch_size])))
        now, written = time.monotonic(), len(progress.done)
        if now - told >= _REPORT_S or written == len(grid):
            told = now
            rate = (written - first) / max(now - began, 1e-9)
            left = (len(grid) - written) / rate
            logger.info("described %d of %d windows: %.2f/s, %.0f s to go", written, len(grid), rate, left)
