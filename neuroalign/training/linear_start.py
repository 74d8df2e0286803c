r"""The linear model that training starts from: one regularised canonical correlation in the network's own weights.

On brain data of realistic size, regularised linear models are hard to beat. The network contains one (its blocks are the
identity at first), and this module sets that one by closed form on the training pairs:

0. the surround: whether films are seen relative to what surrounds a clip, as high-passed brain series see them
   (`choose_surround`), by cross-validation inside the training clips, as everything below;
1. delays (`adaptive` only): the most probable response of each level, by gradient ascent on its canonical
   correlations with the video and a prior around the canonical response;
2. whitening over the steps of a clip by the noise that the video does not explain, where it helps (`canonical.choose_whitener`);
3. a canonical correlation analysis of all brain levels with all video levels. How much each side is shrunk, and how directions
   are weighed, is chosen by cross-validation inside the training clips (`choose_recipe`): with all of the shrinkage on
   the video's side it is ridge regression to the features, with none it is plain CCA, and data differ in which they want;
4. its maps, cut into levels, become the patches and the video maps; tokens of all levels add up to the canonical variates.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import torch
from torch import Tensor

from neuroalign.models.encoders.haemodynamic import CANONICAL_DELAY_S, CANONICAL_DISPERSION_S
from neuroalign.models.model import FMRI, TEXT, VIDEO, BrainInput, NeuroAlign
from neuroalign.training.canonical import (
    Recipe,
    Samples,
    choose_recipe,
    choose_whitener,
    correlation_sum,
    cross_validated,
)
from neuroalign.training.data import TrainingData

log = logging.getLogger(__name__)

_FIT_STEPS = 80
_FIT_RATE = 0.05
_FIT_SHRINKAGE = 0.3, 0.9
_MOST_WINDOWS = 4000
_REST = 1e-2
# How much of a film's surround may be taken from its clips.
SURROUNDS = (1.0, 0.5, 0.0)
# Standard deviations of the prior of the response: delays across cortex and people (Handwerker et al. 2004).
_DELAY_SD_S, _LOG_DISPERSION_SD, _SHIFT_SD_S = 2.0, 0.2, 0.5


def choose_surround(network: NeuroAlign, data: TrainingData, generator: torch.Generator) -> float:
    """How much of the film's surround to take from the features of a clip, by cross-validated retrieval of training clips.

    Brain series are high-passed when they are cleaned; what a film shows all along is then not in them, and features that still
    hold it are matched for what the brain cannot tell. General linear models filter the design as they filter the data (Friston et al. 2000) for the same
    reason. Where films are clips of their own there is little surround, and little to choose.

    Parameters
    ----------
    network : NeuroAlign
        Fresh, on the CPU: the brain is read at the canonical delay.
    data : TrainingData
        With the surround as `training.data.to_tensors` leaves it: `data.video` holds clips relative to all of it.
    generator : torch.Generator

    Returns
    -------
    float
        One of `SURROUNDS`; 1 where training clips are too few to say.
    """
    rows, brain = _some_windows(data, generator)
    architecture = network.architecture
    found = {}
    with torch.no_grad():
        x = torch.cat([_resampled(network, brain, level) for level in architecture.brain_levels], dim=-1)
        for share in SURROUNDS:
            seen = data.with_surround(share)
            video = torch.cat([seen.video[level] for level in architecture.video_levels], dim=-1)
            samples = Samples(x, video, data.train.clip[rows], brain.subject, architecture.shared_units)
            quality = cross_validated(samples, data.content, architecture.encoder["dim"])
            if quality is None:
                return 1.0
            found[share] = round(quality, 6)
    best = max(SURROUNDS, key=found.__getitem__)
    log.info("linear start: surround %g of %s", best, found)
    return best


def start_linear(
    network: NeuroAlign, data: TrainingData, generator: torch.Generator
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

    Returns
    -------
    recipe : Recipe
        What was chosen.
    strength : float, optional
        Of the text (`linear_text.choose_strength`); None where there is none.
    """
    architecture = network.architecture
    dim = architecture.encoder["dim"]
    rows, brain = _some_windows(data, generator)
    clip = data.train.clip[rows]
    video = torch.cat([data.video[level] for level in architecture.video_levels], dim=-1)
    if network.haemodynamic is not None:
        _fit_response(network, brain, video[clip])
    with torch.no_grad():
        x = torch.cat([_resampled(network, brain, level) for level in architecture.brain_levels], dim=-1)
        samples = Samples(x, video, clip, brain.subject, architecture.shared_units)
        whitener = None
        if architecture.encoder["pooling"] == "steps":
            whitener = choose_whitener(samples, data.content, dim)
        if whitener is not None:
            samples = samples.whitened(whitener)
        recipe = choose_recipe(samples, data.content, dim)
    if data.text is not None and network.reads_text:
        (a, b, words), strength = _start_text(network, data, brain, samples, recipe, whitener)
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
            if whitener is not None:
                pool.whitener.copy_(whitener)
            pool.levels.copy_(torch.eye(dim).expand_as(pool.levels))
    return recipe, strength


def _start_text(
    network: NeuroAlign,
    data: TrainingData,
    brain: BrainInput,
    samples: Samples,
    recipe: Recipe,
    whitener: Tensor | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """Maps of brain, video and text, and the text's strength; where that is not 0, delays are those fitted with its features.

    `training.linear_text` says how text enters.
    """
    from neuroalign.training.linear_text import TextSamples, choose_strength, joint_maps

    level, dim = next(iter(data.text.levels)), network.architecture.encoder["dim"]
    text = TextSamples(data.text.levels[level], data.text.present)
    factor = text.balance(samples)
    if whitener is not None:
        text = replace(text, t=torch.einsum("tu,nud->ntd", whitener, text.t))
    text, heard, layer = replace(text, t=factor * text.t), samples, network.haemodynamic
    if layer is not None:
        # What captions tell of a level that the video hardly drives includes when it answers.
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        _fit_response(network, brain, torch.cat([samples.y, text.t], dim=-1)[samples.clip])
        with torch.no_grad():
            x = [_resampled(network, brain, name) for name in network.architecture.brain_levels]
        read = torch.cat(x, dim=-1)
        if whitener is not None:
            read = torch.einsum("tu,nud->ntd", whitener, read)
        heard = replace(samples, x=read)
    with torch.no_grad():
        strength, share = choose_strength(samples, heard, text, data.content, recipe, dim)
        if strength:
            samples = heard
        elif layer is not None:
            layer.load_state_dict(before)
        rows = torch.arange(len(samples.clip))
        a, b, words = joint_maps(samples, text, rows, recipe, dim, strength, share)
        return (a, b, words * factor), strength


def _some_windows(data: TrainingData, generator: torch.Generator) -> tuple[Tensor, BrainInput]:
    """At most `_MOST_WINDOWS` training windows: their rows and the windows."""
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_MOST_WINDOWS].sort().values
    return rows, data.train.brain.take(rows)


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
    layer = network.haemodynamic
    volumes = _volumes_in_clips(network, brain)
    optimiser = torch.optim.Adam(layer.haemodynamic_parameters(), lr=_FIT_RATE)
    target = video.flatten(0, 1)
    for step in range(_FIT_STEPS):
        optimiser.param_groups[0]["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
        optimiser.zero_grad()
        shared = sum(
            correlation_sum(_resampled(network, brain, level).flatten(0, 1), target, *_FIT_SHRINKAGE)
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
