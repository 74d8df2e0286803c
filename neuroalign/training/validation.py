"""Retrieval on the validation split, by which epochs and score weights are chosen.

Reported results come from `neuroalign.evaluation`; this is the small part of it that training needs at every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from neuroalign.models.embed import embed_brain, embed_clips, with_text
from neuroalign.models.model import NeuroAlign
from neuroalign.models.score import Embedding, Weights, fuse, similarity_parts, weight_grid
from neuroalign.pairs.quality import query_quality, rank_quality, ranks
from neuroalign.training.data import TrainingData

# Candidates for the weight of the text; 0 is always one. At 1 the linear start's maps of video and text simply add up: more would
# trust captions further than the training pairs do.
TEXT_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
# Standard errors by which the best of several candidates must be better than 0: the best of four is better than noise by chance.
_TEXT_ERRORS = 2.0


@dataclass
class ValidationScores:
    """Parts of the score of one subject's validation windows.

    Attributes
    ----------
    parts : dict of str to array (queries, candidates)
        By video alone.
    own : int array (queries,)
        Column of the true clip.
    gallery : int array (candidates,)
        Number of each candidate among the validation clips of all subjects.
    with_text : dict of float to dict
        `parts` at weights of the text other than 0.
    """

    parts: dict[str, np.ndarray]
    own: np.ndarray
    gallery: np.ndarray
    with_text: dict[float, dict[str, np.ndarray]] = field(default_factory=dict)

    def fused(self, weights: Weights) -> dict[str, np.ndarray]:
        """`models.score.fuse` at some weights."""
        return fuse(self.with_text[weights.text] if weights.text else self.parts, weights)


def centres_of(network: NeuroAlign, data: TrainingData) -> dict[str, dict[str, np.ndarray]]:
    """Mean training embeddings by side and part."""
    brain = embed_brain(network, data.train.brain)
    clips = torch.unique(data.train.clip)
    video = _embed(network, data, clips)
    sides = {"brain": brain, "video": video} | ({} if video.text is None else {"text": video.text})
    return {side: embedding.centre() for side, embedding in sides.items()}


def _embed(network: NeuroAlign, data: TrainingData, clips: torch.Tensor) -> Embedding:
    """Embeddings of some clips, with their captions where the network reads text."""
    found = embed_clips(network, {name: x[clips] for name, x in data.video.items()})
    if data.text is None or not network.reads_text:
        return found
    return with_text(network, found, data.text.take(clips))


def validation_embeddings(network: NeuroAlign, data: TrainingData) -> tuple[Embedding, Embedding, np.ndarray]:
    """Embeddings of all validation windows, of their distinct clips, and the clip of each window."""
    clips, own = torch.unique(data.validation.clip, return_inverse=True)
    brain = embed_brain(network, data.validation.brain)
    return brain, _embed(network, data, clips), own.cpu().numpy()


def validation_scores(
    network: NeuroAlign, data: TrainingData, near_steps: int, text: Sequence[float] = TEXT_WEIGHTS
) -> tuple[list[ValidationScores], dict[str, dict[str, np.ndarray]]]:
    """Score parts of every subject over the validation clips it saw, and the centres used.

    With captions, also at every weight in `text`.
    """
    centres = centres_of(network, data)
    brain, video, own = validation_embeddings(network, data)
    subject = data.validation.brain.subject.cpu().numpy()
    out = []
    for person in np.unique(subject):
        rows = np.flatnonzero(subject == person)
        gallery, column = np.unique(own[rows], return_inverse=True)
        common = (brain.take(rows), video.take(gallery), near_steps)
        about = (centres["brain"], centres["video"], centres.get("text"))
        found = {w: similarity_parts(*common, *about, w) for w in (text if "text" in centres else ()) if w}
        out.append(ValidationScores(similarity_parts(*common, *about), column, gallery, found))
    return out, centres


def retrieval(scores: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Top-1, top-5, mean reciprocal rank and `rank_quality`, averaged over both directions.

    Parameters
    ----------
    scores : array (queries, candidates)
    own : int array (queries,)
        True candidate of each query. In the other direction the best of a clip's presentations counts. Ties share
        the mean of their ranks, so that a constant score is at chance.
    """
    forward = ranks(scores, scores[np.arange(len(own)), own])
    best = np.array([scores[own == c, c].max() for c in range(scores.shape[1])])
    backward = ranks(scores.T, best)
    out = {"quality": rank_quality(scores, own)}
    for name, value in (("top1", lambda r: r <= 1), ("top5", lambda r: r <= 5), ("mrr", lambda r: 1 / r)):
        out[name] = float(0.5 * (np.mean(value(forward)) + np.mean(value(backward))))
    return out


def mean_retrieval(scores: list[ValidationScores], weights: Weights) -> dict[str, float]:
    """`retrieval` of every reported score, averaged over subjects: keys such as ``fused_mrr``."""
    rows = []
    for item in scores:
        fused: Mapping[str, np.ndarray] = item.fused(weights)
        rows.append({f"{n}_{k}": v for n, m in fused.items() for k, v in retrieval(m, item.own).items()})
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def choose_weights(scores: list[ValidationScores], near_steps: int) -> Weights:
    """The weights of the score by the one-standard-error rule: a part takes part only where validation says so.

    First the weight of the text (`text_weight`), with the continuous part alone. Then, of all alpha and beta, the pair with
    the best fused `rank_quality` is found, and after it the one with the largest alpha (and among these the largest beta)
    that is not worse by more than one standard error of the paired difference. The standard error is over clips, as
    people who see the same clip are not independent.

    Parameters
    ----------
    scores : list of ValidationScores
        One per subject.
    near_steps : int
    """
    text = text_weight(scores, near_steps)
    grid = [replace(w, text=text) for w in weight_grid("quantised" in scores[0].parts, near_steps)]
    _, close = _near_best(scores, grid)
    return max((w for w, ok in zip(grid, close, strict=True) if ok), key=lambda w: (w.alpha, w.beta))


def text_weight(scores: list[ValidationScores], near_steps: int) -> float:
    """Weight of the text: 0 unless the best weight is better by more than two standard errors; then the best.

    0 also where there is no text.
    """
    if not scores[0].with_text:
        return 0.0
    grid = [Weights(near_steps=near_steps, text=w) for w in (0.0, *scores[0].with_text)]
    best, close = _near_best(scores, grid, _TEXT_ERRORS)
    return 0.0 if close[0] else grid[best].text


def text_candidates(strength: float | None) -> tuple[float, ...]:
    """Weights of the text to try, given its strength in the linear start (None: there was no such start).

    Where cross-validation inside the training clips found that captions say nothing, validation is not asked again: a few
    dozen clips would find a use for noise too often.
    """
    return () if strength == 0 else TEXT_WEIGHTS


def start_weights(
    network: NeuroAlign, data: TrainingData, near_steps: int, text: Sequence[float] = TEXT_WEIGHTS
) -> Weights:
    """The weights at which epochs of stage 1 are compared: text as the start wants it, the rest of the video pooled."""
    if data.text is None or not network.reads_text:
        return Weights(near_steps=near_steps)
    scores, _ = validation_scores(network, data, near_steps, text)
    return Weights(near_steps=near_steps, text=text_weight(scores, near_steps))


def _near_best(
    scores: list[ValidationScores], grid: list[Weights], errors: float = 1.0
) -> tuple[int, np.ndarray]:
    """The best of some weights by fused quality, and which are not worse by more than some standard errors."""
    quality = np.array([_clip_quality(scores, weights) for weights in grid])
    best = int(quality.mean(axis=1).argmax())
    gap = quality[best] - quality
    error = gap.std(axis=1, ddof=1) / np.sqrt(gap.shape[1]) if gap.shape[1] > 1 else np.zeros(len(grid))
    return best, gap.mean(axis=1) <= errors * error + 1e-9


def _clip_quality(scores: list[ValidationScores], weights: Weights) -> np.ndarray:
    """Fused `query_quality` of every (subject's) clip: mean over its windows and both directions, then subjects."""
    total, count = {}, {}
    for item in scores:
        quality = query_quality(item.fused(weights)["fused"], item.own)
        clips = np.concatenate([item.own, np.arange(len(quality) - len(item.own))])
        for clip, value in zip(item.gallery[clips].tolist(), quality, strict=True):
            total[clip], count[clip] = total.get(clip, 0.0) + value, count.get(clip, 0) + 1
    return np.array([total[clip] / count[clip] for clip in sorted(total)])
