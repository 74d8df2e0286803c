"""From words about a film to its captions file: the words on the film's windows, and their vectors."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from neuroalign.config.text import Text
from neuroalign.errors import UserError
from neuroalign.io import provenance, read_json
from neuroalign.text.captions import Captions, write_captions
from neuroalign.text.embedding import TextEmbedder
from neuroalign.text.tsv import check_end, read_said, window_captions
from neuroalign.video.decode import film
from neuroalign.video.shards import read_embedding
from neuroalign.video.weights_record import open_weights
from neuroalign.video.windows import WindowGrid, window_grid

logger = logging.getLogger(__name__)

# Keys of the configuration that decide the result; others say where things run.
_SECTION = ("source", "embedding", "window_s", "stride_s")
# Where no film is at hand, only its features: a clock fine enough for any window.
_CLOCK_HZ = 1000


def build_captions(
    said: str | os.PathLike,
    source: str | os.PathLike,
    destination: str | os.PathLike,
    config: Text,
    weights: str | os.PathLike,
    *,
    record: str | os.PathLike | None = None,
) -> Captions:
    """Lay captions on the windows of a film, and write them with their vectors.

    Parameters
    ----------
    said : path
        Captions that a user brings (see `tsv.read_said`), or those that `described.describe` wrote.
    source : path
        The film, written by `normalise`; or, where features too are brought by the user, those. Only its length is used.
    destination : path
        An ``.h5`` file in the format of `captions`.
    config : Text
    weights : path
        Of the text model: a ``weights.json`` or folder, see `weights_record.open_weights`.
    record : path, optional
        What `described.describe` wrote beside its captions; without, they are a user's.

    Returns
    -------
    Captions
        What was written.

    Raises
    ------
    UserError
        If the captions are not as they should be, or are of another film, or the weights cannot be used.
    """
    grid = windows_of(source, config)
    words = _described(said, grid, config) if record else _brought(said, grid, config)
    found = open_weights(weights)
    writer = read_json(record) if record else {"weights": "tsv", "revision": ""}
    embedder = TextEmbedder.from_folder(found.folder, config)
    rows = [k for k, caption in enumerate(words) if caption]
    features = np.zeros((len(words), embedder.dim), np.float16)
    if rows:
        features[rows] = embedder([words[k] for k in rows])
    result = Captions(
        captions=words,
        features=features,
        times=grid.times,
        attributes={
            "backbone": f"{writer['weights']} + {found.name}",
            "revision": " + ".join(filter(None, (writer["revision"], found.revision))),
            "window_s": config.window_s,
            "stride_s": config.stride_s,
            "hrf_convolved": False,
        },
    )
    made_by = provenance(
        config.model_dump(mode="json", include=set(_SECTION)), {"captions": said, "film": source}
    )
    write_captions(destination, result, made_by)
    logger.info("%d of %d windows have a caption", len(rows), len(grid))
    return result


def windows_of(source: str | os.PathLike, config: Text) -> WindowGrid:
    """The windows of a film, whose length is its own or, where only features are at hand, theirs."""
    if Path(source).suffix == ".mp4":
        found = film(source)
        return window_grid(found.n_frames, found.fps, config.window_s, config.stride_s)
    features = read_embedding(source)
    step = float(np.median(np.diff(features.times))) if len(features.times) > 1 else 0.0
    length = features.times[-1] + float(features.attributes.get("window_s") or step) / 2
    return window_grid(max(1, round(length * _CLOCK_HZ)), _CLOCK_HZ, config.window_s, config.stride_s)


def _brought(said: str | os.PathLike, grid: WindowGrid, config: Text) -> list[str]:
    rows = read_said(said)
    check_end(said, rows, grid.n_frames / grid.fps)
    return window_captions(rows, grid.times, config.window_s)


def _described(said: str | os.PathLike, grid: WindowGrid, config: Text) -> list[str]:
    """One row per window: where windows overlap, each keeps its own words."""
    words = [""] * len(grid)
    for row in read_said(said):
        k = round(row.onset_s / config.stride_s)
        if k >= len(grid) or abs(row.onset_s - k * config.stride_s) > 1e-3:
            raise UserError(
                f"{said}, line {row.line}: no window of the film begins at {row.onset_s:g} s; remove the file, and the "
                "film is described again."
            )
        words[k] = row.caption
    return words
