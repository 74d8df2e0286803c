"""From tokens to one vector per step and one per clip."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Pool(nn.Module):
    r"""Joint read-out of all levels, then pooling over steps.

    .. math:: g_t = \sum_l G_l z_{t,l}, \qquad
              p = [\,w_1 g_1, \dots, w_T g_T\,]\ (\texttt{steps}) \quad\text{or}\quad
              p = \sum_t w_t g_t\ (\texttt{mean})

    with learned positive step weights w. Keeping the steps apart keeps the order of events in a clip, which an average
    forgets.

    Parameters
    ----------
    steps, levels, dim : int
    mode : {"steps", "mean"}
    """

    def __init__(self, steps: int, levels: int, dim: int, mode: str):
        super().__init__()
        self.mode = mode
        self.levels = nn.Parameter(torch.eye(dim).repeat(levels, 1, 1) / math.sqrt(levels))
        self.log_weight = nn.Parameter(torch.zeros(steps))

    def steps(self, tokens: Tensor) -> Tensor:
        """Step vectors g (n, steps, dim) of tokens (n, steps, levels, dim)."""
        return torch.einsum("ntld,lde->nte", tokens, self.levels)

    def forward(self, steps: Tensor, present: Tensor | None = None) -> Tensor:
        """Pooled vectors (n, steps·dim) or (n, dim) of step vectors; a mean is over the steps that are `present`."""
        weighted = steps * self.log_weight.exp()[:, None]
        if self.mode == "steps":
            return weighted.flatten(1)
        if present is None:
            return weighted.mean(dim=1)
        return weighted.sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1)
