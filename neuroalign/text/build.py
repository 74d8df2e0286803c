"""What both ways to words share: the windows of a film, the vectors of its captions, and the file.

The ways are `brought` (captions that a user brings) and `described` (captions that BLIP-2 writes).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from neuroalign.config.text import Text
from neuroalign.io import provenance
from neuroalign.text.captions import Captions, write_captions
from neuroalign.text.embedding import TextEmbedder
from neuroalign.video.weights_record import Weights, open_weights
from neuroalign.video.windows import WindowGrid

logger = logging.getLogger(__name__)


def build_captions(
    destination: str | os.PathLike,
    captions: Sequence[str],
    grid: WindowGrid,
    config: Text,
    weights: str | os.PathLike,
    *,
    writer: Weights | None = None,
    section: Iterable[str],
    inputs: Mapping[str, str | os.PathLike],
) -> Captions:
    """Find the vectors of captions, and write both.

    Parameters
    ----------
    destination : path
        An ``.h5`` file in the format of `captions`.
    captions : sequence of str
        One per window; empty where nothing is said.
    grid : WindowGrid
    config : Text
    weights : path
        Of the text model: a ``weights.json`` or folder, see `weights_record.open_weights`.
    writer : Weights, optional
        What wrote the captions; a person, if none.
    section : iterable of str
        Keys of the configuration that were read, for the provenance.
    inputs : mapping of name to path
        Files that were read, for the provenance.

    Returns
    -------
    Captions
        What was written.

    Raises
    ------
    UserError
        If the weights cannot be used.
    """
    found = open_weights(weights)
    embedder = TextEmbedder.from_folder(found.folder, config)
    rows = [k for k, words in enumerate(captions) if words]
    features = np.zeros((len(captions), embedder.dim), np.float16)
    if rows:
        features[rows] = embedder([captions[k] for k in rows])
    result = Captions(
        captions=captions,
        features=features,
        times=grid.times,
        attributes={
            "backbone": f"{writer.name if writer else 'tsv'} + {found.name}",
            "revision": f"{writer.revision} + {found.revision}" if writer else found.revision,
            "window_s": config.window_s,
            "stride_s": config.stride_s,
            "hrf_convolved": False,
        },
    )
    made_by = provenance(config.model_dump(mode="json", include=set(section)), inputs)
    write_captions(destination, result, made_by)
    logger.info("%d of %d windows have a caption", len(rows), len(grid))
    return result
