"""The checkpoint of a stage: everything needed to go on exactly, as one safetensors file with JSON metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuroalign.io import atomic_path

log = logging.getLogger(__name__)


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write tensors by part and name, and JSON-like state; a write that is cut short leaves the file before it.

    Parameters
    ----------
    path : Path
    parts : mapping of str to mapping of str to Tensor
    state : mapping
        With a `fingerprint`: what the checkpoint may be taken up by.
    """
    plain = {
        f"{part}.{name}": value.detach().cpu().clone().contiguous()
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }
    with atomic_path(path) as temporary:
        save_file(plain, temporary, {"state": json.dumps(dict(state))})


def read(path: Path, fingerprint: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The tensors and the state of a checkpoint; None if there is none with this fingerprint that can be read."""
    if not path.exists():
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            if state["fingerprint"] != fingerprint:
                return None
            for key in file.keys():  # noqa: SIM118
                part, name = key.split(".", 1)
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        log.warning("%s cannot be read; training starts again", path)
        return None
    return parts, state


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser by ``<parameter>.<name>``."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
