r"""Do the dynamic weights of DynaSyncMM-EMA give a better codebook than fixed ones? Synthetic tokens with known centres.

Two modalities show the same sequence of K true centres on the unit sphere, each with noise of its own; modality `a` is the
clean one wherever the two differ. A codebook follows them by moving averages, once with weights fixed at 1 and once per
temperature with dynamic ones, on the same tokens. Measured at the end, on new tokens:

- ``centre``: 1 - cosine of a true centre and its code, mean over centres, times 1000 (0 is a perfect codebook);
- ``error``: 1 - cosine of clean tokens and the code they take;
- ``same``: share of pairs whose two tokens take the same code.

Differences to fixed weights are paired by seed, with their standard error. Codes start near the true centres, which shows what
the averages themselves do, or (``--start kmeans``) from k-means of all tokens, as in training.

    python benchmarks/dynamic_weights.py [--seeds 5] [--start near|kmeans] [--decay 0.9 0.99] [--tau 1.0 0.5 0.2]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroalign.models.quantise.dynasync import DynaSyncCodebook

CODES, DIM, PAIRS, STEPS, TEST = 32, 16, 128, 150, 4000
MODALITIES = ["a", "b"]


@dataclass(frozen=True)
class Case:
    """Length of the noise relative to a token's, of modalities a and b, at the first and at the second half of the centres."""

    name: str
    a: tuple[float, float]
    b: tuple[float, float]


CASES = (
    Case("equal noise", (0.5, 0.5), (0.5, 0.5)),
    Case("b noisier everywhere (1.0)", (0.5, 0.5), (1.0, 1.0)),
    Case("b noisier everywhere (1.5)", (0.5, 0.5), (1.5, 1.5)),
    Case("b noisy at half of the codes (1.5)", (0.5, 0.5), (1.5, 0.5)),
    Case("b noisy at half of the codes (2.5)", (0.5, 0.5), (2.5, 0.5)),
    Case("each noisy at its own half (1.5)", (1.5, 0.5), (0.5, 1.5)),
)


def unit_noise(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gaussian noise of unit expected squared length."""
    return torch.randn(*size, generator=generator) / size[1] ** 0.5


def show(centres: Tensor, noise: tuple[float, float], which: Tensor, generator: torch.Generator) -> Tensor:
    """One noisy token of unit length per entry of `which`."""
    half = len(centres) // 2
    length = torch.where(which < half, *map(torch.tensor, noise))
    x = centres[which] + length[:, None] * unit_noise((len(which), centres.shape[1]), generator)
    return F.normalize(x, dim=-1)


def run(
    case: Case,
    seed: int,
    *,
    dynamic: bool,
    tau: float = 0.5,
    decay: float = 0.99,
    start: str = "near",
    codes: int = CODES,
    steps: int = STEPS,
) -> dict[str, float]:
    """Follow one sequence of tokens and measure the codebook.

    Parameters
    ----------
    case : Case
    seed : int
        Of centres, tokens and start; the same for all codebooks that are compared.
    dynamic, tau, decay
        See `DynaSyncCodebook`.
    start : str
        ``near`` the true centres, or ``kmeans``.
    codes, steps : int

    Returns
    -------
    dict
        `centre`, `error` and `same`, and `weight_a`, the mean weight of modality a.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(codes, DIM, generator=generator), dim=-1)
    book = DynaSyncCodebook(codes, DIM, MODALITIES, decay=decay, tau=tau, dynamic=dynamic)
    near = F.normalize(centres + 0.3 * unit_noise((codes, DIM), generator), dim=-1)
    which = torch.randint(codes, (8 * codes,), generator=generator)
    first = torch.cat([show(centres, noise, which, generator) for noise in (case.a, case.b)])
    if start == "near":
        book.codes.copy_(near)
        book.total.copy_(near)
    else:
        book.start_from(first, generator)
    for _ in range(steps):
        which = torch.randint(codes, (PAIRS,), generator=generator)
        tokens = {
            m: show(centres, noise, which, generator)
            for m, noise in zip(MODALITIES, (case.a, case.b), strict=True)
        }
        book.update(book.statistics(tokens), torch.cat(list(tokens.values())), generator)
    which = torch.randint(codes, (TEST,), generator=generator)
    a, b = (show(centres, noise, which, generator) for noise in (case.a, case.b))
    taken = book.assign(a)
    similar = F.normalize(centres, dim=-1) @ F.normalize(book.codes, dim=-1).T
    # Codes that started at a centre are its codes; others are the nearest ones.
    own = similar.diagonal() if start == "near" else similar.max(dim=1).values
    weights = book.weights(torch.tensor([True, True]))
    return {
        "centre": float((1 - own).mean()),
        "error": float((1 - book.similarity(a).max(dim=1).values).mean()),
        "same": float((taken == book.assign(b)).float().mean()),
        "weight_a": float(weights[0].mean()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", choices=("near", "kmeans"), default="near")
    parser.add_argument("--decay", type=float, nargs="+", default=[0.9, 0.99])
    parser.add_argument("--tau", type=float, nargs="+", default=[1.0, 0.5, 0.2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.seeds)
    print(f"{'case':36s} decay  tau    centre  difference        error    same   weight of a")
    for case in CASES:
        for decay in arguments.decay:
            fixed = None
            for tau in (None, *arguments.tau):
                found = [
                    run(
                        case,
                        seed,
                        dynamic=tau is not None,
                        tau=tau or 1.0,
                        decay=decay,
                        start=arguments.start,
                    )
                    for seed in seeds
                ]
                centre = 1000 * np.array([f["centre"] for f in found])
                fixed = centre if fixed is None else fixed
                gap = centre - fixed
                error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
                mean = {k: np.mean([f[k] for f in found]) for k in found[0]}
                told = "fixed" if tau is None else f"{tau:.1f}  "
                print(
                    f"{case.name:36s} {decay:<5}  {told}  {centre.mean():6.2f}  {gap.mean():+6.2f} ± {error:4.2f}"
                    f"    {mean['error']:.4f}  {mean['same']:.3f}  {mean['weight_a']:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
