r"""The linear model that training starts from: one regularised canonical correlation in the network's own weights.

On brain data of realistic size, regularised linear models are hard to beat. The network contains one (its blocks are the
identity at first), and this module sets that one by closed form on the training pairs:

1. delays (`adaptive` only): the most probable response of each level, by gradient ascent on its canonical
   correlations with the video and a prior around the canonical response;
2. a canonical correlation analysis of all brain levels with all video levels. How much each side is shrunk, and how directions
   are weighed, is chosen by cross-validation inside the training clips (`choose_recipe`): with all of the shrinkage on
   the video's side it is ridge regression to the features, with none it is plain CCA, and data differ in which they want;
3. its maps, cut into levels, become the patches and the video maps; tokens of all levels add up to the canonical variates.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from neuroalign.models.encoders.haemodynamic import CANONICAL_DELAY_S, CANONICAL_DISPERSION_S
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import FMRI, TEXT, VIDEO, BrainInput, NeuroAlign
from neuroalign.training.data import TrainingData
from neuroalign.training.validation import rank_quality

log = logging.getLogger(__name__)

_FIT_STEPS = 80
_FIT_RATE = 0.05
_MOST_WINDOWS = 2000
_REST = 1e-2
_FOLDS = 4
_PURGE_S = 20.0
# Standard deviations of the prior of the response: delays across cortex and people (Handwerker et al. 2004).
_DELAY_SD_S, _LOG_DISPERSION_SD, _SHIFT_SD_S = 2.0, 0.2, 0.5


@dataclass(frozen=True)
class Recipe:
    """How the canonical correlation analysis is regularised.

    Attributes
    ----------
    brain, video : float
        Shrinkage of each side's covariance towards its mean variance.
    power : float
        Both sides' variates are multiplied by the canonical correlation to this power.
    """

    brain: float = 0.3
    video: float = 0.9
    power: float = 0.5


RECIPES = tuple(Recipe(*values) for values in product((0.1, 0.3, 0.6), (0.1, 0.3, 0.6, 0.9), (0.5, 1.0)))


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

    .. math:: C_{xx}^{-1/2} C_{xy} C_{yy}^{-1/2} = U R V^\top, \quad
              A = C_{xx}^{-1/2} U R^p, \quad B = C_{yy}^{-1/2} V R^p

    Parameters
    ----------
    x : Tensor (samples, units)
    y : Tensor (samples, features)
    owner : int Tensor (samples,)
        Whose units a sample holds: samples of different owners share the features' maps, not the units' (voxels). All
        zero where units are shared.

    Notes
    -----
    With several owners this is the analysis of a matrix in which each has units of its own, zero in the samples of others;
    its covariance is block-diagonal, so that only blocks are decomposed.
    """

    def __init__(self, x: Tensor, y: Tensor, owner: Tensor):
        x, y = x.double(), y.double()
        self.y_values, y_vectors = _spectrum(y - y.mean(0))
        self.y_vectors = y_vectors
        self.blocks = []
        for number in range(int(owner.max()) + 1):
            mine = owner == number
            share = float(mine.double().mean())
            a, b = x[mine] - x[mine].mean(0), y[mine] - y[mine].mean(0)
            values, vectors = _spectrum(a)
            cross = vectors.T @ (a.T @ b / len(a)) @ y_vectors
            self.blocks.append((share, values, vectors, cross))

    def maps(self, recipe: Recipe, dim: int) -> tuple[Tensor, Tensor]:
        """Maps A (owners, units, dim) and B (features, dim); directions beyond the rank are zero."""
        y_scale = _inverse_root(self.y_values, recipe.video)
        white = []
        for share, values, _, cross in self.blocks:
            white.append(
                math.sqrt(share) * _inverse_root(values, recipe.brain)[:, None] * cross * y_scale[None]
            )
        squares, v = torch.linalg.eigh(sum(w.T @ w for w in white))
        rank = min(dim, len(squares), sum(len(w) for w in white))
        r = squares.flip(0)[:rank].clamp(min=0).sqrt()
        v = v.flip(1)[:, :rank]
        b = self.y_vectors @ (y_scale[:, None] * v)
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
    """

    x: Tensor
    y: Tensor
    clip: Tensor
    subject: Tensor
    shared: bool

    def fit(self, rows: Tensor) -> Canonical:
        """Analyse the windows at `rows`, step by step."""
        steps = self.x.shape[1]
        owner = torch.zeros_like(self.subject) if self.shared else self.subject
        return Canonical(
            self.x[rows].flatten(0, 1),
            self.y[self.clip[rows]].flatten(0, 1),
            owner[rows].repeat_interleave(steps),
        )

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
            brain = self.x[mine] @ a[0 if self.shared else person]
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


def choose_recipe(samples: Samples, content: Content, dim: int) -> Recipe:
    """The regularisation with the best retrieval over `folds` of the training windows; the default if they are too few."""
    scores = dict.fromkeys(RECIPES, 0.0)
    for fit, judged in folds(content, samples.clip):
        if not samples.enough(fit, judged):
            return Recipe()
        model = samples.fit(fit)
        for recipe in RECIPES:
            scores[recipe] += samples.quality(model.maps(recipe, dim), judged) / _FOLDS
    best = max(RECIPES, key=lambda recipe: round(scores[recipe], 6))
    log.info("linear start: %s, cross-validated quality %.3f", best, scores[best])
    return best


def start_linear(
    network: NeuroAlign, data: TrainingData, generator: torch.Generator, *, fit_response: bool = True
) -> tuple[Recipe, float | None]:
    """Set delays, maps and pools of a fresh network from the training pairs.

    Parameters
    ----------
    network : NeuroAlign
        On the CPU.
    data : TrainingData
        Only ``data.train`` is looked at.
    generator : torch.Generator
        Fills directions beyond the rank with small noise, so that they can be learned.
    fit_response : bool
        Whether the response is fitted (`adaptive` data only); if not, it stays canonical.

    Returns
    -------
    recipe : Recipe
        What was chosen.
    strength : float, optional
        Of the text (`linear_text.choose_strength`); None where there is none.
    """
    architecture = network.architecture
    dim = architecture.encoder["dim"]
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_MOST_WINDOWS].sort().values
    brain, clip = data.train.brain.take(rows), data.train.clip[rows]
    video = torch.cat([data.video[level] for level in architecture.video_levels], dim=-1)
    fit_response = fit_response and network.haemodynamic is not None
    if fit_response:
        _fit_response(network, brain, video[clip])
    with torch.no_grad():
        x = torch.cat([_resampled(network, brain, level) for level in architecture.brain_levels], dim=-1)
        samples = Samples(x, video, clip, brain.subject, architecture.shared_units)
        recipe = choose_recipe(samples, data.content, dim)
    if data.text is not None and network.reads_text:
        (a, b, words), strength = _start_text(network, data, brain, samples, recipe, fit_response)
    else:
        a, b = samples.fit(torch.arange(len(clip))).maps(recipe, dim)
        words = strength = None
    with torch.no_grad():
        widths = list(architecture.brain_levels.values())
        for patch, part in zip(network.encoders[FMRI].patches, a.split(widths, dim=1), strict=True):
            patch.weight.copy_(part + _noise(part, generator))
        # Brain levels hear several video levels; what they hear of each adds up to one.
        for modality, levels, maps in (
            (VIDEO, architecture.video_levels, b),
            (TEXT, architecture.text_levels, words),
        ):
            if maps is None:
                continue
            heard = network.encoders[modality].mixing.logits.softmax(dim=1).sum(dim=0)
            parts = maps.split(list(levels.values()))
            for weight, part, total in zip(network.encoders[modality].maps, parts, heard, strict=True):
                weight.copy_((part + _noise(part, generator)) / total)
        for pool in network.pools.values():
            pool.levels.copy_(torch.eye(dim).expand_as(pool.levels))
    return recipe, strength


def _start_text(
    network: NeuroAlign,
    data: TrainingData,
    brain: BrainInput,
    samples: Samples,
    recipe: Recipe,
    fit_response: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """Maps of brain, video and text, and the text's strength; where that is not 0, delays are those fitted with its features.

    `training.linear_text` says how text enters.
    """
    from neuroalign.training.linear_text import TextSamples, choose_strength, joint_maps

    level, dim = next(iter(data.text.levels)), network.architecture.encoder["dim"]
    text = TextSamples(data.text.levels[level], data.text.present)
    factor = text.balance(samples)
    text, heard = replace(text, t=factor * text.t), samples
    layer = network.haemodynamic if fit_response else None
    if layer is not None:
        # What captions tell of a level that the video hardly drives includes when it answers.
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        _fit_response(network, brain, torch.cat([samples.y, text.t], dim=-1)[samples.clip])
        with torch.no_grad():
            x = [_resampled(network, brain, name) for name in network.architecture.brain_levels]
        heard = replace(samples, x=torch.cat(x, dim=-1))
    with torch.no_grad():
        strength, share = choose_strength(samples, heard, text, data.content, recipe, dim)
        if strength:
            samples = heard
        elif layer is not None:
            layer.load_state_dict(before)
        rows = torch.arange(len(samples.clip))
        a, b, words = joint_maps(samples, text, rows, recipe, dim, strength, share)
        return (a, b, words * factor), strength


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    size = like.square().mean().sqrt()
    return _REST * size * torch.randn(like.shape, generator=generator)


def _resampled(network: NeuroAlign, brain: BrainInput, level: str) -> Tensor:
    """Inputs of one level on clip steps: (n, steps, inputs). Resampling and linear maps commute."""
    x = torch.where(brain.valid[..., None], brain.levels[level], 0.0)
    layer = network.haemodynamic
    if layer is None:
        return network.encoders[FMRI].resample(
            x[:, :, None], brain.times, brain.valid, network.step_times, brain.subject
        )[:, :, 0]
    number = list(network.architecture.brain_levels).index(level)
    bias = layer.bias(brain.times, network.step_times, brain.subject)[..., number]
    weights = bias.masked_fill(~brain.valid[:, None], -1e9).softmax(dim=2) * brain.valid[:, None]
    return weights @ x


def _fit_response(network: NeuroAlign, brain: BrainInput, video: Tensor) -> None:
    """The most probable delays, dispersions and shifts: N/2 times the squared correlations, plus the log prior.

    N counts volumes, as those, not the finer steps, are samples of the brain.
    """
    layer, start = network.haemodynamic, Recipe()
    volumes = _volumes_in_clips(network, brain)
    optimiser = torch.optim.Adam(layer.haemodynamic_parameters(), lr=_FIT_RATE)
    target = video.flatten(0, 1)
    for step in range(_FIT_STEPS):
        optimiser.param_groups[0]["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
        optimiser.zero_grad()
        shared = sum(
            correlation_sum(_resampled(network, brain, level).flatten(0, 1), target, start.brain, start.video)
            for level in network.architecture.brain_levels
        )
        prior = ((layer.log_delay.exp() - CANONICAL_DELAY_S) / _DELAY_SD_S).square().sum()
        prior = (
            prior
            + ((layer.log_dispersion - math.log(CANONICAL_DISPERSION_S)) / _LOG_DISPERSION_SD).square().sum()
        )
        prior = prior + (layer.shifts() / _SHIFT_SD_S).square().sum()
        (0.5 * prior - 0.5 * volumes * shared).backward()
        optimiser.step()
    log.info("linear start: time to peak %s s", [round(float(d), 2) for d in layer.log_delay.detach().exp()])


def _volumes_in_clips(network: NeuroAlign, brain: BrainInput) -> float:
    """Volumes that were acquired while the clips ran, all windows together."""
    steps = network.step_times
    step_s = float(steps[1] - steps[0]) if len(steps) > 1 else 1.0
    both = brain.valid[:, 1:] & brain.valid[:, :-1]
    gaps = (brain.times[:, 1:] - brain.times[:, :-1])[both]
    repetition_s = float(gaps.median()) if len(gaps) else step_s
    return len(brain) * min(len(steps), len(steps) * step_s / max(repetition_s, 1e-3))
