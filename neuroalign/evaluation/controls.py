"""Controls: what must sit at chance, and what must not win.

========================  ===============================================================  ============
control                   what is scored                                                   expected
========================  ===============================================================  ============
``shifted``               the model, presentations rotated within runs by 1/4 to 3/4      chance
``shuffled``              the model, test presentations paired with labels at random       chance
``time_only``             ridge from smooth functions of clip time, in place of the brain  chance
``shuffled_training``     ridge trained on pairs shuffled within subject                   chance
``low_level``             ridge to luminance, contrast and motion only                     below_model
========================  ===============================================================  ============

``shifted``, ``shuffled`` and ``shuffled_training`` are means over ten rotations (shuffles), and their intervals resample
these as well as blocks: a map learned from one shuffle is a random map, and all test queries share its luck.

A control expected at chance passes unless it is credibly *above* chance, at a level that is 95 % for all subjects and
directions of that control together (Bonferroni): a leak can only raise it, and few queries often give exactly zero
hits. ``low_level`` passes where the model's value is better. Where nothing can be said (a single block), `passed` is
empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation.baselines._data import Material, lag_for, material, score_test
from neuroalign.evaluation.baselines.ridge import fit_and_score
from neuroalign.evaluation.bootstrap import resample_weights
from neuroalign.evaluation.retrieval import LOWER_IS_BETTER
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.evaluation.statistics import Judge, Measure, average
from neuroalign.evaluation.trials import DIRECTIONS, Trials, make_trials, order_scores
from neuroalign.pairs.linear import cosine, decompose, flat
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.variants import time_only

COLUMNS = (
    "control",
    "model",
    "subject",
    "direction",
    "gallery",
    "gallery_size",
    "exclude_s",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "chance",
    "reference",
    "expected",
    "passed",
    "n_queries",
)
SIMULTANEOUS = 0.95
DRAWS = 10


def far_rotations(trials: Trials) -> list[np.ndarray]:
    """Whose label each presentation takes when every run is rotated by a quarter to three quarters of itself.

    Returns
    -------
    sources : list of `DRAWS` int arrays of shape (pairs,)
        See `Trials.rotated`.
    """
    sources = [np.arange(len(trials.rows)) for _ in range(DRAWS)]
    for run in dict.fromkeys(trials.runs):
        where = np.flatnonzero([r == run for r in trials.runs])
        order = where[np.argsort(trials.onset_s[where], kind="stable")]
        for source, share in zip(sources, np.linspace(0.25, 0.75, DRAWS), strict=True):
            source[order] = np.roll(order, -round(share * len(order)))
    return sources


def trained_controls(pairs: PairedDataset, seed: int) -> dict[str, list[dict[str, SubjectScores]]]:
    """Train the control models of one fold and score its test windows.

    Parameters
    ----------
    pairs : PairedDataset
    seed : int
        Of the shuffled pairing.

    Returns
    -------
    scores : dict of control to list (shuffles) of dict of subject to SubjectScores
        Without ``low_level`` where the pairs hold no low-level values (precomputed features).
    """
    lags = lag_for(pairs)
    found = {
        "time_only": [fit_and_score(material(time_only(pairs), (0.0,)))[0]],
        "shuffled_training": _shuffled_training(material(pairs, lags), seed),
    }
    if pairs.video.low_level is not None:
        found["low_level"] = [fit_and_score(material(pairs, lags, target=pairs.video.low_level))[0]]
    return found


def _shuffled_training(data: Material, seed: int) -> list[dict[str, SubjectScores]]:
    """Ridge on training pairs in which no window keeps its own clip, with the penalty of the true pairs."""
    alpha = fit_and_score(data)[1]["alpha"]
    fits = {s: decompose(flat(data.subjects[s]["train"].brain)) for s in data.trained()}
    rng = np.random.default_rng([seed, 1])
    found = []
    for _ in range(DRAWS):
        maps = {}
        for subject, fit in fits.items():
            contents = data.subjects[subject]["train"].contents
            cycle = rng.permutation(len(contents))
            mixed = np.empty_like(contents)
            mixed[cycle] = contents[np.roll(cycle, 1)]
            maps[subject] = fit(flat(data.video[mixed]))(alpha)

        def score(subject: str, brain: np.ndarray, video: np.ndarray, maps: dict = maps) -> np.ndarray:
            return cosine(maps[subject](brain), video)

        found.append(score_test(data, score, maps))
    return found


def controls_table(
    model: str,
    trials: Mapping[str, Sequence[Sequence[Trials]]],
    folds: Sequence[PairedDataset],
    config: Evaluate,
) -> pd.DataFrame:
    """Run every control on the full gallery.

    Parameters
    ----------
    model : str
        The model that `shifted` and `shuffled` are made from and `low_level` is compared with.
    trials : dict of direction to list (seeds) of list of Trials
        Of that model.
    folds : sequence of PairedDataset
        The pairs of each fold, for the controls that are trained.
    config : Evaluate

    Returns
    -------
    table : DataFrame with `COLUMNS`
    """
    # Of these people: a leak in their data is to be seen, not averaged away by the spread between them.
    update = {"galleries": ["full"], "exclude_s": [min(config.exclude_s)], "resample": "clips"}
    config = config.model_copy(update=update)
    judge = Judge(config, rotations=False)
    trained = [trained_controls(pairs, config.seed) for pairs in folds]
    measured: dict[str, dict[str, dict[str, list[Measure]]]] = {}
    reference = {}
    for direction in DIRECTIONS:
        seeds = trials[direction]
        reference[direction] = _over_seeds([judge.measure(items) for items in seeds])
        for name, make in (("shifted", far_rotations), ("shuffled", partial(_shuffles, seed=config.seed))):
            sources = [make(t) for t in seeds[0]]
            found = [
                _over_seeds([judge.measure(items, [own[draw] for own in sources]) for items in seeds])
                for draw in range(DRAWS)
            ]
            measured.setdefault(name, {})[direction] = over_draws(found, config.seed)
        for name in trained[0]:
            found = [
                judge.measure(
                    [
                        make_trials(
                            order_scores(scores, pairs.clips), "score", pairs.clips, subject, fold, direction
                        )
                        for fold, (pairs, own) in enumerate(zip(folds, trained, strict=True))
                        for subject, scores in own[name][draw].items()
                    ]
                )
                for draw in range(len(trained[0][name]))
            ]
            measured.setdefault(name, {})[direction] = over_draws(found, config.seed)
    rows = []
    for name, directions in measured.items():
        count = sum(len(subjects) for subjects in directions.values())
        for direction, subjects in directions.items():
            for subject, measures in subjects.items():
                best = {m.key: m.value for m in reference[direction].get(subject, [])}
                source = model if name in ("shifted", "shuffled") else "ridge"
                about = {"control": name, "model": source, "subject": subject, "direction": direction}
                rows += [about | judged(name, m, best.get(m.key), count) for m in measures]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _shuffles(trials: Trials, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, trials.fold, *trials.subject.encode()])
    return [rng.permutation(len(trials.rows)) for _ in range(DRAWS)]


def _over_seeds(found: list[dict[str, list[Measure]]]) -> dict[str, list[Measure]]:
    return {
        name: [average(same) for same in zip(*(f[name] for f in found), strict=True)] for name in found[0]
    }


def over_draws(found: list[dict[str, list[Measure]]], seed: int) -> dict[str, list[Measure]]:
    """The mean over draws of a control, with a distribution that resamples draws as well as blocks."""
    merged = _over_seeds(found)
    if len(found) == 1:
        return merged
    rng = np.random.default_rng([seed, 4])
    for subject, measures in merged.items():
        for i, measure in enumerate(measures):
            each = np.stack([f[subject][i].distribution for f in found], axis=1)
            weights = resample_weights(len(found), len(each), rng) / len(found)
            measures[i] = replace(measure, distribution=(each * weights).sum(axis=1))
    return merged


def judged(control: str, measure: Measure, model_value: float | None, count: int) -> dict[str, object]:
    """The row of a control, with what was expected and whether it held."""
    level = 1 - (1 - SIMULTANEOUS) / count
    row = measure.row(level)
    sign = -1.0 if measure.metric in LOWER_IS_BETTER else 1.0
    if control == "low_level":
        passed = None if model_value is None else bool(sign * (model_value - measure.value) > 0)
        return row | {"expected": "below_model", "reference": model_value, "passed": passed}
    low, high = measure.interval(level)
    edge = low if sign > 0 else high
    passed = bool(sign * (edge - measure.chance) <= 1e-9) if np.isfinite(edge) else None
    return row | {"expected": "chance", "reference": measure.chance, "passed": passed}
