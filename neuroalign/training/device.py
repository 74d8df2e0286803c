"""Device and precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from neuroalign.config.train import Train
from neuroalign.devices import autocast, choose_device
from neuroalign.training.processes import ALONE, Processes


def resolve_device(config: Train, processes: Processes = ALONE) -> torch.device:
    """The device to train on: ``auto`` is a GPU where there is one, and every process has its own.

    Raises
    ------
    UserError
        If ``cuda`` is asked for and there is none.
    """
    device = choose_device(config.device, "train.device")
    return torch.device("cuda", processes.local_rank) if device.type == "cuda" else device


def precision(config: Train, device: torch.device) -> AbstractContextManager:
    """Context for the forward pass: bfloat16 autocast or nothing; losses are computed in float32 outside it."""
    if config.precision == "auto":
        return autocast(device)
    return autocast(device, always=True) if config.precision == "bfloat16" else nullcontext()
