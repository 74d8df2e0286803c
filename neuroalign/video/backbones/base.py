"""What a backbone is: the one interface between decoded frames and features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    device : str
        Where it computes, ``cpu`` or ``cuda``: the other gives slightly different numbers.
    levels : dict of str to int
        Name and dimension of each level, from early to late.
    dtype : numpy.dtype
        Type in which the features are stored.
    past, future : int
        How many frames before a window's first, and after its last, its features depend on: 0 for models that see
        frames or windows by themselves.
    by_window : bool
        Whether each window is computed by itself, from frames of its own. Then nothing is computed twice where two parts
        of a film meet (`past` and `future` are only decoded twice), and parts are short.
    """

    name: str
    revision: str
    device: str
    levels: dict[str, int]
    dtype: np.dtype
    past: int
    future: int
    by_window: bool

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which frames of a film of the given size are to be scaled while decoding."""
        ...

    def features(self, batches: Batches, grid: WindowGrid) -> Iterator[np.ndarray]:
        """Features of successive windows, as soon as they are known.

        Parameters
        ----------
        batches : iterable of (times, frames)
            The frames ``grid.first_frame(past) <= i < grid.end_frame(future)``, in order, each seen once. It is to be
            read to its end, and no more of it held than a window or a batch needs.
        grid : WindowGrid
            All windows of a film, or some that follow each other: films are embedded part by part, so that a job that
            was killed goes on with the part in which it stopped.

        Yields
        ------
        array of shape (m, sum(levels.values()))
            The next `m` windows; the levels lie side by side, in their order.
        """
        ...
