"""The video encoder: hierarchical features on clip steps to tokens of the brain's levels.

Text uses the same encoder: it is a modality of one level, of which all brain levels hear, and of which steps may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroalign.models.encoders.transformer import StepTransformer

_START_LOGIT = 1.0


def diagonal_start(brain_levels: int, video_levels: int) -> Tensor:
    """Logits (brain levels, video levels) that favour the video level at the same relative depth.

    With equal numbers of levels the largest logit is on the diagonal; with K != L, brain level l sits at
    position l (K-1)/(L-1) among the video levels and logits fall off with the distance from there, in units of the spacing of
    brain levels where those are fewer, so that no video level goes unheard.
    """
    top = max(brain_levels - 1, 1)
    position = torch.arange(brain_levels) * (video_levels - 1) / top
    distance = (position[:, None] - torch.arange(video_levels)[None, :]).abs()
    return -_START_LOGIT * distance / max(1.0, (video_levels - 1) / top)


class LevelMixing(nn.Module):
    r"""Brain level l listens to the video levels: :math:`y_l = H_l \sum_k \mathrm{softmax}_k(M_{lk})\, x_k`.

    M starts on the diagonal (`diagonal_start`), the read-out H at the identity. Where mixing is ``uniform``, M is 0 and is
    not learned.
    """

    def __init__(self, brain_levels: int, video_levels: int, dim: int, mixing: str = "learned"):
        super().__init__()
        if mixing == "uniform":
            self.register_buffer("logits", torch.zeros(brain_levels, video_levels))
        else:
            self.logits = nn.Parameter(diagonal_start(brain_levels, video_levels))
        self.readout = nn.Parameter(torch.eye(dim).repeat(brain_levels, 1, 1))

    def mix(self, tokens: Tensor) -> Tensor:
        """Weighted sums (n, steps, brain levels, dim) of tokens (n, steps, video levels, dim)."""
        return torch.einsum("lk,ntkd->ntld", self.logits.softmax(dim=1), tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, steps, video levels, dim) to (n, steps, brain levels, dim)."""
        return torch.einsum("ntld,lde->ntle", self.mix(tokens), self.readout)


class VideoEncoder(nn.Module):
    """Features in, tokens (n, steps, brain levels, dim) out.

    Parameters
    ----------
    levels : mapping of level name to feature dimension, early to late
    brain_levels, steps, dim, depth, heads : int
    dropout, input_dropout : float
    mixing : {"learned", "uniform"}
    """

    def __init__(
        self,
        levels: Mapping[str, int],
        brain_levels: int,
        steps: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        dropout: float,
        input_dropout: float,
        mixing: str = "learned",
    ):
        super().__init__()
        self.levels = list(levels)
        self.input_dropout = input_dropout
        self.maps = nn.ParameterList(
            nn.Parameter(torch.randn(size, dim) / math.sqrt(size)) for size in levels.values()
        )
        self.transformer = StepTransformer(steps, len(levels), dim, depth, heads, dropout)
        self.mixing = LevelMixing(brain_levels, len(levels), dim, mixing)

    def local_tokens(self, levels: Mapping[str, Tensor]) -> Tensor:
        """Tokens (n, steps, video levels, dim) before the transformer."""
        tokens = []
        for name, weight in zip(self.levels, self.maps, strict=True):
            x = levels[name]
            if self.training and self.input_dropout:
                x = x * F.dropout(torch.ones_like(x[:, :1]), self.input_dropout)
            tokens.append(x @ weight)
        return torch.stack(tokens, dim=2)

    def forward(self, levels: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Encode features.

        Parameters
        ----------
        levels : mapping of level to Tensor of shape (n, steps, feature dimension)
        present : bool Tensor of shape (n, steps), optional
            Steps that there are; tokens of others are zero and nothing depends on their features.
        """
        tokens = self.local_tokens(levels)
        if present is None:
            return self.mixing(self.transformer(tokens))
        here = present[..., None, None]
        tokens = self.transformer(torch.where(here, tokens, 0.0), present)
        return torch.where(here, self.mixing(tokens), 0.0)
