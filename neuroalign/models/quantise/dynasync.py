"""DynaSyncMM-EMA: one codebook for all modalities, updated by dynamically weighted moving averages.

The name is the paper's (You et al. 2026); the equations are ours, see docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroalign.models.shapes import check_shapes

_SMALL = 1e-6


@dataclass
class Statistics:
    """Additive statistics of one step: those of two halves of a batch, or of two processes, sum to the whole's.

    Attributes
    ----------
    count : Tensor (modalities, codes)
        n_k^m, tokens of modality m assigned to code k.
    total : Tensor (modalities, codes, dim)
        s_k^m, their sum.
    error : Tensor (modalities, codes)
        Sum of their squared distances to the code.
    """

    count: Tensor
    total: Tensor
    error: Tensor

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.count + other.count, self.total + other.total, self.error + other.error)

    def reduced(self, reduce: Callable[[Tensor], Tensor]) -> Statistics:
        """Each tensor passed through `reduce` (an all-reduce sum across processes)."""
        return Statistics(reduce(self.count), reduce(self.total), reduce(self.error))


class DynaSyncCodebook(nn.Module):
    r"""A codebook for any number of modalities.

    With n_k^m and s_k^m the number and the sum of modality m's tokens at code k, collected for all modalities and applied
    together,

    .. math::
        N_k \leftarrow \gamma N_k + (1-\gamma) \sum_m w_k^m n_k^m, \quad
        S_k \leftarrow \gamma S_k + (1-\gamma) \sum_m w_k^m s_k^m, \quad e_k = S_k / N_k,

        w_k^m = M \, \mathrm{softmax}_m(-q_k^m / \tau), \quad
        q_k^m = b_k \left( \frac{E_k^m / C_k^m}{\sum_j E_j^m / \sum_j C_j^m} - 1 \right), \quad
        b_k = \min_m c_k^m / \max_m c_k^m, \quad c_k^m = C_k^m / \langle C_j^m \rangle_j,

    where E and C are moving averages (the same :math:`\gamma`) of the summed squared error and of the count of modality
    m at code k, and softmax, min and max run over the M modalities present in this step. b, the same for all modalities, is the
    *balance* of a code: errors are compared as far as the modalities use the code alike. Without it a modality
    that has few, distant tokens at a code (as where no code serves them yet) could not pull the code over. Equal
    errors give weights of 1, and so does a single modality.

    Parameters
    ----------
    codes, dim : int
    modalities : list of str
    decay : float
        gamma.
    tau : float
    dynamic : bool
        False fixes all weights at 1.
    revive_after : int
        Steps without any token before a code restarts.
    """

    def __init__(
        self,
        codes: int,
        dim: int,
        modalities: list[str],
        *,
        decay: float = 0.99,
        tau: float = 0.5,
        dynamic: bool = True,
        revive_after: int = 50,
    ):
        super().__init__()
        self.modalities = list(modalities)
        self.decay, self.tau, self.dynamic, self.revive_after = decay, tau, dynamic, revive_after
        self.register_buffer("codes", F.normalize(torch.randn(codes, dim), dim=-1))
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", self.codes.clone())
        self.register_buffer("error", torch.zeros(len(modalities), codes))
        self.register_buffer("error_count", torch.zeros(len(modalities), codes))
        self.register_buffer("idle", torch.zeros(codes))

    def similarity(self, tokens: Tensor) -> Tensor:
        """Cosine of tokens (..., dim) and codes: (..., codes)."""
        return F.normalize(tokens, dim=-1) @ F.normalize(self.codes, dim=-1).T

    def assign(self, tokens: Tensor) -> Tensor:
        """The nearest code by cosine distance of each token (..., dim)."""
        return self.similarity(tokens).argmax(dim=-1)

    def forward(self, index: Tensor) -> Tensor:
        """The codes at `index`: (..., dim)."""
        return self.codes[index]

    @torch.no_grad()
    def statistics(self, tokens: Mapping[str, Tensor]) -> Statistics:
        """Collect one step's statistics.

        Parameters
        ----------
        tokens : mapping of modality to Tensor (tokens, dim)
            A modality that is missing, or has no row, counts nothing.

        Raises
        ------
        ValueError
            If tokens have another width than the codes, or a modality is not one of the codebook's.
        """
        if unknown := [m for m in tokens if m not in self.modalities]:
            raise ValueError(f"the codebook knows {', '.join(self.modalities)}, not '{unknown[0]}'")
        shape = (len(self.modalities), len(self.codes))
        count, error = self.codes.new_zeros(shape), self.codes.new_zeros(shape)
        total = self.codes.new_zeros(*shape, self.codes.shape[1])
        for m, modality in enumerate(self.modalities):
            x = tokens.get(modality)
            if x is None or not len(x):
                continue
            check_shapes("statistics", codes=(self.codes, "codes dim"), **{modality: (x, "tokens dim")})
            x = x.to(self.codes.dtype)
            index = self.assign(x)
            count[m].index_add_(0, index, torch.ones_like(x[:, 0]))
            total[m].index_add_(0, index, x)
            error[m].index_add_(0, index, (x - self.codes[index]).square().sum(dim=1))
        return Statistics(count, total, error)

    def weights(self, present: Tensor) -> Tensor:
        """w (modalities, codes) for the modalities that are `present` (bool Tensor); 0 for the others."""
        if not self.dynamic:
            return present[:, None].to(self.codes.dtype).expand(-1, len(self.codes))
        seen = self.error_count > _SMALL
        mean = self.error.sum(dim=1) / self.error_count.sum(dim=1).clamp(min=_SMALL)
        own = self.error / self.error_count.clamp(min=_SMALL)
        relative = torch.where(seen, own / mean.clamp(min=_SMALL)[:, None] - 1, 0.0)
        share = self.error_count / self.error_count.mean(dim=1, keepdim=True).clamp(min=_SMALL)
        least = share.masked_fill(~present[:, None], float("inf")).amin(dim=0)
        balance = least / share.masked_fill(~present[:, None], 0.0).amax(dim=0).clamp(min=_SMALL)
        logits = (-balance * relative / self.tau).masked_fill(~present[:, None], float("-inf"))
        return present.sum() * logits.softmax(dim=0) if bool(present.any()) else torch.zeros_like(logits)

    @torch.no_grad()
    def update(
        self,
        step: Statistics,
        live: Tensor | None = None,
        generator: torch.Generator | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Apply one step's statistics of all modalities at once.

        Parameters
        ----------
        step : Statistics
        live : Tensor (tokens, dim), optional
            Tokens from which dead codes restart; None restarts none.
        generator : torch.Generator, optional
            Chooses among them (on the CPU).
        reduce : callable, optional
            Sums a tensor over processes, for training on several devices.
        """
        if reduce is not None:
            step = step.reduced(reduce)
        gain = 1 - self.decay
        self.error.mul_(self.decay).add_(step.error, alpha=gain)
        self.error_count.mul_(self.decay).add_(step.count, alpha=gain)
        weight = self.weights(step.count.sum(dim=1) > 0)
        self.count.mul_(self.decay).add_((weight * step.count).sum(dim=0), alpha=gain)
        self.total.mul_(self.decay).add_((weight[..., None] * step.total).sum(dim=0), alpha=gain)
        alive = self.count > _SMALL
        self.codes[alive] = self.total[alive] / self.count[alive, None]
        used = step.count.sum(dim=0) > 0
        self.idle = torch.where(used, 0.0, self.idle + 1)
        if live is not None and len(live):
            self._revive(live, generator)

    def _revive(self, live: Tensor, generator: torch.Generator | None) -> None:
        """Restart dead codes: vector, count, sum and errors, or the next step would undo the restart."""
        dead = (self.idle >= self.revive_after).nonzero()[:, 0]
        if not len(dead):
            return
        pick = torch.randint(len(live), (len(dead),), generator=generator).to(live.device)
        count = self.count.mean().clamp(min=_SMALL)
        self.codes[dead] = live[pick].to(self.codes.dtype)
        self.count[dead] = count
        self.total[dead] = self.codes[dead] * count
        self.error[:, dead] = 0.0
        self.error_count[:, dead] = 0.0
        self.idle[dead] = 0.0

    @torch.no_grad()
    def start_from(self, tokens: Tensor, generator: torch.Generator, iterations: int = 10) -> None:
        """Spherical k-means of tokens (n, dim); the sums are scaled by the counts, so that e = S/N holds."""
        first = torch.randperm(len(tokens), generator=generator)[: len(self.codes)].to(tokens.device)
        self.codes[: len(first)] = tokens[first].to(self.codes.dtype)
        for _ in range(iterations):
            index = self.assign(tokens)
            count = torch.bincount(index, minlength=len(self.codes)).to(self.codes.dtype)
            total = torch.zeros_like(self.codes).index_add_(0, index, tokens.to(self.codes.dtype))
            filled = count > 0
            self.codes[filled] = total[filled] / count[filled, None]
        # Counts on the scale of an average code, so that the start weighs as much as some steps of training.
        self.count = torch.where(filled, count / count[filled].mean(), 1.0)
        self.total = self.codes * self.count[:, None]
