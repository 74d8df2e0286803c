r"""Shrunk canonical correlation analysis of brain and video, and how its regularisation is chosen.

What the network starts from (`training.linear_start`) and what its codebooks start from (`training.vq`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from neuroalign.models.losses.contrast import Content
from neuroalign.training.validation import rank_quality

log = logging.getLogger(__name__)

_FOLDS = 4
_PURGE_S = 20.0
# Directions by which the noise of the brain is looked at, and how its covariance in time is shrunk.
_NOISE_DIRECTIONS = 30
_NOISE_SHRINKAGE = 0.2


@dataclass(frozen=True)
class Recipe:
    """How the canonical correlation analysis is regularised.

    Attributes
    ----------
    brain, video : float
        Shrinkage of each side's covariance towards its mean variance.
    power : float
        Both sides' variates are multiplied by the canonical correlation to this power.
    other : float
        How large features of other video levels are made, per level of distance from a brain level's own, before that
        level is predicted from them: less than 1 believes in the hierarchy (banded ridge; Nunez-Elizalde et al. 2019).
    """

    brain: float = 0.3
    video: float = 0.9
    power: float = 0.5
    other: float = 1.0


RECIPES = tuple(
    Recipe(*values) for values in product((0.03, 0.1, 0.3, 0.6), (0.1, 0.3, 0.6, 0.9), (0.5, 1.0))
)
# At which other choices (whitening, surround) are judged.
_REFERENCE = Recipe(0.1, 0.6, 1.0)
_OTHERS = (1.0, 0.3, 0.1)
# How far a person's maps may go from the group's towards their own, and what steadies directions of little correlation.
_PERSONAL = (0.0, 0.25, 0.5, 0.75)
_STEADY = 0.1


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """Covariance shrunk towards its mean variance times the identity."""
    size = covariance.shape[-1]
    mean = covariance.diagonal().mean().clamp(min=1e-8)
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - shrinkage) * covariance + (shrinkage + 1e-4) * mean * eye


def correlation_sum(x: Tensor, y: Tensor, brain: float, video: float) -> Tensor:
    r"""Sum of squared shrunk canonical correlations, :math:`\mathrm{tr}(C_{xx}^{-1} C_{xy} C_{yy}^{-1} C_{yx})`."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)
    cross = x.T @ y / n
    left = torch.linalg.solve(shrunk(x.T @ x / n, brain), cross)
    right = torch.linalg.solve(shrunk(y.T @ y / n, video), cross.T)
    return (left * right.T).sum()


class Canonical:
    r"""Shrunk canonical correlation analysis for many regularisations at the price of one decomposition.

    .. math:: \tilde C_{xx}^{-1/2}\, W^\top \tilde C_{yy}^{1/2} = U R V^\top, \quad
              A = \tilde C_{xx}^{-1/2} U R^p, \quad B = \tilde C_{yy}^{-1/2} V R^p

    W is the regularised prediction of the units from the features. Where all features are treated alike it is
    :math:`\tilde C_{yy}^{-1} C_{yx}`, and this the usual analysis; in bands (`Recipe.other`), units of brain level l are predicted from features
    scaled by :math:`D_l`, :math:`W_l = D_l\, (\widetilde{D_l C_{yy} D_l})^{-1} D_l\, C_{yx_l}`.

    Parameters
    ----------
    x : Tensor (samples, units)
    y : Tensor (samples, features)
    owner : int Tensor (samples,)
        Whose units a sample holds: samples of different owners share the features' maps, not the units' (voxels). All
        zero where units are shared.
    bands : tuple of two lists of int, optional
        Units per brain level and features per video level, early to late.

    Notes
    -----
    With several owners this is the analysis of a matrix in which each has units of its own, zero in the samples of others;
    its covariance is block-diagonal, so that only blocks are decomposed.
    """

    def __init__(self, x: Tensor, y: Tensor, owner: Tensor, bands: tuple[list[int], list[int]] | None = None):
        x, y = x.double(), y.double()
        self.y_values, self.y_vectors = _spectrum(y - y.mean(0))
        units, features = bands or ([x.shape[1]], [y.shape[1]])
        self.distance = _level_distance(len(units), features).to(y)
        self.blocks = []
        self._predictors: dict[tuple[float, float], list[Tensor]] = {}
        for number in range(int(owner.max()) + 1):
            mine = owner == number
            share = float(mine.double().mean())
            a, b = x[mine] - x[mine].mean(0), y[mine] - y[mine].mean(0)
            values, vectors = _spectrum(a)
            cross = (a.T @ b / len(a)).split(units)
            turned = [part.T @ c for part, c in zip(vectors.split(units), cross, strict=True)]
            self.blocks.append((share, values, vectors, turned))

    def _predict(self, recipe: Recipe) -> list[Tensor]:
        """Per brain level, what turns its cross-covariance (units, features) into W' C_yy^(1/2)."""
        key = (recipe.video, recipe.other)
        if key not in self._predictors:
            size = len(self.y_values)
            mean = self.y_values.mean().clamp(min=1e-8)
            root = (self.y_vectors * (1 / _inverse_root(self.y_values, recipe.video))) @ self.y_vectors.T
            covariance = (self.y_vectors * self.y_values) @ self.y_vectors.T
            eye = torch.eye(size, dtype=root.dtype)
            found = []
            for scale in recipe.other**self.distance:
                banded = (1 - recipe.video) * scale[:, None] * covariance * scale
                banded = banded + (recipe.video + 1e-4) * mean * eye
                found.append(scale[:, None] * torch.linalg.solve(banded, scale[:, None] * root))
            self._predictors[key] = found
        return self._predictors[key]

    def maps(self, recipe: Recipe, dim: int) -> tuple[Tensor, Tensor]:
        """Maps A (owners, units, dim) and B (features, dim); directions beyond the rank are zero."""
        predictors, white = self._predict(recipe), []
        for share, values, _, turned in self.blocks:
            explained = sum(c @ p for c, p in zip(turned, predictors, strict=True))
            white.append(math.sqrt(share) * _inverse_root(values, recipe.brain)[:, None] * explained)
        squares, v = torch.linalg.eigh(sum(w.T @ w for w in white))
        rank = min(dim, len(squares), sum(len(w) for w in white))
        r = squares.flip(0)[:rank].clamp(min=0).sqrt()
        v = v.flip(1)[:, :rank]
        b = self.y_vectors @ (_inverse_root(self.y_values, recipe.video)[:, None] * (self.y_vectors.T @ v))
        # Signs of singular vectors are arbitrary; fixing them keeps results equal across linear-algebra libraries.
        sign = torch.sign(b[b.abs().argmax(dim=0), torch.arange(rank)])
        weight = sign * r**recipe.power
        unit = r.clamp(min=1e-6)
        maps_x = self.blocks[0][2].new_zeros(len(white), len(self.blocks[0][1]), dim)
        maps_y = b.new_zeros(len(b), dim)
        maps_y[:, :rank] = b * weight
        for number, (w, (share, values, vectors, _)) in enumerate(zip(white, self.blocks, strict=True)):
            u = w @ v / unit
            scale = _inverse_root(values, recipe.brain)[:, None] / math.sqrt(share)
            maps_x[number, :, :rank] = vectors @ (scale * u) * weight
        return maps_x.float(), maps_y.float()


def _level_distance(brain_levels: int, features: list[int]) -> Tensor:
    """Distance of every feature's video level from every brain level's own, in brain levels: (brain levels, features)."""
    brain = torch.arange(brain_levels) / max(1, brain_levels - 1)
    video = torch.arange(len(features)) / max(1, len(features) - 1)
    if min(brain_levels, len(features)) == 1:
        return torch.zeros(brain_levels, sum(features))
    distance = (brain[:, None] - video).abs() * (brain_levels - 1)
    return distance.repeat_interleave(torch.tensor(features), dim=1)


def _spectrum(centred: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    return values.clamp(min=0), vectors


def _inverse_root(values: Tensor, shrinkage: float) -> Tensor:
    mean = values.mean().clamp(min=1e-8)
    return ((1 - shrinkage) * values + (shrinkage + 1e-4) * mean).rsqrt()


@dataclass
class Samples:
    """What a linear model is fitted on.

    Attributes
    ----------
    x : Tensor (n, steps, units)
        Brain windows on clip steps.
    y : Tensor (contents, steps, features)
    clip : int Tensor (n,)
        Row of `y` of each window.
    subject : int Tensor (n,)
    shared : bool
        Whether units mean the same in every subject.
    bands : tuple of two lists of int, optional
        Units per brain level and features per video level; see `Canonical`.
    """

    x: Tensor
    y: Tensor
    clip: Tensor
    subject: Tensor
    shared: bool
    bands: tuple[list[int], list[int]] | None = None

    def fit(self, rows: Tensor) -> Canonical:
        """Analyse the windows at `rows`, step by step."""
        steps = self.x.shape[1]
        owner = torch.zeros_like(self.subject) if self.shared else self.subject
        return Canonical(
            self.x[rows].flatten(0, 1),
            self.y[self.clip[rows]].flatten(0, 1),
            owner[rows].repeat_interleave(steps),
            self.bands,
        )

    def whitened(self, whitener: Tensor) -> Samples:
        """The same samples with both sides whitened over the steps of a clip by a matrix (steps, steps)."""
        x, y = (torch.einsum("tu,nud->ntd", whitener, z) for z in (self.x, self.y))
        return replace(self, x=x, y=y)

    def personal(self, rows: Tensor, recipe: Recipe, a: Tensor, b: Tensor, rank: int, share: float) -> Tensor:
        r"""What the maps of each person add to the group's, for shared units.

        .. math:: \Delta_s = \big( \tilde C_{xx,\kappa}^{-1} C_{xy,\kappa} - \tilde C_{xx}^{-1} C_{xy} \big)\, B\, \frac{R}{R^2 + \epsilon},
                  \qquad C_\kappa = (1 - \kappa)\, C + \kappa\, C_s

        is the difference of the canonical map, given the video's, of statistics that are partly the person's own from that of the group's; each level keeps
        its leading `rank` directions.

        Parameters
        ----------
        rows : int Tensor
            Windows to fit on.
        recipe : Recipe
        a, b : Tensor
            Maps of the group, (1, units, dim) and (features, dim).
        rank : int
        share : float
            :math:`\kappa`, 0 to 1.

        Returns
        -------
        Tensor (subjects, units, dim)
            Zero for people without windows.
        """
        x, y = self.x[rows].flatten(0, 1).double(), self.y[self.clip[rows]].flatten(0, 1).double()
        x, y = x - x.mean(0), y - y.mean(0)
        person = self.subject[rows].repeat_interleave(self.x.shape[1])
        plain, b = x.T @ x / len(x), b.double()
        covariance = shrunk(plain, recipe.brain)
        size = (a[0].double() * (covariance @ a[0].double())).sum(0)
        r = size.clamp(min=1e-12) ** (0.5 / recipe.power)
        cross, steady = x.T @ (y @ b) / len(x), r / (r.square() + _STEADY)
        group = torch.linalg.solve(covariance, cross)
        people = int(self.subject.max()) + 1
        found = x.new_zeros(people, x.shape[1], b.shape[1])
        for number in torch.unique(person).tolist():
            mine = person == number
            u, v = x[mine], y[mine] @ b
            own = shrunk((1 - share) * plain + share * (u.T @ u / len(u)), recipe.brain)
            mixed = (1 - share) * cross + share * (u.T @ v / len(u))
            found[number] = (torch.linalg.solve(own, mixed) - group) * steady
        widths = self.bands[0] if self.bands else [x.shape[1]]
        parts = []
        for part in found.split(widths, dim=1):
            u, s, v = torch.linalg.svd(part, full_matrices=False)
            parts.append((u[..., :rank] * s[:, None, :rank]) @ v[:, :rank])
        return torch.cat(parts, dim=1).float()

    def noise_whitener(self, rows: Tensor) -> Tensor:
        r"""Whitener over the steps of a clip of what the video does not explain of the brain.

        .. math:: K_{tu} = \Big\langle \sum_k r_k^2\, e_{tk} e_{uk} \Big\rangle, \qquad
                  e_{tk} = a_k^\top x_t - \beta_k\, b_k^\top y_t, \qquad W^\top W = ((1 - s) K + s I)^{-1}

        over the leading canonical directions k with correlations r_k; K is made Toeplitz (noise does not know when a clip begins)
        and scaled to a mean variance of 1. This is the prewhitening of a general linear model (Bullmore et al. 1996; Woolrich et al. 2001), from
        windows instead of runs.

        Parameters
        ----------
        rows : int Tensor
            Windows to estimate it from.

        Returns
        -------
        Tensor (steps, steps)
            Lower triangular, as no step may tell of later ones.
        """
        steps = self.x.shape[1]
        recipe = replace(_REFERENCE, power=0.0)
        a, b = self.fit(rows).maps(recipe, min(_NOISE_DIRECTIONS, self.y.shape[2]))
        covariance = self.x.new_zeros(steps, steps)
        for person in torch.unique(self.subject[rows]):
            mine = rows[self.subject[rows] == person]
            u = self.x[mine] @ a[0 if self.shared else person]
            v = self.y[self.clip[mine]] @ b
            u, v = u - u.mean((0, 1)), v - v.mean((0, 1))
            slope = (u * v).sum((0, 1)) / v.square().sum((0, 1)).clamp(min=1e-12)
            size = u.square().mean((0, 1)).clamp(min=1e-12).sqrt()
            correlation = slope * v.square().mean((0, 1)).sqrt() / size
            noise = (u - slope * v) / size * correlation
            covariance += torch.einsum("ntk,nuk->tu", noise, noise)
        lags = (torch.arange(steps)[:, None] - torch.arange(steps)).abs()
        by_lag = torch.stack([covariance.diagonal(lag).mean() for lag in range(steps)])
        if by_lag[0] <= 0:
            return torch.eye(steps)
        shared = (by_lag / by_lag[0])[lags].double()
        values, vectors = torch.linalg.eigh(
            (1 - _NOISE_SHRINKAGE) * shared + _NOISE_SHRINKAGE * torch.eye(steps)
        )
        # Estimated lag by lag, the covariance need not be positive.
        covariance = (vectors * values.clamp(min=_NOISE_SHRINKAGE / 2)) @ vectors.T
        return torch.linalg.inv(torch.linalg.cholesky(covariance)).float()

    def enough(self, fit: Tensor, judged: Tensor) -> bool:
        """Whether windows to fit and to judge are enough for a choice: clips of both, and somebody's own units to fit."""
        if len(torch.unique(self.clip[fit])) < 8 or len(torch.unique(self.clip[judged])) < 4:
            return False
        return self.shared or len(torch.unique(self.subject[fit])) == len(torch.unique(self.subject))

    def quality(self, maps: tuple[Tensor, Tensor], rows: Tensor) -> float:
        """Retrieval of the clips of some windows by the maps, mean over subjects."""
        a, b = maps
        found = []
        for person in torch.unique(self.subject[rows]):
            mine = rows[self.subject[rows] == person]
            gallery, own = torch.unique(self.clip[mine], return_inverse=True)
            brain = self.x[mine] @ a[0 if self.shared and len(a) == 1 else person]
            scores = _cosines(brain.flatten(1), (self.y[gallery] @ b).flatten(1))
            found.append(rank_quality(scores.numpy(), own.numpy()))
        return sum(found) / len(found)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    a, b = (torch.nn.functional.normalize(v - v.mean(0), dim=1) for v in (a, b))
    return a @ b.T


def folds(content: Content, clip: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows to fit and to judge, for contiguous parts of the training content.

    Clips of the same stimulus near a judged one take no part in the fit.

    Parameters
    ----------
    content : Content
        Of every clip.
    clip : int Tensor (n,)
        Clip of each window.
    """
    clips = torch.unique(clip)
    order = sorted(clips.tolist(), key=lambda c: (int(content.stimulus[c]), float(content.start_s[c])))
    for held in torch.tensor(order).tensor_split(_FOLDS):
        near = (content.stimulus[clip][:, None] == content.stimulus[held][None]) & (
            (content.start_s[clip][:, None] - content.start_s[held][None]).abs() <= _PURGE_S
        )
        yield torch.nonzero(~near.any(dim=1))[:, 0], torch.nonzero(torch.isin(clip, held))[:, 0]


def choose_whitener(samples: Samples, content: Content, dim: int) -> Tensor | None:
    """`Samples.noise_whitener` of all windows where whitening betters retrieval over `folds` of them; else None."""
    if samples.x.shape[1] < 3:
        return None
    gains = []
    for fit, judged in folds(content, samples.clip):
        if not samples.enough(fit, judged):
            return None
        white = samples.whitened(samples.noise_whitener(fit))
        plain, whitened = (s.quality(s.fit(fit).maps(_REFERENCE, dim), judged) for s in (samples, white))
        gains.append(whitened - plain)
    gain = sum(gains) / len(gains)
    log.info("linear start: whitening over time changes cross-validated quality by %+.3f", gain)
    return samples.noise_whitener(torch.arange(len(samples.clip))) if gain > 0 else None


def cross_validated(samples: Samples, content: Content, dim: int) -> float | None:
    """Mean quality over `folds` at one ordinary regularisation; None where windows are too few to say."""
    found = []
    for fit, judged in folds(content, samples.clip):
        if not samples.enough(fit, judged):
            return None
        found.append(samples.quality(samples.fit(fit).maps(_REFERENCE, dim), judged))
    return sum(found) / len(found)


def choose_recipe(samples: Samples, content: Content, dim: int) -> Recipe:
    """The regularisation with the best retrieval over `folds` of the training windows; the default if they are too few.

    First whether the hierarchy is believed in (`Recipe.other`), at one ordinary regularisation, then the rest.
    """
    parts = list(folds(content, samples.clip))
    if not all(samples.enough(fit, judged) for fit, judged in parts):
        return Recipe()
    models = [(samples.fit(fit), judged) for fit, judged in parts]

    def best(recipes: Sequence[Recipe]) -> tuple[Recipe, float]:
        scores = {
            recipe: sum(samples.quality(model.maps(recipe, dim), judged) for model, judged in models)
            / len(models)
            for recipe in recipes
        }
        chosen = max(recipes, key=lambda recipe: round(scores[recipe], 6))
        return chosen, scores[chosen]

    believes = samples.bands is not None and min(map(len, samples.bands)) > 1
    other = best([replace(_REFERENCE, other=other) for other in _OTHERS])[0].other if believes else 1.0
    recipe, quality = best([replace(recipe, other=other) for recipe in RECIPES])
    log.info("linear start: %s, cross-validated quality %.3f", recipe, quality)
    return recipe


def choose_personal(
    samples: Samples, content: Content, recipe: Recipe, dim: int, rank: int
) -> tuple[float, Tensor | None]:
    """How far people's maps go from the group's (`Samples.personal`), by retrieval over `folds`; and what they add."""
    if not samples.shared or not rank or len(torch.unique(samples.subject)) < 2:
        return 0.0, None
    scores: dict[float, list[float]] = {share: [] for share in _PERSONAL}
    for fit, judged in folds(content, samples.clip):
        if not samples.enough(fit, judged):
            return 0.0, None
        a, b = samples.fit(fit).maps(recipe, dim)
        for share in _PERSONAL:
            own = samples.personal(fit, recipe, a, b, rank, share) if share else 0.0
            scores[share].append(samples.quality((a + own, b), judged))
    gains = {share: torch.tensor(found) - torch.tensor(scores[0.0]) for share, found in scores.items()}
    best = max(_PERSONAL, key=lambda share: round(float(gains[share].mean()), 6))
    # The best of several candidates is often lucky: people stay with the group unless it is clearly better.
    if gains[best].mean() <= gains[best].std() / len(gains[best]) ** 0.5:
        best = 0.0
    log.info(
        "linear start: people's own part %g, gains %s",
        best,
        {share: round(float(gain.mean()), 4) for share, gain in gains.items()},
    )
    if not best:
        return 0.0, None
    rows = torch.arange(len(samples.clip))
    return best, samples.personal(rows, recipe, *samples.fit(rows).maps(recipe, dim), rank, best)
