"""From features to regional responses: weights, delays, and the noise-free signal of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuroalign.config.dataset import Simulate
from neuroalign.simulate.features import FEATURE_HZ, FEATURE_NAMES, GRID_COLUMNS, GRID_ROWS, LEVELS
from neuroalign.simulate.hrf import STEP_S, convolve
from neuroalign.simulate.plan import DatasetPlan, RunPlan, generator

DELAYS_S = {"early": 4.5, "intermediate": 5.5, "high": 7.0}
"""Time to peak of the response of each level, averaged over people (seconds)."""

DELAY_SD_S = 0.2
"""Standard deviation of a person's delay around the group's; levels of one person move together and apart."""

SIGNAL_PERCENT = {"early": 1.1, "intermediate": 0.8, "high": 0.45}
"""Standard deviation of the stimulus-driven signal of a region, in percent of its baseline."""

INTRINSIC_PERCENT = {"early": 0.45, "intermediate": 0.45, "high": 0.45}
"""Standard deviation of a region's ongoing fluctuation, which no stimulus drives, at noise = 1."""

SHARED = {"early": 0.8, "intermediate": 0.75, "high": 0.65}
"""Share of the variance of the weights that all people have in common."""

_NETWORKS = 7


@dataclass
class Brain:
    """The functional side of one simulated person.

    Attributes
    ----------
    subject : str
    delays_s : dict of str to float
        Time to peak per level.
    weights : dict of str to array of shape (features, units)
        Response of each unit (parcel) to each standardised feature.
    """

    subject: str
    delays_s: dict[str, float]
    weights: dict[str, np.ndarray]


@dataclass
class Scaling:
    """Mean and standard deviation of every feature over all films, per level."""

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


def feature_scaling(features: Mapping[str, Mapping[str, np.ndarray]]) -> Scaling:
    """Scaling of features (film → level → array) over all films."""
    joined = {level: np.concatenate([film[level] for film in features.values()]) for level in LEVELS}
    return Scaling(
        mean={level: values.mean(0) for level, values in joined.items()},
        sd={level: values.std(0) + 1e-6 for level, values in joined.items()},
    )


def group_weights(simulate: Simulate, units: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """Weights that all people share, (features, units) per level."""
    rng = generator(simulate, "weights", "all")
    return {level: _DRAW[level](rng, labels) for level, labels in units.items()}


def make_brain(
    simulate: Simulate, subject: str, units: Mapping[str, list[str]], group: Mapping[str, np.ndarray]
) -> Brain:
    """One person: the group's weights mixed with weights of their own, and slightly different delays."""
    rng = generator(simulate, "weights", subject)
    weights = {}
    for level, labels in units.items():
        own = _DRAW[level](rng, labels)
        weights[level] = np.sqrt(SHARED[level]) * group[level] + np.sqrt(1 - SHARED[level]) * own
    rng = generator(simulate, "delays", subject)
    person = rng.normal(0, DELAY_SD_S * np.sqrt(0.5))
    delays = {
        level: round(DELAYS_S[level] + person + rng.normal(0, DELAY_SD_S * np.sqrt(0.5)), 3)
        for level in LEVELS
    }
    return Brain(subject, delays, weights)


def _early(rng: np.random.Generator, labels: list[str]) -> np.ndarray:
    """Receptive fields in the opposite half of the visual field, with a suppressive surround."""
    rows, columns = np.mgrid[0:GRID_ROWS, 0:GRID_COLUMNS]
    rows, columns = (rows.ravel() + 0.5) / GRID_ROWS, (columns.ravel() + 0.5) / GRID_COLUMNS
    weights = []
    for label in labels:
        centre_x = rng.uniform(0.5, 1) if label.startswith("LH") else rng.uniform(0, 0.5)
        distance = (columns - centre_x) ** 2 + (rows - rng.uniform(0.1, 0.9)) ** 2
        field = np.exp(-distance / (2 * rng.uniform(0.1, 0.2) ** 2))
        field = field / field.sum() - 0.7 / len(field)
        motion = rng.uniform(0.3, 0.7)
        weights.append(np.concatenate([(1 - motion) * field, motion * field]))
    return _unit_columns(np.array(weights).T)


def _intermediate(rng: np.random.Generator, labels: list[str]) -> np.ndarray:
    """Each unit prefers a few textures, colours or directions and is indifferent to the rest."""
    shape = (len(FEATURE_NAMES["intermediate"]), len(labels))
    return _unit_columns(
        rng.standard_normal(shape) * (rng.random(shape) < 0.35) + 0.1 * rng.standard_normal(shape)
    )


def _high(rng: np.random.Generator, labels: list[str]) -> np.ndarray:
    """Each unit responds to one or two preferred categories, and weakly to everything else."""
    names = FEATURE_NAMES["high"]
    categories = [i for i, name in enumerate(names) if name.startswith("category_")]
    weights = 0.25 * rng.standard_normal((len(names), len(labels)))
    first = rng.integers(len(categories))
    for unit in range(len(labels)):
        # Preferences go round the categories so that none is left without a region.
        weights[categories[(first + unit) % len(categories)], unit] += 1.0
        weights[rng.integers(len(names)), unit] += rng.uniform(0.3, 0.8)
    return _unit_columns(weights)


_DRAW = {"early": _early, "intermediate": _intermediate, "high": _high}


def _unit_columns(weights: np.ndarray) -> np.ndarray:
    return weights / np.linalg.norm(weights, axis=0)


def run_clock(simulate: Simulate, plan: RunPlan) -> np.ndarray:
    """The fine time grid of a run: seconds from the start of its first volume, spaced by `STEP_S`."""
    return np.arange(int(np.ceil((plan.volumes + 1) * simulate.tr_s / STEP_S))) * STEP_S


def subject_signals(
    plan: DatasetPlan, brain: Brain, features: Mapping[str, Mapping[str, np.ndarray]], scaling: Scaling
) -> dict[str, dict[str, np.ndarray]]:
    """Stimulus-driven signal of every run of one person on the run's fine clock.

    Returns
    -------
    dict of run_id to dict of level to array of shape (samples, units)
        Percent of the baseline. Each unit has, over all runs together, zero mean and the standard deviation
        `SIGNAL_PERCENT` of its level.
    """
    runs = [run for run in plan.run_plans if run.subject == brain.subject]
    signals: dict[str, dict[str, np.ndarray]] = {run.run_id: {} for run in runs}
    for level in LEVELS:
        parts = []
        for run in runs:
            clock = run_clock(plan.simulate, run)
            seen = _on_screen(plan.simulate, run, clock, features, level)
            neural = (
                np.clip((seen - scaling.mean[level]) / scaling.sd[level], -2.5, 2.5) @ brain.weights[level]
            )
            parts.append(convolve(neural, brain.delays_s[level]))
        joined = np.concatenate(parts)
        mean, sd = joined.mean(0), joined.std(0)
        for run, part in zip(runs, parts, strict=True):
            signals[run.run_id][level] = ((part - mean) / sd * SIGNAL_PERCENT[level]).astype(np.float32)
    return signals


def _on_screen(
    simulate: Simulate,
    run: RunPlan,
    clock: np.ndarray,
    features: Mapping[str, Mapping[str, np.ndarray]],
    level: str,
) -> np.ndarray:
    """Features of what is on the screen at each time of the clock; zero (grey) during fixation."""
    seen = np.zeros((len(clock), len(FEATURE_NAMES[level])))
    for film, onset in zip(run.films, run.onsets, strict=True):
        inside = (clock >= onset) & (clock < onset + simulate.film_s)
        values = features[film][level]
        index = np.floor((clock[inside] - onset) * FEATURE_HZ).astype(int)
        seen[inside] = values[np.clip(index, 0, len(values) - 1)]
    return seen


def intrinsic_activity(
    rng: np.random.Generator, clock: np.ndarray, units: Mapping[str, list[str]]
) -> dict[str, np.ndarray]:
    """Ongoing fluctuations of the regions: slow, and correlated within networks.

    White noise passed through a haemodynamic response plus a slower 1/f part, from a few networks that every
    unit mixes and a part of its own (a spectrum as in resting-state data: Biswal et al., 1995; power below 0.1 Hz).

    Returns
    -------
    dict of level to array of shape (samples, units)
        Percent of the baseline, at noise = 1.
    """
    total = sum(len(labels) for labels in units.values())
    sources = rng.standard_normal((len(clock), _NETWORKS + total))
    vascular = convolve(sources, 5.0)
    slow = _pink(rng, len(clock), _NETWORKS + total)
    mixed = vascular / vascular.std(0) + 0.8 * slow
    loadings = rng.standard_normal((_NETWORKS, total)) / np.sqrt(_NETWORKS)
    activity = 0.7 * mixed[:, :_NETWORKS] @ loadings + 0.7 * mixed[:, _NETWORKS:]
    activity = (activity - activity.mean(0)) / activity.std(0)
    out, start = {}, 0
    for level, labels in units.items():
        out[level] = (INTRINSIC_PERCENT[level] * activity[:, start : start + len(labels)]).astype(np.float32)
        start += len(labels)
    return out


def _pink(rng: np.random.Generator, samples: int, count: int) -> np.ndarray:
    frequency = np.fft.rfftfreq(samples, STEP_S)
    amplitude = np.where(frequency > 0, 1 / np.sqrt(np.maximum(frequency, 0.008)), 0) * (frequency < 0.1)
    noise = rng.standard_normal((len(frequency), count)) + 1j * rng.standard_normal((len(frequency), count))
    series = np.fft.irfft(noise * amplitude[:, None], n=samples, axis=0)
    return series / series.std(0)


def delay_table(brains: list[Brain]) -> pd.DataFrame:
    """True delays: one row per subject and level, and the group's (subject ``all``)."""
    rows = [("all", level, DELAYS_S[level]) for level in LEVELS]
    rows += [(brain.subject, level, brain.delays_s[level]) for brain in brains for level in LEVELS]
    return pd.DataFrame(rows, columns=["subject", "level", "delay_s"])
