"""Retrieval on the validation split, by which epochs and score weights are chosen.

Reported results come from `neuroalign.evaluation`; this is the small part of it that training needs at every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from neuroalign.models.embed import embed_brain, embed_clips
from neuroalign.models.model import NeuroAlign
from neuroalign.models.score import Embedding, Weights, fuse, similarity_parts, weight_grid
from neuroalign.training.data import TrainingData


@dataclass
class ValidationScores:
    """Parts of the score of one subject's validation windows.

    Attributes
    ----------
    parts : dict of str to array (queries, candidates)
    own : int array (queries,)
        Column of the true clip.
    """

    parts: dict[str, np.ndarray]
    own: np.ndarray


def centres_of(network: NeuroAlign, data: TrainingData) -> dict[str, dict[str, np.ndarray]]:
    """Mean training embeddings by side and part."""
    brain = embed_brain(network, data.train.brain)
    clips = torch.unique(data.train.clip)
    video = embed_clips(network, {name: x[clips] for name, x in data.video.items()})
    return {
        side: {part: x.mean(axis=0) for part, x in embedding.vectors().items()}
        for side, embedding in (("brain", brain), ("video", video))
    }


def validation_embeddings(network: NeuroAlign, data: TrainingData) -> tuple[Embedding, Embedding, np.ndarray]:
    """Embeddings of all validation windows, of their distinct clips, and the clip of each window."""
    clips, own = torch.unique(data.validation.clip, return_inverse=True)
    brain = embed_brain(network, data.validation.brain)
    video = embed_clips(network, {name: x[clips] for name, x in data.video.items()})
    return brain, video, own.cpu().numpy()


def validation_scores(
    network: NeuroAlign, data: TrainingData, near_steps: int
) -> tuple[list[ValidationScores], dict[str, dict[str, np.ndarray]]]:
    """Score parts of every subject over the validation clips it saw, and the centres used."""
    centres = centres_of(network, data)
    brain, video, own = validation_embeddings(network, data)
    subject = data.validation.brain.subject.cpu().numpy()
    out = []
    for person in np.unique(subject):
        rows = np.flatnonzero(subject == person)
        gallery, column = np.unique(own[rows], return_inverse=True)
        parts = similarity_parts(
            brain.take(rows), video.take(gallery), near_steps, centres["brain"], centres["video"]
        )
        out.append(ValidationScores(parts, column))
    return out, centres


def retrieval(scores: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Top-1, top-5 and mean reciprocal rank, averaged over both directions.

    Parameters
    ----------
    scores : array (queries, candidates)
    own : int array (queries,)
        True candidate of each query. In the other direction the best of a clip's presentations counts. Ties share
        the mean of their ranks, so that a constant score is at chance.
    """
    forward = _ranks(scores, scores[np.arange(len(own)), own])
    best = np.array([scores[own == c, c].max() for c in range(scores.shape[1])])
    backward = _ranks(scores.T, best)
    out = {}
    for name, value in (("top1", lambda r: r <= 1), ("top5", lambda r: r <= 5), ("mrr", lambda r: 1 / r)):
        out[name] = float(0.5 * (np.mean(value(forward)) + np.mean(value(backward))))
    return out


def _ranks(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    above = (scores > true[:, None]).sum(axis=1)
    ties = (scores == true[:, None]).sum(axis=1)
    return 1 + above + (ties - 1) / 2


def mean_retrieval(scores: list[ValidationScores], weights: Weights) -> dict[str, float]:
    """`retrieval` of every reported score, averaged over subjects: keys such as ``fused_mrr``."""
    rows = []
    for item in scores:
        fused: Mapping[str, np.ndarray] = fuse(item.parts, weights)
        rows.append({f"{n}_{k}": v for n, m in fused.items() for k, v in retrieval(m, item.own).items()})
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def choose_weights(scores: list[ValidationScores], near_steps: int) -> Weights:
    """The (alpha, beta) with the best fused MRR on validation; ties go to the larger alpha."""
    grid = weight_grid("quantised" in scores[0].parts, near_steps)
    return max(grid, key=lambda w: (round(mean_retrieval(scores, w)["fused_mrr"], 6), w.alpha))
