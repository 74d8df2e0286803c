"""From score files to the tables of the report: one evaluator for the model and every baseline.

Tables (all long format, one number per row; ``n/a`` where it cannot be said)
-----------------------------------------------------------------------------
``metrics.tsv``
    `model, seed, subject, direction, gallery, gallery_size, exclude_s, metric, value, ci_low, ci_high, chance, p_value,
    n_queries`. `subject` is "all" for the pool. `gallery` is ``full``, ``stimulus`` (clips of the true one's own stimulus;
    no rows where a subject's test clips are all of one) or ``<N>-way``; `gallery_size` counts the true clip and is the mean
    over queries where it varies. With several seeds, rows with `seed` "all" hold the mean over seeds, and their intervals
    also resample seeds. Test queries of all folds are pooled; each is ranked in the gallery of its fold. What intervals
    resample: `evaluation.statistics`.
``comparisons.tsv``
    Paired differences (`model_a` minus `model_b`, means over seeds) between NeuroAlign and every other model on the
    queries both have. For `median_rank` a negative difference favours `model_a`. The p-value is two-sided, from
    exchanging the models block by block: it speaks about other clips, the interval about what `evaluate.resample` says.
``controls.tsv``
    See `evaluation.controls`.
``ceilings.tsv``
    See `evaluation.ceilings`; `ceiling` in place of model and seed.
``summary.tsv``
    See `evaluation.summary`: everything in one grouped table.
``rankings.tsv``
    Per query: the true clip, its rank (mid-rank for ties) and the five best candidates.

Models are named as their score files; of several parts, ``fused`` (or ``score``) has the plain name and the
others append theirs: ``neuroalign``, ``neuroalign_continuous``, ``neuroalign_quantised``; with captions also
``neuroalign_video_only`` (the same model without its text part) and ``neuroalign_text`` (captions alone).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.config.evaluate import Evaluate
from neuroalign.errors import UserError
from neuroalign.evaluation import bootstrap, ceilings
from neuroalign.evaluation.baselines._data import lag_for, material
from neuroalign.evaluation.controls import controls_table
from neuroalign.evaluation.leakage import check_pairs
from neuroalign.evaluation.retrained import retrained_table
from neuroalign.evaluation.retrieval import near_clips, outranked
from neuroalign.evaluation.scores import Cache, ScoreFileReader, SubjectScores
from neuroalign.evaluation.statistics import Judge, Measure, average, difference
from neuroalign.evaluation.summary import summary_table
from neuroalign.evaluation.trials import DIRECTIONS, Trials, make_trials, order_scores
from neuroalign.io import write_json, write_tsv
from neuroalign.pairs.store import PairedDataset, read_pairs

log = logging.getLogger(__name__)

MODEL = "neuroalign"
PLAIN_PARTS = ("fused", "score")
# Captions alone.
TEXT_PART = "text"
METRIC_COLUMNS = (
    "model",
    "seed",
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
    "p_value",
    "n_queries",
)
COMPARISON_COLUMNS = (
    "model_a",
    "model_b",
    "subject",
    "direction",
    "gallery",
    "exclude_s",
    "metric",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "n_queries",
)
CEILING_COLUMNS = ("ceiling", *METRIC_COLUMNS[2:])
SHOWN = 5
RANKING_COLUMNS = (
    "model",
    "seed",
    "fold",
    "subject",
    "direction",
    "clip_row",
    "clip_id",
    "rank",
    *(f"top_{k + 1}" for k in range(SHOWN)),
)

# By model, direction and seed: the trials of all subjects and folds.
TrialsOf = dict[str, dict[str, dict[int, list[Trials]]]]
# By subject (or "all").
MeasuresOf = dict[str, list[Measure]]
# With fewer blocks an interval is little more than the range of what was seen.
FEW_BLOCKS = 10


@dataclass(frozen=True)
class ScoreFile:
    """One file of test scores.

    Attributes
    ----------
    model : str
        ``neuroalign`` or the name of a baseline.
    seed, fold : int
    path : path
    """

    model: str
    seed: int
    fold: int
    path: str | os.PathLike


@dataclass(frozen=True)
class Results:
    """The tables of the evaluation; see the module's docstring."""

    metrics: pd.DataFrame
    comparisons: pd.DataFrame
    controls: pd.DataFrame
    ceilings: pd.DataFrame
    rankings: pd.DataFrame
    summary: pd.DataFrame


def evaluate(
    score_files: Sequence[ScoreFile],
    pairs_dir: str | os.PathLike,
    config: Evaluate,
    folds: int = 1,
    guard_s: float = 0.0,
    retrained: Sequence[ScoreFile] = (),
) -> Results:
    """Evaluate score files of the same pairs.

    Parameters
    ----------
    score_files : sequence of ScoreFile
        Every model has every seed in every fold.
    pairs_dir : path
        The ``pairs`` folder.
    config : Evaluate
    folds : int
        Folds of the split.
    guard_s : float
        Seconds that the split promises between its parts; checked before anything is evaluated.
    retrained : sequence of ScoreFile
        Of controls for which the model was trained again (`evaluation.retrained`).

    Raises
    ------
    UserError
        If there is nothing to evaluate, a fold is missing, or scores do not belong to these pairs.
    Problems
        If the split leaks (see `evaluation.leakage`).
    """
    if not score_files:
        raise UserError("There are no score files to evaluate; train the model or a baseline first.")
    parts = [read_pairs(pairs_dir, fold) for fold in range(folds)]
    for pairs in parts:
        check_pairs(pairs, guard_s)
    trials = _read(score_files, parts)
    judge = Judge(config)
    metrics, comparisons = _metrics_and_comparisons(trials, judge, config)
    main = MODEL if MODEL in trials else next(iter(trials))
    controls = controls_table(
        main, {d: list(seeds.values()) for d, seeds in trials[main].items()}, parts, config
    )
    if retrained:
        judged = retrained_table(_read(retrained, parts), config)
        controls = pd.concat([controls, judged], ignore_index=True)
    ceilings_found = _ceilings(parts, judge, config)
    return Results(
        metrics=metrics,
        comparisons=comparisons,
        controls=controls,
        ceilings=ceilings_found,
        rankings=_rankings(trials),
        summary=summary_table(trials, controls, ceilings_found, config),
    )


def write_results(
    results: Results, folder: str | os.PathLike, made_by: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Write every table as ``<name>.tsv`` and the provenance as ``evaluation.json``.

    Returns
    -------
    paths : dict of table name to path
    """
    folder = Path(folder)
    paths = {}
    for field in fields(results):
        paths[field.name] = folder / f"{field.name}.tsv"
        write_tsv(paths[field.name], getattr(results, field.name))
    paths["provenance"] = folder / "evaluation.json"
    write_json(paths["provenance"], dict(made_by or {}))
    return paths


def model_name(model: str, part: str) -> str:
    """The name under which a part of a score file appears in tables."""
    return model if part in PLAIN_PARTS else f"{model}_{part}"


def _read(score_files: Sequence[ScoreFile], parts: Sequence[PairedDataset]) -> TrialsOf:
    """Join every score file with the clip table of its fold, in one order for all."""
    folds: dict[tuple[str, int], set[int]] = {}
    found: TrialsOf = {}
    silent: dict[str, bool] = {}
    cache = Cache()
    for file in sorted(score_files, key=lambda f: (f.model != MODEL, f.seed, f.fold)):
        if file.fold in folds.setdefault((file.model, file.seed), set()):
            raise UserError(f"Model '{file.model}', seed {file.seed}, fold {file.fold} is given twice.")
        if not 0 <= file.fold < len(parts):
            raise UserError(f"{file.path} is of fold {file.fold}, but the split has {len(parts)}.")
        folds[file.model, file.seed].add(file.fold)
        clips = parts[file.fold].clips
        scores = ScoreFileReader(file.path, cache).subjects()
        if not scores:
            raise UserError(f"{file.path} holds no scores; is there any test clip?")
        for subject in sorted(scores):
            item = order_scores(scores[subject], clips)
            if TEXT_PART in item.parts:
                # Clips without captions have vectors of zeros, and cosines of zero.
                silent[file.model] = silent.get(file.model, True) and not item.parts[TEXT_PART].any()
            for part in sorted(item.parts, key=lambda p: p not in PLAIN_PARTS):
                own = found.setdefault(model_name(file.model, part), {d: {} for d in DIRECTIONS})
                for direction in DIRECTIONS:
                    made = make_trials(item, part, clips, subject, file.fold, direction)
                    own[direction].setdefault(file.seed, []).append(made)
    for (model, seed), have in folds.items():
        missing = sorted(set(range(len(parts))) - have)
        if missing:
            raise UserError(f"Model '{model}', seed {seed} has no scores of fold {missing[0]}; run it first.")
    for model in (name for name, is_silent in silent.items() if is_silent):
        # No test clip has a caption: there is nothing to say of captions.
        for part in (TEXT_PART, "video_only"):
            found.pop(model_name(model, part), None)
    return found


def _metrics_and_comparisons(
    trials: TrialsOf, judge: Judge, config: Evaluate
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure every model, and NeuroAlign against it; of one model beside NeuroAlign the measures are in memory."""
    plain = Judge(config, rotations=False)
    rows: dict[str, list[dict[str, object]]] = {model: [] for model in trials}
    compared: dict[str, list[dict[str, object]]] = {model: [] for model in trials}
    for direction in DIRECTIONS:
        own: MeasuresOf = {}
        for model, directions in trials.items():
            found = _measured(directions[direction], judge, config, {"model": model}, direction, rows[model])
            log.info("measured %s, %s", model, direction)
            if model == MODEL:
                own = found
                continue
            if MODEL not in trials:
                continue
            seeds = trials[MODEL][direction], directions[direction]
            shared = _shared(next(iter(seeds[0].values())), next(iter(seeds[1].values())), model)
            pair = []
            for known, given in zip((own, found), seeds, strict=True):
                if any(len(shared) != len(items) for items in given.values()):
                    only = {
                        seed: [t for t in items if (t.subject, t.fold) in shared]
                        for seed, items in given.items()
                    }
                    known = _measured(only, plain, config, {}, direction, [])
                pair.append(known)
            for subject, measures in pair[0].items():
                about = {"model_a": MODEL, "model_b": model, "subject": subject, "direction": direction}
                second = {m.key: m for m in pair[1].get(subject, [])}
                compared[model] += [
                    about | _difference(m, second[m.key], config) for m in measures if m.key in second
                ]
    _warn_of_few_blocks(own or found, config)
    return (
        pd.DataFrame([row for found in rows.values() for row in found], columns=list(METRIC_COLUMNS)),
        pd.DataFrame([row for found in compared.values() for row in found], columns=list(COMPARISON_COLUMNS)),
    )


def _measured(
    seeds: Mapping[int, Sequence[Trials]],
    judge: Judge,
    config: Evaluate,
    about: Mapping[str, object],
    direction: str,
    rows: list[dict[str, object]],
) -> MeasuresOf:
    """The mean over seeds of one model and direction; rows of every seed (and of the mean) are added to `rows`."""
    each = []
    for seed, items in seeds.items():
        measured = judge.measure(items)
        each.append(measured)
        rows += _rows(measured, {**about, "seed": seed}, direction, config)
    if len(each) == 1:
        return each[0]
    mean = {
        name: [average(same, config.seed) for same in zip(*(found[name] for found in each), strict=True)]
        for name in each[0]
    }
    rows += _rows(mean, {**about, "seed": "all"}, direction, config)
    return mean


def _rows(measured: MeasuresOf, about: Mapping[str, object], direction: str, config: Evaluate):
    return [
        {**about, "subject": subject, "direction": direction, **measure.row(config.confidence)}
        for subject, found in measured.items()
        for measure in found
    ]


def _warn_of_few_blocks(measured: MeasuresOf, config: Evaluate) -> None:
    few = {
        name: found[0].blocks for name, found in measured.items() if found and found[0].blocks < FEW_BLOCKS
    }
    if few:
        name = "all" if "all" in few else next(iter(few))
        log.warning(
            "The test clips of %s make %d blocks of %g s (evaluate.block_s), fewer than %d: intervals rest on few "
            "independent stretches and are rough; hold out more.",
            *("all subjects" if name == "all" else f"subject {name}", few[name], config.block_s, FEW_BLOCKS),
        )


def _shared(first: list[Trials], second: list[Trials], name: str) -> set[tuple[str, int]]:
    """Subjects and folds that both models scored; their queries must then be the same."""
    rows = {(t.subject, t.fold): (t.rows, t.clips) for t in first}
    shared = set()
    for t in second:
        if (t.subject, t.fold) not in rows:
            continue
        own, clips = rows[t.subject, t.fold]
        if not np.array_equal(own, t.rows) or clips != t.clips:
            raise UserError(
                f"'{MODEL}' and '{name}' scored different test windows of subject {t.subject}; score both again."
            )
        shared.add((t.subject, t.fold))
    return shared


def _difference(first: Measure, second: Measure, config: Evaluate) -> dict[str, object]:
    value, distribution, units = difference(first, second)
    low, high = bootstrap.interval(distribution, units, config.confidence)
    rng = np.random.default_rng([config.seed, 3])
    return {
        "gallery": first.gallery,
        "exclude_s": first.exclude_s,
        "metric": first.metric,
        "difference": value,
        "ci_low": low,
        "ci_high": high,
        "p_value": bootstrap.swap_test(
            first.metric, first.values, second.values, first.block, config.permutations, rng
        ),
        "n_queries": first.values.shape[1],
    }


def _ceilings(parts: Sequence[PairedDataset], judge: Judge, config: Evaluate) -> pd.DataFrame:
    data = [material(pairs, lag_for(pairs)) for pairs in parts]
    rows = []
    for name in ("repeat_to_repeat", "subject_to_group"):
        found: list[dict[str, SubjectScores]] = [getattr(ceilings, name)(d) for d in data]
        for direction in DIRECTIONS:
            trials = [
                make_trials(order_scores(item, pairs.clips), "score", pairs.clips, subject, fold, direction)
                for fold, (pairs, scores) in enumerate(zip(parts, found, strict=True))
                for subject, item in scores.items()
            ]
            for subject, measured in judge.measure(trials).items():
                about = {"ceiling": name, "subject": subject, "direction": direction}
                rows += [about | measure.row(config.confidence) for measure in measured]
    return pd.DataFrame(rows, columns=list(CEILING_COLUMNS))


def _rankings(trials: TrialsOf) -> pd.DataFrame:
    """Rank of the true clip and the best candidates of every query, full gallery, nothing excluded."""
    rows = []
    for model, directions in trials.items():
        if model.startswith(f"{MODEL}_"):
            continue
        for direction, seeds in directions.items():
            for seed, items in seeds.items():
                for t in items:
                    nothing = near_clips(t.stimulus, t.start_s, t.duration_s, 0.0)
                    scores = t.scores
                    higher, tied, _ = outranked(scores, nothing).at(t.query, t.candidate)
                    best = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN]
                    for i, row in enumerate(t.rows):
                        shown = [t.clips[c] for c in best[t.query[i]]]
                        rows.append(
                            (
                                model,
                                seed,
                                t.fold,
                                t.subject,
                                direction,
                                row,
                                t.clips[t.candidate[i]],
                                1 + higher[i] + tied[i] / 2,
                                *shown,
                                *[""] * (SHOWN - len(shown)),
                            )
                        )
    return pd.DataFrame(rows, columns=list(RANKING_COLUMNS))
