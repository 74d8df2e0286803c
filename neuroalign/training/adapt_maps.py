r"""What a new person's brain map is fitted to, and the closed form that fits it.

With x the person's units on the steps of a clip and g = x W the step vectors of the shared map, a target y is predicted by
:math:`\gamma_k g_k` where the shared map is right: :math:`\gamma_k` is the regression of the target on the step vector, learned from
people the model was not fitted on. What is left is explained by a ridge regression of the person's own,

.. math:: E_k = (C_{xx} + \rho\,\bar\lambda\,(\gamma_{max}/\gamma_k)^2 I)^{-1}\, C_{x,\,y_k - \gamma_k g_k}, \qquad
          \Delta W_k = E_k / \gamma_k,

so that :math:`W + \Delta W` tends to W where :math:`\rho` is large, and to the person's own regression, in the units of the shared space, where
it is small. Directions that are hardly predictable (small :math:`\gamma_k`) are shrunk more: the noise of their correction grows as
:math:`1/\gamma_k^2`. Units that mean something else in everybody (voxels) have W = 0, and :math:`\Delta W` is the whole map.

There are two targets: the step vectors of the clip's *video*, and, where others saw the same clip, those of the *group*: the mean over
their brains (a shared response, as Chen et al. 2015). A brain predicts other brains much better than it predicts features, so that the second
needs fewer minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuroalign.models.model import FMRI, VIDEO, BrainInput, NeuroAlign
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.store import PairedDataset

GROUP = "group"
_FEWEST_OTHERS = 2
_FEWEST_WINDOWS = 20
_LEAST_GAIN = 0.02


@dataclass
class Target:
    """One target: what each clip should look like, and how well a new person's step vectors are expected to tell it.

    Attributes
    ----------
    steps : array of shape (contents, T, dim)
        Without the mean; 0 where not `known`.
    known : bool array of shape (contents,)
    gain, noise : arrays of shape (dim,)
        Regression of the target on the step vectors of people's brains, and the variance that it leaves.
    """

    steps: np.ndarray
    known: np.ndarray
    gain: np.ndarray
    noise: np.ndarray


@dataclass
class Group:
    """The targets that a paired dataset has for a model: `video`, and `group` where others saw the clips."""

    targets: dict[str, Target]
    clips: Embedding

    @classmethod
    def of(cls, model: TrainedModel, pairs: PairedDataset) -> Group:
        """Embed all clips, and the training windows of those the model was trained on.

        Notes
        -----
        Gains come from validation windows where there are enough (the best likeness of a new person, in a split by subject), else
        from training windows; without either they are proportional to the spread of the clips. Test windows are not read.
        """
        clips = model.embed_video(pairs.video)
        video = _centred(clips, model, VIDEO)
        if clips.text is not None and model.weights.text:
            here, centre = clips.text.present[..., None], model.centres["text"]["steps"]
            video = video + model.weights.text * np.where(here, clips.text.steps - centre, 0.0)
        architecture = model.network.architecture
        trained = architecture.subjects[: len(architecture.subjects) - architecture.adapted]
        total, count = np.zeros_like(video), np.zeros(len(video))
        own: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for subject in [s for s in pairs.subjects if s in trained]:
            rows, steps = _embedded(model, pairs, subject, "train")
            own[subject] = (rows, steps)
            np.add.at(total, rows, steps)
            np.add.at(count, rows, 1)
        judged = {
            s: _embedded(model, pairs, s, "validation")
            for s in pairs.subjects
            if s in trained or architecture.shared_units
        }
        if sum(len(rows) for rows, _ in judged.values()) < _FEWEST_WINDOWS:
            judged = own
        everything = np.ones(len(video), bool)
        pair = [(video[rows], steps) for rows, steps in judged.values() if len(rows)]
        targets = {VIDEO: Target(video, everything, *_gain(pair, video))}
        others = []
        for subject, (rows, steps) in judged.items():
            rest, number = total[rows].copy(), count[rows].copy()
            if subject in own:
                mine, their = own[subject]
                sums, numbers = np.zeros_like(total), np.zeros_like(count)
                np.add.at(sums, mine, their)
                np.add.at(numbers, mine, 1)
                rest, number = rest - sums[rows], number - numbers[rows]
            seen = number >= _FEWEST_OTHERS
            others.append((rest[seen] / number[seen, None, None], steps[seen]))
        if sum(len(steps) for _, steps in others) >= _FEWEST_WINDOWS:
            known = count >= _FEWEST_OTHERS
            mean = np.where(known[:, None, None], total / np.maximum(count, 1)[:, None, None], 0.0)
            targets[GROUP] = Target(mean, known, *_gain(others, mean[known]))
        return cls(targets, clips)


def _centred(embedding: Embedding, model: TrainedModel, side: str) -> np.ndarray:
    centre = model.centres.get("brain" if side == FMRI else side)
    return (embedding.steps - (centre["steps"] if centre else embedding.steps.mean(axis=0))).astype(
        np.float64
    )


def _embedded(
    model: TrainedModel, pairs: PairedDataset, subject: str, split: str
) -> tuple[np.ndarray, np.ndarray]:
    windows, rows = pairs.of(subject, split)
    if not len(rows):
        return rows, np.zeros((0, pairs.steps, model.network.architecture.encoder["dim"]))
    return rows, _centred(model.embed_fmri(windows, subject), model, FMRI)


def _gain(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and noise of every dimension, from (target, step vectors) of people; guessed from the target without any."""
    if not pairs:
        spread = target.std(axis=(0, 1))
        return np.maximum(spread / max(spread.max(), 1e-12), _LEAST_GAIN), np.maximum(spread**2, 1e-12)
    y, g = (np.concatenate([p[i] for p in pairs]).reshape(-1, target.shape[-1]) for i in (0, 1))
    gain = (y * g).sum(axis=0) / np.maximum((g * g).sum(axis=0), 1e-12)
    gain = np.maximum(gain, _LEAST_GAIN * max(gain.max(), 1e-6))
    return gain, np.maximum(np.square(y - gain * g).mean(axis=0), 1e-12)


@dataclass
class Samples:
    """A new person's windows, ready to be fitted.

    Attributes
    ----------
    x : list of Tensor (n, T, inputs)
        Inputs of each level on clip steps.
    steps : array of shape (n, T, dim)
        Step vectors of the shared map, without the mean; zeros where there is none (voxels).
    clip : int array of shape (n,)
        Row of the content of each window.
    """

    x: list[Tensor]
    steps: np.ndarray
    clip: np.ndarray

    def correction(
        self, network: NeuroAlign, target: Target, shrinkage: float, rows: np.ndarray
    ) -> list[Tensor]:
        r"""Maps (inputs, dim) of every level, fitted on the windows at `rows` whose clip has a target; `shrinkage` is :math:`\rho`."""
        rows = rows[target.known[self.clip[rows]]]
        gain = torch.from_numpy(target.gain)
        x = torch.cat([level[rows].flatten(0, 1) for level in self.x], dim=-1).double()
        e = torch.from_numpy(target.steps[self.clip[rows]] - target.gain * self.steps[rows]).flatten(0, 1)
        weights = _ridge(x, e, shrinkage * (gain.max() / gain).square()) / gain
        parts = weights.split([level.shape[-1] for level in self.x])
        # Step vectors are read out of tokens by G: what is to be added to them is put before it.
        readout = [torch.linalg.pinv(g.detach().double().cpu()) for g in network.pools[FMRI].levels]
        return [(part @ g).float() for part, g in zip(parts, readout, strict=True)]

    def predicted(self, target: Target, shrinkage: float, fit: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """The target of the clips of `judged` windows as a ridge regression fitted at `fit` predicts it: (n, T, dim)."""
        x = [
            torch.cat([level[rows].flatten(0, 1) for level in self.x], -1).double() for rows in (fit, judged)
        ]
        y = torch.from_numpy(target.steps[self.clip[fit]]).flatten(0, 1)
        weights = _ridge(x[0], y, torch.full((y.shape[1],), shrinkage, dtype=torch.float64))
        out = (x[1] - x[0].mean(0)) @ weights + y.mean(0)
        return out.reshape(len(judged), -1, y.shape[1]).numpy()


def _ridge(x: Tensor, y: Tensor, shrinkage: Tensor) -> Tensor:
    """Ridge regression with a penalty per output, in units of the mean variance of the inputs: weights (inputs, outputs)."""
    x, y = x - x.mean(0), y - y.mean(0)
    n, size = x.shape
    dual = n < size
    values, vectors = torch.linalg.eigh((x @ x.T if dual else x.T @ x) / n)
    penalty = shrinkage * (values.clamp(min=0).sum() / size).clamp(min=1e-12)
    projected = vectors.T @ (y if dual else x.T @ y) / n
    found = vectors @ (projected / (values.clamp(min=0)[:, None] + penalty))
    return x.T @ found if dual else found


@torch.no_grad()
def on_clip_steps(network: NeuroAlign, brain: BrainInput) -> list[Tensor]:
    """Inputs of every level on clip steps (n, T, inputs), as the encoder's resampling would read its tokens."""
    encoder, layer = network.encoders[FMRI], network.haemodynamic
    inputs = [torch.where(brain.valid[..., None], brain.levels[name], 0.0) for name in encoder.levels]
    if layer is None:
        about = (brain.times, brain.valid, network.step_times, brain.subject)
        read = [encoder.resample(x[:, :, None], *about)[:, :, 0] for x in inputs]
        return [torch.einsum("tu,nud->ntd", network.brain_whitener, x) for x in read]
    tokens = torch.stack(
        [patch(x, brain.subject) for patch, x in zip(encoder.patches, inputs, strict=True)], dim=2
    )
    salience = (layer.key(tokens) * layer.query).sum(-1) / math.sqrt(tokens.shape[-1])
    weights = layer.weights(brain.times, brain.valid, network.step_times, brain.subject, salience)
    return [weights[:, level] @ x for level, x in enumerate(inputs)]
