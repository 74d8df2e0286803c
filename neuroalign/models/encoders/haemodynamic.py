"""Temporal adaptation: from brain volumes to the steps of a clip.

`HaemodynamicAttention` learns the delay (``hrf.method: adaptive``); `NearestInTime` is for volumes whose
delay has been dealt with already (``shift``, ``glm``, ``none``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CANONICAL_DELAY_S = 5.0
CANONICAL_DISPERSION_S = math.sqrt(5.0)
# The undershoot of the canonical response: 10 s after the peak, a sixth of the area (Friston et al. 1998).
UNDERSHOOT_AFTER_S, UNDERSHOOT_DISPERSION_S, UNDERSHOOT_SIZE = 10.0, math.sqrt(15.0), 0.097
# Steps before and after a clip whose responses reach into its window.
CONTEXT_STEPS = 24
# Lags of the noise's autocorrelation, in repetition times, and its shrinkage towards white noise.
NOISE_LAGS, NOISE_SHRINKAGE = 16, 0.1
_INFORMATION_SHRINKAGE = 0.02
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


def response(lag: Tensor, delay: Tensor, dispersion: Tensor) -> Tensor:
    r"""Haemodynamic response with the canonical undershoot; about 1 at its peak, 0 before the stimulus.

    .. math:: r(u) = h(u; p, \sigma) - 0.097\, h(u; p + 10\,\mathrm{s}, \sqrt{15}\,\mathrm{s})

    which for p = 5 s and :math:`\sigma^2` = 5 s² is the difference of two gamma densities of Friston et al. (1998) in other units.

    Parameters
    ----------
    lag, delay, dispersion : Tensor
        As in `log_response`.
    """
    late = torch.full_like(delay, UNDERSHOOT_DISPERSION_S)
    under = log_response(lag, delay + UNDERSHOOT_AFTER_S, late).exp()
    return log_response(lag, delay, dispersion).exp() - UNDERSHOOT_SIZE * under


class HaemodynamicAttention(nn.Module):
    r"""From volumes to what each step of a clip evoked: attention along the haemodynamic response, weighed by the noise.

    A window of volumes x holds the responses to the steps f of its clip and of the film around it,
    :math:`x = A f + e` with :math:`A_{vt} = \sum_{u} r(\tau_v - \tau_u; p_l + \delta_s, \sigma_l)\, E_{ut}`, where E tells the steps u around a clip
    from its own steps t (`context`; on average, from the films' autocorrelation). With noise of covariance N over time, all that the window tells of f is

    .. math:: z = K^{-\top} A^\top N^{-1} x, \qquad K^\top K = \langle A^\top N^{-1} A \rangle,

    tokens with noise of unit variance, uncorrelated over steps (generalised least squares, as general linear models with
    prewhitening; Woolrich et al. 2001). They show the film as :math:`K f`: video tokens are multiplied by the same K
    (`models.model`). K is lower triangular: a token knows no later step of a film.

    The delay p and dispersion :math:`\sigma` are learned per level, the shift :math:`\delta` per subject. The content of a volume may
    change how much it is attended to, :math:`A_{vt} e^{q_l^\top W x_v / \sqrt d}`; q starts at zero, so that at first the response alone decides.

    Parameters
    ----------
    levels, subjects, dim, steps : int
        Number of brain levels, of known subjects, width of a token, and steps of a clip.
    adapted : int
        How many of the subjects, the last ones, were added to a trained model: they do not move the group.
    """

    def __init__(self, levels: int, subjects: int, dim: int, steps: int, adapted: int = 0):
        super().__init__()
        self.trained_subjects = subjects - adapted
        self.log_delay = nn.Parameter(torch.full((levels,), math.log(CANONICAL_DELAY_S)))
        self.log_dispersion = nn.Parameter(torch.full((levels,), math.log(CANONICAL_DISPERSION_S)))
        self.subject_shift = nn.Parameter(torch.zeros(subjects))
        self.query = nn.Parameter(torch.zeros(levels, dim))
        self.key = nn.Linear(dim, dim, bias=False)
        # Estimated from training windows (`training.response`), not learned: see `calibrate`.
        around = steps + 2 * CONTEXT_STEPS
        self.register_buffer("context", torch.zeros(around, steps))
        self.context[CONTEXT_STEPS : CONTEXT_STEPS + steps] = torch.eye(steps)
        self.register_buffer("noise", torch.zeros(levels, NOISE_LAGS))
        self.noise[:, 0] = 1.0
        self.register_buffer("noise_spacing_s", torch.tensor(1.0))
        self.register_buffer("decorrelate", torch.eye(steps))

    def haemodynamic_parameters(self) -> list[nn.Parameter]:
        """The parameters of the response, which have a learning rate of their own."""
        return [self.log_delay, self.log_dispersion, self.subject_shift]

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

    def delays(self, subject: Tensor) -> Tensor:
        """Time to peak in seconds of every presentation and level: (n, levels)."""
        return (self.log_delay.exp() + self.shift_of(subject)[:, None]).clamp(min=0.5)

    def design(self, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor) -> Tensor:
        """A: what each volume is expected to show of each step, (n, levels, volumes, steps); 0 for invalid volumes."""
        spacing = step_times[1] - step_times[0] if len(step_times) > 1 else step_times.new_tensor(1.0)
        offset = torch.arange(len(self.context), device=times.device) - CONTEXT_STEPS
        lag = times[:, None, :, None] - (step_times[0] + spacing * offset)
        delay = self.delays(subject)[:, :, None, None]
        evoked = response(lag, delay, self.log_dispersion.exp().clamp(min=0.3)[:, None, None])
        return (evoked @ self.context) * valid[:, None, :, None]

    def covariance(self, times: Tensor, valid: Tensor) -> Tensor:
        """N: covariance over the volumes of each window, (n, levels, volumes, volumes); invalid ones stand alone."""
        lag = (times[:, :, None] - times[:, None, :]).abs() / self.noise_spacing_s
        left = lag.floor().clamp(max=NOISE_LAGS - 1)
        share = (lag - left).clamp(0, 1)
        padded = torch.nn.functional.pad(self.noise, (0, 1))
        index = left.long()
        found = padded[:, index] * (1 - share) + padded[:, index + 1] * share
        both = valid[:, :, None] & valid[:, None, :]
        eye = torch.eye(times.shape[1], device=times.device)
        shrunk = (1 - NOISE_SHRINKAGE) * found.transpose(0, 1) * both[:, None] + NOISE_SHRINKAGE * eye
        return torch.where((~valid[:, :, None] & (eye > 0))[:, None], 1.0, shrunk)

    def information(self, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor) -> Tensor:
        """A' N⁻¹ A, what the volumes tell of the steps: (n, levels, steps, steps)."""
        design = self.design(times, valid, step_times, subject)
        return design.mT @ torch.linalg.solve(self.covariance(times, valid), design)

    @torch.no_grad()
    def calibrate(self, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor) -> Tensor:
        """Set `decorrelate` (K⁻ᵀ) from the windows there are, and return K (steps, steps)."""
        mean = self.information(times, valid, step_times, subject).mean((0, 1)).double()
        size = mean.diagonal().mean().clamp(min=1e-8)
        mean = mean + _INFORMATION_SHRINKAGE * size * torch.eye(
            len(mean), dtype=mean.dtype, device=mean.device
        )
        # The factor from below: KᵀK with K lower triangular.
        lower = torch.linalg.cholesky(mean.flip(0, 1)).flip(0, 1).mT
        self.decorrelate.copy_(torch.linalg.inv(lower).mT)
        return lower.float()

    def weights(
        self,
        times: Tensor,
        valid: Tensor,
        step_times: Tensor,
        subject: Tensor,
        salience: Tensor | None = None,
    ) -> Tensor:
        """What each volume adds to each step: (n, levels, steps, volumes).

        Parameters
        ----------
        times : Tensor (n, volumes)
        valid : bool Tensor (n, volumes)
        step_times : Tensor (steps,)
        subject : int Tensor (n,)
            Index of the subject; -1 (nobody the model knows) has no shift.
        salience : Tensor (n, volumes, levels), optional
            Logarithm of how much a volume is attended to for its content.
        """
        design = self.design(times, valid, step_times, subject)
        if salience is not None:
            design = design * salience.clamp(-5, 5).exp().transpose(1, 2)[..., None]
        return self.decorrelate @ torch.linalg.solve(self.covariance(times, valid), design).mT

    def forward(
        self, tokens: Tensor, times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor
    ) -> Tensor:
        """Read tokens (n, volumes, levels, dim) at the steps: (n, steps, levels, dim); invalid volumes count nothing."""
        tokens = torch.where(valid[:, :, None, None], tokens, 0.0)
        with torch.autocast(tokens.device.type, enabled=False):
            full = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            salience = (self.key(full) * self.query).sum(-1) / math.sqrt(tokens.shape[-1])
            weights = self.weights(times, valid, step_times, subject, salience)
        return torch.einsum("nltv,nvld->ntld", weights.to(tokens.dtype), tokens)


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
