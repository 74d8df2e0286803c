"""Where neural networks run, and in which precision: what training, backbones and text models share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from neuroalign.errors import UserError


def choose_device(name: str, key: str) -> torch.device:
    """The device for ``auto`` (the GPU where there is one), ``cpu`` or ``cuda``.

    Parameters
    ----------
    name : str
    key : str
        The configuration key that says so, for the message.

    Raises
    ------
    UserError
        If ``cuda`` is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} is 'cuda' but PyTorch sees no GPU here; use 'auto' or 'cpu'.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(device: torch.device, always: bool = False) -> AbstractContextManager:
    """Autocast to bfloat16 on GPUs that have it; float32 elsewhere, so that CPU numbers are exact, unless it is `always`."""
    if always or (device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
