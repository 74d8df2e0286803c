"""Fast adaptation: the parameters of one person, fitted to a few minutes of them; everything else stays frozen.

In order, each step on the adaptation minutes alone:

1. *scaling* of units, empirical Bayes: means and deviations are drawn towards those of the people the model was trained on, the more so the
   less these differ between people and the fewer minutes there are;
2. the *delay shift*, the most probable one under the prior of training (0 ± 0.5 s), where the model learned delays;
3. the *brain map*: a ridge correction of the shared map, kept in the low-rank subject term (parcels), or a map of the person's own (voxels); see
   `training.adapt_maps`. The shared map counts as much as `prior_minutes` of the person's data, unless retrieval in cross-validation over contiguous
   parts of the minutes is clearly better with another value, or without any correction (`careful_choice`).

With no minutes the result is the shared model, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuroalign.errors import UserError, nearest
from neuroalign.models.model import VIDEO, BrainInput
from neuroalign.models.scaling import Scaler, whitening, z_score
from neuroalign.models.score import Embedding
from neuroalign.models.subjects import set_map, set_shift, with_subject
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.minutes import contiguous_folds, first_minutes, seconds_until
from neuroalign.pairs.store import BrainWindows, PairedDataset
from neuroalign.training.adapt_maps import GROUP, Group, Samples, on_clip_steps

log = logging.getLogger(__name__)

PRIOR_MINUTES = 100.0
"""The shared map counts as much as so many minutes of the person's own data, unless these speak clearly for another value."""
_OTHER_PRIORS = (None, 1000.0, 300.0, 30.0, 10.0, 3.0)
# Units of one's own have no shared map to be drawn to.
_OWN_PRIORS = (30.0, 3.0, 1.0, 0.3)
_UNJUDGED = 10.0
_SHIFTS_S = np.arange(-1.5, 1.51, 0.1)
_SHIFT_SD_S = 0.5
# Volumes this far apart count as independent samples of a mean; step vectors as samples of a response.
_INDEPENDENT_S = 10.0
_RESPONSE_S = 4.0


@dataclass
class Adapted:
    """A model that knows one more person.

    Attributes
    ----------
    model : TrainedModel
    rows : int array
        Rows of the clip table that it was adapted on: they cannot be tested.
    chosen : dict
        `minutes`, `clips`, `shift_s`, `target`, `prior_minutes` (None: the shared map), `options` and `margin`: what was chosen, out of
        how many, and the cross-validated criterion of it and of the shared map (JSON-like). Kept in ``model.json`` under `adapted`.
    """

    model: TrainedModel
    rows: np.ndarray
    chosen: dict[str, Any]


def adapt(
    model: TrainedModel,
    pairs: PairedDataset,
    subject: str,
    minutes: float | None = None,
    *,
    rows: np.ndarray | None = None,
    group: Group | None = None,
    prior_minutes: float = PRIOR_MINUTES,
    made_by: Mapping[str, Any] | None = None,
) -> Adapted:
    """Adapt a trained model to a new person.

    Parameters
    ----------
    model : TrainedModel
        Left as it is.
    pairs : PairedDataset
        Has the person's windows. Where it has the training windows of the people whom the model knows, their response to the same clips
        helps.
    subject : str
        Label of the person, with or without ``sub-``.
    minutes : float, optional
        Minutes to use, from the first clip on; all by default.
    rows : int array, optional
        Rows of the clip table to choose from; all clips of the person by default.
    group : Group, optional
        ``Group.of(model, pairs)``, where several people or minutes are adapted.
    prior_minutes : float
        How many minutes the shared map is worth at first.
    made_by : mapping, optional
        Provenance record.

    Returns
    -------
    Adapted

    Raises
    ------
    UserError
        If the person is not in `pairs` or known to the model, units do not fit, or voxels come without any minute.
    """
    subject = subject.removeprefix("sub-")
    if subject not in pairs.subjects:
        raise UserError(
            f"The pairs hold no subject '{subject}'{nearest(subject, pairs.subjects)}; they hold "
            f"{', '.join(pairs.subjects)}."
        )
    shared = model.network.architecture.shared_units
    windows, rows, clip = _minutes_of(pairs, subject, minutes, rows)
    if not shared and not len(rows):
        raise UserError(
            f"Units of subject '{subject}' are their own (voxels): without any minute there is no map for them."
        )
    _check_units(model, windows, shared)
    if shared:
        windows = model.own_units(windows, None)
    scalers = _scalers(model, windows, shared)
    grown = with_subject(model, subject, scalers, windows.unit_labels)
    chosen: dict[str, Any] = {
        "minutes": minutes,
        "clips": len(rows),
        "shift_s": 0.0,
        "target": None,
        "prior_minutes": None,
        "options": 0,
        "margin": {},
    }
    if len(rows):
        group = group or Group.of(model, pairs)
        person = _Person(grown, windows, clip, pairs.clips.iloc[rows], group, subject, shared)
        chosen["shift_s"] = person.fit_shift()
        chosen |= person.fit_map(prior_minutes)
    log.info("adapted to subject %s: %s", subject, chosen)
    grown.meta["adapted"] = {
        **grown.meta.get("adapted", {}),
        subject: {**chosen, "provenance": dict(made_by or {})},
    }
    return Adapted(grown, rows, chosen)


def _minutes_of(
    pairs: PairedDataset, subject: str, minutes: float | None, rows: np.ndarray | None
) -> tuple[BrainWindows, np.ndarray, np.ndarray]:
    """Windows of the first minutes, their rows of the clip table and of the video."""
    windows = pairs.brain[subject]
    among = windows.rows if rows is None else np.intersect1d(windows.rows, rows)
    rows = first_minutes(pairs.clips, among, minutes) if len(among) else among
    windows = windows.select(np.isin(windows.rows, rows))
    return windows, rows, pairs.video.rows_of(pairs.clips["clip_id"].to_numpy()[rows])


def _check_units(model: TrainedModel, windows: BrainWindows, shared: bool) -> None:
    architecture = model.network.architecture
    for level in architecture.brain_levels:
        if level not in windows.levels:
            raise UserError(f"The brain windows lack level '{level}'{nearest(level, windows.levels)}.")
    if windows.aligned != architecture.aligned:
        how = "aligned with the clips" if windows.aligned else "volumes with their own times"
        raise UserError(
            f"The pairs hold {how}, but the model was trained on other windows: pair with the model's hrf section."
        )


# --- scaling ------------------------------------------------------------------------------------------------------


def _scalers(model: TrainedModel, windows: BrainWindows, shared: bool) -> dict[str, Scaler]:
    levels = model.network.architecture.brain_levels
    if shared:
        return {level: _shared_scaler(model, level, windows) for level in levels}
    encoder, out = model.network.architecture.encoder, {}
    for level in levels:
        x = windows.levels[level][windows.valid]
        out[level] = z_score(x)
        if encoder["whiten"]:
            out[level].matrix = whitening(out[level](x), encoder["components"], encoder["shrinkage"])
    return out


def _shared_scaler(model: TrainedModel, level: str, windows: BrainWindows) -> Scaler:
    r"""Means and log deviations between those of the group and the person's own.

    The weight of the own mean is :math:`\tau^2 / (\tau^2 + 1/n)`, with :math:`\tau^2` the variance of means between trained people and n the
    independent samples in the minutes, both in units of the deviation; of the own log deviation with 1/2n.
    """
    common = model.scalers.brain["", level]
    x = windows.levels[level][windows.valid]
    if not len(x):
        return Scaler(common.mean, common.std, common.matrix)
    architecture = model.network.architecture
    trained = architecture.subjects[: len(architecture.subjects) - architecture.adapted]
    known = [model.scalers.brain[s, level] for s in trained]
    own, n = z_score(x), max(1.0, len(windows.rows) * float(model.geometry["duration_s"]) / _INDEPENDENT_S)
    offset = (own.mean - common.mean) / common.std
    stretch = np.log(own.std / common.std)
    if len(known) > 1:
        between = np.mean([np.square((k.mean - common.mean) / common.std) for k in known])
        wider = np.mean([np.square(np.log(k.std / common.std)) for k in known])
    else:
        # One person says nothing of how people differ.
        between = wider = 1.0
    mean = common.mean + common.std * offset * between / (between + 1 / n)
    std = common.std * np.exp(stretch * wider / (wider + 1 / (2 * n)))
    return Scaler(mean.astype(np.float32), std.astype(np.float32), common.matrix)


# --- delay and map --------------------------------------------------------------------------------------------------


class _Person:
    """A model that has a place for the person, and the minutes to fit it to."""

    def __init__(
        self,
        model: TrainedModel,
        windows: BrainWindows,
        clip: np.ndarray,
        table: pd.DataFrame,
        group: Group,
        subject: str,
        shared: bool,
    ):
        self.model, self.network, self.shared = model, model.network, shared
        self.brain: BrainInput = model.brain_input(windows, subject)
        self.windows, self.subject, self.clip, self.table, self.group = windows, subject, clip, table, group
        self.folds = contiguous_folds(table)
        duration, steps = float(model.geometry["duration_s"]), len(self.network.architecture.step_times)
        self.minutes = seconds_until(table)[-1] / 60
        self.independent = duration / steps / max(_RESPONSE_S, duration / steps)

    def embed(self, rows: np.ndarray | None = None) -> Embedding:
        windows = self.windows if rows is None else self.windows.select(rows)
        return self.model.embed_fmri(windows, self.subject)

    def samples(self) -> Samples:
        x = on_clip_steps(self.network, self.brain)
        steps = self.embed().steps.astype(np.float64)
        if self.shared:
            steps = steps - self.model.centres["brain"]["steps"]
        else:
            steps = np.zeros_like(steps)
        return Samples(x, steps, self.clip)

    def fit_shift(self) -> float:
        """The most probable delay shift against the group (s); 0 where nothing was learned about delays."""
        if self.network.haemodynamic is None:
            return 0.0
        name = GROUP if self._covered(GROUP) else VIDEO
        target = self.group.targets[name]
        here = np.flatnonzero(target.known[self.clip])
        y, posterior = target.steps[self.clip], []
        for shift in _SHIFTS_S:
            set_shift(self.network, float(shift))
            samples = self.samples()
            if self.shared:
                errors = y[here] - target.gain * samples.steps[here]
                fit = -0.5 * self.independent * (np.square(errors) / target.noise).sum()
            else:
                fit = self._own_fit(samples, name)
            posterior.append(fit - 0.5 * (shift / _SHIFT_SD_S) ** 2)
        best = float(_SHIFTS_S[int(np.argmax(posterior))]) if np.ptp(posterior) > 0 else 0.0
        set_shift(self.network, round(best, 3))
        return round(best, 3)

    def _own_fit(self, samples: Samples, name: str) -> float:
        """Log likelihood of units that have no shared map: of what they predict of parts they were not fitted on."""
        target = self.group.targets[name]
        if not self.folds:
            return 0.0
        errors = [
            target.steps[self.clip[judged]]
            - samples.predicted(target, self._shrinkage(_UNJUDGED, fit), fit, judged)
            for fit, judged in self.folds
        ]
        left = np.concatenate(errors).reshape(-1, target.steps.shape[-1])
        spread = np.maximum(np.square(target.steps[self.clip]).mean(axis=(0, 1)), 1e-12)
        share = np.minimum(np.square(left).mean(axis=0) / spread, 1.0)
        return float(-0.5 * self.independent * len(left) * np.log(np.maximum(share, 1e-6)).sum())

    def fit_map(self, prior_minutes: float) -> dict[str, Any]:
        """Choose, fit and set the person's map; what was chosen."""
        samples, everything = self.samples(), np.arange(len(self.clip))
        name = GROUP if self._covered(GROUP) else VIDEO
        first, others = (prior_minutes, _OTHER_PRIORS) if self.shared else (_UNJUDGED, _OWN_PRIORS)
        options: list[float | None] = [first, *(other for other in others if other != first)]
        best, found = first, {}
        if self.folds:
            margins = np.array([self._judge(samples, name, option) for option in options])
            chosen = careful_choice(margins)
            best, found = options[chosen], {"chosen": float(margins[chosen].mean())}
            found |= {"shared": float(margins[options.index(None)].mean())} if self.shared else {}
        self._set(samples, name, best, everything)
        return {
            "target": None if best is None else name,
            "prior_minutes": best,
            "options": len(options) if self.folds else 0,
            "margin": found,
        }

    def _covered(self, name: str) -> bool:
        """Whether a target says something of most clips."""
        target = self.group.targets.get(name)
        return target is not None and target.known[self.clip].mean() > 0.5

    def _shrinkage(self, prior: float, rows: np.ndarray) -> float:
        """Minutes of the prior as a penalty: in units of what the windows at `rows` hold."""
        return prior / (self.minutes * len(rows) / len(self.clip))

    def _set(self, samples: Samples, name: str, prior: float | None, rows: np.ndarray) -> None:
        if prior is None:
            maps = [torch.zeros(x.shape[-1], self.network.architecture.encoder["dim"]) for x in samples.x]
        else:
            penalty = self._shrinkage(prior, rows)
            maps = samples.correction(self.network, self.group.targets[name], penalty, rows)
        set_map(self.network, maps, [x[rows].flatten(0, 1) for x in samples.x])

    def _judge(self, samples: Samples, name: str, prior: float | None) -> np.ndarray:
        """Margin of every window, by a map that was fitted without its part.

        The gallery of a part is its own clips: a map is drawn towards the clips it was fitted on, which the true one would have to compete with.
        """
        margins = np.zeros(len(self.clip))
        for fit, judged in self.folds:
            self._set(samples, name, prior, fit)
            contents, own = np.unique(self.clip[judged], return_inverse=True)
            margins[judged] = margin(
                self.model.score(self.embed(judged), self.group.clips.take(contents)), own
            )
        return margins


def margin(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How far the true clip stands above the others, in their standard deviations: array (windows,).

    A criterion for a few dozen windows: ranks among as few clips hardly move.

    Parameters
    ----------
    scores : array of shape (windows, clips)
    own : int array of shape (windows,)
        True clip of each window.
    """
    true = scores[np.arange(len(own)), own]
    return (true - scores.mean(axis=1)) / np.maximum(scores.std(axis=1), 1e-12)


def careful_choice(margins: np.ndarray) -> int:
    """The first option, or the best of those that are better than it by more than two standard errors of the paired difference.

    Parameters
    ----------
    margins : array of shape (options, windows)
    """
    mean, gain = margins.mean(axis=1), margins - margins[0]
    error = gain.std(axis=1, ddof=1) / np.sqrt(gain.shape[1])
    clear = [i for i in range(1, len(mean)) if gain[i].mean() > 2 * error[i]]
    return max(clear, key=lambda i: mean[i], default=0)
