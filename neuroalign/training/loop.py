"""The training loop of both stages: AdamW, warm-up and cosine, early stopping, exact resume."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuroalign.config.train import Optimiser
from neuroalign.io import atomic_path
from neuroalign.training.data import batch_rows

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.safetensors"
CHECKPOINT_EVERY = 5
History = list[tuple[int, str, str, float]]


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
        Order of batches.
    folder : Path
        Where the checkpoint lies.
    fingerprint : str
        Identifies configuration, seed and data; a checkpoint of another is ignored.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Optimiser,
        groups: list[dict[str, Any]],
        generator: torch.Generator,
        folder: Path,
        fingerprint: str,
    ):
        self.network, self.config, self.generator = network, config, generator
        self.optimiser = torch.optim.AdamW(groups)
        self.peaks = [group["lr"] for group in groups]
        self.path, self.fingerprint = folder / CHECKPOINT_FILE, fingerprint
        self.epoch, self.best_epoch, self.best_score = 0, 0, -math.inf
        self.best: dict[str, Tensor] = {}
        self.mean = {n: p.detach().clone() for n, p in network.named_parameters()} if config.average else {}
        self.history: History = []

    def fit(
        self,
        n: int,
        step: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
        validate: Callable[[int], tuple[float, Iterable[tuple[str, str, float]]]],
        after_step: Callable[[], None] | None = None,
    ) -> History:
        """Train until the last epoch or until validation no longer improves, then load the best weights.

        Parameters
        ----------
        n : int
            Number of training presentations.
        step : callable
            Rows of a batch to (total loss, terms).
        validate : callable
            Epoch to (score, rows of (split, term, value)). Epoch 0 is the start, before any step, and may win.
        after_step : callable, optional
            Called after each optimiser step.

        Returns
        -------
        list of (epoch, split, term, value)
        """
        per_epoch = max(1, round(n / self.config.batch_size))
        total = per_epoch * self.config.epochs
        if not self._resume():
            self._judge(validate)
        while self.epoch < self.config.epochs and self.epoch - self.best_epoch < self.config.patience:
            self.epoch += 1
            self.network.train()
            values: dict[str, list[float]] = {}
            for number, rows in enumerate(batch_rows(n, self.config.batch_size, self.generator)):
                share = warmup_cosine((self.epoch - 1) * per_epoch + number, total, self.config.warmup)
                for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
                    group["lr"] = peak * share
                self.optimiser.zero_grad(set_to_none=True)
                loss, terms = step(rows)
                loss.backward()
                parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
                self.optimiser.step()
                self._average()
                if after_step is not None:
                    after_step()
                for name, value in {**terms, "total": loss}.items():
                    values.setdefault(name, []).append(float(value.detach()))
            # Not every batch has every term: one without captions has none of the text.
            self.history += [(self.epoch, "train", n, _mean(vs)) for n, vs in values.items()]
            self._judge(validate)
            if self.epoch % CHECKPOINT_EVERY == 0:
                self.write_checkpoint()
        self.network.load_state_dict(self.best)
        self.path.unlink(missing_ok=True)
        log.info("stopped after epoch %d; best epoch %d (%.4f)", self.epoch, self.best_epoch, self.best_score)
        return self.history

    def _judge(self, validate: Callable[[int], tuple[float, Iterable[tuple[str, str, float]]]]) -> None:
        own = self._swap(self.mean)
        score, rows = validate(self.epoch)
        self.history += [(self.epoch, split, term, float(value)) for split, term, value in rows]
        if score > self.best_score:
            self.best_epoch, self.best_score = self.epoch, float(score)
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self._swap(own)
        log.info("epoch %d: validation %.4f (best %.4f)", self.epoch, score, self.best_score)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the running mean of the weights (Polyak averaging; Izmailov et al. 2018) towards the weights."""
        for name, parameter in self.network.named_parameters():
            if name in self.mean:
                self.mean[name].lerp_(parameter.detach(), 1 - self.config.average)

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
        """Write everything needed to go on exactly, as one safetensors file with JSON metadata."""
        tensors = {f"network.{n}": v for n, v in self.network.state_dict().items()}
        tensors |= {f"best.{n}": v for n, v in self.best.items()}
        tensors |= {f"mean.{n}": v for n, v in self.mean.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{n}": v for n, v in state.items()}
        tensors["rng.torch"] = torch.get_rng_state()
        tensors["rng.order"] = self.generator.get_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        meta = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": self.history,
        }
        with atomic_path(self.path) as temporary:
            plain = {n: v.detach().cpu().clone().contiguous() for n, v in tensors.items()}
            save_file(plain, temporary, {"state": json.dumps(meta)})

    def _resume(self) -> bool:
        """Take up a checkpoint of the same configuration, seed and data; False if there is none."""
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                meta = json.loads(file.metadata()["state"])
                if meta["fingerprint"] != self.fingerprint:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
            log.warning("%s cannot be read; training starts again", self.path)
            return False
        self.network.load_state_dict(_strip(tensors, "network."))
        device = next(self.network.parameters()).device
        self.best = {n: v.to(device) for n, v in _strip(tensors, "best.").items()}
        self.mean = {n: v.to(device) for n, v in _strip(tensors, "mean.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip(tensors, "optimiser.").items():
            index, part = name.split(".")
            state.setdefault(int(index), {})[part] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["rng.torch"])
        self.generator.set_state(tensors["rng.order"])
        if torch.cuda.is_available() and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.epoch, self.best_epoch = meta["epoch"], meta["best_epoch"]
        self.best_score = meta["best_score"]
        self.history = [tuple(row) for row in meta["history"]]
        log.info("resumed after epoch %d", self.epoch)
        return True


def _mean(values: list[float]) -> float:
    """Mean, added up in order (`sum` differs between versions of Python)."""
    total = 0.0
    for value in values:
        total += value / len(values)
    return total


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def history_table(history: History) -> pd.DataFrame:
    """The history as a table with columns epoch, split, term, value."""
    return pd.DataFrame(history, columns=["epoch", "split", "term", "value"])
