"""The fMRI encoder: a ViT over cortex and time whose patches are one level at one volume."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroalign.models.encoders.haemodynamic import HaemodynamicAttention, NearestInTime
from neuroalign.models.encoders.transformer import StepTransformer


class PatchEmbedding(nn.Module):
    r"""Linear map from the units of one level to a token.

    Shared units (parcels): :math:`x (W + A_s B_s)` with one W for all and a low-rank term of rank r per subject whose
    B starts at zero; an unknown subject has W alone. Own units (voxels): one W per subject.

    Parameters
    ----------
    units, dim, subjects : int
    rank : int
        Rank of the subject term; 0 leaves it out.
    shared : bool
        Whether the units of all subjects are the same.
    """

    def __init__(self, units: int, dim: int, subjects: int, rank: int, shared: bool):
        super().__init__()
        self.shared = shared
        self.weight = nn.Parameter(torch.randn(1 if shared else subjects, units, dim) / math.sqrt(units))
        self.rank = rank if shared else 0
        if self.rank:
            self.down = nn.Parameter(torch.randn(subjects, units, rank) / math.sqrt(units))
            self.up = nn.Parameter(torch.zeros(subjects, rank, dim))

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """Units (n, volumes, units) and subject index (n,) to tokens (n, volumes, dim)."""
        if not self.shared:
            if bool((subject < 0).any()):
                raise ValueError(
                    "a model of voxels has one map per subject and cannot embed an unknown subject"
                )
            return torch.bmm(x, self.weight[subject])
        out = x @ self.weight[0]
        if not self.rank:
            return out
        known = (subject >= 0)[:, None, None]
        person = subject.clamp(min=0)
        return out + torch.where(known, torch.bmm(torch.bmm(x, self.down[person]), self.up[person]), 0.0)


class BrainEncoder(nn.Module):
    """Volumes in, tokens (n, steps, levels, dim) out: patches, temporal adaptation, transformer.

    Parameters
    ----------
    levels : mapping of level name to number of inputs
    subjects : int
        Number of subjects known.
    steps : int
    aligned : bool
        Whether the haemodynamic delay is already dealt with.
    shared : bool
        Whether all subjects have the same units.
    dim, depth, heads, subject_rank : int
    dropout, input_dropout : float
    adapted : int
        How many of the subjects, the last ones, were added to a trained model.
    """

    def __init__(
        self,
        levels: Mapping[str, int],
        subjects: int,
        steps: int,
        *,
        aligned: bool,
        shared: bool,
        dim: int,
        depth: int,
        heads: int,
        subject_rank: int,
        dropout: float,
        input_dropout: float,
        adapted: int = 0,
    ):
        super().__init__()
        self.levels = list(levels)
        self.input_dropout = input_dropout
        self.patches = nn.ModuleList(
            PatchEmbedding(units, dim, subjects, subject_rank, shared) for units in levels.values()
        )
        self.resample = (
            NearestInTime() if aligned else HaemodynamicAttention(len(levels), subjects, dim, steps, adapted)
        )
        self.transformer = StepTransformer(steps, len(levels), dim, depth, heads, dropout)

    def local_tokens(
        self, levels: Mapping[str, Tensor], times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor
    ) -> Tensor:
        """Tokens before the transformer: what is linear in the units."""
        patches = []
        for name, patch in zip(self.levels, self.patches, strict=True):
            # What a censored volume holds is unknown, not zero; it must not reach keys or values, NaN included.
            x = torch.where(valid[..., None], levels[name], 0.0)
            if self.training and self.input_dropout:
                # One mask per window: a unit is missing for the whole clip, not flickering.
                keep = F.dropout(torch.ones_like(x[:, :1]), self.input_dropout)
                x = x * keep
            patches.append(patch(x, subject))
        return self.resample(torch.stack(patches, dim=2), times, valid, step_times, subject)

    def forward(
        self, levels: Mapping[str, Tensor], times: Tensor, valid: Tensor, step_times: Tensor, subject: Tensor
    ) -> Tensor:
        """Encode windows.

        Parameters
        ----------
        levels : mapping of level to Tensor of shape (n, volumes, inputs)
        times : Tensor of shape (n, volumes)
            Seconds after clip start.
        valid : bool Tensor of shape (n, volumes)
        step_times : Tensor of shape (steps,)
        subject : int Tensor of shape (n,)
            -1 for an unknown subject.
        """
        return self.transformer(self.local_tokens(levels, times, valid, step_times, subject))
