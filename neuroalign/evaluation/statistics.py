"""One group of trials, all its metrics: value, interval, chance and p-value.

A *group* is what is pooled into one number: the trials of one subject over folds, or of all subjects. Statistics of
several seeds are averages of the statistics of each (`average`), with the same resamples and rotations in each seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation import bootstrap, permutation, retrieval
from neuroalign.evaluation.trials import Trials


@dataclass(frozen=True)
class Measure:
    """One metric of one group.

    Attributes
    ----------
    gallery : str
        ``full`` or ``<N>-way``.
    size : float
        Mean number of candidates per query, the true one included.
    exclude_s : float
    metric : str
    values : float array of shape (seeds, queries)
        Per query; the statistic is the mean over seeds of their mean (median).
    block : int array of shape (queries,)
        Bootstrap block of each query.
    value : float
    distribution : float array of shape (resamples,)
    null : float array of shape (distinct rotations,)
        Empty where no p-value was asked for.
    chance : float
    """

    gallery: str
    size: float
    exclude_s: float
    metric: str
    values: np.ndarray
    block: np.ndarray
    value: float
    distribution: np.ndarray
    null: np.ndarray
    chance: float

    @property
    def key(self) -> tuple:
        """What two methods must share to be compared."""
        return self.gallery, self.exclude_s, self.metric

    @property
    def blocks(self) -> int:
        """Number of bootstrap blocks."""
        return int(self.block.max()) + 1

    def interval(self, confidence: float) -> tuple[float, float]:
        """Confidence interval of the value."""
        return bootstrap.interval(self.distribution, self.blocks, confidence)

    @property
    def p_value(self) -> float:
        """One-sided: how often a rotated pairing does at least as well."""
        return permutation.p_value(self.value, self.null, self.metric in retrieval.LOWER_IS_BETTER)

    def row(self, confidence: float) -> dict[str, object]:
        """The columns of ``metrics.tsv`` from `gallery` on."""
        low, high = self.interval(confidence)
        return {
            "gallery": self.gallery,
            "gallery_size": round(self.size, 3),
            "exclude_s": self.exclude_s,
            "metric": self.metric,
            "value": self.value,
            "ci_low": low,
            "ci_high": high,
            "chance": self.chance,
            "p_value": self.p_value,
            "n_queries": self.values.shape[1],
        }


def average(measures: Sequence[Measure]) -> Measure:
    """The mean over seeds of one metric of one group."""
    first = measures[0]
    return Measure(
        first.gallery,
        first.size,
        first.exclude_s,
        first.metric,
        np.concatenate([m.values for m in measures]),
        first.block,
        float(np.mean([m.value for m in measures])),
        np.mean([m.distribution for m in measures], axis=0),
        np.mean([m.null for m in measures], axis=0),
        first.chance,
    )


class Judge:
    """Measures groups of trials as the configuration says.

    Parameters
    ----------
    config : Evaluate
    rotations : bool
        Whether to compute p-values.

    Notes
    -----
    Ranks are computed once per trials and `exclude_s`; galleries, metrics, resamples and rotations only look them up.
    """

    def __init__(self, config: Evaluate, rotations: bool = True):
        self.config = config
        self.rotations = permutation.Rotations(config.permutations, config.seed) if rotations else None
        self._weights: dict[int, np.ndarray] = {}

    def weights(self, blocks: int) -> np.ndarray:
        """Bootstrap weights: the same for every method with that many blocks, so that differences are paired."""
        if blocks not in self._weights:
            rng = np.random.default_rng([self.config.seed, blocks])
            self._weights[blocks] = bootstrap.resample_weights(blocks, self.config.bootstrap, rng)
        return self._weights[blocks]

    def measure(
        self, trials: Sequence[Trials], sources: Sequence[np.ndarray] | None = None
    ) -> dict[str, list[Measure]]:
        """Every gallery, exclusion and metric of every subject in `trials` and of all of them.

        Parameters
        ----------
        trials : sequence of Trials
            One direction and seed; any number of subjects and folds.
        sources : sequence of int arrays of shape (pairs,), optional
            Per trials, whose label each presentation takes (a control); the true pairing if absent.

        Returns
        -------
        measures : dict of subject (and "all") to list of Measure
        """
        groups = {
            s: [i for i, t in enumerate(trials) if t.subject == s]
            for s in dict.fromkeys(t.subject for t in trials)
        }
        if len(groups):
            groups["all"] = list(range(len(trials)))
        blocks = {
            name: bootstrap.block_of(
                np.concatenate([trials[i].pair_stimulus for i in members]),
                np.concatenate([trials[i].pair_start_s for i in members]),
                self.config.block_s,
            )
            for name, members in groups.items()
        }
        rotated, usable = self._rotate(trials, groups)
        results: dict[str, list[Measure]] = {name: [] for name in groups}
        for exclude_s in self.config.exclude_s:
            true, null = [], []
            for i, item in enumerate(trials):
                near = retrieval.near_clips(item.stimulus, item.start_s, item.duration_s, exclude_s)
                counts = retrieval.outranked(item.scores, near)
                own = np.arange(len(item.query)) if sources is None else sources[i]
                true.append(counts.at(*item.rotated(own)))
                null.append(counts.at(*item.rotated(rotated[i])) if rotated else None)
            smallest = min((int(sizes.min()) for _, _, sizes in true), default=0)
            for gallery in dict.fromkeys(self.config.galleries):
                if gallery != "full" and gallery > smallest:
                    continue
                for metric in retrieval.METRICS:
                    for name, measure in self._groups(
                        gallery, metric, exclude_s, true, null, groups, blocks, usable
                    ):
                        results[name].append(measure)
        return results

    def _rotate(
        self, trials: Sequence[Trials], groups: dict[str, list[int]]
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        if self.rotations is None:
            return [], {name: np.zeros(0, int) for name in groups}
        rotated, shifts = [], []
        for item in trials:
            source, used = self.rotations.rotate(item.runs, item.onset_s)
            rotated.append(source)
            shifts.append(used)
        usable = {
            name: permutation.distinct([s for i in members for s in shifts[i].values()])
            for name, members in groups.items()
        }
        return rotated, usable

    def _groups(self, gallery, metric, exclude_s, true, null, groups, blocks, usable):
        ways = None if gallery == "full" else int(gallery)
        options = {"ways": ways, "draws": self.config.draws, "seed": self.config.seed}
        values = [retrieval.query_values(metric, *counts, **options) for counts in true]
        shuffled = [
            retrieval.query_values(metric, *counts, **options) for counts in null if counts is not None
        ]
        for name, members in groups.items():
            own = np.concatenate([values[i] for i in members])
            sizes = np.concatenate([true[i][2] for i in members])
            block = blocks[name]
            under_null = np.zeros(0)
            if shuffled:
                under_null = self._null(metric, [shuffled[i] for i in members], usable[name])
            yield (
                name,
                Measure(
                    "full" if ways is None else f"{ways}-way",
                    float(sizes.mean() if ways is None else ways),
                    exclude_s,
                    metric,
                    own[None],
                    block,
                    float(retrieval.summarise(metric, own)),
                    bootstrap.bootstrap_distribution(metric, own, block, self.weights(int(block.max()) + 1)),
                    under_null,
                    retrieval.chance(metric, sizes, ways),
                ),
            )

    @staticmethod
    def _null(metric: str, parts: list[np.ndarray], usable: np.ndarray) -> np.ndarray:
        if metric in retrieval.LOWER_IS_BETTER:
            return retrieval.summarise(metric, np.concatenate([part[usable] for part in parts], axis=1))
        total = sum(part[usable].sum(axis=1) for part in parts)
        return total / sum(part.shape[1] for part in parts)
