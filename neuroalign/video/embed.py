"""From a mezzanine to its embedding file, in one pass over the frames."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from neuroalign.config.video import Video
from neuroalign.io import provenance
from neuroalign.video.backbones import Backbone, load_backbone
from neuroalign.video.decode import film, iterate_frames
from neuroalign.video.luminance import LowLevel
from neuroalign.video.shards import Embedding, write_embedding
from neuroalign.video.windows import window_grid

logger = logging.getLogger(__name__)


def embed(
    mezzanine: str | os.PathLike, destination: str | os.PathLike, config: Video, *, threads: int = 1
) -> Embedding:
    """Compute the features of a film with the configured backbone and write them.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    destination : path
        An ``.h5`` file in the format of `shards`.
    config : Video
    threads : int
        Threads that decode.

    Returns
    -------
    Embedding
        What was written.

    Raises
    ------
    UserError
        If the film cannot be decoded, or the backbone's weights are missing.
    """
    source = film(mezzanine)
    backbone = load_backbone(config, source.fps)
    embedding = embed_film(mezzanine, backbone, config, threads=threads)
    write_embedding(
        destination,
        embedding,
        provenance(
            config.model_dump(mode="json", exclude={"device", "precomputed_dir", "on_damage"}),
            {"mezzanine": mezzanine},
        ),
    )
    return embedding


def embed_film(
    mezzanine: str | os.PathLike, backbone: Backbone, config: Video, *, threads: int = 1
) -> Embedding:
    """The features of a film, and its luminance, contrast and motion, on one window grid.

    Parameters
    ----------
    mezzanine : path
    backbone : Backbone
    config : Video
        `window_s`, `stride_s` and `batch_size` are used.
    threads : int
        Threads that decode.
    """
    source = film(mezzanine)
    grid = window_grid(source.n_frames, source.fps, config.window_s, config.stride_s)
    logger.info(
        "embedding %s with %s: %d frames, %d windows",
        Path(mezzanine).name,
        backbone.name,
        source.n_frames,
        len(grid),
    )
    size = backbone.frame_size(source.width, source.height)
    low_level = LowLevel(grid)
    frames = iterate_frames(mezzanine, size, config.batch_size, threads)
    levels = backbone.embed(low_level.watch(frames), grid)
    return Embedding(
        levels={name: levels[name].astype(backbone.dtype) for name in backbone.levels},
        times=grid.times,
        low_level=low_level.result(),
        attributes={
            "backbone": backbone.name,
            "revision": backbone.revision,
            "window_s": config.window_s,
            "stride_s": config.stride_s,
            "hrf_convolved": False,
        },
    )
