"""The score between brain windows and clips, and the score matrices of a paired dataset.

video = alpha · cos(pooled) + beta · cos(quantised, step by step) + (1 - alpha - beta) · late interaction
score = (1 - w) · video + w · cos(pooled fMRI, pooled text)

Without text, or with a model that gave it no weight, the score is that of the video. A clip without a caption has a text part
of 0, which is what unrelated captions have on average.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neuroalign.models.trained import TrainedModel
    from neuroalign.pairs.store import PairedDataset

log = logging.getLogger(__name__)
CENTRE_ON_GALLERY = 8
REPORTED = ("fused", "continuous", "quantised", "video_only", "text")


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
    text : float32 array of shape (n, parts, dim), optional
        Of clips: pooled vectors of their captions, as parts (steps, or one mean) that may be missing.
    has_text : bool array of shape (n, parts), optional
    """

    pooled: np.ndarray
    steps: np.ndarray
    codes: np.ndarray | None = None
    index: np.ndarray | None = None
    text: np.ndarray | None = None
    has_text: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    def vectors(self) -> dict[str, np.ndarray]:
        """The parts that are compared, by name."""
        out = {"pooled": self.pooled, "steps": self.steps}
        return out if self.codes is None else {**out, "codes": self.codes}

    def take(self, rows: np.ndarray) -> Embedding:
        """The items at `rows`."""
        optional = (None if x is None else x[rows] for x in (self.codes, self.index, self.text, self.has_text))
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
    text : float
        Of the text part; the rest is the video's.
    """

    alpha: float = 1.0
    beta: float = 0.0
    near_steps: int = 1
    text: float = 0.0


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
    text_centre: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Matrices (n, m) of the parts of the score: `pooled`, `late`, after stage 2 `quantised`, and with captions `text`.

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
    if video.text is not None:
        parts["text"] = _cosines(b["pooled"], centred_text(video.text, video.has_text, text_centre))
    return parts


def text_mean(text: np.ndarray, has_text: np.ndarray) -> np.ndarray:
    """Mean (parts, dim) of text vectors (n, parts, dim) over the clips that have each part; 0 where none has."""
    return text.sum(axis=0) / np.maximum(has_text.sum(axis=0), 1)[:, None]


def centred_text(text: np.ndarray, has_text: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Text vectors without what captions share; parts that are missing stay zero.

    As for the video, the mean is over the gallery, or `centre` (over training clips) if fewer than 8 clips have text.
    """
    if centre is None or has_text.any(axis=1).sum() >= CENTRE_ON_GALLERY:
        centre = text_mean(text, has_text)
    return np.where(has_text[..., None], text - centre, np.float32(0))


def fuse(parts: Mapping[str, np.ndarray], weights: Weights) -> dict[str, np.ndarray]:
    """The scores reported: `fused`, `continuous`, after stage 2 `quantised`, and with captions `video_only` and `text`.

    `continuous` is the fused score without its quantised part, the other weights of the video scaled to sum to 1;
    `video_only` is the fused score without its text part (what a gallery without captions gets), `text` that part alone.
    """
    late = 1 - weights.alpha - weights.beta
    rest = weights.alpha + late
    alpha = weights.alpha / rest if rest > 1e-9 else 1.0
    out = {"continuous": alpha * parts["pooled"] + (1 - alpha) * parts["late"]}
    out["fused"] = weights.alpha * parts["pooled"] + late * parts["late"]
    if "quantised" in parts:
        out["quantised"] = parts["quantised"]
        out["fused"] = out["fused"] + weights.beta * parts["quantised"]
    if "text" in parts:
        out["video_only"], out["text"] = out["fused"], parts["text"]
        for name in ("fused", "continuous"):
            out[name] = (1 - weights.text) * out[name] + weights.text * parts["text"]
    return {name: out[name].astype(np.float32) for name in REPORTED if name in out}


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
    if model.weights.text and pairs.video.text is None:
        log.warning("The model learned from captions, but these pairs have none: clips are scored by video alone.")
    for subject in pairs.subjects:
        windows, video_rows = pairs.of(subject, split)
        if not len(windows.rows):
            continue
        candidates = np.unique(video_rows)
        gallery = [pairs.video.clip_ids[row] for row in candidates]
        clips = model.embed_video(pairs.video.select(candidates))
        parts = model.parts(model.embed_fmri(windows, subject), clips)
        out[subject] = (windows.rows, gallery, fuse(parts, model.weights))
    return out
