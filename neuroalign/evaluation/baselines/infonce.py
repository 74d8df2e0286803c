"""Contrastive baselines: linear or MLP maps to a shared space, trained with symmetric InfoNCE, full batch.

Where the haemodynamic delay is not dealt with, the brain is read at several lags at once and the map weighs them. Every
presentation of a clip (repeats, other people when pooled) is a positive of it. Weight decay, dropout of the inputs and the
step to stop at are chosen on validation, by the criterion by which the model chooses its epochs.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from neuroalign.evaluation.baselines._choose import STACKED_S, number
from neuroalign.evaluation.baselines._data import Material, Part, material, require_same_units, score_test
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine
from neuroalign.pairs.quality import rank_quality
from neuroalign.pairs.store import PairedDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How long and how strongly regularised a contrastive baseline trains; the same for all of them."""

    dimensions: int = 64
    hidden: int = 256
    dropout: float = 0.5
    learning_rate: float = 2e-3
    weight_decays: tuple[float, ...] = (0.1, 1.0)
    input_dropouts: tuple[float, ...] = (0.0, 0.5)
    steps: int = 150
    check_every: int = 10
    patience: int = 4


class Towers(nn.Module):
    """A map of brain steps and one of video steps to a shared space.

    Parameters
    ----------
    units, features : int
        Inputs per step of either side.
    budget : Budget
    hidden : bool
        One hidden layer on both sides instead of a linear map.
    input_dropout : float
        Share of the inputs of a clip (of either side) that are dropped in training, for all of its steps.
    """

    def __init__(self, units: int, features: int, budget: Budget, hidden: bool, input_dropout: float = 0.0):
        super().__init__()
        self.input_dropout = input_dropout
        self.brain = _side(units, budget, hidden)
        self.video = _side(features, budget, hidden)
        self.log_scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))

    def logits(self, brain: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """Scaled cosine of concatenated, centred clips: (n, T, units), (m, T, features) to (n, m)."""
        a, b = (
            functional.normalize((x - x.mean(0, keepdim=True)).flatten(1), dim=1)
            for x in (self.brain(self._dropped(brain)), self.video(self._dropped(video)))
        )
        return self.log_scale.clamp(max=4.6).exp() * a @ b.T

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.input_dropout):
            return x
        return x * functional.dropout(torch.ones_like(x[:, :1]), self.input_dropout)


def _side(inputs: int, budget: Budget, hidden: bool) -> nn.Module:
    if not hidden:
        return nn.Linear(inputs, budget.dimensions, bias=False)
    return nn.Sequential(
        nn.Linear(inputs, budget.hidden),
        nn.GELU(),
        nn.Dropout(budget.dropout),
        nn.Linear(budget.hidden, budget.dimensions),
    )


def infonce(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of windows against contents, with every window of a content as its positive.

    Parameters
    ----------
    logits : tensor of shape (windows, contents)
    truth : int tensor of shape (windows,)
        Content of each window; every content has at least one.
    """
    to_video = functional.cross_entropy(logits, truth)
    positive = functional.one_hot(truth, logits.shape[1]).to(logits.dtype)
    to_brain = -(functional.log_softmax(logits, dim=0) * positive).sum(0) / positive.sum(0)
    return (to_video + to_brain.mean()) / 2


def train(
    fit: Part,
    checks: list[Part],
    video: np.ndarray,
    budget: Budget,
    decay: float,
    hidden: bool,
    seed: int,
    input_dropout: float = 0.0,
) -> tuple[Towers, float, int]:
    """Train one pair of maps.

    Parameters
    ----------
    fit : Part
        Training windows.
    checks : list of Part
        Validation windows, one part per subject.
    video : array of shape (contents, T, dim)
    budget : Budget
    decay : float
        Weight decay.
    hidden : bool
    seed : int
    input_dropout : float

    Returns
    -------
    model : Towers
        At its best validation step (the last one without validation windows), in evaluation mode.
    validation : float
        `rank_quality` there.
    step : int
    """
    gallery, columns = np.unique(fit.contents, return_inverse=True)
    brain, target = torch.from_numpy(fit.brain), torch.from_numpy(video[gallery])
    truth = torch.from_numpy(columns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Towers(brain.shape[2], target.shape[2], budget, hidden, input_dropout)
        optimiser = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=decay)
        kept, record, at, waited = None, -np.inf, 0, 0
        for step in range(1, budget.steps + 1):
            model.train()
            optimiser.zero_grad(set_to_none=True)
            infonce(model.logits(brain, target), truth).backward()
            optimiser.step()
            if step % budget.check_every:
                continue
            value = _validation(model, checks, video)
            if np.isfinite(value) and value <= record:
                waited += 1
                if waited >= budget.patience:
                    break
                continue
            record, at, waited = value if np.isfinite(value) else record, step, 0
            kept = copy.deepcopy(model.state_dict())
    if kept is not None:
        model.load_state_dict(kept)
    return model.eval(), float(record), at


def _validation(model: Towers, checks: list[Part], video: np.ndarray) -> float:
    found = [_quality(model, part, video) for part in checks]
    found = [value for value in found if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def _quality(model: Towers, part: Part, video: np.ndarray) -> float:
    gallery, truth = np.unique(part.contents, return_inverse=True)
    if len(gallery) < 2:
        return float("nan")
    return rank_quality(cosine(*_embed(model, part.brain, video[gallery])), truth)


def _embed(model: Towers, brain: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model.eval()
    with torch.no_grad():
        return tuple(
            side(torch.from_numpy(np.ascontiguousarray(data))).numpy()
            for side, data in ((model.brain, brain), (model.video, video))
        )


def run(
    pairs: PairedDataset, seed: int, pooled: bool = False, hidden: bool = False, budget: Budget | None = None
) -> tuple[dict[str, SubjectScores], dict]:
    """Train and score; weight decay, input dropout and stopping step are chosen on validation.

    Parameters
    ----------
    pairs : PairedDataset
    seed : int
        Of the initial weights and dropout.
    pooled : bool
        One model for everybody.
    hidden : bool
        MLP instead of linear maps.
    budget : Budget, optional
    """
    budget = budget or Budget()
    data = material(pairs, STACKED_S)
    name = f"{'pooled_' if pooled else ''}{'mlp' if hidden else 'linear'}_infonce"
    groups: dict[str, tuple[str, ...]]
    if pooled:
        require_same_units(data, name)
        groups = {"all": tuple(data.subjects)}
    else:
        groups = {subject: (subject,) for subject in data.trained()}
    models, details = {}, []
    for members in groups.values():
        fit = data.pooled("train") if pooled else data.subjects[members[0]]["train"]
        checks = [data.subjects[s]["validation"] for s in members if len(data.subjects[s]["validation"])]
        options = [
            (*train(fit, checks, data.video, budget, decay, hidden, seed, dropped), decay, dropped)
            for decay, dropped in product(budget.weight_decays, budget.input_dropouts)
        ]
        model, value, step, decay, dropped = max(options, key=lambda option: option[1])
        log.info(
            "%s %s: weight decay %g, input dropout %g, step %d, validation %.3f",
            *(name, members, decay, dropped, step, value),
        )
        details.append(
            {"weight_decay": decay, "input_dropout": dropped, "step": step, "quality": number(value)}
        )
        models.update(dict.fromkeys(members, model))
    checkpoints = budget.steps // budget.check_every
    return _score(data, models), {
        "lags_s": list(STACKED_S) if not all(w.aligned for w in pairs.brain.values()) else [0.0],
        "chosen": details,
        "dimensions": budget.dimensions,
        "parameters": int(sum(p.numel() for p in next(iter(models.values())).parameters())),
        "options": len(options) * checkpoints,
        "chosen_by": f"validation clips ({len(options)} trainings of up to {checkpoints} checkpoints)",
    }


def _score(data: Material, models: dict[str, Towers]) -> dict[str, SubjectScores]:
    def score(subject: str, brain: np.ndarray, video: np.ndarray) -> np.ndarray:
        return cosine(*_embed(models[subject], brain, video))

    return score_test(data, score, models)
