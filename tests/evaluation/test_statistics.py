"""Statistics of groups against what is known of simulated noise: p-values, coverage, seeds, subjects, galleries, ceilings."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from scipy.stats import binom, kstest, norm

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation import bootstrap
from neuroalign.evaluation.baselines._data import lag_for, material
from neuroalign.evaluation.ceilings import repeat_to_repeat, subject_to_group
from neuroalign.evaluation.permutation import Rotations, distinct, p_value
from neuroalign.evaluation.retrieval import chance, outranked, query_values
from neuroalign.evaluation.scores import Cache, ScoreFileReader, SubjectScores, read_scores, write_scores
from neuroalign.evaluation.statistics import Judge, average, difference
from neuroalign.evaluation.trials import make_trials, order_scores
from neuroalign.pairs.store import PairedDataset

QUICK = Evaluate(galleries=["full"], exclude_s=[0.0], draws=0, permutations=99, bootstrap=200, block_s=12.0)


def clip_table(films: dict[str, int], subjects: int = 1, step_s: float = 4.0) -> pd.DataFrame:
    """Test clips of films shown once to everybody, a run each."""
    return pd.DataFrame(
        [
            (f"{film}-{i}", film, i * step_s, step_s, f"{s:02d}", "", film, "1", i * step_s, "test")
            for s in range(subjects)
            for film, clips in films.items()
            for i in range(clips)
        ],
        columns=[
            "clip_id",
            "stimulus",
            "start_s",
            "duration_s",
            "subject",
            "session",
            "task",
            "run",
            "onset_s",
            "split",
        ],
    )


def trials_of(scores: np.ndarray, table: pd.DataFrame, subject: str = "00", direction: str = "fmri_to_video"):
    rows = np.flatnonzero(table["subject"] == subject)
    item = SubjectScores(rows, list(table["clip_id"].iloc[rows]), {"score": scores})
    return make_trials(order_scores(item, table), "score", table, subject, 0, direction)


def slow(rng: np.random.Generator, clips: int, units: int) -> np.ndarray:
    """AR(1) noise: what lies 5 clips apart still correlates at .44."""
    return lfilter([1.0], [1.0, -0.85], rng.standard_normal((clips + 60, units)), axis=0)[60:]


@pytest.mark.parametrize("direction", ["fmri_to_video", "video_to_fmri"])
def test_rotated_p_values_are_those_of_a_naive_loop_over_permutations(direction):
    rng = np.random.default_rng(0)
    table = clip_table({"a": 9, "b": 7})
    config = QUICK.model_copy(update={"galleries": ["full", "stimulus", 5], "exclude_s": [0.0, 6.0]})
    trials = trials_of(rng.integers(0, 5, (16, 16)).astype(float), table, direction=direction)
    measured = Judge(config).measure([trials])["all"]
    assert len(measured) == 2 * 3 * 5
    source, shifts = Rotations(config.permutations, config.seed).rotate(trials.runs, trials.onset_s)
    usable = distinct(list(shifts.values()))
    for found in measured:
        apart = np.abs(np.subtract.outer(trials.start_s, trials.start_s)) - 4.0
        same = trials.stimulus[:, None] == trials.stimulus
        near = same & (np.maximum(apart, 0) < found.exclude_s) & ~np.eye(16, dtype=bool)
        counts = outranked(trials.scores, near | (~same if found.gallery == "stimulus" else False))
        ways = 5 if found.gallery == "5-way" else None
        reduce = np.median if found.metric == "median_rank" else np.mean

        def value(own, counts=counts, ways=ways, reduce=reduce, metric=found.metric):
            return reduce(query_values(metric, *counts.at(*trials.rotated(own)), ways=ways))

        null = np.array([value(own) for own in source[usable]])
        assert found.value == pytest.approx(value(np.arange(16)))
        # Medians of N-way galleries are in bins.
        assert found.null == pytest.approx(null, abs=0.01 if ways and found.metric == "median_rank" else 1e-9)
        if not (ways and found.metric == "median_rank"):
            assert found.p_value == p_value(found.value, null, found.metric == "median_rank")


@pytest.mark.slow
def test_p_values_are_uniform_on_autocorrelated_noise_where_shuffled_clips_are_not():
    rng = np.random.default_rng(1)
    table, repetitions = clip_table({"a": 40, "b": 40}), 400
    rotated, shuffled = [], []
    for repetition in range(repetitions):
        brain, video = (np.concatenate([slow(rng, 40, 2), slow(rng, 40, 2)]) for _ in range(2))
        trials = trials_of(brain @ video.T, table)
        config = QUICK.model_copy(update={"seed": repetition, "bootstrap": 100})
        found = next(m for m in Judge(config).measure([trials])["all"] if m.metric == "mrr")
        rotated.append(found.p_value)
        values = query_values("mrr", *outranked(trials.scores, np.zeros((80, 80), bool)).at(
            *np.meshgrid(np.arange(80), np.arange(80), indexing="ij")
        ))  # fmt: skip
        mixed = np.argsort(rng.random((99, 80)), axis=1)
        shuffled.append(p_value(found.value, values[np.arange(80), mixed].mean(axis=1)))
    # P-values are multiples of 1/100: spread over their step, they are continuous.
    spread = np.array(rotated) - rng.random(repetitions) / 100
    assert kstest(spread, "uniform").pvalue > 0.01
    low, high = binom.ppf([0.005, 0.995], repetitions, 0.05)
    assert low <= np.sum(np.array(rotated) <= 0.05) <= high
    assert np.sum(np.array(shuffled) <= 0.05) > high, "a test of single clips must be seen to fail here"


@pytest.mark.slow
def test_block_intervals_cover_on_autocorrelated_hits_where_single_clips_do_not():
    """Hits where an AR(1) series is high: the true rate is 30 %, known for every length of the run."""
    rng = np.random.default_rng(2)
    clips, inside, single, trials = 480, 0, 0, 400
    block = np.arange(clips) // 20
    weights = bootstrap.resample_weights(24, 400, rng)
    alone = bootstrap.resample_weights(clips, 400, rng)
    edge = norm.ppf(0.7) / np.sqrt(1 - 0.85**2)
    for _ in range(trials):
        hits = (slow(rng, clips, 1)[:, 0] > edge).astype(float)
        found = bootstrap.bootstrap_distribution("top1", hits, block, weights)
        low, high = bootstrap.interval(found, 24, 0.95)
        inside += low <= 0.3 <= high
        found = bootstrap.bootstrap_distribution("top1", hits, np.arange(clips), alone)
        low, high = bootstrap.interval(found, clips, 0.95)
        single += low <= 0.3 <= high
    assert 0.90 <= inside / trials <= 0.985
    assert single / trials < 0.75, "clip by clip, the interval is too narrow"


@pytest.mark.slow
def test_intervals_over_clips_and_subjects_cover_where_people_differ():
    """Rates that differ between people and between blocks: intervals over clips alone are too narrow for other people."""
    rng = np.random.default_rng(3)
    people, blocks, each, trials = 12, 14, 4, 300
    subject, block = (x.ravel() for x in np.indices((people, blocks, each))[:2])
    by_block, by_person = (bootstrap.resample_weights(n, 400, rng) for n in (blocks, people))
    inside = {"clips": 0, "both": 0}
    for _ in range(trials):
        effect = 0.1 * rng.standard_normal(people)[subject] + 0.1 * rng.standard_normal(blocks)[block]
        hits = (0.4 + effect + 0.3 * rng.standard_normal(len(subject))).clip(-1, 2)
        clips = bootstrap.bootstrap_distribution("top1", hits, block, by_block)
        alone = bootstrap.bootstrap_distribution(
            "top1", hits, block, np.ones_like(by_block), subject, by_person
        )
        both = bootstrap.bootstrap_distribution("top1", hits, block, by_block, subject, by_person)
        units = bootstrap.effective_units({"clips": (clips, blocks), "subjects": (alone, people)})
        assert min(people, blocks) <= units <= people + blocks
        for name, found, n in (("clips", clips, blocks), ("both", both, units)):
            low, high = bootstrap.interval(found, n, 0.95)
            inside[name] += low <= 0.4 <= high
    assert inside["both"] / trials >= 0.91
    assert inside["clips"] / trials < 0.88


def test_pigeonhole_weights_repeat_people_and_blocks():
    rng = np.random.default_rng(4)
    values = rng.integers(1, 20, 60).astype(float)
    block, subject = rng.integers(0, 5, 60), rng.integers(0, 3, 60)
    by_block, by_person = (bootstrap.resample_weights(n, 40, rng) for n in (5, 3))
    for metric, reduce in (("top1", np.mean), ("median_rank", np.median)):
        found = bootstrap.bootstrap_distribution(metric, values, block, by_block, subject, by_person)
        for r in range(40):
            drawn = np.repeat(values, by_block[r, block] * by_person[r, subject])
            assert found[r] == pytest.approx(reduce(drawn) if len(drawn) else reduce(values))


def several(rng: np.random.Generator, strength: float, seed_noise: float = 0.0):
    """Measures of three people, two seeds and more."""
    table = clip_table({"a": 20, "b": 16}, subjects=3)
    judge, found = Judge(QUICK), []
    for _ in range(4):
        own = strength + seed_noise * rng.standard_normal()
        trials = [
            trials_of(rng.standard_normal((36, 36)) + own * np.eye(36), table, f"{s:02d}") for s in range(3)
        ]
        found.append(judge.measure(trials))
    return found


def test_rows_over_seeds_resample_seeds_with_the_variance_of_their_mean():
    found = several(np.random.default_rng(5), 2.0, seed_noise=1.0)
    for name in ("all", "00"):
        same = [f[name][3] for f in found]
        assert same[0].metric == "mrr"
        merged = average(same, seed=0)
        spread, seeds = merged.sources["seeds"]
        assert seeds == 4
        values = [m.value for m in same]
        assert merged.value == pytest.approx(np.mean(values))
        assert np.var(spread) == pytest.approx(np.var(values, ddof=1) / 4, rel=0.4)
        assert np.var(merged.distribution) > np.var(average(same).distribution)
        assert "seeds" not in average(same).sources
    assert set(average([f["all"][0] for f in found], seed=0).sources) == {"clips", "subjects", "seeds"}


def test_differences_are_paired_over_clips_and_subjects():
    """Both models share the luck of clips and people: the interval of their difference is narrower than of either."""
    rng = np.random.default_rng(6)
    table = clip_table({"a": 40, "b": 40}, subjects=3)
    judge, pair = Judge(QUICK), []
    base = [rng.standard_normal((80, 80)) + 2.2 * rng.random() * np.eye(80) for _ in range(3)]
    for noise in (0.0, 0.1):
        pair.append(judge.measure([
            trials_of(b + noise * rng.standard_normal(b.shape), table, f"{s:02d}") for s, b in enumerate(base)
        ])["all"][3])  # fmt: skip
    value, spread, units = difference(*pair)
    assert value == pytest.approx(pair[0].value - pair[1].value)
    assert spread.std() < 0.5 * pair[0].distribution.std()
    assert units >= 3
    same = difference(pair[0], pair[0])
    assert same[0] == 0
    assert not same[1].any()


def test_only_the_pool_resamples_people_and_only_if_asked_to():
    trials = [trials_of(np.eye(36), clip_table({"a": 20, "b": 16}, subjects=3), f"{s:02d}") for s in range(3)]
    both = Judge(QUICK).measure(trials)
    assert set(both["all"][0].sources) == {"clips", "subjects"}
    assert set(both["01"][0].sources) == {"clips"}
    clips = Judge(QUICK.model_copy(update={"resample": "clips"})).measure(trials)
    assert set(clips["all"][0].sources) == {"clips"}
    assert "subjects" not in Judge(QUICK).measure(trials[:1])["all"][0].sources


def test_the_stimulus_gallery_ranks_among_clips_of_the_same_film_at_its_own_chance():
    config = QUICK.model_copy(update={"galleries": ["full", "stimulus"]})
    table = clip_table({"a": 12, "b": 4}, subjects=2)
    # The film is known and nothing else: exactly chance within films, above it among all.
    known = (np.arange(16)[:, None] < 12) == (np.arange(16) < 12)
    trials = trials_of(known.astype(float), table)
    found = {(m.gallery, m.metric): m for m in Judge(config).measure([trials])["all"]}
    own = found["stimulus", "top1"]
    assert own.value == pytest.approx(own.chance) == pytest.approx((12 * 1 / 12 + 4 * 1 / 4) / 16)
    assert own.size == pytest.approx((12 * 12 + 4 * 4) / 16)
    assert found["stimulus", "mrr"].chance == pytest.approx(
        (12 * chance("mrr", 12) + 4 * chance("mrr", 4)) / 16
    )
    assert found["full", "top1"].value > found["full", "top1"].chance
    single = trials_of(np.eye(12), clip_table({"a": 12}))
    assert {m.gallery for m in Judge(config).measure([single])["all"]} == {"full"}


def test_scores_in_a_file_are_read_when_asked_for_and_a_cache_is_bounded(tmp_path):
    rng = np.random.default_rng(7)
    table = clip_table({"a": 12, "b": 8}, subjects=2)
    items = {}
    for number, subject in enumerate(("00", "01")):
        rows, columns = rng.permutation(20) + 20 * number, rng.permutation(20)
        gallery = [table["clip_id"].iloc[c] for c in columns]
        items[subject] = SubjectScores(rows, gallery, {"score": rng.random((20, 20)).astype(np.float32)})
    write_scores(tmp_path / "scores.h5", items)
    cache = Cache(limit=2000)
    stored = ScoreFileReader(tmp_path / "scores.h5", cache).subjects()
    whole = read_scores(tmp_path / "scores.h5")
    assert cache.held == 0
    for direction in ("fmri_to_video", "video_to_fmri"):
        for subject in items:
            lazy, eager = (
                make_trials(order_scores(found[subject], table), "score", table, subject, 0, direction)
                for found in (stored, whole)
            )
            assert np.array_equal(lazy.scores, eager.scores)
            assert cache.held == 1600, "one matrix of 20 by 20"
    with pytest.raises(KeyError):
        stored["00"].parts["fused"]


def test_few_blocks_are_told(caplog):
    from neuroalign.evaluation.evaluate import _warn_of_few_blocks

    trials = [trials_of(np.eye(36), clip_table({"a": 20, "b": 16}))]
    with caplog.at_level(logging.WARNING):
        _warn_of_few_blocks(Judge(QUICK).measure(trials), QUICK)
        assert not caplog.records
        config = QUICK.model_copy(update={"block_s": 30.0})
        _warn_of_few_blocks(Judge(config).measure(trials), config)
    assert "of all subjects make 6 blocks of 30 s" in caplog.text


def identification(signal: float, noise: float, candidates: int, units: int, seed: int = 0) -> float:
    """Chance that a noisy copy correlates best with its own noisy copy, integrated for independent scores."""
    reliability = signal**2 / (signal**2 + noise**2)
    # Fisher: z of the true pair about arctanh(reliability), of others about 0, each with variance 1 / (units - 3).
    z = np.linspace(-1.5, 4.0, 40001)
    width = 1 / np.sqrt(units - 3)
    density = norm.pdf(z, np.arctanh(reliability), width)
    return float(np.sum(density * norm.cdf(z, 0, width) ** (candidates - 1)) * (z[1] - z[0]))


@pytest.mark.parametrize(("noise", "group"), [(1.5, 1), (2.0, 1), (2.5, 8)])
def test_ceilings_are_what_the_known_noise_allows(make, noise, group):
    """White signal and noise: repeat to repeat, and one person against the mean of `group` others."""
    rng = np.random.default_rng(8)
    base, films, total = make(subjects=1), 60, 90
    # The last thirty are for training: everything is scaled by them.
    kind = ["test"] * films + ["train"] * (total - films)
    contents = [(f"c{i}", kind[i], 4.0 * i) for i in range(total)]
    truth = rng.standard_normal((total, 4, 20))
    rows, brain, shows = [], {}, 2 if group == 1 else 1
    for number in range(1 if group == 1 else group + 1):
        label = f"{number + 1:02d}"
        own = np.arange(total * shows) + len(rows)
        for repeat in range(shows):
            rows += [(*c, 4.0, label, "", "film", str(repeat), c[2], c[1], c[1], repeat) for c in contents]
        data = np.tile(truth, (shows, 1, 1)) + noise * rng.standard_normal((total * shows, 4, 20))
        windows = next(iter(base.brain.values()))
        brain[label] = type(windows)(
            own,
            {"early": data.astype(np.float32)},
            np.tile(windows.times[:1], (len(own), 1)),
            np.ones((len(own), 4), bool),
            {"early": [f"u{i}" for i in range(20)]},
            True,
        )
    columns = [
        "clip_id",
        "stimulus",
        "start_s",
        "duration_s",
        "subject",
        "session",
        "task",
        "run",
        "onset_s",
        "split",
        "group",
        "repeat",
    ]
    video = base.video.select(np.arange(total))
    video.clip_ids[:] = [c[0] for c in contents]
    pairs = PairedDataset(pd.DataFrame(rows, columns=columns), brain, video)
    data = material(pairs, lag_for(pairs))
    found = (repeat_to_repeat if group == 1 else subject_to_group)(data)
    hits = []
    for item in found.values():
        order = {clip: i for i, clip in enumerate(item.gallery)}
        own = [order[clip] for clip in pairs.clips["clip_id"].iloc[item.clip_rows]]
        scores = item.parts["score"]
        hits.append(scores.argmax(axis=1) == own)
    # Correlation of a single with a mean of `group`: the geometric mean of their reliabilities.
    single, mean = (1 / (1 + noise**2 / n) for n in (1, group))
    expected = identification(1.0, np.sqrt(1 / np.sqrt(single * mean) - 1), films, 80)
    assert 0.1 < expected < 0.95
    # Two standard errors of sixty clips: what people share, the clips, does not average out over them.
    assert np.mean(hits) == pytest.approx(expected, abs=0.12)
