"""Temporal adaptation: resampling of brain volumes onto the steps of a clip.

`HaemodynamicAttention` learns the delay (``hrf.method: adaptive``); `NearestInTime` is for volumes whose
delay has been dealt with already (``shift``, ``glm``, ``none``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CANONICAL_DELAY_S = 5.0
CANONICAL_DISPERSION_S = math.sqrt(5.0)
_EARLIEST_S = 0.05


def log_response(lag: Tensor, delay: Tensor, dispersion: Tensor) -> Tensor:
    r"""Logarithm of a gamma-shaped haemodynamic response, 0 at its peak.

    .. math:: \log h(u) = \frac{p^2}{\sigma^2}\left(\log\frac{u}{p} + 1 - \frac{u}{p}\right)

    is a gamma density with time to peak p, scaled to a peak of 1; the curvature there is that of a Gaussian of
    standard deviation :math:`\sigma`. With p = 5 s and :math:`\sigma^2` = 5 s² it is the first gamma function of
    the canonical response (shape 6, scale 1 s; Friston et al. 1998).

    Parameters
    ----------
    lag : Tensor
        Seconds since the stimulus; lags below 0.05 s count as 0.05 s, where the response is nil.
    delay, dispersion : Tensor
        p and sigma in seconds, broadcast against `lag`.
    """
    ratio = lag.clamp(min=_EARLIEST_S) / delay
    return (delay / dispersion) ** 2 * (ratio.log() + 1 - ratio)


class HaemodynamicAttention(nn.Module):
    r"""Attention from clip steps to volumes with a learned haemodynamic bias.

    .. math::
        z_{t,l} = \sum_v a_{t,v,l}\, x_{v,l}, \qquad
        a_{t,\cdot,l} = \mathrm{softmax}_v\left(q_l^\top W x_{v,l} / \sqrt d
            + \log h(\tau_v - \tau_t;\, p_l + \delta_s, \sigma_l)\right)

    The delay p and dispersion :math:`\sigma` are learned per level, the shift :math:`\delta` per subject; q starts at
    zero, so that at first the response alone decides.

    Parameters
    ----------
    levels, subjects, dim : int
        Number of brain levels, of known subjects, and width of a token.
    adapted : int
        How many of the subjects, the last ones, were added to a trained model: they do not move the group.
    """

    def __init__(self, levels: int, subjects: int, dim: int, adapted: int = 0):
        super().__init__()
        self.trained_subjects = subjects - adapted
        self.log_delay = nn.Parameter(torch.full((levels,), math.log(CANONICAL_DELAY_S)))
        self.log_dispersion = nn.Parameter(torch.full((levels,), math.log(CANONICAL_DISPERSION_S)))
        self.subject_shift = nn.Parameter(torch.zeros(subjects))
        self.query = nn.Parameter(torch.zeros(levels, dim))
        self.key = nn.Linear(dim, dim, bias=False)

    def haemodynamic_parameters(self) -> list[nn.Parameter]:
        """The parameters of the response, which have a learning rate of their own."""
        return [self.log_delay, self.log_dispersion, self.subject_shift]

    def bias(self, times: Tensor, step_times: Tensor, subject: Tensor) -> Tensor:
        """log h of every (step, volume, level): shape (n, steps, volumes, levels).

        Parameters
        ----------
        times : Tensor of shape (n, volumes)
        step_times : Tensor of shape (steps,)
        subject : int Tensor of shape (n,)
            Index of the subject; -1 (nobody the model knows) has no shift.
        """
        lag = (times[:, None, :] - step_times[None, :, None])[..., None]
        delay = (self.log_delay.exp() + self.shift_of(subject)[:, None]).clamp(min=0.5)
        return log_response(lag, delay[:, None, None, :], self.log_dispersion.exp().clamp(min=0.3))

    def shift_of(self, subject: Tensor) -> Tensor:
        """Delay shift in seconds of each presentation's subject, 0 for unknown subjects."""
        known = subject >= 0
        return torch.where(known, self.shifts()[subject.clamp(min=0)], 0.0)

    def shifts(self) -> Tensor:
        """Delay shift in seconds of every known subject; the mean of those trained is 0, as the level's delay holds it."""
        return self.subject_shift - self.subject_shift[: self.trained_subjects].mean()

    def penalty(self) -> Tensor:
        """Mean squared subject shift (s²): shrinks people towards the group."""
        return self.shifts().square().mean()

    def forward(
        self, tokens: Tensor, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor
    ) -> Tensor:
        """Resample tokens (n, volumes, levels, dim) to (n, steps, levels, dim); invalid volumes count nothing."""
        salience = (self.key(tokens) * self.query).sum(-1) / math.sqrt(tokens.shape[-1])
        logits = self.bias(times, step_times, subject) + salience[:, None]
        return _attend(logits, valid, tokens)


class NearestInTime(nn.Module):
    """Resampling of already aligned volumes: each step takes the nearest valid volume.

    A narrow Gaussian (a quarter of a step) in time plays the part of the response. Volumes on the clip's own steps
    pass through nearly unchanged; a single volume (a beta of a GLM) is given to every step; a censored step is
    filled from its neighbours.
    """

    def forward(
        self, tokens: Tensor, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor
    ) -> Tensor:
        """As `HaemodynamicAttention.forward`; `subject` is not looked at."""
        spacing = float(step_times[1] - step_times[0]) if len(step_times) > 1 else 1.0
        distance = (times[:, None, :] - step_times[None, :, None]) / (spacing / 4)
        logits = (-0.5 * distance**2)[..., None].expand(-1, -1, -1, tokens.shape[2])
        return _attend(logits, valid, tokens)


def _attend(logits: Tensor, valid: Tensor, tokens: Tensor) -> Tensor:
    """Softmax over valid volumes and weighted sum; a window without any valid volume gives zeros."""
    mask = valid[:, None, :, None]
    weights = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(dim=2) * mask
    return torch.einsum("ntvl,nvld->ntld", weights.to(tokens.dtype), tokens)
