"""One group of trials, all its metrics: value, interval, chance and p-value.

A *group* is what is pooled into one number: the trials of one subject over folds, or of all subjects.

What intervals resample
    Blocks of clips, always; in the pool of all subjects also the subjects, unless ``evaluate.resample`` is ``clips``; in the
    mean over seeds (`average`) also the seeds. All are drawn independently, blocks and subjects the same for every method and
    seed, so that differences are paired.

What p-values rotate
    See `evaluation.permutation`. The null of a mean is exact. That of a median is a histogram of ranks by permutation,
    so that it needs no more memory for more queries: full galleries of up to 1024 candidates in half ranks (exact), others
    in 1/2048 of the gallery, N-way in 1/512 of N; the value that it is compared with is binned alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation import bootstrap, permutation, retrieval
from neuroalign.evaluation.null import Null, Variant, rotation_tables, true_values
from neuroalign.evaluation.trials import Trials

Sources = Mapping[str, tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Measure:
    """One metric of one group.

    Attributes
    ----------
    gallery : str
        ``full``, ``stimulus`` or ``<N>-way``.
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
        All that is resampled at once.
    sources : mapping of str to (float array of shape (resamples,), int)
        By what is resampled (``clips``, ``subjects``, ``seeds``): the distribution when it alone is, and how many there are.
    null : float array of shape (distinct rotations,)
        Empty where no p-value was asked for.
    observed : float
        The value as the null has it (medians are binned).
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
    observed: float
    chance: float
    sources: Sources = field(default_factory=dict)

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
        units = bootstrap.effective_units(self.sources)
        return bootstrap.interval(self.distribution, units, confidence)

    @property
    def p_value(self) -> float:
        """One-sided: how often a rotated pairing does at least as well."""
        return permutation.p_value(self.observed, self.null, self.metric in retrieval.LOWER_IS_BETTER)

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


def average(measures: Sequence[Measure], seed: int | None = None) -> Measure:
    """The mean over seeds of one metric of one group.

    Parameters
    ----------
    measures : sequence of Measure
        One per seed.
    seed : int, optional
        If given, intervals also resample the n seeds: each resample takes the mean over n - 1 of them, drawn with replacement,
        whose variance is that of the mean of n. The draws are the same for every metric and method with as many seeds.
    """
    first, n = measures[0], len(measures)
    distributions = np.stack([m.distribution for m in measures])
    sources = {
        name: (np.mean([m.sources[name][0] for m in measures], axis=0), units)
        for name, (_, units) in first.sources.items()
    }
    value = np.array([m.value for m in measures])
    if seed is None or n < 2:
        distribution = distributions.mean(axis=0)
    else:
        rng = np.random.default_rng([seed, 5, n])
        drawn = rng.multinomial(n - 1, np.full(n, 1 / n), size=distributions.shape[1]) / (n - 1)
        distribution = np.einsum("rs,sr->r", drawn, distributions)
        sources["seeds"] = drawn @ value, n
    return Measure(
        first.gallery,
        first.size,
        first.exclude_s,
        first.metric,
        np.concatenate([m.values for m in measures]),
        first.block,
        float(value.mean()),
        distribution,
        np.mean([m.null for m in measures], axis=0),
        float(np.mean([m.observed for m in measures])),
        first.chance,
        sources,
    )


def difference(first: Measure, second: Measure) -> tuple[float, np.ndarray, float]:
    """Value, distribution and effective units of a paired difference (see `bootstrap.effective_units`)."""
    sources = {}
    for name in {**first.sources, **second.sources}:
        found = [m.sources[name] for m in (first, second) if name in m.sources]
        # A method with a single seed has no luck of seeds.
        own = [m.sources[name][0] if name in m.sources else 0.0 for m in (first, second)]
        sources[name] = own[0] - own[1], min(units for _, units in found)
    spread = first.distribution - second.distribution
    return first.value - second.value, spread, bootstrap.effective_units(sources)


class Judge:
    """Measures groups of trials as the configuration says.

    Parameters
    ----------
    config : Evaluate
    rotations : bool
        Whether to compute p-values.

    Notes
    -----
    Trials are looked at one after the other: of the score matrices one at a time is in memory. Ranks are computed once
    per trials and exclusion; every rotation of a run is looked up once, however many permutations use it.
    """

    def __init__(self, config: Evaluate, rotations: bool = True):
        self.config = config
        self.rotations = permutation.Rotations(config.permutations, config.seed) if rotations else None
        self._weights: dict[tuple[int, ...], np.ndarray] = {}

    def weights(self, units: int, *kind: int) -> np.ndarray:
        """Bootstrap weights: the same for every method with that many units, so that differences are paired."""
        if (units, *kind) not in self._weights:
            rng = np.random.default_rng([self.config.seed, units, *kind])
            self._weights[units, *kind] = bootstrap.resample_weights(units, self.config.bootstrap, rng)
        return self._weights[units, *kind]

    def measure(
        self, trials: Sequence[Trials], sources: Sequence[np.ndarray] | None = None
    ) -> dict[str, list[Measure]]:
        """Every gallery, exclusion and metric of every subject in `trials` and of all of them.

        Parameters
        ----------
        trials : sequence of Trials
            One direction and seed; any number of subjects and folds.
        sources : sequence of int arrays of shape (pairs,), optional
            Per trials, whose label each presentation takes (a control, without p-values); the true pairing if absent.

        Returns
        -------
        measures : dict of subject (and "all") to list of Measure
        """
        groups = {
            s: [i for i, t in enumerate(trials) if t.subject == s]
            for s in dict.fromkeys(t.subject for t in trials)
        }
        if not groups:
            return {}
        rotate = self.rotations is not None and sources is None
        variants = self._variants(trials, sources)
        largest = max(len(t.clips) for t in trials)
        pool = Null(self.config.permutations, largest) if rotate else None
        values: dict[tuple[Variant, str], list[np.ndarray]] = {}
        sizes: dict[Variant, list[np.ndarray]] = {}
        for variant in variants:
            sizes[variant] = [np.zeros(0)] * len(trials)
            values |= {(variant, metric): [np.zeros(0)] * len(trials) for metric in retrieval.METRICS}
        nulls: dict[str, Null | None] = {}
        for name, members in groups.items():
            own = Null(self.config.permutations, largest) if rotate else None
            for i in members:
                source = None if sources is None else sources[i]
                self._look(
                    trials[i], source, variants, [n for n in (own, pool) if n is not None], i, values, sizes
                )
            if own is not None:
                own.finish()
            nulls[name] = own
        groups["all"], nulls["all"] = list(range(len(trials))), pool
        if pool is not None:
            pool.finish()
        several = {name: any(len(set(trials[i].stimulus)) > 1 for i in own) for name, own in groups.items()}
        results: dict[str, list[Measure]] = {}
        for name, members in groups.items():
            place = _Place.of([trials[i] for i in members], self.config.block_s)
            results[name] = [
                self._measure(
                    variant,
                    metric,
                    np.concatenate([values[variant, metric][i] for i in members]),
                    np.concatenate([sizes[variant][i] for i in members]),
                    place,
                    nulls[name],
                )
                for variant in variants
                if variant.gallery != "stimulus" or several[name]
                for metric in retrieval.METRICS
            ]
        return results

    def _variants(self, trials: Sequence[Trials], sources: Sequence[np.ndarray] | None) -> list[Variant]:
        """Galleries and exclusions that all queries allow."""
        found = []
        for exclude_s in self.config.exclude_s:
            smallest = np.iinfo(np.int64).max
            for i, item in enumerate(trials):
                near = retrieval.near_clips(item.stimulus, item.start_s, item.duration_s, exclude_s)
                own = np.arange(len(item.rows)) if sources is None else sources[i]
                _, candidate = item.rotated(own)
                smallest = min(smallest, int(retrieval.gallery_sizes(near)[candidate].min()))
            found += [
                Variant(exclude_s, gallery)
                for gallery in dict.fromkeys(self.config.galleries)
                if isinstance(gallery, str) or gallery <= smallest
            ]
        return found

    def _look(self, item, source, variants, nulls, i, values, sizes):
        """Fill in the values and sizes of one trials, and add its rotations to the nulls."""
        scores = item.scores
        runs = []
        if nulls:
            runs = list(self.rotations.runs(item.runs, item.onset_s).items())
            tables = [item.rotation(order) for _, (order, _) in runs]
            query, candidate = (np.concatenate([t[side].ravel() for t in tables]) for side in (0, 1))
            for null in nulls:
                null.used(shifts for _, (_, shifts) in runs)
        else:
            query, candidate = item.rotated(np.arange(len(item.rows)) if source is None else source)
        for exclude_s in dict.fromkeys(v.exclude_s for v in variants):
            near = retrieval.near_clips(item.stimulus, item.start_s, item.duration_s, exclude_s)
            counts: dict[bool, tuple[np.ndarray, ...]] = {}
            for variant in (v for v in variants if v.exclude_s == exclude_s):
                alone = variant.gallery == "stimulus"
                if alone not in counts:
                    ranked = retrieval.outranked(scores, near, item.stimulus if alone else None)
                    counts[alone] = ranked.at(query, candidate)
                options = {"ways": variant.ways, "draws": self.config.draws, "seed": self.config.seed}
                sizes[variant][i] = true_values(counts[alone][2], runs)
                for metric in retrieval.METRICS:
                    found = retrieval.query_values(metric, *counts[alone], **options)
                    values[variant, metric][i] = true_values(found, runs)
                    for null in nulls:
                        null.add(variant, metric, rotation_tables(found, runs))

    def _measure(
        self,
        variant: Variant,
        metric: str,
        values: np.ndarray,
        sizes: np.ndarray,
        place: _Place,
        null: Null | None,
    ) -> Measure:
        blocks, people = int(place.block.max()) + 1, int(place.subject.max()) + 1
        weights = self.weights(blocks)
        clips = bootstrap.bootstrap_distribution(metric, values, place.block, weights)
        distribution, sources = clips, {"clips": (clips, blocks)}
        if people > 1 and self.config.resample == "clips_and_subjects":
            drawn, once = self.weights(people, 1), np.ones_like(weights)
            both = place.subject, drawn
            distribution = bootstrap.bootstrap_distribution(metric, values, place.block, weights, *both)
            alone = bootstrap.bootstrap_distribution(metric, values, place.block, once, *both)
            sources["subjects"] = alone, people
        value = float(retrieval.summarise(metric, values))
        return Measure(
            variant.name,
            float(sizes.mean() if variant.ways is None else variant.ways),
            variant.exclude_s,
            metric,
            values[None],
            place.block,
            value,
            distribution,
            np.zeros(0) if null is None else null.of(variant, metric),
            value if null is None else null.binned(variant, metric, values),
            retrieval.chance(metric, sizes, variant.ways),
            sources,
        )


@dataclass(frozen=True)
class _Place:
    """To which block and subject each query of a group belongs."""

    block: np.ndarray
    subject: np.ndarray

    @classmethod
    def of(cls, trials: Sequence[Trials], block_s: float) -> _Place:
        stimulus = np.concatenate([t.pair_stimulus for t in trials])
        start = np.concatenate([t.pair_start_s for t in trials])
        people = np.repeat([t.subject for t in trials], [len(t.rows) for t in trials])
        subject = np.unique(people, return_inverse=True)[1]
        return cls(bootstrap.block_of(stimulus, start, block_s), subject.astype(np.int64))
