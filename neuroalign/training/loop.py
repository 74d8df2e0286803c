"""The training loop of both stages: AdamW, warm-up and cosine, early stopping, exact resume."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neuroalign.config.train import Optimiser
from neuroalign.errors import UserError
from neuroalign.training import checkpoint
from neuroalign.training.data import batch_rows
from neuroalign.training.processes import ALONE, Processes
from neuroalign.training.progress import Progress

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.safetensors"
# A checkpoint is written after so many epochs, and within long epochs after so many seconds.
CHECKPOINT_EVERY = 5
CHECKPOINT_SECONDS = 300.0
_AHEAD = 2
History = list[tuple[int, str, str, float]]
B = TypeVar("B")


def parameter_groups(network: nn.Module, config: Optimiser, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Parameter groups of AdamW.

    Matrices decay; vectors, gates, embeddings and temperatures do not. Parameters whose name starts with a key of `rates`
    have that learning rate (the longest matching key wins); a rate of 0 freezes them.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        key = max((k for k in rates if name.startswith(k)), key=len, default=None)
        lr = config.lr if key is None else rates[key]
        parameter.requires_grad_(lr > 0)
        if lr > 0:
            embedding = name.endswith(("transformer.step", "transformer.level", ".logits"))
            decay = config.weight_decay if parameter.dim() >= 2 and not embedding else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear up over the first `warmup` of all steps, then cosine to 0."""
    up = max(1, round(warmup * total))
    if step < up:
        return (step + 1) / up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - up) / max(1, total - up))))


def loaded_ahead(rows: Iterable[Tensor], load: Callable[[Tensor], B], ahead: int) -> Iterator[B]:
    """Batches in order, of which up to `ahead` are loaded in a thread while one is worked on; 0 loads when asked."""
    if not ahead:
        yield from map(load, rows)
        return
    with ThreadPoolExecutor(1, "batches") as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for part in rows:
                waiting.append(pool.submit(load, part))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Trainer:
    """Trains a network epoch by epoch and keeps the best by a validation score.

    What is validated and kept is the running mean of the weights, where the configuration asks for one (`average`).

    Parameters
    ----------
    network : nn.Module
    config : Optimiser
    groups : list of dict
        See `parameter_groups`.
    generator : torch.Generator
        Order of batches; in the same state in all processes.
    folder : Path
        Where the checkpoint and the event files lie.
    fingerprint : str
        Identifies configuration, seed and data; a checkpoint of another is ignored.
    processes : Processes
        Those that train together. The first validates and writes.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Optimiser,
        groups: list[dict[str, Any]],
        generator: torch.Generator,
        folder: Path,
        fingerprint: str,
        processes: Processes = ALONE,
    ):
        self.network, self.config, self.generator, self.processes = network, config, generator, processes
        self.optimiser = torch.optim.AdamW(groups, fused=True)
        self.peaks = [group["lr"] for group in groups]
        self.parameters = [p for group in groups for p in group["params"]]
        self.folder, self.path, self.fingerprint = folder, folder / CHECKPOINT_FILE, fingerprint
        self.epoch, self.best_epoch, self.best_score = 0, 0, -math.inf
        self.best: dict[str, Tensor] = {}
        self.mean = {n: p.detach().clone() for n, p in network.named_parameters()} if config.average else {}
        self.history: History = []
        # Of the epoch under way: batches done, their terms, and the state that its order was drawn from.
        self.done, self.values, self.order = 0, dict[str, list[float | Tensor]](), generator.get_state()
        self.seed = generator.initial_seed()
        self.written = time.monotonic()

    def fit(
        self,
        n: int,
        step: Callable[[Any], tuple[Tensor, dict[str, Tensor]]],
        validate: Callable[[int], tuple[float, Iterable[tuple[str, str, float]]]],
        after_step: Callable[[], None] | None = None,
        load: Callable[[Tensor], Any] | None = None,
        ahead: bool = False,
    ) -> History:
        """Train until the last epoch or until validation no longer improves, then load the best weights.

        Parameters
        ----------
        n : int
            Number of training presentations.
        step : callable
            A batch to (total loss, terms).
        validate : callable
            Epoch to (score, rows of (split, term, value)). Epoch 0 is the start, before any step, and may win. Called in the
            first process alone.
        after_step : callable, optional
            Called after each optimiser step.
        load : callable, optional
            Rows of a batch to the batch; without, a batch is its rows. Draws nothing at random.
        ahead : bool
            Load batches in a thread while others are worked on.

        Returns
        -------
        list of (epoch, split, term, value)

        Raises
        ------
        UserError
            If a loss is no longer a finite number.
        """
        per_epoch = max(1, round(n / self.config.batch_size))
        resumed = self._resume()
        progress = Progress(
            self.folder, self.config.epochs, per_epoch, self.epoch if resumed else 0, not self.processes.first
        )
        if not resumed:
            self._judge(validate, progress)
        while self.epoch < self.config.epochs and self.epoch - self.best_epoch < self.config.patience:
            self.network.train()
            batches = self._batches(n)[self.done :]
            total = per_epoch * self.config.epochs
            for batch in loaded_ahead(batches, load or (lambda rows: rows), _AHEAD if ahead else 0):
                share = warmup_cosine(self.epoch * per_epoch + self.done, total, self.config.warmup)
                self._step(batch, step, share)
                if after_step is not None:
                    after_step()
                self.done += 1
                if progress.due():
                    progress.step(self.epoch + 1, self.done, self._fetched()["total"][-1])
                if self.done < per_epoch and time.monotonic() - self.written > CHECKPOINT_SECONDS:
                    self.write_checkpoint()
            # Not every batch has every term: one without captions has none of the text.
            means = {name: _mean(values) for name, values in self._fetched().items()}
            self.epoch, self.done, self.values = self.epoch + 1, 0, {}
            self.history += [(self.epoch, "train", name, value) for name, value in means.items()]
            self._judge(validate, progress, means["total"])
            late = time.monotonic() - self.written > CHECKPOINT_SECONDS
            if self.epoch % CHECKPOINT_EVERY == 0 or late:
                self.write_checkpoint()
        self.network.load_state_dict(self.best)
        if self.processes.first:
            self.path.unlink(missing_ok=True)
        progress.close()
        log.info("stopped after epoch %d; best epoch %d (%.4f)", self.epoch, self.best_epoch, self.best_score)
        return self.history

    def _batches(self, n: int) -> list[Tensor]:
        """Rows of the batches of the epoch under way; of one that was begun before, in the order drawn then."""
        now = self.generator.get_state()
        if self.done:
            self.generator.set_state(self.order)
        else:
            self.order = now
        batches = list(batch_rows(n, self.config.batch_size, self.generator))
        if self.done:
            self.generator.set_state(now)
        return batches

    def _step(
        self, batch: Any, step: Callable[[Any], tuple[Tensor, dict[str, Tensor]]], share: float
    ) -> None:
        """One step of the optimiser at a share of the peak learning rates."""
        self.processes.reseed(self.seed, self.epoch, self.done)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        self.optimiser.zero_grad(set_to_none=True)
        loss, terms = step(batch)
        loss.backward()
        self.processes.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm, foreach=True)
        self.optimiser.step()
        self._average()
        # Numbers stay on the device until somebody looks: fetching one waits for everything before it.
        for name, value in {**terms, "total": loss}.items():
            self.values.setdefault(name, []).append(value.detach())

    def _fetched(self) -> dict[str, list[float]]:
        """The terms of the epoch so far as numbers, fetched at once."""
        tensors = [v for values in self.values.values() for v in values if isinstance(v, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else [])
        for name, values in self.values.items():
            self.values[name] = [next(numbers) if isinstance(v, Tensor) else v for v in values]
        if not all(map(math.isfinite, self.values.get("total", []))):
            raise UserError(
                f"Training diverged in epoch {self.epoch + 1}: the loss is not a finite number; lower the lr of this stage "
                "(train.ntcl.lr or train.vq.lr), or set train.precision to float32."
            )
        return self.values

    def _judge(
        self,
        validate: Callable[[int], tuple[float, Iterable[tuple[str, str, float]]]],
        progress: Progress,
        loss: float | None = None,
    ) -> None:
        def judged() -> tuple[float, list[tuple[str, str, float]]]:
            own = self._swap(self.mean)
            score, rows = validate(self.epoch)
            self._swap(own)
            return float(score), [(split, term, float(value)) for split, term, value in rows]

        score, rows = self.processes.from_first(judged)
        self.history += [(self.epoch, *row) for row in rows]
        if score > self.best_score:
            self.best_epoch, self.best_score = self.epoch, score
            state = self.network.state_dict() | self.mean
            self.best = {name: value.detach().clone() for name, value in state.items()}
        now = [row[1:] for row in self.history if row[0] == self.epoch]
        progress.epoch(self.epoch, now, loss, score, (self.best_epoch, self.best_score))

    @torch.no_grad()
    def _average(self) -> None:
        """Move the running mean of the weights (Polyak averaging; Izmailov et al. 2018) towards the weights."""
        if self.mean:
            weights = [parameter.detach() for parameter in self.network.parameters()]
            get_ema_multi_avg_fn(self.config.average)(list(self.mean.values()), weights, None)

    @torch.no_grad()
    def _swap(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put values in place of parameters and return what was there."""
        before = {}
        for name, parameter in self.network.named_parameters():
            if name in values:
                before[name] = parameter.detach().clone()
                parameter.copy_(values[name])
        return before

    def write_checkpoint(self) -> None:
        """Write everything needed to go on exactly, in the middle of an epoch too."""
        self.written = time.monotonic()
        if not self.processes.first:
            return
        random = {
            "torch": torch.get_rng_state(),
            "now": self.generator.get_state(),
            "order": self.order,
        }
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        parts = {
            "network": self.network.state_dict(),
            "best": self.best,
            "mean": self.mean,
            "optimiser": checkpoint.optimiser_tensors(self.optimiser),
            "random": random,
        }
        state = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "done": self.done,
            "values": self._fetched(),
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": self.history,
        }
        checkpoint.write(self.path, parts, state)

    def _resume(self) -> bool:
        """Take up a checkpoint of the same configuration, seed and data; False if there is none."""
        found = checkpoint.read(self.path, self.fingerprint)
        if found is None:
            return False
        parts, state = found
        self.network.load_state_dict(parts["network"])
        device = next(self.network.parameters()).device
        self.best = {n: v.to(device) for n, v in parts["best"].items()}
        # In the order of the parameters: the file has an order of its own.
        self.mean = {n: parts["mean"][n].to(device) for n in self.mean}
        checkpoint.restore_optimiser(self.optimiser, parts.get("optimiser", {}))
        random = parts["random"]
        torch.set_rng_state(random["torch"])
        self.generator.set_state(random["now"])
        self.order = random["order"]
        if torch.cuda.is_available() and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
        self.epoch, self.done, self.values = state["epoch"], state["done"], state["values"]
        self.best_epoch, self.best_score = state["best_epoch"], state["best_score"]
        self.history = [tuple(row) for row in state["history"]]
        log.info("taken up after epoch %d and %d batches", self.epoch, self.done)
        return True


def _mean(values: list[float]) -> float:
    """Mean, added up in order (`sum` differs between versions of Python)."""
    total = 0.0
    for value in values:
        total += value / len(values)
    return total


def history_table(history: History) -> pd.DataFrame:
    """The history as a table with columns epoch, split, term, value."""
    return pd.DataFrame(history, columns=["epoch", "split", "term", "value"])
