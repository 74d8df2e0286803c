"""Losses of stage 2. Prediction from quantised tokens is `losses.prediction` on quantised step vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroalign.models.losses.contrast import soft_cross_entropy
from neuroalign.models.shapes import check_shapes


def commitment(tokens: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    r"""Commitment to the own code and, with half weight, to the partner's.

    .. math:: \| u - \mathrm{sg}(q) \|^2 + \tfrac12 \| u - \mathrm{sg}(q') \|^2

    Parameters
    ----------
    tokens, own, partner : Tensor (..., code_dim)
        Projected tokens, their codes, and the codes of the paired tokens of the other modality.
    """
    for name, code in (("own", own), ("partner", partner)):
        _same_shape("commitment", tokens, name, code)
    own_distance = (tokens - own.detach()).square().sum(dim=-1).mean()
    return own_distance + 0.5 * (tokens - partner.detach()).square().sum(dim=-1).mean()


def code_agreement(
    brain: Tensor, video: Tensor, own: Tensor, targets: Tensor, present: Tensor | None = None
) -> Tensor:
    r"""Agreement of the code distributions of paired tokens.

    The symmetric cross-entropy of the distributions of clips i and j, averaged over steps and levels,

    .. math:: H_{ij} = \tfrac12\langle -\textstyle\sum_k p^b_i \log p^v_j - \sum_k p^v_j \log p^b_i \rangle,

    is minimised for pairs (divided by log K) and, as :math:`-H`, is the similarity of an in-batch contrast in both
    directions (after Liu et al. 2021, cross-modal discrete representation learning).

    Parameters
    ----------
    brain : Tensor (n, steps, levels, codes)
        Log-probabilities.
    video : Tensor (m, steps, levels, codes)
    own : int Tensor (n,)
        Row of `video` that belongs to each brain window.
    targets : Tensor (n, m)
    present : bool Tensor (m, steps), optional
        Steps that `video` (here: text) has, at least one per clip; the average is over these.
    """
    check_shapes(
        "code_agreement",
        brain=(brain, "n steps levels codes"),
        video=(video, "m steps levels codes"),
        own=(own, "n"),
        targets=(targets, "n m"),
        **({} if present is None else {"present": (present, "m steps")}),
    )
    tokens: int | Tensor = brain.shape[1] * brain.shape[2]
    factor: float | Tensor = tokens**0.5
    b, v = brain.flatten(1), video.flatten(1)
    v_exp = v.exp()
    if present is not None:
        here = present[..., None, None].expand_as(video).flatten(1)
        v, v_exp = v * here, v_exp * here
        tokens = present.sum(dim=1) * brain.shape[2]
        # One for all columns: a clip with few captioned steps must not stand out by that alone.
        factor = tokens.float().mean().sqrt()
    entropy = -0.5 * (b.exp() @ v.T + b @ v_exp.T) / tokens
    pairs = entropy[torch.arange(len(own), device=own.device), own].mean()
    # Contrasted as a sum over the clip's tokens, like the log-likelihood of a code sequence, tempered by its root.
    logits = -entropy * factor
    contrast = 0.5 * (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T))
    return pairs / torch.log(brain.new_tensor(float(brain.shape[-1]))) + contrast


def reconstruction(decoded: Tensor, tokens: Tensor) -> Tensor:
    """Mean of 1 - cosine between decoded and stage-1 tokens (..., dim); the target has no gradient."""
    _same_shape("reconstruction", tokens, "decoded", decoded)
    return (1 - F.cosine_similarity(decoded, tokens.detach(), dim=-1)).mean()


def _same_shape(where: str, tokens: Tensor, name: str, other: Tensor) -> None:
    """Broadcasting would turn a mistake into a number."""
    if other.shape != tokens.shape:
        raise ValueError(
            f"{where}: {name} has shape {tuple(other.shape)}, but the tokens have {tuple(tokens.shape)}"
        )
