"""The learning curve of unseen people: how many minutes of somebody new does the model need?

Two questions are kept apart, with galleries of their own: clips of *known* content, which others were trained on, and clips of *new* content,
which nobody was. What a point of the curve is adapted on are the first minutes of a person; all points are tested on the same later clips.

``learning_curve.tsv``
    `model, seed, subject, content, minutes` and then the columns of ``metrics.tsv`` from `direction` on, without p-value, and
    `gain, gain_low, gain_high, people_low, people_high`: the paired difference to the shared model (NeuroAlign at 0 minutes) on the same clips with
    its block-bootstrap interval, and, for subject "all", the t interval of the people's mean gain. `model` is ``neuroalign`` (adapted; at
    0 minutes the shared model), or ``ridge_from_scratch`` and ``cca_from_scratch``: trained on these minutes alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from neuroalign.config.adapt import Adapt
from neuroalign.config.evaluate import Evaluate
from neuroalign.errors import UserError
from neuroalign.evaluation import bootstrap
from neuroalign.evaluation.baselines._data import lag_for
from neuroalign.evaluation.baselines.cca import DIMENSIONS, SHRINKAGES, Analysis
from neuroalign.evaluation.baselines.ridge import ALPHAS
from neuroalign.evaluation.scores import SubjectScores, read_scores
from neuroalign.evaluation.statistics import Judge, Measure, average
from neuroalign.evaluation.trials import DIRECTIONS, Trials, make_trials, order_scores
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.linear import cosine, fit_ridge, fit_scale, flat, scaled
from neuroalign.pairs.minutes import (
    CONTENTS,
    adaptation_parts,
    contiguous_folds,
    first_minutes,
    question_of,
)
from neuroalign.pairs.quality import rank_quality
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.windows import on_steps
from neuroalign.training.adapt import adapt
from neuroalign.training.adapt_maps import Group

log = logging.getLogger(__name__)

ADAPTED = "neuroalign"
SCRATCH = ("ridge_from_scratch", "cca_from_scratch")
_UNJUDGED_ALPHA, _UNJUDGED_CCA = 10.0, (0.3, 10)
CCA_OPTIONS = tuple(product(SHRINKAGES, DIMENSIONS))
COLUMNS = (
    *("model", "seed", "subject", "content", "minutes", "direction", "gallery", "gallery_size", "exclude_s"),
    *("metric", "value", "ci_low", "ci_high", "chance", "n_queries"),
    *("gain", "gain_low", "gain_high", "people_low", "people_high"),
)


def unseen_people(model: TrainedModel, pairs: PairedDataset) -> list[str]:
    """Subjects with test clips whom the model does not know."""
    known = model.network.architecture.subjects
    tested = pairs.clips.loc[pairs.clips["split"] == "test", "subject"].unique()
    return [s for s in pairs.subjects if s in tested and s not in known]


def curve_scores(
    model: TrainedModel, pairs: PairedDataset, config: Adapt, guard_s: float
) -> tuple[dict[str, dict[str, SubjectScores]], dict[str, Any]]:
    """Score the test clips of every unseen person at every point of the curve.

    Parameters
    ----------
    model : TrainedModel
    pairs : PairedDataset
        Of one fold of a split by subject; units are the same in everybody.
    config : Adapt
    guard_s : float

    Returns
    -------
    scores : dict of content to dict of subject to SubjectScores
        Parts are named ``<model>@<minutes>``.
    chosen : dict of subject to dict of minutes to dict
        What was chosen in each adaptation.

    Raises
    ------
    UserError
        If there is no unseen person, or nothing of one is left to test.
    """
    people = unseen_people(model, pairs)
    if not people:
        raise UserError(
            "The model has seen everybody with test clips: a learning curve needs a split by subject."
        )
    trained = [s for s in pairs.subjects if s not in people]
    group, lag = Group.of(model, pairs), lag_for(pairs)[0]
    scores: dict[str, dict[str, SubjectScores]] = {content: {} for content in CONTENTS}
    chosen: dict[str, Any] = {}
    for subject in people:
        minutes, adaptation, tested = adaptation_parts(
            pairs.clips, subject, [0.0, *config.minutes], config.test, guard_s
        )
        question = question_of(pairs.clips, tested, guard_s, trained)
        asked = {c: tested[question == c] for c in CONTENTS if (question == c).any()}
        parts: dict[str, dict[str, np.ndarray]] = {content: {} for content in asked}
        chosen[subject] = {}
        for amount in minutes:
            found = adapt(
                model,
                pairs,
                subject,
                amount,
                rows=adaptation,
                group=group,
                prior_minutes=config.prior_minutes,
            )
            chosen[subject][f"{amount:g}"] = found.chosen
            scratch = _from_scratch(pairs, subject, first_minutes(pairs.clips, adaptation, amount), lag)
            for content, rows in asked.items():
                windows, gallery, _ = _windows(pairs, subject, rows)
                clips = model.embed_video(pairs.video.select(gallery))
                brain = found.model.embed_fmri(windows, subject)
                parts[content][_part(ADAPTED, amount)] = found.model.score(brain, clips)
                for name, score in scratch.items():
                    parts[content][_part(name, amount)] = score(rows)
        for content, rows in asked.items():
            _, gallery, _ = _windows(pairs, subject, rows)
            ids = [pairs.video.clip_ids[i] for i in gallery]
            scores[content][subject] = SubjectScores(rows, ids, parts[content])
        log.info(
            "subject %s: %s minutes, tested on %s",
            *(subject, ", ".join(f"{m:g}" for m in minutes)),
            ", ".join(f"{len(rows)} clips of {content} content" for content, rows in asked.items()),
        )
    return scores, chosen


def _part(model: str, minutes: float) -> str:
    return f"{model}@{minutes:g}"


def _windows(pairs: PairedDataset, subject: str, rows: np.ndarray):
    """Windows at some rows of the clip table, the contents among them, and the content of each window."""
    windows = pairs.brain[subject]
    windows = windows.select(np.isin(windows.rows, rows))
    contents = pairs.video.rows_of(pairs.clips["clip_id"].to_numpy()[windows.rows])
    return windows, np.unique(contents), contents


def _quality(predicted: np.ndarray, video: np.ndarray, contents: np.ndarray) -> float:
    """`rank_quality` of windows among the clips they show; NaN of a single clip."""
    gallery, truth = np.unique(contents, return_inverse=True)
    if len(gallery) < 2:
        return float("nan")
    return rank_quality(cosine(predicted, video[gallery]), truth)


def _from_scratch(pairs: PairedDataset, subject: str, rows: np.ndarray, lag: float) -> dict[str, Any]:
    """Ridge and CCA of one person trained on some rows alone: by name, a function from rows to a score matrix.

    Penalty and dimensions are chosen by cross-validation over contiguous parts of the rows; only the lag is that of the training people.
    """
    if len(rows) < 2:
        return {}
    windows, _, contents = _windows(pairs, subject, rows)
    raw = on_steps(windows, pairs.video.step_times, lag)
    video = np.concatenate(list(pairs.video.levels.values()), axis=2)
    if raw.shape[1] != video.shape[1]:
        video = video.mean(axis=1, keepdims=True)
    scale, brain_scale = fit_scale(video[np.unique(contents)]), fit_scale(raw)
    video, brain = scaled(video, scale), scaled(raw, brain_scale)
    folds = contiguous_folds(pairs.clips.iloc[rows])

    def chosen(options, fit, apply, default):
        """The option with the best retrieval of parts by maps that were fitted without them."""
        if not folds:
            return default
        models = [fit(part) for part, _ in folds]

        def criterion(option):
            found = [
                _quality(*apply(model, option, brain[judged], video), contents[judged])
                for model, (_, judged) in zip(models, folds, strict=True)
            ]
            return float(np.nanmean(found))

        judged_options = [(criterion(option), option) for option in options]
        finite = [item for item in judged_options if np.isfinite(item[0])]
        return max(finite, key=lambda item: item[0])[1] if finite else default

    def ridge(part):
        return fit_ridge(flat(brain[part]), flat(video[contents[part]]))

    def by_ridge(model, alpha, x, y):
        return model(alpha)(x), y

    def cca(part):
        return Analysis(flat(brain[part]), flat(video[contents[part]]))

    def by_cca(model, option, x, y):
        shrinkage, dims = option
        found = model.at(shrinkage)
        return x @ found.brain[:, :dims], y @ found.video[:, :dims]

    everything = np.arange(len(rows))
    out = {}
    for name, fit, apply, options, default in (
        (SCRATCH[0], ridge, by_ridge, ALPHAS, _UNJUDGED_ALPHA),
        (SCRATCH[1], cca, by_cca, CCA_OPTIONS, _UNJUDGED_CCA),
    ):
        option, model = chosen(options, fit, apply, default), fit(everything)

        def score(asked, model=model, option=option, apply=apply):
            new, gallery, _ = _windows(pairs, subject, asked)
            x = scaled(on_steps(new, pairs.video.step_times, lag), brain_scale)
            return cosine(*apply(model, option, x, video[gallery]))

        out[name] = score
    return out


@dataclass(frozen=True)
class CurveFile:
    """One file of scores of `curve_scores`.

    Attributes
    ----------
    content : str
        One of `CONTENTS`.
    seed, fold : int
    path : path
    """

    content: str
    seed: int
    fold: int
    path: str | os.PathLike


def learning_curve(
    files: Sequence[CurveFile], clip_tables: Sequence[pd.DataFrame], config: Evaluate
) -> pd.DataFrame:
    """Measure every point of the curve; see the module's docstring.

    Parameters
    ----------
    files : sequence of CurveFile
        Of every fold and seed.
    clip_tables : sequence of DataFrame
        The clip table of every fold.
    config : Evaluate
    """
    rows: list[dict[str, Any]] = []
    judge = Judge(config, rotations=False)
    for content in CONTENTS:
        trials = _trials([f for f in files if f.content == content], clip_tables)
        known: dict = {}
        for direction in DIRECTIONS:
            points = {key[:2] for key in trials if key[3] == direction}
            for model, minutes in sorted(points, key=lambda p: (p[0] != ADAPTED, p[0], p[1])):
                seeds = sorted({k[2] for k in trials if k[:2] == (model, minutes)})
                found = {s: _point(judge, trials, (model, minutes, s, direction), known) for s in seeds}
                if len(seeds) > 1:
                    found["all"] = _over_seeds(list(found.values()))
                for seed, subjects in found.items():
                    gains = _people_gains(subjects)
                    for subject, pairs in subjects.items():
                        about = {"model": model, "seed": seed, "subject": subject, "content": content}
                        about |= {"minutes": minutes, "direction": direction}
                        rows += [
                            about | _row(first, shared, config, gains if subject == "all" else None)
                            for first, shared in pairs
                        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


Points = dict[tuple[str, float, int, str], list[Trials]]
# By subject (or "all"): a measure of the point and the same of the shared model.
Paired = dict[str, list[tuple[Measure, Measure]]]


def _trials(files: Sequence[CurveFile], clip_tables: Sequence[pd.DataFrame]) -> Points:
    found: Points = {}
    for file in sorted(files, key=lambda f: (f.seed, f.fold)):
        clips = clip_tables[file.fold]
        for subject, scores in sorted(read_scores(file.path).items()):
            item = order_scores(scores, clips)
            for part in item.parts:
                model, minutes = part.split("@")
                for direction in DIRECTIONS:
                    made = make_trials(item, part, clips, subject, file.fold, direction)
                    found.setdefault((model, float(minutes), file.seed, direction), []).append(made)
    return found


def _point(judge: Judge, trials: Points, point: tuple[str, float, int, str], known: dict) -> Paired:
    """Measures of a point of the curve, and of the shared model for the same people; `known` keeps the latter."""
    own = trials[point]
    people = frozenset((t.subject, t.fold) for t in own)
    key = (*point[2:], people)
    if key not in known:
        shared = trials[(ADAPTED, 0.0, *point[2:])]
        known[key] = judge.measure([t for t in shared if (t.subject, t.fold) in people])
    first = known[key] if point[:2] == (ADAPTED, 0.0) else judge.measure(own)
    return {s: list(zip(first[s], known[key][s], strict=True)) for s in first}


def _over_seeds(seeds: Sequence[Paired]) -> Paired:
    return {
        subject: [
            (average([p[0] for p in same]), average([p[1] for p in same]))
            for same in zip(*(s[subject] for s in seeds), strict=True)
        ]
        for subject in seeds[0]
    }


def _people_gains(subjects: Paired) -> dict[tuple, np.ndarray]:
    """Gain of every person, by what is measured."""
    gains: dict[tuple, list[float]] = {}
    for subject, pairs in subjects.items():
        if subject != "all":
            for first, shared in pairs:
                gains.setdefault(first.key, []).append(first.value - shared.value)
    return {key: np.array(values) for key, values in gains.items()}


def _row(
    first: Measure, shared: Measure, config: Evaluate, gains: dict[tuple, np.ndarray] | None
) -> dict[str, Any]:
    row = {k: v for k, v in first.row(config.confidence).items() if k != "p_value"}
    low, high = bootstrap.interval(first.distribution - shared.distribution, first.blocks, config.confidence)
    row |= {"gain": first.value - shared.value, "gain_low": low, "gain_high": high}
    values = gains[first.key] if gains else np.zeros(0)
    people = (np.nan, np.nan)
    if len(values) > 1:
        half = (
            stats.t.ppf((1 + config.confidence) / 2, len(values) - 1)
            * values.std(ddof=1)
            / np.sqrt(len(values))
        )
        people = (values.mean() - half, values.mean() + half)
    return row | {"people_low": people[0], "people_high": people[1]}


def curve_paths(folder: str | os.PathLike) -> dict[str, Path]:
    """Score files of one branch, by content."""
    return {content: Path(folder) / f"{content}.h5" for content in CONTENTS}
