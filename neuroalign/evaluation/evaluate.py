"""From score files to the tables of the report: one evaluator for the model and every baseline.

Tables (all long format, one number per row; ``n/a`` where it cannot be said)
-----------------------------------------------------------------------------
``metrics.tsv``
    `model, seed, subject, direction, gallery, gallery_size, exclude_s, metric, value, ci_low, ci_high, chance, p_value,
    n_queries`. `subject` is "all" for the pool. `gallery` is ``full`` or ``<N>-way``; `gallery_size` counts the
    true clip and is the mean over queries where neighbours are excluded. With several seeds, rows with `seed` "all"
    hold the mean over seeds. Test queries of all folds are pooled; each is ranked in the gallery of its fold.
``comparisons.tsv``
    Paired differences (`model_a` minus `model_b`, means over seeds) between NeuroAlign and every other model on the
    queries both have. For `median_rank` a negative difference favours `model_a`. The p-value is two-sided, from
    exchanging the models block by block.
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
from neuroalign.evaluation.scores import SubjectScores, read_scores
from neuroalign.evaluation.statistics import Judge, Measure, average
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
# By model, direction, seed and subject (or "all").
MeasuresOf = dict[str, dict[str, dict[int, dict[str, list[Measure]]]]]


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
    measures = {
        model: {
            direction: {seed: judge.measure(items) for seed, items in seeds.items()}
            for direction, seeds in directions.items()
        }
        for model, directions in trials.items()
    }
    log.info("measured %d models", len(measures))
    main = MODEL if MODEL in trials else next(iter(trials))
    controls = controls_table(
        main, {d: list(seeds.values()) for d, seeds in trials[main].items()}, parts, config
    )
    if retrained:
        judged = retrained_table(_read(retrained, parts), config)
        controls = pd.concat([controls, judged], ignore_index=True)
    ceilings_found = _ceilings(parts, judge, config)
    return Results(
        metrics=_metrics(measures, config),
        comparisons=_comparisons(trials, measures, config),
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
    for file in sorted(score_files, key=lambda f: (f.model != MODEL, f.seed, f.fold)):
        if file.fold in folds.setdefault((file.model, file.seed), set()):
            raise UserError(f"Model '{file.model}', seed {file.seed}, fold {file.fold} is given twice.")
        if not 0 <= file.fold < len(parts):
            raise UserError(f"{file.path} is of fold {file.fold}, but the split has {len(parts)}.")
        folds[file.model, file.seed].add(file.fold)
        clips = parts[file.fold].clips
        scores = read_scores(file.path)
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


def _metrics(measures: MeasuresOf, config: Evaluate) -> pd.DataFrame:
    rows = []
    for model, directions in measures.items():
        for direction, seeds in directions.items():
            named: list[tuple[int | str, dict[str, list[Measure]]]] = list(seeds.items())
            if len(seeds) > 1:
                named.append(("all", _mean_over_seeds(seeds)))
            for seed, subjects in named:
                for subject, found in subjects.items():
                    about = {"model": model, "seed": seed, "subject": subject, "direction": direction}
                    rows += [about | measure.row(config.confidence) for measure in found]
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))


def _mean_over_seeds(seeds: Mapping[int, Mapping[str, list[Measure]]]) -> dict[str, list[Measure]]:
    found = list(seeds.values())
    return {
        name: [average(same) for same in zip(*(f[name] for f in found), strict=True)] for name in found[0]
    }


def _comparisons(trials: TrialsOf, measures: MeasuresOf, config: Evaluate) -> pd.DataFrame:
    """NeuroAlign against everything else, on the queries both have."""
    rows = []
    plain = Judge(config, rotations=False)
    for other in [name for name in trials if name != MODEL and MODEL in trials]:
        for direction in DIRECTIONS:
            own, their = trials[MODEL][direction], trials[other][direction]
            shared = _shared(next(iter(own.values())), next(iter(their.values())), other)
            found = []
            for name, seeds in ((MODEL, own), (other, their)):
                known = measures[name][direction]
                if any(len(shared) != len(items) for items in seeds.values()):
                    known = {
                        seed: plain.measure([t for t in items if (t.subject, t.fold) in shared])
                        for seed, items in seeds.items()
                    }
                found.append(_mean_over_seeds(known))
            for subject in found[0]:
                about = {"model_a": MODEL, "model_b": other, "subject": subject, "direction": direction}
                second = {m.key: m for m in found[1][subject]}
                rows += [
                    about | _difference(m, second[m.key], config)
                    for m in found[0][subject]
                    if m.key in second
                ]
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


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
    low, high = bootstrap.interval(first.distribution - second.distribution, first.blocks, config.confidence)
    rng = np.random.default_rng([config.seed, 3])
    return {
        "gallery": first.gallery,
        "exclude_s": first.exclude_s,
        "metric": first.metric,
        "difference": first.value - second.value,
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
                    higher, tied, _ = outranked(t.scores, nothing).at(t.query, t.candidate)
                    best = np.argsort(-t.scores, axis=1, kind="stable")[:, :SHOWN]
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
