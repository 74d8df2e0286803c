"""The score file: how similar a method finds every test brain window and every candidate clip.

The model and every baseline write this one format, and one evaluator reads it: differences between
methods can only come from the methods.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuroalign.io import atomic_hdf5, open_hdf5, read_strings, stamp


@dataclass
class SubjectScores:
    """Scores of one subject's test windows.

    Attributes
    ----------
    clip_rows : int array of shape (queries,)
        Row of the clip table of each test window.
    gallery : list of str
        Clip ids of the candidates, without duplicates: every test content this subject saw.
    parts : mapping of str to float32 array of shape (queries, candidates)
        Similarity matrices. NeuroAlign writes `fused`, `continuous` and `quantised`, with captions also `video_only` and
        `text`; a baseline `score`.
    """

    clip_rows: np.ndarray
    gallery: list[str]
    parts: Mapping[str, np.ndarray]


def write_scores(
    path: str | os.PathLike, scores: Mapping[str, SubjectScores], made_by: Mapping[str, Any] | None = None
) -> None:
    """Write the scores of all subjects."""
    with atomic_hdf5(path) as file:
        for subject, item in scores.items():
            group = file.create_group(f"subjects/{subject}")
            group.create_dataset("clip_row", data=np.asarray(item.clip_rows, np.int64))
            group.create_dataset("gallery", data=list(item.gallery))
            for part, matrix in item.parts.items():
                group.create_dataset(f"parts/{part}", data=np.asarray(matrix, np.float32))
        stamp(file, made_by or {})


def read_scores(path: str | os.PathLike) -> dict[str, SubjectScores]:
    """Read a score file: scores by subject label."""
    with open_hdf5(path) as file:
        return {
            subject: SubjectScores(
                group["clip_row"][()],
                read_strings(group["gallery"]),
                {part: data[()] for part, data in group["parts"].items()},
            )
            for subject, group in file.get("subjects", {}).items()
        }


@dataclass(frozen=True)
class StoredParts(Mapping):
    """The matrices of one subject in a score file, read when they are asked for.

    Attributes
    ----------
    file : ScoreFileReader
    subject : str
    names : sequence of str
    rows, columns : int arrays, optional
        In which order to hand out windows and candidates; as stored if absent.
    """

    file: ScoreFileReader
    subject: str
    names: Sequence[str]
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def __getitem__(self, part: str) -> np.ndarray:
        if part not in self.names:
            raise KeyError(part)
        matrix = self.file.matrix(self.subject, part)
        matrix = matrix if self.rows is None else matrix[self.rows]
        return matrix if self.columns is None else matrix[:, self.columns]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Cache:
    """Matrices read most recently, up to a number of bytes: small studies are read once, large ones never held whole."""

    def __init__(self, limit: int = 512 * 2**20):
        self.limit, self.held = limit, 0
        self._items: OrderedDict[tuple[str, str, str], np.ndarray] = OrderedDict()

    def get(self, key: tuple[str, str, str], read) -> np.ndarray:
        """The matrix of a key, from `read()` if it is not held."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        found = read()
        self._items[key] = found
        self.held += found.nbytes
        while self.held > self.limit and len(self._items) > 1:
            self.held -= self._items.popitem(last=False)[1].nbytes
        return found


@dataclass(frozen=True)
class ScoreFileReader:
    """A score file of which only what is asked for is read.

    Attributes
    ----------
    path : path
    cache : Cache
        May be shared by many files.
    """

    path: str | os.PathLike
    cache: Cache = field(default_factory=Cache)

    def subjects(self) -> dict[str, SubjectScores]:
        """Windows and galleries of all subjects; the matrices stay in the file."""
        with open_hdf5(self.path) as file:
            return {
                subject: SubjectScores(
                    group["clip_row"][()],
                    read_strings(group["gallery"]),
                    StoredParts(self, subject, tuple(group["parts"])),
                )
                for subject, group in file.get("subjects", {}).items()
            }

    def matrix(self, subject: str, part: str) -> np.ndarray:
        """One matrix, as stored: float32 array of shape (queries, candidates)."""

        def read() -> np.ndarray:
            with open_hdf5(self.path) as file:
                return file[f"subjects/{subject}/parts/{part}"][()]

        return self.cache.get((os.fspath(self.path), subject, part), read)
