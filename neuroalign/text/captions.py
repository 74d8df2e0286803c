"""The captions file: what is said about each window of one stimulus, and the vector that stands for it.

It is an embedding file (`neuroalign.video.shards`) with the one level ``text``, and beside it the words. A window about
which nothing is said has the caption ``""``, a row of zeros, and false in ``/has_text``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_hdf5, open_hdf5, read_attributes, read_strings, stamp
from neuroalign.video.shards import ATTRIBUTES

LEVEL = "text"


@dataclass
class Captions:
    """Captions of one stimulus.

    Attributes
    ----------
    captions : sequence of str
        One per window; empty where nothing is said.
    features : array of shape (windows, dim)
        The vector of each caption; zeros where nothing is said.
    times : array of shape (windows,)
        Centre of each window in seconds from stimulus start.
    attributes : dict
        `backbone` (captioner and text model), `revision`, `window_s`, `stride_s`, `hrf_convolved`.
    """

    captions: Sequence[str]
    features: np.ndarray
    times: np.ndarray
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.captions = list(self.captions)
        windows = len(self.times)
        if self.features.ndim != 2 or len(self.features) != windows or len(self.captions) != windows:
            raise ValueError(
                f"{len(self.captions)} captions and features of shape {self.features.shape} for {windows} windows"
            )
        if self.features[~self.has_text].any():
            raise ValueError("a window without a caption has a vector")

    @property
    def has_text(self) -> np.ndarray:
        """Whether something is said in each window: bool of shape (windows,)."""
        return np.array([caption != "" for caption in self.captions], bool)


def write_captions(
    path: str | os.PathLike, captions: Captions, made_by: Mapping[str, Any] | None = None
) -> None:
    """Write a captions file atomically.

    Parameters
    ----------
    path : path
    captions : Captions
        Its vectors are stored as float16.
    made_by : mapping, optional
        See `neuroalign.io.provenance`.
    """
    with atomic_hdf5(path) as file:
        file.create_dataset(f"levels/{LEVEL}/data", data=np.asarray(captions.features, np.float16))
        file["levels"].attrs["order"] = [LEVEL]
        file.create_dataset("times", data=np.asarray(captions.times, np.float64))
        file.create_dataset("captions", data=list(captions.captions), dtype=h5py.string_dtype())
        file.create_dataset("has_text", data=captions.has_text)
        for name in ATTRIBUTES:
            file.attrs[name] = captions.attributes.get(name, "")
        stamp(file, made_by or {})


def read_captions(path: str | os.PathLike) -> Captions:
    """Read a captions file; vectors come as float32.

    Raises
    ------
    UserError
        If the file is missing, damaged, or not a captions file.
    """
    with open_hdf5(path) as file:
        try:
            return Captions(
                captions=read_strings(file["captions"]),
                features=file[f"levels/{LEVEL}/data"][()].astype(np.float32),
                times=file["times"][()].astype(np.float64),
                attributes=read_attributes(file, ATTRIBUTES),
            )
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a captions file ({error}); see docs/formats.md.") from error


def captions_at(captions: Captions, times: Iterable[float]) -> list[str]:
    """The caption of the window around each of some moments: what a page shows beside a picture.

    Parameters
    ----------
    captions : Captions
    times : iterable of float
        Seconds from stimulus start.

    Returns
    -------
    list of str
        Of the window whose centre is nearest (the earlier of two as near), if the moment lies in it; else ``""``.
    """
    half = float(captions.attributes["window_s"]) / 2
    said = []
    for time in times:
        nearest = int(np.argmin(np.abs(captions.times - time)))
        inside = abs(captions.times[nearest] - time) <= half + 1e-6
        said.append(captions.captions[nearest] if inside else "")
    return said
