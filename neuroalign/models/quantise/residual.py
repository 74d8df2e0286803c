"""Residual quantisation of tokens, level by level, with codebooks shared by all modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroalign.models.quantise.dynasync import DynaSyncCodebook, Statistics
from neuroalign.models.shapes import check_shapes


class Shared(Protocol):
    """Processes that train together (`training.processes`)."""

    def share(self, n: int) -> slice:
        """Which of n rows are this process's."""

    def sum(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Each tensor summed over processes."""


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
        processes: Shared | None = None,
    ) -> None:
        """Update every codebook from one batch of all modalities, together.

        Parameters
        ----------
        batch : mapping of modality to Quantised
        generator : torch.Generator
            Chooses tokens from which dead codes restart.
        present : mapping of modality to bool Tensor (n, steps), optional
            For a modality of which steps are missing: those count nothing.
        processes : Shared, optional
            Processes that all have the whole batch: each counts its share of it, and what they counted is summed. Codebooks are
            then the same bits in all of them, whatever order a device adds in.
        """
        present = present or {}
        books = [
            (level, depth, book) for level, row in enumerate(self.codebooks) for depth, book in enumerate(row)
        ]

        def tokens(level: int, depth: int, rows: Callable[[int], slice]) -> dict[str, Tensor]:
            found = {}
            for m, q in batch.items():
                own = rows(q.residuals.shape[1])
                x = q.residuals[depth, own, :, level].flatten(0, 1)
                found[m] = x[present[m][own].flatten()] if m in present else x
            return found

        whole: Callable[[int], slice] = slice
        counted = processes.share if processes else whole
        steps = [book.statistics(tokens(level, depth, counted)) for level, depth, book in books]
        if processes:
            summed = iter(processes.sum(x for step in steps for x in (step.count, step.total, step.error)))
            steps = [Statistics(*found) for found in zip(summed, summed, summed, strict=True)]
        for (level, depth, book), step in zip(books, steps, strict=True):
            live = torch.cat(list(tokens(level, depth, whole).values()))
            book.update(step, live, generator)

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
