"""Pre-norm transformer over (step, level) tokens, causal in steps, starting as the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def step_causal_mask(steps: int, levels: int) -> Tensor:
    """Boolean mask (steps·levels, steps·levels): a token sees all levels of its own and of earlier steps."""
    step = torch.arange(steps).repeat_interleave(levels)
    return step[:, None] >= step[None, :]


class Block(nn.Module):
    r"""Attention and MLP, each scaled by a gate that starts at zero (LayerScale, Touvron et al. 2021).

    .. math:: x \leftarrow x + g_1 \odot \mathrm{Attn}(\mathrm{LN}(x)), \quad
              x \leftarrow x + g_2 \odot \mathrm{MLP}(\mathrm{LN}(x))

    With the gates at zero the block is the identity, so that an encoder starts as a linear model and depth acts
    only where it lowers the loss.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * dim, dim),
            nn.Dropout(dropout),
        )
        self.gate_attention = nn.Parameter(torch.zeros(dim))
        self.gate_mlp = nn.Parameter(torch.zeros(dim))

    @property
    def acts(self) -> bool:
        """Whether any gate is open."""
        return bool(self.gate_attention.any() or self.gate_mlp.any())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Tokens (n, tokens, dim) and boolean mask (tokens, tokens), or (n, 1, tokens, tokens), to tokens."""
        n, tokens, dim = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        x = x + self.gate_attention * self.out(seen.transpose(1, 2).reshape(n, tokens, dim))
        return x + self.gate_mlp * self.mlp(self.norm_mlp(x))


class StepTransformer(nn.Module):
    """Step and level embeddings (zero at the start) and `depth` blocks.

    Attention is causal in steps: the token of step t knows steps up to t. The pooled vector sees all steps
    anyway, and prediction of later steps (`losses.prediction`) stays honest without a second pass.

    Parameters
    ----------
    steps, levels, dim : int
    depth, heads : int
    dropout : float
    """

    def __init__(self, steps: int, levels: int, dim: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.step = nn.Parameter(torch.zeros(steps, 1, dim))
        self.level = nn.Parameter(torch.zeros(1, levels, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(depth))
        self.register_buffer("mask", step_causal_mask(steps, levels), persistent=False)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens (n, steps, levels, dim) to tokens of the same shape.

        No token attends to a step that is not `present` (bool Tensor (n, steps); absent: all are), but to itself.
        """
        x = (tokens + self.step + self.level).flatten(1, 2)
        mask = self.mask
        if present is not None:
            seen = present.repeat_interleave(tokens.shape[2], dim=1)[:, None, None, :]
            mask = mask & (seen | torch.eye(len(mask), dtype=torch.bool, device=mask.device))
        for block in self.blocks:
            # Without gradients a block whose gates are closed need not be computed to be the identity.
            if torch.is_grad_enabled() or block.acts:
                x = block(x, mask)
        return x.view_as(tokens)
