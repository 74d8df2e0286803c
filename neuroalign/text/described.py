"""From a film to words: BLIP-2 describes each window, in a table like those that a user may bring.

The table has one row per window, in order, with onset and duration of the window; ``n/a`` where BLIP-2 said nothing. A
record beside it says what wrote it.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.config.text import Text
from neuroalign.io import checksum, provenance, write_json, write_tsv
from neuroalign.text.blip2 import Blip2Captioner
from neuroalign.text.progress import Progress
from neuroalign.video.decode import FilmReader
from neuroalign.video.weights_record import open_weights
from neuroalign.video.windows import WindowGrid, window_grid

logger = logging.getLogger(__name__)

# Keys of the configuration that decide the words; others say where things run.
_WORDS = ("prompt", "beams", "max_tokens", "window_s", "stride_s", "batch_size")
_REPORT_S = 30


def describe(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    record: str | os.PathLike,
    config: Text,
    weights: str | os.PathLike,
    *,
    threads: int = 1,
) -> list[str]:
    """Describe each window of a film.

    Captions go to a side file batch by batch, so that a job that was killed goes on with the first whole batch that is
    not there. The side file is removed when the result is written.

    Parameters
    ----------
    source : path
        A film written by `normalise`.
    destination : path
        A ``.tsv`` file with the columns ``onset``, ``duration`` and ``caption``.
    record : path
        A ``.json`` file: `weights` and `revision` of what wrote the captions, and the provenance.
    config : Text
    weights : path
        A ``weights.json`` or folder, see `weights_record.open_weights`.
    threads : int
        Threads that decode.

    Returns
    -------
    list of str
        The captions.

    Raises
    ------
    UserError
        If the film cannot be decoded, or the weights cannot be used.
    """
    reader = FilmReader(source, threads=threads)
    grid = window_grid(len(reader), reader.fps, config.window_s, config.stride_s)
    found = open_weights(weights)
    captioner = Blip2Captioner.from_folder(found.folder, config)
    section = config.model_dump(mode="json", include=set(_WORDS))
    fingerprint = {**section, **captioner.setting, "weights": found.revision, "film": checksum(source)}
    progress = Progress(Path(destination).with_suffix(".partial.jsonl"), fingerprint)
    with progress:
        _describe(reader, grid, captioner, progress, config.batch_size)
    made_by = provenance(
        {**section, "weights": config.weights, "revision": config.revision}, {"film": source}
    )
    write_json(
        record,
        {"weights": found.name, "revision": found.revision, **captioner.setting, "provenance": made_by},
    )
    # Rounded to what no clock can tell apart, so that 0.30000000000000004 is 0.3.
    onsets = np.round(grid.times - config.window_s / 2, 6)
    captions = [caption or None for caption in progress.done]
    write_tsv(destination, pd.DataFrame({"onset": onsets, "duration": config.window_s, "caption": captions}))
    progress.remove()
    return progress.done


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
