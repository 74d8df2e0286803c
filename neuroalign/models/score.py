"""The score between brain windows and clips, and the score matrices of a paired dataset.

score = alpha · cos(pooled) + beta · cos(quantised, step by step) + (1 - alpha - beta) · late interaction

With captions, the vectors of a clip are the video's plus w times the text's, each without what all clips share. What is missing
adds nothing: a clip without a caption, or a model that gave the text no weight, is compared by video alone.
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
    text : Embedding of n captions, optional
        Of clips, where the model reads text.
    present : bool array of shape (n, steps), optional
        Of captions: which steps there are. Vectors of others are zero, codes taken -1.
    """

    pooled: np.ndarray
    steps: np.ndarray
    codes: np.ndarray | None = None
    index: np.ndarray | None = None
    text: Embedding | None = None
    present: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    def vectors(self) -> dict[str, np.ndarray]:
        """The parts that are compared, by name."""
        out = {"pooled": self.pooled, "steps": self.steps}
        return out if self.codes is None else {**out, "codes": self.codes}

    def take(self, rows: np.ndarray) -> Embedding:
        """The items at `rows`."""
        codes, index, present = (
            None if x is None else x[rows] for x in (self.codes, self.index, self.present)
        )
        text = None if self.text is None else self.text.take(rows)
        return Embedding(self.pooled[rows], self.steps[rows], codes, index, text, present)

    def centre(self) -> dict[str, np.ndarray]:
        """The mean of every part; of captions, over the clips that have one at the step."""
        return {name: _mean(x, self._here(x)) for name, x in self.vectors().items()}

    def without(self, centre: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """Every part without `centre`; what is missing stays zero."""
        out = {}
        for name, x in self.vectors().items():
            here, y = self._here(x), x - (centre[name] if centre else 0)
            out[name] = y if here is None else np.where(here, y, np.float32(0))
        return out

    def _here(self, x: np.ndarray) -> np.ndarray | None:
        """Which entries of a part there are, broadcast against it; None if all are."""
        if self.present is None:
            return None
        if x.ndim > 2:
            return self.present.reshape(*self.present.shape, *[1] * (x.ndim - 2))
        # Pooled: steps side by side, or their mean.
        steps = self.steps.shape[1:]
        side_by_side = x.shape[1] == steps[0] * steps[1]
        return self.present.repeat(steps[1], axis=1) if side_by_side else self.present.any(1, keepdims=True)


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
        How much of a caption's vectors is added to those of the video.
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
    text_centre: Mapping[str, np.ndarray] | None = None,
    text: float = 0.0,
    fixed: bool = False,
) -> dict[str, np.ndarray]:
    """Matrices (n, m) of the parts of the score: `pooled`, `late` and, after stage 2, `quantised`.

    With captions, their vectors times `text` are added to those of the video, and there is a fourth part: `text`, the
    cosine of the pooled brain with the pooled captions alone.

    What all items share is removed before cosines: for brain windows the mean over training windows
    (`brain_centre`), so that the score of one window does not depend on others; for clips the mean over the gallery,
    which a retrieval always knows, or over training clips (`video_centre`, `text_centre`) if the gallery is small. With
    `fixed`, these two are what is removed, whatever the size: for a part of a gallery whose mean is known.
    """
    if video_centre is None or (len(video) >= CENTRE_ON_GALLERY and not fixed):
        video_centre = video.centre()
    b, v = brain.without(brain_centre), video.without(video_centre)
    words = None
    if video.text is not None:
        many = video.text.present.any(axis=1).sum() >= CENTRE_ON_GALLERY
        if text_centre is None or (many and not fixed):
            text_centre = video.text.centre()
        words = video.text.without(text_centre)
        if text:
            v = {name: x + np.float32(text) * words[name] for name, x in v.items()}
    parts = {
        "pooled": _cosines(b["pooled"], v["pooled"]),
        "late": late_interaction(b["steps"], v["steps"], near_steps),
    }
    if "codes" in b and "codes" in v:
        parts["quantised"] = _cosines(b["codes"], v["codes"])
    if words is not None:
        parts["text"] = _cosines(b["pooled"], words["pooled"])
    return parts


def _mean(x: np.ndarray, here: np.ndarray | None) -> np.ndarray:
    """Mean over items, of those entries that are `here`; 0 where none is."""
    if here is None:
        return x.mean(axis=0)
    return (np.where(here, x, 0).sum(axis=0) / np.maximum(here.sum(axis=0), 1)).astype(np.float32)


def fuse(parts: Mapping[str, np.ndarray], weights: Weights) -> dict[str, np.ndarray]:
    """The scores reported: `fused`, `continuous` and, after stage 2, `quantised`.

    `continuous` is the fused score without its quantised part, the other two weights scaled to sum to 1. `parts` are to be
    those at ``weights.text``; their own `text` is handed on.
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
        out["text"] = parts["text"]
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
        log.warning(
            "The model learned from captions, but these pairs have none: clips are scored by video alone."
        )
    for subject in pairs.subjects:
        windows, video_rows = pairs.of(subject, split)
        if not len(windows.rows):
            continue
        candidates = np.unique(video_rows)
        gallery = [pairs.video.clip_ids[row] for row in candidates]
        clips = model.embed_video(pairs.video.select(candidates))
        out[subject] = (windows.rows, gallery, model.scores(model.embed_fmri(windows, subject), clips))
    return out
