r"""The linear model that training starts from: regularised canonical correlations in the network's own weights.

On brain data of realistic size, regularised linear models are hard to beat. The network contains one (its blocks are the
identity at first), and this module sets that one by closed form on the training pairs:

1. delays (`adaptive` only): gradient ascent on the sum of squared shrunk canonical correlations of each level;
2. per level, brain and video maps that give canonical variates, each side scaled by :math:`\rho^{1/2}`;
3. the joint read-out: the same for all levels' tokens together.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from neuroalign.models.model import FMRI, VIDEO, BrainInput, NeuroAlign
from neuroalign.training.data import TrainingData

log = logging.getLogger(__name__)

_FIT_STEPS = 80
_FIT_RATE = 0.05
_MOST_WINDOWS = 2000
_SHIFT_PENALTY = 0.02
_REST = 1e-2


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """Covariance shrunk towards its mean variance times the identity."""
    size = covariance.shape[-1]
    mean = covariance.diagonal().mean().clamp(min=1e-8)
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - shrinkage) * covariance + (shrinkage + 1e-4) * mean * eye


def _inverse_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=1e-10).rsqrt()) @ vectors.T


def canonical_maps(x: Tensor, y: Tensor, dim: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    r"""Maps A (inputs of x, dim) and B (inputs of y, dim) of a shrunk canonical correlation analysis.

    .. math:: C_{xx}^{-1/2} C_{xy} C_{yy}^{-1/2} = U R V^\top, \quad
              A = C_{xx}^{-1/2} U R^{1/2}, \quad B = C_{yy}^{-1/2} V R^{1/2}

    so that :math:`A^\top x \cdot B^\top y = \sum_i \rho_i u_i v_i`. Directions beyond the rank are filled with zeros.

    Parameters
    ----------
    x, y : Tensor (samples, inputs)
    dim : int
    shrinkage : float
    """
    x, y = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    n = len(x)
    x_root = _inverse_root(shrunk(x.T @ x / n, shrinkage))
    y_root = _inverse_root(shrunk(y.T @ y / n, shrinkage))
    u, r, vt = torch.linalg.svd(x_root @ (x.T @ y / n) @ y_root, full_matrices=False)
    rank = min(dim, len(r))
    sign = torch.sign(u[u.abs().argmax(dim=0), torch.arange(u.shape[1])])
    root = r[:rank].clamp(min=0).sqrt() * sign[:rank]
    a, b = x.new_zeros(x.shape[1], dim), y.new_zeros(y.shape[1], dim)
    a[:, :rank] = x_root @ u[:, :rank] * root
    b[:, :rank] = y_root @ vt[:rank].T * root
    return a.float(), b.float()


def correlation_sum(x: Tensor, y: Tensor, shrinkage: float) -> Tensor:
    r"""Sum of squared shrunk canonical correlations, :math:`\mathrm{tr}(C_{xx}^{-1} C_{xy} C_{yy}^{-1} C_{yx})`."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)
    cross = x.T @ y / n
    left = torch.linalg.solve(shrunk(x.T @ x / n, shrinkage), cross)
    right = torch.linalg.solve(shrunk(y.T @ y / n, shrinkage), cross.T)
    return (left * right.T).sum()


def start_linear(network: NeuroAlign, data: TrainingData, generator: torch.Generator) -> None:
    """Set delays, maps, mixing read-outs and pools of a fresh network from the training pairs.

    Parameters
    ----------
    network : NeuroAlign
        On the CPU.
    data : TrainingData
        Only ``data.train`` is looked at.
    generator : torch.Generator
        Fills directions beyond the rank with small noise, so that they can be learned.
    """
    encoder = network.architecture.encoder
    dim, shrinkage = encoder["dim"], encoder["shrinkage"]
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_MOST_WINDOWS].sort().values
    brain, clip = data.train.brain.take(rows), data.train.clip[rows]
    video = [data.video[level][clip] for level in network.architecture.video_levels]

    mixing = network.encoders[VIDEO].mixing
    with torch.no_grad():
        mix = mixing.logits.softmax(dim=1)
    heard = [torch.cat([w * x for w, x in zip(row, video, strict=True)], dim=-1) for row in mix]
    if network.haemodynamic is not None:
        _fit_response(network, brain, heard, shrinkage)

    with torch.no_grad():
        x = [_resampled(network, brain, level) for level in range(len(heard))]
        _set_video_maps(network, x, video, mix, generator)
        y = mixing.mix(network.encoders[VIDEO].local_tokens(_named(network, video)))
        for level, patch in enumerate(network.encoders[FMRI].patches):
            patch_maps, readout = _level_maps(network, x[level], y[:, :, level], brain.subject, shrinkage)
            patch.weight.copy_(patch_maps + _noise(patch_maps, generator))
            mixing.readout[level].copy_(readout + _noise(readout, generator))
        network.eval()
        tokens_x = network.encode_fmri(brain).tokens.flatten(0, 1).flatten(1)
        tokens_y = network.encoders[VIDEO](_named(network, video)).flatten(0, 1).flatten(1)
        network.train()
        a, b = canonical_maps(tokens_x, tokens_y, dim, shrinkage)
        network.pools[FMRI].levels.copy_((a + _noise(a, generator)).view(-1, dim, dim))
        network.pools[VIDEO].levels.copy_((b + _noise(b, generator)).view(-1, dim, dim))


def _named(network: NeuroAlign, video: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(network.architecture.video_levels, video, strict=True))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    size = like.square().mean().sqrt()
    return _REST * size * torch.randn(like.shape, generator=generator)


def _resampled(network: NeuroAlign, brain: BrainInput, level: int) -> Tensor:
    """Inputs of one level on clip steps: (n, steps, inputs). Resampling and linear maps commute."""
    name = list(network.architecture.brain_levels)[level]
    x = torch.where(brain.valid[..., None], brain.levels[name], 0.0)
    layer = network.haemodynamic
    if layer is None:
        return network.encoders[FMRI].resample(
            x[:, :, None], brain.times, brain.valid, network.step_times, brain.subject
        )[:, :, 0]
    bias = layer.bias(brain.times, network.step_times, brain.subject)[..., level]
    weights = bias.masked_fill(~brain.valid[:, None], -1e9).softmax(dim=2) * brain.valid[:, None]
    return weights @ x


def _fit_response(network: NeuroAlign, brain: BrainInput, heard: list[Tensor], shrinkage: float) -> None:
    layer = network.haemodynamic
    optimiser = torch.optim.Adam(layer.haemodynamic_parameters(), lr=_FIT_RATE)
    targets = [y.flatten(0, 1) for y in heard]
    for step in range(_FIT_STEPS):
        optimiser.param_groups[0]["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
        optimiser.zero_grad()
        shared = sum(
            correlation_sum(_resampled(network, brain, level).flatten(0, 1), y, shrinkage)
            for level, y in enumerate(targets)
        )
        (_SHIFT_PENALTY * layer.shifts().square().sum() - shared).backward()
        optimiser.step()
    log.info("linear start: time to peak %s s", [round(float(d), 2) for d in layer.log_delay.detach().exp()])


def _set_video_maps(
    network: NeuroAlign, x: list[Tensor], video: list[Tensor], mix: Tensor, generator: torch.Generator
) -> None:
    """Video maps: the directions of each level's features that covary most with the brain levels listening to it."""
    for k, (features, weight) in enumerate(zip(video, network.encoders[VIDEO].maps, strict=True)):
        y = features.flatten(0, 1)
        y = y - y.mean(0)
        cross = torch.cat([mix[level, k] * (xl.flatten(0, 1).T @ y) / len(y) for level, xl in enumerate(x)])
        basis = torch.linalg.svd(cross.double(), full_matrices=False).Vh.T.float()
        basis = basis * torch.sign(basis[basis.abs().argmax(dim=0), torch.arange(basis.shape[1])])
        rank = min(basis.shape[1], weight.shape[1])
        filled = torch.zeros_like(weight)
        filled[:, :rank] = basis[:, :rank]
        weight.copy_(filled + _noise(filled, generator))


def _level_maps(
    network: NeuroAlign, x: Tensor, y: Tensor, subject: Tensor, shrinkage: float
) -> tuple[Tensor, Tensor]:
    """Brain maps (1 or subjects, inputs, dim) and video read-out (dim, dim) of one level."""
    dim, width = y.shape[-1], x.shape[-1]
    shared, people = network.architecture.shared_units, len(network.architecture.subjects)
    if shared:
        a, b = canonical_maps(x.flatten(0, 1), y.flatten(0, 1), dim, shrinkage)
        return a[None], b
    # Own units: every subject has a block of inputs of its own, so that all share the video's read-out.
    wide = x.new_zeros(*x.shape[:2], people, width)
    wide[torch.arange(len(x)), :, subject] = x
    a, b = canonical_maps(wide.flatten(2).flatten(0, 1), y.flatten(0, 1), dim, shrinkage)
    return a.view(people, width, dim), b
