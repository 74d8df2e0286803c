"""What a backbone is: the one interface between decoded frames and features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from neuroalign.video.windows import WindowGrid

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Decoded frames in order: (times in seconds of shape (n,), RGB uint8 of shape (n, height, width, 3))."""


@runtime_checkable
class Backbone(Protocol):
    """Turns the frames of a film into hierarchical features, one row per window.

    Attributes
    ----------
    name : str
        As in ``video.backbone``.
    revision : str
        What fixes the numbers beside the name: a commit of the weights, or a library's version.
    levels : dict of str to int
        Name and dimension of each level, from early to late.
    dtype : numpy.dtype
        Type in which the features are stored.
    """

    name: str
    revision: str
    levels: dict[str, int]
    dtype: np.dtype

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which frames of a film of the given size are to be scaled while decoding."""
        ...

    def embed(self, batches: Batches, grid: WindowGrid) -> dict[str, np.ndarray]:
        """Features of a film.

        Parameters
        ----------
        batches : iterable of (times, frames)
            Every frame of the film, in order, each seen once.
        grid : WindowGrid

        Returns
        -------
        dict of str to array of shape (windows, dim)
            One entry per level, in the order of `levels`.
        """
        ...
