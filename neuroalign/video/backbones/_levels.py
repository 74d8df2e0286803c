"""Levels of transformers: which layers, and how the tokens of a layer become one row of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from neuroalign.errors import UserError

DEPTHS = 4


def layer_numbers(chosen: Sequence[int] | None, depth: int) -> list[int]:
    """The layers that are levels, from early to late.

    Parameters
    ----------
    chosen : sequence of int, optional
        ``video.layers``, counted from 1. By default four at evenly spaced depths, the last layer included: 3, 6, 9
        and 12 of 12.
    depth : int
        Layers of the model.

    Raises
    ------
    UserError
        If the model has no such layer.
    """
    if chosen is None:
        # All of them, where there are fewer than four.
        return sorted({-(-depth * i // DEPTHS) for i in range(1, DEPTHS + 1)})
    if wrong := [n for n in chosen if not 1 <= n <= depth]:
        raise UserError(f"video.layers names layer {wrong[0]}, but the model has layers 1 to {depth}.")
    return sorted(set(chosen))


def pool_tokens(pooling: str, special: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns the tokens of a layer, (pictures, tokens, dim), into rows, (pictures, dim).

    Parameters
    ----------
    pooling : str
        ``cls``: the class token; ``mean``: the mean over the patches.
    special : int
        Tokens before those of the patches (the class token among them).
    """
    if pooling == "cls":
        return lambda state: state[:, 0].float()
    # In float32: a mean over many tokens would lose digits in bfloat16.
    return lambda state: state[:, special:].float().mean(dim=1)


class Taps:
    """Takes the pooled output of some layers while a model computes.

    Only pooled rows are kept: the hidden states of all layers of a video model would take a gigabyte a clip. The tokens
    are those of the residual stream after the layer, as in ``output_hidden_states``: no final layer norm is applied, to
    the last layer neither, so that all levels are of one kind. Layers after the deepest level are removed.

    Parameters
    ----------
    layers : ModuleList
        Of the model; it is cut after the last of `numbers`, unless `whole`.
    numbers : sequence of int
        Layers to take, counted from 1, ascending.
    pool : callable
        See `pool_tokens`.
    whole : bool
        Keep all layers: something after them is used as well.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        numbers: Sequence[int],
        pool: Callable[[torch.Tensor], torch.Tensor],
        *,
        whole: bool = False,
    ):
        self._rows: list[torch.Tensor] = []
        self._pool = pool
        self._count = len(numbers)
        for number in numbers:
            layers[number - 1].register_forward_hook(self._take)
        if not whole:
            del layers[numbers[-1] :]

    def _take(self, module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
        self._rows.append(self._pool(output[0] if isinstance(output, tuple) else output))

    def rows(self) -> list[torch.Tensor]:
        """One tensor (pictures, dim) per layer, of the forward pass that just ended."""
        rows, self._rows = self._rows, []
        if len(rows) != self._count:
            raise RuntimeError(f"{len(rows)} of {self._count} layers were seen")
        return rows
