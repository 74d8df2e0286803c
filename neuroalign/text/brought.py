"""From captions that a user brings to the captions file of a film."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from neuroalign.config.text import Text
from neuroalign.text.build import build_captions
from neuroalign.text.captions import Captions
from neuroalign.text.tsv import check_end, read_said, window_captions
from neuroalign.video.decode import film
from neuroalign.video.shards import read_embedding
from neuroalign.video.windows import WindowGrid, window_grid

# Keys of the configuration that are read.
SECTION = ("source", "embedding", "window_s", "stride_s")
# Where no film is at hand, only its features: a clock fine enough for any window.
_CLOCK_HZ = 1000


def caption_from_table(
    said: str | os.PathLike,
    source: str | os.PathLike,
    destination: str | os.PathLike,
    config: Text,
    weights: str | os.PathLike,
) -> Captions:
    """Lay a user's captions on the windows of a film, and write them with their vectors.

    Parameters
    ----------
    said : path
        A table or subtitles, see `tsv.read_said`.
    source : path
        The film, written by `normalise`; or, where features too are brought by the user, those. Only its length is used.
    destination : path
        An ``.h5`` file in the format of `captions`.
    config : Text
    weights : path
        Of the text model, see `build.build_captions`.

    Raises
    ------
    UserError
        If the captions are not as they should be, or are of another film, or the weights cannot be used.
    """
    grid = windows_of(source, config)
    rows = read_said(said)
    check_end(said, rows, grid.n_frames / grid.fps)
    words = window_captions(rows, grid.times, config.window_s)
    inputs = {"captions": said, "film": source}
    return build_captions(destination, words, grid, config, weights, section=SECTION, inputs=inputs)


def windows_of(source: str | os.PathLike, config: Text) -> WindowGrid:
    """The windows of a film, whose length is its own or, where only features are at hand, theirs."""
    if Path(source).suffix == ".mp4":
        found = film(source)
        return window_grid(found.n_frames, found.fps, config.window_s, config.stride_s)
    features = read_embedding(source)
    step = float(np.median(np.diff(features.times))) if len(features.times) > 1 else 0.0
    length = features.times[-1] + float(features.attributes.get("window_s") or step) / 2
    return window_grid(max(1, round(length * _CLOCK_HZ)), _CLOCK_HZ, config.window_s, config.stride_s)
