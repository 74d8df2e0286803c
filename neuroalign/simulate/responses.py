"""The hard simulated setting: regional series and film features, no images, with everything known that a ceiling needs.

`make_world` draws films (features), people and their series from a generating model that is linear and Gaussian throughout,
`write_world` puts them on disk as the workflow reads them (``fmri.source: timeseries``, ``video.backbone: precomputed``), and
`simulate.observer` says how well anything could do on them. The model is described in ``docs/simulation.md``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.io import provenance, write_json, write_tsv
from neuroalign.simulate.features import LEVELS
from neuroalign.simulate.hrf import response
from neuroalign.simulate.neural import DELAY_SD_S, DELAYS_S, SHARED, SIGNAL_PERCENT
from neuroalign.simulate.plan import TASK, generator
from neuroalign.simulate.regional_noise import NoiseSource, Part, noise_parts
from neuroalign.video.shards import Embedding, write_embedding

STEP_S = 0.25
"""Spacing of the features that drive the brain."""

MEMORY_S = {"early": 1.5, "intermediate": 3.0, "high": 6.0}
"""Time constant of the features of each level: motion changes fast, what a scene is about slowly."""

BEFORE_S, AFTER_S = 40.0, 24.0
"""Seconds of the film that ran before and after its described part; a response is over after 32 s."""

_LEAD_S, _TAIL_S = 6.0, 18.0
_EMBED_S = 0.5
_KERNEL_STEP_S = 0.05


@dataclass(frozen=True)
class Responses:
    """Settings of the hard setting.

    Attributes
    ----------
    people : int
    train_films, test_films : int
        Everybody sees every film once. The last `test_films` are for testing.
    film_s : float
        Described seconds of each film.
    tr_s : float
    units, features : int
        Parcels, and features of a film, per level.
    noise : float
        Relative to published 3 T data. The default makes ridge regression find 15 to 25 % of clips among 300.
    seed : int
    """

    people: int = 4
    train_films: int = 9
    test_films: int = 4
    film_s: float = 300.0
    tr_s: float = 2.0
    units: int = 60
    features: int = 24
    noise: float = 5.0
    seed: int = 0

    @property
    def films(self) -> list[str]:
        """Names of the films."""
        return [f"film-{i + 1:02d}" for i in range(self.train_films + self.test_films)]

    @property
    def test(self) -> list[str]:
        """The films held out for testing (`split.hold_out`)."""
        return self.films[self.train_films :]


@dataclass(frozen=True)
class Person:
    """One simulated person.

    Attributes
    ----------
    delays_s : dict of str to float
        Time to peak per level.
    weights : dict of str to array of shape (features, units)
        Percent of the signal per unit of the response to each feature.
    noise : list of Part
        Over the units of all levels, side by side.
    """

    delays_s: dict[str, float]
    weights: dict[str, np.ndarray]
    noise: list[Part]


@dataclass(frozen=True)
class World:
    """Everything that was drawn.

    Attributes
    ----------
    settings : Responses
    films : dict of film to dict of level to array of shape (samples, features)
        From `BEFORE_S` before the described part, every `STEP_S`.
    feature_covariance : dict of level to array of shape (features, features)
    people : dict of subject label to Person
    onsets : dict of (subject, film) to float
        Seconds from the start of the first volume of the run to the described part.
    series : dict of (subject, film) to array of shape (volumes, 3·units)
        Percent.
    """

    settings: Responses
    films: dict[str, dict[str, np.ndarray]]
    feature_covariance: dict[str, np.ndarray]
    people: dict[str, Person]
    onsets: dict[tuple[str, str], float]
    series: dict[tuple[str, str], np.ndarray]


def sample_times(seconds: float) -> np.ndarray:
    """Middle of every feature sample of a film, in seconds from its described part."""
    return -BEFORE_S + STEP_S * (np.arange(round((BEFORE_S + seconds + AFTER_S) / STEP_S)) + 0.5)


def response_matrix(delay_s: float, at_s: np.ndarray, sampled_s: np.ndarray) -> np.ndarray:
    """Weight of every feature sample in the response at every time; (times, samples)."""
    kernel = response(delay_s, _KERNEL_STEP_S) / _KERNEL_STEP_S
    lag = at_s[:, None] - sampled_s[None]
    return STEP_S * np.interp(lag, np.arange(len(kernel)) * _KERNEL_STEP_S, kernel, left=0.0, right=0.0)


def memory(level: str, first_s: np.ndarray, second_s: np.ndarray) -> np.ndarray:
    """Autocorrelation of a level's features between two sets of times."""
    return np.exp(-np.abs(first_s[:, None] - second_s[None]) / MEMORY_S[level])


def make_world(settings: Responses) -> World:
    """Draw films, people and series; the same settings always give the same world."""
    group, covariance, basis = {}, {}, {}
    for level in LEVELS:
        rng = generator(settings, "features", level)
        values = 1.0 / np.arange(1, settings.features + 1)
        turn = np.linalg.qr(rng.standard_normal((settings.features, settings.features)))[0]
        basis[level] = np.sqrt(values)[:, None] * turn.T
        covariance[level] = basis[level].T @ basis[level]
        group[level] = _weights(generator(settings, "weights", "all", level), settings)
    films = {film: _film(settings, film, basis) for film in settings.films}
    people = {
        f"{i + 1:02d}": _person(settings, f"{i + 1:02d}", group, covariance) for i in range(settings.people)
    }
    onsets, series = {}, {}
    most = _volumes(settings, _LEAD_S + settings.tr_s)
    for subject, person in people.items():
        source = NoiseSource(person.noise, most, settings.tr_s)
        for film in settings.films:
            rng = generator(settings, "run", subject, film)
            onset = round(_LEAD_S + rng.uniform(0, settings.tr_s), 3)
            at = volume_times(settings, _volumes(settings, onset)) - onset
            signal = np.concatenate([response_to(person, films[film], level, at) for level in LEVELS], axis=1)
            onsets[subject, film] = onset
            series[subject, film] = signal + source.draw(rng, len(at))
    return World(settings, films, covariance, people, onsets, series)


def _volumes(settings: Responses, onset_s: float) -> int:
    return int(np.ceil((onset_s + settings.film_s + _TAIL_S) / settings.tr_s))


def volume_times(settings: Responses, volumes: int) -> np.ndarray:
    """Middle of every volume in seconds from the start of the first."""
    return (np.arange(volumes) + 0.5) * settings.tr_s


def response_to(person: Person, film: Mapping[str, np.ndarray], level: str, at_s: np.ndarray) -> np.ndarray:
    """Noise-free series of a level at times after the start of the described part; (times, units)."""
    sampled = -BEFORE_S + STEP_S * (np.arange(len(film[level])) + 0.5)
    return response_matrix(person.delays_s[level], at_s, sampled) @ film[level] @ person.weights[level]


def _film(settings: Responses, film: str, basis: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features of one film: an Ornstein-Uhlenbeck process per level."""
    out = {}
    for level in LEVELS:
        rng = generator(settings, "film", film, level)
        white = rng.standard_normal((len(sample_times(settings.film_s)), settings.features))
        keep = np.exp(-STEP_S / MEMORY_S[level])
        # Stationary from the first sample on: its variance is that of all others.
        white[1:] *= np.sqrt(1 - keep**2)
        out[level] = lfilter([1.0], [1.0, -keep], white, axis=0) @ basis[level]
    return out


def _weights(rng: np.random.Generator, settings: Responses) -> np.ndarray:
    """Each unit prefers about a third of the features and is nearly indifferent to the rest (as `neural._intermediate`)."""
    shape = (settings.features, settings.units)
    weights = rng.standard_normal(shape) * (rng.random(shape) < 0.35) + 0.1 * rng.standard_normal(shape)
    return weights / np.linalg.norm(weights, axis=0)


def _person(
    settings: Responses, subject: str, group: Mapping[str, np.ndarray], covariance: Mapping[str, np.ndarray]
) -> Person:
    rng = generator(settings, "person", subject)
    together = rng.normal(0, DELAY_SD_S * np.sqrt(0.5))
    delays, weights = {}, {}
    for level in LEVELS:
        delays[level] = round(DELAYS_S[level] + together + rng.normal(0, DELAY_SD_S * np.sqrt(0.5)), 3)
        own = _weights(rng, settings)
        mixed = np.sqrt(SHARED[level]) * group[level] + np.sqrt(1 - SHARED[level]) * own
        # The signal of every unit has the size that its level has in the demo.
        sampled = np.arange(-BEFORE_S, 0, STEP_S) + STEP_S / 2
        kernel = response_matrix(delays[level], np.zeros(1), sampled)[0]
        variance = kernel @ memory(level, sampled, sampled) @ kernel
        driven = np.einsum("fu,fg,gu->u", mixed, covariance[level], mixed)
        weights[level] = mixed * SIGNAL_PERCENT[level] / np.sqrt(variance * driven)
    noise = noise_parts(generator(settings, "noise", subject), len(LEVELS) * settings.units, settings.noise)
    return Person(delays, weights, noise)


def unit_labels(settings: Responses) -> dict[str, list[str]]:
    """Names of the parcels of each level."""
    return {level: [f"{level}_{i + 1:02d}" for i in range(settings.units)] for level in LEVELS}


def write_world(world: World, folder: str | os.PathLike) -> dict[str, object]:
    """Write the world as the workflow reads it.

    ``bids`` has events, ``derivatives`` the series, ``features`` the embeddings, ``truth/delays.tsv`` the true delays.

    Parameters
    ----------
    world : World
    folder : path

    Returns
    -------
    dict
        The part of the configuration that reads it (sections `dataset`, `fmri`, `video`, `clips`, `hrf` and `split`).
    """
    folder, settings = Path(folder), world.settings
    made_by = provenance(vars(settings))
    for root in ("bids", "derivatives"):
        write_json(folder / root / "dataset_description.json", _description(root))
    write_json(
        folder / "bids" / f"task-{TASK}_bold.json", {"TaskName": TASK, "RepetitionTime": settings.tr_s}
    )
    labels = unit_labels(settings)
    for (subject, film), data in world.series.items():
        run = settings.films.index(film) + 1
        name = f"sub-{subject}/func/sub-{subject}_task-{TASK}_run-{run:02d}"
        events = pd.DataFrame(
            {
                "onset": [world.onsets[subject, film]],
                "duration": [settings.film_s],
                "trial_type": [TASK],
                "stim_file": [f"{film}.mp4"],
            }
        )
        write_tsv(folder / "bids" / f"{name}_events.tsv", events)
        parts = np.split(data.astype(np.float32), len(LEVELS), axis=1)
        series = RoiSeries(
            dict(zip(LEVELS, parts, strict=True)),
            labels,
            volume_times(settings, len(data)),
            np.ones(len(data), bool),
            {"subject": subject, "task": TASK, "run": f"{run:02d}", "tr": settings.tr_s, "space": _SPACE}
            | {"atlas": _ATLAS, "source": "simulated", "session": "", "hrf_removed": False},
        )
        write_series(folder / "derivatives" / f"{name}_timeseries.h5", series, made_by)
    for film, levels in world.films.items():
        write_embedding(folder / "features" / f"{film}.h5", _embedding(settings, levels), made_by)
    write_tsv(folder / "truth" / "delays.tsv", delay_table(world))
    return {
        "dataset": {
            "bids_dir": str(folder / "bids"),
            "derivatives": str(folder / "derivatives"),
        },
        "fmri": {
            "source": "timeseries",
            "space": _SPACE,
            "atlas": {"name": _ATLAS},
            "levels": {level: f"^{level}_" for level in LEVELS},
        },
        "video": {"backbone": "precomputed", "precomputed_dir": str(folder / "features")},
        "clips": {"strategy": "fixed", "duration_s": 4.0, "stride_s": 4.0},
        "hrf": {"method": "adaptive"},
        "split": {"by": "stimulus", "hold_out": {"stimulus": settings.test}, "validation": 0.1},
    }


_SPACE, _ATLAS = "MNI152NLin2009cAsym", "simulated"


def _description(root: str) -> dict[str, object]:
    return {
        "Name": "NeuroAlign, hard simulated setting",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw" if root == "bids" else "derivative",
        "GeneratedBy": [{"Name": "NeuroAlign"}],
    }


def _embedding(settings: Responses, levels: Mapping[str, np.ndarray]) -> Embedding:
    """The described part, averaged over windows of half a second."""
    every, first = round(_EMBED_S / STEP_S), round(BEFORE_S / STEP_S)
    count = round(settings.film_s / _EMBED_S)
    data = {
        level: x[first : first + count * every].reshape(count, every, -1).mean(axis=1).astype(np.float32)
        for level, x in levels.items()
    }
    about = {"backbone": "simulated", "revision": "", "window_s": _EMBED_S, "stride_s": _EMBED_S}
    return Embedding(data, (np.arange(count) + 0.5) * _EMBED_S, attributes=about | {"hrf_convolved": False})


def delay_table(world: World) -> pd.DataFrame:
    """True delays, one row per subject and level; subject ``all`` is the mean over the people of this world."""
    people = {subject: person.delays_s for subject, person in world.people.items()}
    mean = {level: float(np.mean([delays[level] for delays in people.values()])) for level in LEVELS}
    rows = [
        (who, level, delays[level]) for who, delays in {"all": mean, **people}.items() for level in LEVELS
    ]
    return pd.DataFrame(rows, columns=["subject", "level", "delay_s"])
