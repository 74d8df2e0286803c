r"""Text in the linear start: further features of the clips, with a strength that cross-validation chooses.

The canonical correlation analysis of brain and clip takes the captions as features beside the video's, times a strength
:math:`s`: at 0 the analysis is the one of brain and video alone, number by number, so that captions that say nothing of
the brain change nothing. Its maps read both modalities at once,

.. math:: g = B_v^\top v + B_t^\top t,

but each modality must stand for the clip alone as well: in the losses, in the codebooks, in a gallery without captions. So
each takes over what it predicts of the other (a regularised least-squares prediction from the training clips),

.. math:: M_v = B_v + \tilde C_{vv}^{-1} C_{vt} B_t, \qquad M_t = B_t + \tilde C_{tt}^{-1} C_{tv} B_v,

and :math:`M_v^\top v`, :math:`M_t^\top t` are the best guesses of g from one modality. With captions that the video
predicts fully the two guesses agree; with captions that it does not predict at all they add up to g. How much of the predictions is
taken over (all, half, nothing) is chosen with the strength.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from neuroalign.models.losses.contrast import Content
from neuroalign.training.canonical import Canonical, Recipe, Samples, folds, shrunk
from neuroalign.training.validation import rank_quality

log = logging.getLogger(__name__)

STRENGTHS = (0.5, 1.0, 2.0)
# Where clips are few and features smooth, one modality predicts the other well by chance; taking that over would blur both.
SHARES = (0.0, 0.5, 1.0)
# How much of the text is added to the video in the score by which strengths are compared.
_SCORE_WEIGHTS = (0.5, 1.0)
# Shrinkage of a modality's covariance when it predicts the other: features hold little noise.
_PREDICTION = 0.1
_FEWEST_STEPS = 8


@dataclass
class TextSamples:
    """Text beside `linear_start.Samples`.

    Attributes
    ----------
    t : Tensor (contents, steps, features)
        Zeros where there is no text.
    present : bool Tensor (contents, steps)
    """

    t: Tensor
    present: Tensor

    def balance(self, samples: Samples) -> Tensor:
        """By what to multiply the features to give them the variance of the video's: strengths then mean the same on all data.

        Over the clips of the samples, which are those of the training split.
        """
        clips = torch.unique(samples.clip)
        here = self.t[clips][self.present[clips]]
        own = (here - here.mean(0)).square().sum() / max(len(here), 1)
        video = samples.y[clips].flatten(0, 1)
        return ((video - video.mean(0)).square().sum() / len(video) / own.clamp(min=1e-12)).sqrt()


def joint_maps(
    samples: Samples,
    text: TextSamples,
    rows: Tensor,
    recipe: Recipe,
    dim: int,
    strength: float,
    share: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of brain, video and text, each modality's standing for the clip on its own.

    Parameters
    ----------
    samples : Samples
    text : TextSamples
    rows : int Tensor
        Windows to fit on.
    recipe : Recipe
    dim : int
    strength : float
        What the text's features are multiplied by; at 0 brain and video are analysed alone.
    share : float
        How much of its prediction of the other a modality takes over (of no effect at strength 0).

    Returns
    -------
    tuple of Tensor
        (owners, units, dim), (video features, dim) and (text features, dim).
    """
    steps = samples.x.shape[1]
    clip = samples.clip[rows]
    v = samples.y[clip].flatten(0, 1)
    t, here = text.t[clip].flatten(0, 1), text.present[clip].flatten()
    owner = (torch.zeros_like(samples.subject) if samples.shared else samples.subject)[rows]
    v = v - v.mean(0)
    t = torch.where(here[:, None], t - t[here].sum(0) / here.sum().clamp(min=1), 0.0)
    size = v.shape[1]
    if strength:
        x = samples.x[rows].flatten(0, 1)
        a, b = Canonical(x, torch.cat([v, strength * t], 1), owner.repeat_interleave(steps)).maps(recipe, dim)
        b_video, b_text = b[:size], strength * b[size:]
        video = b_video + share * _predict(v[here], t[here], b_text)
    else:
        a, b_video = samples.fit(rows).maps(recipe, dim)
        b_text, video, share = t.new_zeros(t.shape[1], dim), b_video, 1.0
    return a, video, b_text + share * _predict(t[here], v[here], b_video)


def _predict(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Maps of `source` (n, p) that give the regularised least-squares prediction of ``target @ weights`` (n, dim)."""
    n = max(len(source), 1)
    x, y = (z - z.sum(0) / n for z in (source.double(), target.double() @ weights.double()))
    return torch.linalg.solve(shrunk(x.T @ x / n, _PREDICTION), x.T @ y / n).float()


def choose_strength(
    samples: Samples, heard: Samples, text: TextSamples, content: Content, recipe: Recipe, dim: int
) -> tuple[float, float]:
    """Strength and share of `joint_maps`: a strength of 0 unless it betters retrieval of training clips by more than a standard error over folds.

    Parameters
    ----------
    samples : Samples
        As the video alone is analysed.
    heard : Samples
        The same windows, read at the delays that were fitted with the text.
    text : TextSamples
        With the variance of the video (`TextSamples.balance`).
    content : Content
        Of every clip.
    recipe : Recipe
        As chosen for the video alone.
    dim : int
    """
    candidates = list(product(STRENGTHS, SHARES))
    gains: dict[tuple[float, float], list[list[float]]] = {c: [] for c in candidates}
    for fit, judged in folds(content, samples.clip):
        if not samples.enough(fit, judged) or int(text.present[samples.clip[fit]].sum()) < _FEWEST_STEPS:
            return 0.0, 1.0
        alone = _qualities(samples, text, joint_maps(samples, text, fit, recipe, dim, 0.0), judged)[0]
        for strength, share in candidates:
            maps = joint_maps(heard, text, fit, recipe, dim, strength, share)
            gains[strength, share].append([q - alone for q in _qualities(heard, text, maps, judged)[1:]])
    table = np.array([gains[c] for c in candidates])
    mean, error = table.mean(axis=1), table.std(axis=1, ddof=1) / np.sqrt(table.shape[1])
    best = np.unravel_index(int(mean.argmax()), mean.shape)
    helps = mean[best] > error[best]
    strength, share = candidates[best[0]]
    log.info(
        "linear start: text at strength %g (%g of predictions) changes cross-validated quality by %+.3f (standard error %.3f)%s",
        *(strength, share, mean[best], error[best], "" if helps else ": left out"),
    )
    return (strength, share) if helps else (0.0, 1.0)


def _qualities(
    samples: Samples, text: TextSamples, maps: tuple[Tensor, Tensor, Tensor], rows: Tensor
) -> list[float]:
    """Retrieval by the video alone and at each of `_SCORE_WEIGHTS` of the text: means over subjects."""
    a, b_video, b_text = maps
    found = []
    for person in torch.unique(samples.subject[rows]):
        mine = rows[samples.subject[rows] == person]
        gallery, own = torch.unique(samples.clip[mine], return_inverse=True)
        brain = (samples.x[mine] @ a[0 if samples.shared else person]).flatten(1)
        brain = _unit(brain - brain.mean(0))
        video = (samples.y[gallery] @ b_video).flatten(1)
        here = text.present[gallery][..., None]
        words = text.t[gallery] @ b_text
        mean = (words * here).sum(0) / here.sum(0).clamp(min=1)
        words = torch.where(here, words - mean, 0.0).flatten(1)
        video = video - video.mean(0)
        scores = (brain @ _unit(video + w * words).T for w in (0.0, *_SCORE_WEIGHTS))
        found.append([rank_quality(score.numpy(), own.numpy()) for score in scores])
    return [float(value) for value in np.mean(found, axis=0)]


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)
