"""Seeds: every source of chance in training, from one number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Seed torch inside the block and give a generator of its own for the order of batches.

    The state of torch outside the block is left as it was. Algorithms on the CPU are deterministic, so that the same seed
    gives the same weights, bit for bit, on the same machine and number of threads.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
