"""One table of everything that was evaluated, in groups: NeuroAlign, its parts, ablations, baselines, controls, ceilings.

``summary.tsv`` (one row per method, direction and metric; full gallery, nothing excluded that need not be; all subjects)
--------------------------------------------------------------------------------------------------------------------
`group`
    ``model``, ``part`` (continuous, quantised, captions), ``ablation``, ``baseline``, ``control`` or ``ceiling``.
`value, chance`
    Mean over queries and seeds.
`clips_low, clips_high`
    Resample blocks of film (`evaluate.block_s`), all people of a block together: other clips, these people. Of controls, the
    interval of ``controls.tsv``, which holds for all people and directions of the control together.
`people_low, people_high`
    Resample blocks and people at once: other clips *and* other people. Empty with fewer than `FEWEST_PEOPLE`.
`seeds, seeds_low, seeds_high`
    Number of seeds, and the t interval of the mean over them: other random starts, these clips and people. Empty with one
    seed; of no width for what has no random start.
`difference, difference_low, difference_high`
    The method minus NeuroAlign on the same queries; the interval resamples clips and people where there are enough of them,
    clips alone otherwise. Of an ablation this is what its part is worth, with the sign turned; its quantised score is compared
    with the model's quantised score. Empty where queries differ.

Blocks and people are resampled independently of each other, with a query counted as often as its block was drawn times as often as
its person was (the pigeonhole bootstrap: Owen 2007, *The pigeonhole bootstrap*, Annals of Applied Statistics 1:386). It is
known to be slightly wider than it need be, not narrower. Intervals are the expanded percentiles of `bootstrap.interval`, for the
smaller of the numbers of blocks and people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation import bootstrap, retrieval
from neuroalign.evaluation.trials import DIRECTIONS, Trials

MODEL = "neuroalign"
ABLATION = f"{MODEL}_without_"
QUANTISED = "_quantised"
METRICS = ("top1", "top5", "mrr")
FEWEST_PEOPLE = 5
COLUMNS = (
    *("group", "model", "direction", "metric", "value", "chance", "clips_low", "clips_high"),
    *("people_low", "people_high", "seeds", "seeds_low", "seeds_high"),
    *("difference", "difference_low", "difference_high", "subjects", "blocks", "n_queries"),
)
Seeds = Mapping[int, Sequence[Trials]]


def group_of(model: str) -> str:
    """The group of a method's row."""
    if model == MODEL:
        return "model"
    if model.startswith(ABLATION):
        return "ablation"
    return "part" if model.startswith(f"{MODEL}_") else "baseline"


def reference_of(model: str) -> str:
    """What a method's difference is to: the model, or for the quantised score of an ablation that of the model."""
    quantised = model.startswith(ABLATION) and model.endswith(QUANTISED)
    return MODEL + QUANTISED if quantised else MODEL


@dataclass(frozen=True)
class Queries:
    """What one method made of every query of one direction and metric.

    Attributes
    ----------
    values : array of shape (seeds, queries)
    subject, block : int arrays of shape (queries,)
        Numbered from 0.
    identity : list of tuple
        What two methods must share to be paired: subject, fold and clip row of each query.
    chance : float
    """

    values: np.ndarray
    subject: np.ndarray
    block: np.ndarray
    identity: list[tuple]
    chance: float

    @property
    def people(self) -> int:
        """Number of subjects."""
        return int(self.subject.max()) + 1

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.block.max()) + 1


def queries_of(seeds: Seeds, metric: str, config: Evaluate) -> Queries:
    """Full-gallery values of all queries of a method, seed by seed."""
    first = next(iter(seeds.values()))
    exclude_s = min(config.exclude_s)
    values, sizes = [], np.zeros(0)
    for trials in seeds.values():
        counts = [
            retrieval.outranked(
                t.scores, retrieval.near_clips(t.stimulus, t.start_s, t.duration_s, exclude_s)
            ).at(t.query, t.candidate)
            for t in trials
        ]
        values.append(np.concatenate([retrieval.query_values(metric, *c) for c in counts]))
        sizes = np.concatenate([size for _, _, size in counts])
    block = bootstrap.block_of(
        np.concatenate([t.pair_stimulus for t in first]),
        np.concatenate([t.pair_start_s for t in first]),
        config.block_s,
    )
    names = np.concatenate([np.full(len(t.rows), t.subject) for t in first])
    identity = [(t.subject, t.fold, int(row)) for t in first for row in t.rows]
    return Queries(
        np.stack(values),
        np.unique(names, return_inverse=True)[1],
        block,
        identity,
        retrieval.chance(metric, sizes, None),
    )


def crossed_distribution(
    values: np.ndarray, subject: np.ndarray, block: np.ndarray, resamples: int, seed: int, people: bool
) -> np.ndarray:
    """The mean over queries in each resample of blocks and (if asked) people.

    Parameters
    ----------
    values : float array of shape (queries,)
    subject, block : int arrays of shape (queries,)
        Numbered from 0.
    resamples, seed : int
        Equal seeds give equal resamples for the same numbers of blocks and people.
    people : bool
        Whether people are resampled too.

    Returns
    -------
    distribution : float array of shape (resamples,)
        A resample in which no query is left has the value of all queries.
    """
    shape = (int(subject.max()) + 1, int(block.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (subject, block), values)
    np.add.at(counts, (subject, block), 1)
    by_block = bootstrap.resample_weights(shape[1], resamples, np.random.default_rng([seed, 5, shape[1]]))
    if people:
        by_person = bootstrap.resample_weights(
            shape[0], resamples, np.random.default_rng([seed, 6, shape[0]])
        )
    else:
        by_person = np.ones((resamples, shape[0]), int)
    total = np.einsum("rs,sb,rb->r", by_person, counts, by_block, optimize=True)
    drawn = np.einsum("rs,sb,rb->r", by_person, sums, by_block, optimize=True)
    return np.divide(drawn, total, out=np.full(resamples, values.mean()), where=total > 0)


def summary_table(
    trials: Mapping[str, Mapping[str, Seeds]],
    controls: pd.DataFrame,
    ceilings: pd.DataFrame,
    config: Evaluate,
) -> pd.DataFrame:
    """The grouped table.

    Parameters
    ----------
    trials : dict of model to dict of direction to dict of seed to list of Trials
    controls, ceilings : DataFrame
        ``controls.tsv`` and ``ceilings.tsv``.
    config : Evaluate

    Returns
    -------
    table : DataFrame with `COLUMNS`, in the order of the groups
    """
    order = ("model", "part", "ablation", "baseline")
    rows = []
    for model in sorted(trials, key=lambda name: order.index(group_of(name))):
        for direction in DIRECTIONS:
            for metric in METRICS:
                own = queries_of(trials[model][direction], metric, config)
                compared = reference_of(model)
                main = None
                if model != compared and compared in trials:
                    main = queries_of(trials[compared][direction], metric, config)
                about = {"group": group_of(model), "model": model, "direction": direction, "metric": metric}
                rows.append(about | _row(own, main, config))
    for group, table, name in (("control", controls, "control"), ("ceiling", ceilings, "ceiling")):
        rows += [
            {
                "group": group,
                "model": row[name],
                **{c: row[c] for c in ("direction", "metric", "value", "chance", "n_queries")},
                "clips_low": row["ci_low"],
                "clips_high": row["ci_high"],
            }
            for row in table.to_dict("records")
            if row["subject"] == "all"
            and row["gallery"] == "full"
            and row["exclude_s"] == min(config.exclude_s)
            and row["metric"] in METRICS
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(own: Queries, main: Queries | None, config: Evaluate) -> dict[str, object]:
    each = own.values.mean(axis=1)
    mean = own.values.mean(axis=0)
    several = own.people >= FEWEST_PEOPLE
    row: dict[str, object] = {"value": float(each.mean()), "chance": own.chance}
    row["clips_low"], row["clips_high"] = _interval(mean, own, config, people=False)
    if several:
        row["people_low"], row["people_high"] = _interval(mean, own, config, people=True)
    row["seeds"] = len(each)
    row["seeds_low"], row["seeds_high"] = seed_interval(each, config.confidence)
    if main is not None and main.identity == own.identity:
        gap = mean - main.values.mean(axis=0)
        row["difference"] = float(gap.mean())
        row["difference_low"], row["difference_high"] = _interval(gap, own, config, people=several)
    return row | {"subjects": own.people, "blocks": own.blocks, "n_queries": len(mean)}


def _interval(values: np.ndarray, own: Queries, config: Evaluate, people: bool) -> tuple[float, float]:
    found = crossed_distribution(values, own.subject, own.block, config.bootstrap, config.seed, people)
    units = min(own.blocks, own.people) if people else own.blocks
    return bootstrap.interval(found, units, config.confidence)


def seed_interval(each: np.ndarray, confidence: float) -> tuple[float, float]:
    """The t interval of the mean over seeds: (low, high), NaN with one seed."""
    if len(each) < 2:
        return float("nan"), float("nan")
    half = student.ppf((1 + confidence) / 2, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return float(each.mean() - half), float(each.mean() + half)
