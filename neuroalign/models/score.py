"""The score between brain windows and clips, and the score matrices of a paired dataset.

score = alpha · cos(pooled) + beta · cos(quantised, step by step) + (1 - alpha - beta) · late interaction
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neuroalign.models.trained import TrainedModel
    from neuroalign.pairs.store import PairedDataset

CENTRE_ON_GALLERY = 8


@dataclass
class Embedding:
    """Embeddings of n brain windows or n clips.

    Attributes
    ----------
    pooled : float32 array of shape (n, width)
    steps : float32 array of shape (n, steps, dim)
        Joint step vectors.
    codes : float32 array of shape (n, steps, levels, code_dim), optional
        Quantised tokens; None before stage 2.
    index : int array of shape (n, steps, levels, depth), optional
        Codes taken.
    """

    pooled: np.ndarray
    steps: np.ndarray
    codes: np.ndarray | None = None
    index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    def vectors(self) -> dict[str, np.ndarray]:
        """The parts that are compared, by name."""
        out = {"pooled": self.pooled, "steps": self.steps}
        return out if self.codes is None else {**out, "codes": self.codes}

    def take(self, rows: np.ndarray) -> Embedding:
        """The items at `rows`."""
        optional = (None if x is None else x[rows] for x in (self.codes, self.index))
        return Embedding(self.pooled[rows], self.steps[rows], *optional)


@dataclass(frozen=True)
class Weights:
    """Weights of the fused score.

    Attributes
    ----------
    alpha : float
        Of the pooled cosine.
    beta : float
        Of the quantised cosine; late interaction has 1 - alpha - beta.
    near_steps : int
        How far (steps) late interaction looks.
    """

    alpha: float = 1.0
    beta: float = 0.0
    near_steps: int = 1


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of every row of a (n, ...) with every row of b (m, ...), flattened."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return _unit(a) @ _unit(b).T


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8)


def late_interaction(brain: np.ndarray, video: np.ndarray, near_steps: int) -> np.ndarray:
    """Mean over brain steps of the best cosine with a video step at most `near_steps` away.

    Parameters
    ----------
    brain : array of shape (n, steps, dim)
    video : array of shape (m, steps, dim)
    near_steps : int

    Returns
    -------
    array of shape (n, m)
    """
    a, b = _unit(brain), _unit(video)
    steps = a.shape[1]
    total = np.zeros((len(a), len(b)), np.float32)
    for t in range(steps):
        near = range(max(0, t - near_steps), min(steps, t + near_steps + 1))
        total += np.max([a[:, t] @ b[:, u].T for u in near], axis=0)
    return total / steps


def similarity_parts(
    brain: Embedding,
    video: Embedding,
    near_steps: int = 1,
    brain_centre: Mapping[str, np.ndarray] | None = None,
    video_centre: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Matrices (n, m) of the parts of the score: `pooled`, `late` and, after stage 2, `quantised`.

    What all items share is removed before cosines: for brain windows the mean over training windows
    (`brain_centre`), so that the score of one window does not depend on others; for clips the mean over the gallery,
    which a retrieval always knows, or over training clips (`video_centre`) if the gallery is small.
    """
    if len(video) >= CENTRE_ON_GALLERY or video_centre is None:
        video_centre = {name: x.mean(axis=0) for name, x in video.vectors().items()}
    b = {n: x - (brain_centre[n] if brain_centre else 0) for n, x in brain.vectors().items()}
    v = {n: x - video_centre[n] for n, x in video.vectors().items()}
    parts = {
        "pooled": _cosines(b["pooled"], v["pooled"]),
        "late": late_interaction(b["steps"], v["steps"], near_steps),
    }
    if "codes" in b and "codes" in v:
        parts["quantised"] = _cosines(b["codes"], v["codes"])
    return parts


def fuse(parts: Mapping[str, np.ndarray], weights: Weights) -> dict[str, np.ndarray]:
    """The scores reported: `fused`, `continuous` and, after stage 2, `quantised`.

    `continuous` is the fused score without its quantised part, the other two weights scaled to sum to 1.
    """
    late = 1 - weights.alpha - weights.beta
    rest = weights.alpha + late
    alpha = weights.alpha / rest if rest > 1e-9 else 1.0
    out = {"continuous": alpha * parts["pooled"] + (1 - alpha) * parts["late"]}
    out["fused"] = weights.alpha * parts["pooled"] + late * parts["late"]
    if "quantised" in parts:
        out["quantised"] = parts["quantised"]
        out["fused"] = out["fused"] + weights.beta * parts["quantised"]
    return {
        name: out[name].astype(np.float32) for name in ("fused", "continuous", "quantised") if name in out
    }


def weight_grid(quantised: bool, near_steps: int, step: float = 0.1) -> list[Weights]:
    """Candidates for (alpha, beta): all multiples of `step` with alpha + beta <= 1."""
    n = round(1 / step)
    betas = range(n + 1) if quantised else range(1)
    return [Weights(a / n, b / n, near_steps) for b in betas for a in range(n + 1 - b)]


def score_pairs(
    model: TrainedModel, pairs: PairedDataset, split: str = "test"
) -> dict[str, tuple[np.ndarray, list[str], dict[str, np.ndarray]]]:
    """Score every brain window of a split against every clip of that split which the same subject saw.

    Parameters
    ----------
    model : TrainedModel
    pairs : PairedDataset
    split : str

    Returns
    -------
    dict of subject to (clip_rows, gallery, parts)
        Rows of the clip table (queries,), clip ids of the candidates, and matrices (queries, candidates) by part; the
        contents of an `evaluation.scores.SubjectScores`. Subjects without windows in the split are left out.
    """
    out = {}
    for subject in pairs.subjects:
        windows, video_rows = pairs.of(subject, split)
        if not len(windows.rows):
            continue
        candidates = np.unique(video_rows)
        gallery = [pairs.video.clip_ids[row] for row in candidates]
        clips = model.embed_video({name: x[candidates] for name, x in pairs.video.levels.items()})
        parts = model.parts(model.embed_fmri(windows, subject), clips)
        out[subject] = (windows.rows, gallery, fuse(parts, model.weights))
    return out
