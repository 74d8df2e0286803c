"""Residual quantisation of tokens, level by level, with codebooks shared by all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroalign.models.quantise.dynasync import DynaSyncCodebook
from neuroalign.models.shapes import check_shapes


@dataclass
class Quantised:
    """Quantised tokens of one modality.

    Attributes
    ----------
    tokens : Tensor (n, steps, levels, code_dim)
        Projected tokens of unit length, before quantisation.
    codes : Tensor (n, steps, levels, code_dim)
        Sum of the codes over depths; straight-through gradient to `tokens`.
    index : int Tensor (n, steps, levels, depth)
    residuals : Tensor (depth, n, steps, levels, code_dim)
        What each depth was given to quantise.
    """

    tokens: Tensor
    codes: Tensor
    index: Tensor
    residuals: Tensor


class TokenQuantiser(nn.Module):
    r"""Projection to code space, R residual codebooks per level, and a decoder back to tokens.

    .. math:: u = \frac{A^m_l z}{|A^m_l z|}, \quad r_1 = u, \quad k_r = \arg\max_k \cos(r_r, e_k^{(r)}), \quad
              r_{r+1} = r_r - e_{k_r}^{(r)}, \quad q = \sum_r e_{k_r}^{(r)}

    A projects per modality and level (starting at the first `code_dim` directions); codebooks are shared by modalities.

    Parameters
    ----------
    levels, dim : int
    modalities : list of str
    codes, code_dim, depth : int
    decay, tau, dynamic, revive_after
        See `DynaSyncCodebook`.
    """

    def __init__(
        self,
        levels: int,
        dim: int,
        modalities: list[str],
        *,
        codes: int,
        code_dim: int,
        depth: int,
        decay: float,
        tau: float,
        dynamic: bool,
        revive_after: int,
    ):
        super().__init__()
        self.modalities, self.depth = list(modalities), depth
        code_dim = min(code_dim, dim)
        self.projections = nn.ParameterDict(
            {m: nn.Parameter(torch.eye(dim, code_dim).repeat(levels, 1, 1)) for m in modalities}
        )
        self.decoders = nn.ParameterDict(
            {m: nn.Parameter(torch.eye(code_dim, dim).repeat(levels, 1, 1)) for m in modalities}
        )
        self.codebooks = nn.ModuleList(
            nn.ModuleList(
                DynaSyncCodebook(
                    codes,
                    code_dim,
                    modalities,
                    decay=decay,
                    tau=tau,
                    dynamic=dynamic,
                    revive_after=revive_after,
                )
                for _ in range(depth)
            )
            for _ in range(levels)
        )

    def project(self, modality: str, tokens: Tensor) -> Tensor:
        """Tokens (n, steps, levels, dim) to unit vectors (n, steps, levels, code_dim)."""
        projection = self.projections[modality]
        check_shapes(
            f"tokens of {modality}",
            projection=(projection, "levels dim code_dim"),
            tokens=(tokens, "n steps levels dim"),
        )
        return F.normalize(torch.einsum("ntld,ldc->ntlc", tokens, projection), dim=-1)

    def decode(self, modality: str, codes: Tensor) -> Tensor:
        """Codes (n, steps, levels, code_dim) back to tokens (n, steps, levels, dim)."""
        return torch.einsum("ntlc,lcd->ntld", codes, self.decoders[modality])

    def forward(self, modality: str, tokens: Tensor) -> Quantised:
        """Quantise the tokens (n, steps, levels, dim) of one modality."""
        projected = self.project(modality, tokens)
        residual, chosen, index, residuals = projected.detach(), 0.0, [], []
        for depth in range(self.depth):
            residuals.append(residual)
            at = torch.stack(
                [books[depth].assign(residual[:, :, level]) for level, books in enumerate(self.codebooks)],
                dim=2,
            )
            code = torch.stack(
                [books[depth](at[:, :, level]) for level, books in enumerate(self.codebooks)], dim=2
            )
            index.append(at)
            chosen, residual = chosen + code, residual - code
        straight = projected + (chosen - projected).detach()
        return Quantised(projected, straight, torch.stack(index, dim=-1), torch.stack(residuals))

    def distributions(self, projected: Tensor, temperature: float) -> Tensor:
        """Log-probabilities of the first-depth codes: (n, steps, levels, codes) of projected tokens."""
        logits = torch.stack(
            [books[0].similarity(projected[:, :, level]) for level, books in enumerate(self.codebooks)], dim=2
        )
        return (logits / temperature).log_softmax(dim=-1)

    @torch.no_grad()
    def update(
        self,
        batch: Mapping[str, Quantised],
        generator: torch.Generator,
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Update every codebook from one batch of all modalities, together.

        `present` has a bool Tensor (n, steps) for a modality of which steps are missing: those count nothing.
        """
        here = {m: mask.flatten() for m, mask in (present or {}).items()}
        for level, books in enumerate(self.codebooks):
            for depth, book in enumerate(books):
                tokens = {m: q.residuals[depth, :, :, level].flatten(0, 1) for m, q in batch.items()}
                tokens |= {m: tokens[m][mask] for m, mask in here.items() if m in tokens}
                book.update(book.statistics(tokens), torch.cat(list(tokens.values())), generator)

    @torch.no_grad()
    def start_from(
        self,
        tokens: Mapping[str, Tensor],
        generator: torch.Generator,
        most: int = 4096,
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        """k-means start of every codebook, depth by depth, on the tokens of all modalities (those `present`)."""
        parts = {m: self.project(m, z).flatten(0, 1) for m, z in tokens.items()}
        parts |= {m: parts[m][mask.flatten()] for m, mask in (present or {}).items()}
        projected = torch.cat(list(parts.values()))
        if len(projected) > most:
            projected = projected[
                torch.randperm(len(projected), generator=generator)[:most].to(projected.device)
            ]
        for level, books in enumerate(self.codebooks):
            residual = projected[:, level]
            for book in books:
                book.start_from(residual, generator)
                residual = residual - book(book.assign(residual))
