"""Device and precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from neuroalign.config.train import Train
from neuroalign.errors import UserError


def resolve_device(config: Train) -> torch.device:
    """The device to train on: ``auto`` is a GPU where there is one.

    Raises
    ------
    UserError
        If ``cuda`` is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UserError("train.device is 'cuda', but no GPU is visible; use 'auto' or 'cpu'.")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def precision(config: Train, device: torch.device) -> AbstractContextManager:
    """Context for the forward pass: bfloat16 autocast or nothing; losses are computed in float32 outside it."""
    auto = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bfloat16" or (config.precision == "auto" and auto):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
