"""From a film to words: BLIP-2 describes each window, in a table like those that a user may bring.

The table has one row per window, in order, with onset and duration of the window; ``n/a`` where BLIP-2 said nothing. A
record beside it says what wrote it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import closing
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.config.text import Text
from neuroalign.io import checksum, provenance, write_json, write_tsv
from neuroalign.modules import source_files
from neuroalign.text.blip2 import Blip2Captioner
from neuroalign.video.decode import FilmReader
from neuroalign.video.journal import Journal
from neuroalign.video.prefetch import ahead
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

    Captions go to a side file batch by batch (`neuroalign.video.journal`), so that a job that was killed goes on with the
    first whole batch that is not there. The side file is removed when the result is written.

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
    facts = {**section, **captioner.setting, "weights": found.revision, "film": checksum(source)}
    with Journal(destination, _identity(facts)) as journal:
        captions = _describe(reader, grid, captioner, journal, config.batch_size)
    made_by = provenance(
        {**section, "weights": config.weights, "revision": config.revision}, {"film": source}
    )
    write_json(
        record,
        {"weights": found.name, "revision": found.revision, **captioner.setting, "provenance": made_by},
    )
    # Rounded to what no clock can tell apart, so that 0.30000000000000004 is 0.3.
    onsets = np.round(grid.times - config.window_s / 2, 6)
    table = {"onset": onsets, "duration": config.window_s, "caption": [c or None for c in captions]}
    write_tsv(destination, pd.DataFrame(table))
    journal.remove()
    return captions


def _identity(facts: Mapping[str, Any]) -> str:
    """A checksum of all that decides the words: film, settings, weights, code and libraries."""
    code = [checksum(path) for path in source_files("neuroalign.text.described")]
    return blake2b(json.dumps([facts, code], sort_keys=True).encode(), digest_size=16).hexdigest()


def middle_frames(grid: WindowGrid) -> np.ndarray:
    """The frame that stands for each window: the one at its centre, or at that of what the film has of the last window."""
    return (grid.start + grid.stop) // 2


def _describe(
    reader: FilmReader, grid: WindowGrid, captioner: Blip2Captioner, journal: Journal, batch_size: int
) -> list[str]:
    """Captions of all windows: those in the journal, and the rest, each batch on disk before the next begins."""
    captions = [caption for part in journal for caption in json.loads(part)]
    first = len(captions)
    if first:
        logger.info("going on after %d of %d windows", first, len(grid))
    frames = middle_frames(grid)
    batches = (frames[k : k + batch_size] for k in range(first, len(grid), batch_size))
    began = told = time.monotonic()
    with closing(ahead(reader.read, batches)) as pictures:
        for batch in pictures:
            words = captioner(batch)
            journal.append(json.dumps(words).encode())
            captions += words
            now = time.monotonic()
            if now - told >= _REPORT_S or len(captions) == len(grid):
                told, rate = now, (len(captions) - first) / max(now - began, 1e-9)
                left = (len(grid) - len(captions)) / rate
                logger.info(
                    "described %d of %d windows: %.2f/s, %.0f s to go", len(captions), len(grid), rate, left
                )
    return captions
