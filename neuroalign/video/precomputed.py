"""Finding the features that a user brings (``video.backbone: precomputed``)."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from neuroalign.brought_files import StimulusFiles, find_all
from neuroalign.errors import UserError
from neuroalign.io import open_hdf5

FEATURES = StimulusFiles("features", (".h5",), "video.precomputed_dir")


def find_all_features(
    precomputed_dir: str | os.PathLike | None, stimuli: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """The feature files of many stimuli, and what keeps others from being used.

    Parameters
    ----------
    precomputed_dir : path or None
        ``video.precomputed_dir``.
    stimuli : sequence of str
        Stimulus ids.

    Returns
    -------
    files : dict of str to Path
        By stimulus, in their order.
    problems : list of str
        What `find_features` says of the others; of many absent files in one sentence.
    """
    return find_all(FEATURES, find_features, precomputed_dir, stimuli)


def find_features(
    precomputed_dir: str | os.PathLike | None, stimulus: str, stimuli: Collection[str] = ()
) -> Path:
    """The feature file of a stimulus, checked for a usable time axis.

    Parameters
    ----------
    precomputed_dir : path or None
        ``video.precomputed_dir``.
    stimulus : str
        Stimulus id, e.g. ``sitcomep1``.
    stimuli : collection of str, optional
        All stimuli: files of others are not what was meant.

    Returns
    -------
    Path
        ``<precomputed_dir>/<stimulus>.h5``.

    Raises
    ------
    UserError
        If no folder is configured, the folder or the file is missing (the nearest name is told), or the file has no
        features, no times, lengths that differ, or times that do not increase.
    """
    if not precomputed_dir:
        raise UserError(
            "video.backbone is 'precomputed' but video.precomputed_dir is not set; name the folder."
        )
    path = FEATURES.find(precomputed_dir, stimulus, stimuli)
    with open_hdf5(path) as file:
        shapes = {}
        if "levels" in file:
            shapes = {f"levels/{n}/data": g["data"].shape for n, g in file["levels"].items() if "data" in g}
        elif "features" in file:
            shapes = {"features": file["features"].shape}
        if not shapes or "times" not in file:
            raise UserError(
                f"{path} is not an embedding file: it needs /times and /levels/<level>/data or /features; "
                "see docs/formats.md."
            )
        times = np.asarray(file["times"][()], np.float64)
    for name, shape in shapes.items():
        if len(shape) != 2 or shape[0] != len(times):
            raise UserError(
                f"{path}: /{name} has shape {shape} but there are {len(times)} times; one row per time is needed."
            )
    if len(times) == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise UserError(
            f"{path}: /times must be finite seconds that increase from row to row; mend the file."
        )
    return path
