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
from dataclasses import replace

import torch
from torch import Tensor

from neuroalign.models.encoders.brain import PatchEmbedding
from neuroalign.models.model import FMRI, TEXT, VIDEO, BrainInput, NeuroAlign
from neuroalign.training.canonical import (
    Recipe,
    Samples,
    choose_personal,
    choose_recipe,
    choose_whitener,
    cross_validated,
)
from neuroalign.training.data import TrainingData
from neuroalign.training.response import (
    film_around,
    fit_response,
    join_films,
    leading_features,
    noise_autocorrelation,
    volumes_of,
)

log = logging.getLogger(__name__)

_MOST_WINDOWS = 4000
_REST = 1e-2
# How much of a film's surround may be taken from its clips.
SURROUNDS = (1.0, 0.5, 0.0)


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
    network: NeuroAlign, data: TrainingData, generator: torch.Generator, *, learn_response: bool = True
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
    learn_response : bool
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
    rows, brain = _some_windows(data, generator)
    clip = data.train.clip[rows]
    video = torch.cat([data.video[level] for level in architecture.video_levels], dim=-1)
    samples = _read(network, data, brain, clip, video, video, generator, learn_response)
    with torch.no_grad():
        recipe = choose_recipe(samples, data.content, dim)
    if data.text is not None and network.reads_text:
        (a, b, words), strength = _start_text(
            network, data, brain, samples, recipe, video, generator, learn_response
        )
    else:
        with torch.no_grad():
            a, b = samples.fit(torch.arange(len(clip))).maps(recipe, dim)
        words = strength = None
    with torch.no_grad():
        widths, rank = list(architecture.brain_levels.values()), architecture.encoder["subject_rank"]
        own = choose_personal(samples, data.content, recipe, dim, rank)[1] if words is None else None
        for number, (patch, part) in enumerate(
            zip(network.encoders[FMRI].patches, a.split(widths, dim=1), strict=True)
        ):
            patch.weight.copy_(part + _noise(part, generator))
            if own is not None:
                _set_personal(patch, own.split(widths, dim=1)[number])
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


def _read(
    network: NeuroAlign,
    data: TrainingData,
    brain: BrainInput,
    clip: Tensor,
    video: Tensor,
    features: Tensor,
    generator: torch.Generator,
    learn_response: bool = True,
) -> Samples:
    """Settle how windows are read at the steps of their clips: the response and the noise over time.

    Parameters
    ----------
    network : NeuroAlign
        Its haemodynamic attention and whiteners are set.
    data : TrainingData
    brain : BrainInput of n windows
    clip : int Tensor (n,)
    video : Tensor (contents, steps, features)
    features : Tensor (contents, steps, features)
        What the response is fitted with: the video, or more.
    generator : torch.Generator
    learn_response : bool
        Whether the response is fitted; if not, it stays canonical.

    Returns
    -------
    Samples
        As the network will see them. Whether noise is taken as correlated over time is decided by cross-validated retrieval.
    """
    architecture, dim = network.architecture, network.architecture.encoder["dim"]
    bands = list(architecture.brain_levels.values()), list(architecture.video_levels.values())

    def samples() -> Samples:
        x = torch.cat([_resampled(network, brain, level) for level in architecture.brain_levels], dim=-1)
        y = torch.einsum("tu,nud->ntd", network.video_whitener, video)
        return Samples(x, y, clip, brain.subject, architecture.shared_units, bands)

    layer = network.haemodynamic
    if layer is None:
        with torch.no_grad():
            may = architecture.encoder["decorrelate"]
            whitener = choose_whitener(samples(), data.content, dim) if may else None
            if whitener is not None:
                network.brain_whitener.copy_(whitener)
                network.video_whitener.copy_(whitener)
            return samples()
    films = join_films(features, torch.unique(clip), data.content, network.step_times)
    volumes = volumes_of(brain, clip, data.content, leading_features(films), generator)
    if learn_response and len(volumes.subject):
        fit_response(layer, volumes)
    with torch.no_grad():
        layer.context.copy_(film_around(films, len(network.step_times)))
        estimated, spacing = noise_autocorrelation(brain)
        layer.noise_spacing_s.fill_(spacing)
        white = torch.zeros_like(estimated)
        white[:, 0] = 1.0
        candidates = {"correlated": estimated, "white": white}
        if not architecture.encoder["decorrelate"]:
            del candidates["correlated"]
        found = []
        for name, noise in candidates.items():
            layer.noise.copy_(noise)
            network.video_whitener.copy_(
                layer.calibrate(brain.times, brain.valid, network.step_times, brain.subject)
            )
            made = samples()
            found.append((cross_validated(made, data.content, dim) or 0.0, made, layer_state(network)))
            log.info("linear start: noise %s over time, cross-validated quality %.3f", name, found[-1][0])
        # The first of equals: where windows are too few to say, noise is taken as it was estimated.
        _, made, state = max(found, key=lambda item: item[0])
        restore(network, state)
        return made


def layer_state(network: NeuroAlign) -> dict[str, Tensor]:
    """A copy of everything that says how the brain is read."""
    names = ("encoders.fmri.resample.", "brain_whitener", "video_whitener")
    return {n: v.clone() for n, v in network.state_dict().items() if n.startswith(names)}


def restore(network: NeuroAlign, state: dict[str, Tensor]) -> None:
    """The inverse of `layer_state`."""
    network.load_state_dict(network.state_dict() | state)


def _start_text(
    network: NeuroAlign,
    data: TrainingData,
    brain: BrainInput,
    samples: Samples,
    recipe: Recipe,
    video: Tensor,
    generator: torch.Generator,
    learn_response: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """Maps of brain, video and text, and the text's strength; where that is not 0, delays are those fitted with its features.

    `training.linear_text` says how text enters.
    """
    from neuroalign.training.linear_text import TextSamples, choose_strength, joint_maps

    level, dim = next(iter(data.text.levels)), network.architecture.encoder["dim"]
    text = TextSamples(data.text.levels[level], data.text.present)
    factor = text.balance(replace(samples, y=video))
    text, heard = replace(text, t=factor * text.t), samples
    before = layer_state(network)
    if network.haemodynamic is not None and learn_response:
        # What captions tell of a level that the video hardly drives includes when it answers.
        features = torch.cat([video, text.t], dim=-1)
        heard = _read(network, data, brain, samples.clip, video, features, generator)
    with torch.no_grad():
        text = replace(text, t=torch.einsum("tu,nud->ntd", network.video_whitener, text.t))
        strength, share = choose_strength(samples, heard, text, data.content, recipe, dim)
        if strength:
            samples = heard
        else:
            restore(network, before)
        rows = torch.arange(len(samples.clip))
        a, b, words = joint_maps(samples, text, rows, recipe, dim, strength, share)
        return (a, b, words * factor), strength


def _some_windows(data: TrainingData, generator: torch.Generator) -> tuple[Tensor, BrainInput]:
    """At most `_MOST_WINDOWS` training windows: their rows and the windows."""
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_MOST_WINDOWS].sort().values
    return rows, data.train.brain.take(rows)


def _set_personal(patch: PatchEmbedding, own: Tensor) -> None:
    """Write people's parts (subjects, units, dim) of a map into its low-rank terms; their rank fits."""
    u, s, v = torch.linalg.svd(own, full_matrices=False)
    people, rank = min(len(own), len(patch.down)), patch.rank
    root = s[:people, :rank].sqrt()
    patch.down[:people, :, : root.shape[1]] = u[:people, :, :rank] * root[:, None]
    patch.up[:people, : root.shape[1]] = root[..., None] * v[:people, :rank]


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    size = like.square().mean().sqrt()
    return _REST * size * torch.randn(like.shape, generator=generator)


def _resampled(network: NeuroAlign, brain: BrainInput, level: str) -> Tensor:
    """Inputs of one level as they are read at clip steps: (n, steps, inputs). Reading and linear maps commute."""
    x = torch.where(brain.valid[..., None], brain.levels[level], 0.0)
    layer = network.haemodynamic
    if layer is None:
        x = network.encoders[FMRI].resample(
            x[:, :, None], brain.times, brain.valid, network.step_times, brain.subject
        )[:, :, 0]
        return torch.einsum("tu,nud->ntd", network.brain_whitener, x)
    number = list(network.architecture.brain_levels).index(level)
    return layer.weights(brain.times, brain.valid, network.step_times, brain.subject)[:, number] @ x
