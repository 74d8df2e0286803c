"""Several processes that train one network together, each with its share of every batch.

Losses contrast the whole batch, so vectors are gathered (`Processes.gather`) and every process computes the whole loss; gradients
are averaged (`Processes.average_gradients`). Two processes with half of the batch each make the steps of one process with
all of it, up to rounding: the gradient of gathered vectors flows back to the process that made them, multiplied by the number of
processes, so that the average over processes is the sum of the shares for what comes before the gathering, and the thing
itself for what comes after it, where all compute the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
# Others wait while the first process validates, or fits what training starts from.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes
    ----------
    rank, size : int
        Its number and how many there are.
    local_rank : int
        Its number on this machine: which GPU is its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of n rows are this process's: contiguous, sizes differ by one at most."""
        least, rest = divmod(n, self.size)
        start = self.rank * least + min(self.rank, rest)
        return slice(start, start + least + (self.rank < rest))

    def gather(self, own: Tensor, n: int) -> Tensor:
        """Rows of all processes, n in all, from the `share` of each, with gradient to the own."""
        return own if self.size == 1 else _Gather.apply(own, n, self)

    def sum(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Each tensor summed over processes, in one exchange; the same bits everywhere."""
        tensors = list(tensors)
        if self.size == 1:
            return tensors
        flat = torch.cat([x.reshape(-1) for x in tensors])
        dist.all_reduce(flat)
        parts = flat.split([x.numel() for x in tensors])
        return [part.view_as(x) for part, x in zip(parts, tensors, strict=True)]

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean over processes in place of each gradient. What takes no part has none, in any process."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_copy_(gradients, [total / self.size for total in self.sum(gradients)])

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; the others wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @torch.no_grad()
    def like_first(self, network: nn.Module, generator: torch.Generator) -> None:
        """Give all processes the weights of the first, and the state of its generator."""
        if self.size == 1:
            return
        for value in network.state_dict().values():
            dist.broadcast(value, src=0)
        generator.set_state(self.from_first(generator.get_state))

    def reseed(self, *numbers: int) -> None:
        """Seed torch in all processes but the first by some numbers and the rank, as dropout is to differ between shares.

        Every step has a seed of its own, so that a run that is taken up goes on without the state of every process.
        """
        if not self.first:
            digest = hashlib.blake2b(repr((*numbers, self.rank)).encode(), digest_size=7).digest()
            torch.manual_seed(int.from_bytes(digest, "big"))


ALONE = Processes()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, n: int, processes: Processes) -> Tensor:
        ctx.processes, ctx.n = processes, n
        shares = [Processes(rank, processes.size).share(n) for rank in range(processes.size)]
        sizes = [share.stop - share.start for share in shares]
        # Exchanged tensors are of one size; the first share is never the smaller one.
        padded = own.new_zeros(sizes[0], *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.processes.share(ctx.n)] * ctx.processes.size, None, None


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started with this one: NCCL between GPUs, Gloo between processors."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    gpu = torch.cuda.is_available() and local < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, size, local)
    finally:
        dist.destroy_process_group()
