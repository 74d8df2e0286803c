"""InfoNCE with several positives and softened targets: L_global and L_level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroalign.models.shapes import check_shapes


@dataclass
class Content:
    """What is shown in each of n clips.

    Attributes
    ----------
    clip : int Tensor (n,)
        Identity of the content: equal for two presentations of the same seconds.
    stimulus : int Tensor (n,)
    start_s : Tensor (n,)
        Seconds into the stimulus.
    """

    clip: Tensor
    stimulus: Tensor
    start_s: Tensor

    def take(self, rows: Tensor) -> Content:
        """The clips at `rows`."""
        return Content(self.clip[rows], self.stimulus[rows], self.start_s[rows])


def soft_targets(rows: Content, columns: Content, width_s: float) -> Tensor:
    r"""Target weights (rows, columns) of a contrast.

    1 for the same content; :math:`\exp(-\Delta^2 / 2w^2)` for another clip of the same stimulus whose start is
    :math:`\Delta` seconds away (neither a clean negative nor a positive); 0 otherwise and, between different
    contents, where `width_s` is 0. Rows are not normalised.
    """
    same = rows.clip[:, None] == columns.clip[None, :]
    if width_s <= 0:
        return same.float()
    gap = rows.start_s[:, None] - columns.start_s[None, :]
    near = torch.exp(-0.5 * (gap / width_s) ** 2)
    beside = rows.stimulus[:, None] == columns.stimulus[None, :]
    return torch.where(same, 1.0, torch.where(beside, near, 0.0))


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Mean over rows of :math:`-\sum_j y_{ij} \log \mathrm{softmax}_j(s_{ij})`, y the row-normalised targets.

    Rows without any target are left out.
    """
    total = targets.sum(dim=1, keepdim=True)
    shares = targets / total.clamp(min=torch.finfo(targets.dtype).tiny)
    # Masked candidates (-inf logits) carry no target; 0 · -inf must stay 0.
    log_p = logits.log_softmax(dim=1)
    loss = -torch.where(shares > 0, shares * log_p, 0.0).sum(dim=1)
    rows = total[:, 0] > 0
    return (loss * rows).sum() / rows.sum().clamp(min=1)


def info_nce(a: Tensor, b: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    r"""Symmetric InfoNCE between vectors a (n, d) and b (m, d).

    .. math:: \tfrac12 \mathrm{CE}(s, Y) + \tfrac12 \mathrm{CE}(s^\top, Y^\top), \quad s_{ij} = \cos(a_i, b_j) / \tau

    with the multi-positive, softened targets Y of `soft_targets` (van den Oord et al. 2018; several positives as in
    Khosla et al. 2020).
    """
    check_shapes("info_nce", a=(a, "n d"), b=(b, "m d"), targets=(targets, "n m"))
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    return 0.5 * (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T))


def level_info_nce(a: Tensor, b: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """L_level: the mean over levels of `info_nce` of tokens (n, steps, levels, dim), steps side by side."""
    levels = check_shapes("level_info_nce", a=(a, "n steps levels dim"), b=(b, "m steps levels dim"))[
        "levels"
    ]
    terms = [
        info_nce(a[:, :, level].flatten(1), b[:, :, level].flatten(1), targets, scale)
        for level in range(levels)
    ]
    return torch.stack(terms).mean()


def centred(vectors: Tensor, present: Tensor | None = None) -> Tensor:
    """Vectors without their mean over the batch.

    What all clips share (an offset of the features of a film, say) says nothing about which clip it is.

    Parameters
    ----------
    vectors : Tensor (n, ...)
    present : bool Tensor (n, steps), optional
        For vectors (n, steps, ...): the mean of each step is over the clips that have it; other steps stay zero.
    """
    if present is None:
        return vectors - vectors.mean(dim=0, keepdim=True)
    here = present.view(*present.shape, *[1] * (vectors.dim() - 2))
    mean = (vectors * here).sum(dim=0, keepdim=True) / here.sum(dim=0, keepdim=True).clamp(min=1)
    return torch.where(here, vectors - mean, 0.0)
