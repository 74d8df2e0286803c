"""Scaled brain windows where they fit: on the device of the network, in memory beside it, or on disk until asked for."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from neuroalign.models.model import BrainInput
from neuroalign.models.scaling import Scalers
from neuroalign.pairs.store import PairedDataset

# Share of a GPU's free memory that windows may take; the rest is the network's.
_GPU_SHARE = 0.5


class Brain(Protocol):
    """What stands for brain windows: a `BrainInput`, or something that gives one for the rows of a batch.

    Attributes
    ----------
    subject : int Tensor (n,)
    """

    subject: Tensor

    def take(self, rows: Tensor) -> BrainInput:
        """The windows at `rows`."""

    def to(self, device: torch.device) -> Brain:
        """The same for a network on another device."""

    def __len__(self) -> int: ...


class ScaledWindows:
    """Windows of one split of a paired dataset, read and scaled when they are asked for.

    What `take` gives does not depend on which other rows are asked for with them: every window is scaled by itself.

    Parameters
    ----------
    pairs : PairedDataset
        In memory (`read_pairs`) or on disk (`open_pairs`).
    scalers : Scalers
    split : str
    known : list of str
        Subjects with training clips, in the order of their numbers.
    """

    def __init__(self, pairs: PairedDataset, scalers: Scalers, split: str, known: Sequence[str]):
        self.scalers, self.device = scalers, torch.device("cpu")
        self.levels = list(next(iter(pairs.brain.values())).levels)
        self.volumes = max(windows.times.shape[1] for windows in pairs.brain.values())
        chosen = pairs.clips["split"].to_numpy() == split
        numbers, places, starts = [], [], [0]
        self._people = []
        for place, (subject, windows) in enumerate(pairs.brain.items()):
            rows = np.flatnonzero(chosen[windows.rows])
            # Any negative number is somebody the model does not know; each keeps a number of their own.
            numbers.append(np.full(len(rows), known.index(subject) if subject in known else -1 - place))
            places.append(rows)
            starts.append(starts[-1] + len(rows))
            self._people.append((subject, windows))
        self.subject = torch.from_numpy(np.concatenate(numbers).astype(np.int64))
        self._place, self._start = np.concatenate(places), np.array(starts)

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def bytes(self) -> int:
        """Bytes of all windows once they are scaled."""
        width = sum(self.scalers.brain_width(level) for level in self.levels)
        return len(self) * self.volumes * (4 * width + 5)

    def to(self, device: torch.device) -> ScaledWindows:
        """The same, giving its windows on another device."""
        other = copy(self)
        other.device = device
        return other

    def load(self) -> BrainInput:
        """All windows, in memory, read person by person."""
        return self.take(torch.arange(len(self)))

    def take(self, rows: Tensor) -> BrainInput:
        """The windows at `rows`, scaled."""
        rows = rows.cpu().numpy()
        n = len(rows)
        levels = {
            name: np.zeros((n, self.volumes, self.scalers.brain_width(name)), np.float32)
            for name in self.levels
        }
        # Subjects may differ in repetition time and so in volumes per window: later volumes are padding.
        times, valid = np.zeros((n, self.volumes), np.float32), np.zeros((n, self.volumes), bool)
        owner = np.searchsorted(self._start, rows, side="right") - 1
        for person in np.unique(owner):
            (subject, windows), mine = self._people[person], np.flatnonzero(owner == person)
            place = self._place[rows[mine]]
            here = windows.valid[place]
            end = here.shape[1]
            times[mine, :end], valid[mine, :end] = windows.times[place], here
            for name, data in windows.levels.items():
                clean = np.where(here[..., None], data[place], np.float32(0))
                levels[name][mine, :end] = self.scalers.scale_brain(subject, name, clean)
        brain = BrainInput(
            {name: torch.from_numpy(x) for name, x in levels.items()},
            torch.from_numpy(times),
            torch.from_numpy(valid),
            self.subject[torch.from_numpy(rows)],
        )
        return sent(brain, self.device)


class NearbyWindows:
    """Windows in memory of a network on a GPU that has no room for all of them."""

    def __init__(self, brain: BrainInput, device: torch.device):
        self.brain, self.device, self.subject = brain, device, brain.subject

    def __len__(self) -> int:
        return len(self.brain)

    def to(self, device: torch.device) -> Brain:
        """The same for a network on another device."""
        return placed(self.brain, device)

    def take(self, rows: Tensor) -> BrainInput:
        """The windows at `rows`, on the device of the network."""
        return sent(self.brain.take(rows.cpu()), self.device)


def sent(brain: BrainInput, device: torch.device) -> BrainInput:
    """Windows on a device; to a GPU without waiting for the copy."""
    if device.type != "cuda":
        return brain.to(device)

    def send(x: Tensor) -> Tensor:
        return x.pin_memory().to(device, non_blocking=True)

    levels = {name: send(x) for name, x in brain.levels.items()}
    return BrainInput(levels, send(brain.times), send(brain.valid), send(brain.subject))


def placed(brain: Brain, device: torch.device) -> Brain:
    """Windows for a network on a device: there, if there is room."""
    if device.type == "cuda" and isinstance(brain, BrainInput):
        tensors = (*brain.levels.values(), brain.times, brain.valid, brain.subject)
        if sum(x.nbytes for x in tensors) > _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            return NearbyWindows(brain, device)
    return brain.to(device)
