"""The score file: how similar a method finds every test brain window and every candidate clip.

The model and every baseline write this one format, and one evaluator reads it: differences between
methods can only come from the methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
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
    parts : dict of str to float32 array of shape (queries, candidates)
        Similarity matrices. NeuroAlign writes `fused`, `continuous` and `quantised`, with captions also `video_only` and
        `text`; a baseline `score`.
    """

    clip_rows: np.ndarray
    gallery: list[str]
    parts: dict[str, np.ndarray]


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
