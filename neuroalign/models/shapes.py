"""Checks of tensor shapes: one sentence that names the function, the tensor and what was expected."""

from __future__ import annotations

from torch import Tensor


def check_shapes(where: str, **tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Check the shapes of tensors that share dimensions.

    Parameters
    ----------
    where : str
        The function, for the message.
    **tensors : (Tensor, str)
        By name, a tensor and its dimensions, such as ``"n steps dim"``. A name that comes back must have the same size; a
        number is that size.

    Returns
    -------
    dict of str to int
        Size of every named dimension.

    Raises
    ------
    ValueError
        If a tensor has another shape.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, described) in tensors.items():
        dims = described.split()
        known = {dim: sizes[dim] for dim in dims if dim in sizes}
        fits = tensor.dim() == len(dims) and all(
            size == (int(dim) if dim.isdigit() else sizes.setdefault(dim, size))
            for dim, size in zip(dims, tensor.shape, strict=True)
        )
        if not fits:
            told = ", ".join(f"{dim} = {size}" for dim, size in known.items())
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, but ({', '.join(dims)}) is needed"
                + (f" with {told}" if told else "")
            )
    return sizes
