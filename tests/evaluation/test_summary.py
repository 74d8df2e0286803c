"""The grouped table: its groups, its intervals against naive resampling, and differences on the same queries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation.baselines import run_baseline
from neuroalign.evaluation.bootstrap import resample_weights
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.evaluation.summary import (
    COLUMNS,
    crossed_distribution,
    group_of,
    reference_of,
    seed_interval,
    summary_table,
)
from neuroalign.evaluation.trials import DIRECTIONS, make_trials, order_scores

CONFIG = Evaluate(galleries=["full"], exclude_s=[0.0], bootstrap=400, permutations=19, block_s=12.0)
EMPTY = pd.DataFrame(columns=["control", "ceiling", "subject", "gallery", "exclude_s", "metric"])


def test_resampling_blocks_and_people_equals_drawing_them_one_by_one():
    rng = np.random.default_rng(0)
    subject, block = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    subject[:4], block[:5] = range(4), range(5)
    values = rng.random(60)
    found = crossed_distribution(values, subject, block, 50, 7, people=True)
    by_block = resample_weights(5, 50, np.random.default_rng([7, 5, 5]))
    by_person = resample_weights(4, 50, np.random.default_rng([7, 6, 4]))
    for r in range(50):
        drawn = [
            value
            for value, s, b in zip(values, subject, block, strict=True)
            for _ in range(by_person[r, s] * by_block[r, b])
        ]
        assert found[r] == pytest.approx(np.mean(drawn) if drawn else values.mean())


def test_intervals_that_speak_of_other_people_are_wider_where_people_differ():
    """Twenty people of different ability on many blocks: clips alone say little of the next person."""
    rng = np.random.default_rng(1)
    subject, block = np.repeat(np.arange(20), 60), np.tile(np.arange(60), 20)
    ability = rng.normal(0, 1, 20)
    values = ability[subject] + rng.normal(0, 1, len(subject))
    spread = {p: crossed_distribution(values, subject, block, 2000, 0, people=p).std() for p in (False, True)}
    # Of a mean over 20 people of unit variance: 1 / sqrt(20), and the noise adds nearly nothing.
    assert spread[True] == pytest.approx(ability.std() / np.sqrt(20), rel=0.15)
    assert spread[False] < 0.25 * spread[True]


def test_the_interval_over_seeds_is_students():
    each = np.array([0.10, 0.14, 0.12])
    low, high = seed_interval(each, 0.95)
    half = 4.302653 * each.std(ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((0.12 - half, 0.12 + half))
    assert all(np.isnan(seed_interval(each[:1], 0.95)))


def test_names_tell_groups():
    names = (
        "neuroalign",
        "neuroalign_continuous",
        "neuroalign_without_time_quantised",
        "ridge",
        "pooled_cca",
    )
    assert [reference_of(n) for n in names] == [
        "neuroalign",
        "neuroalign",
        "neuroalign_quantised",
        *["neuroalign"] * 2,
    ]
    assert [group_of(n) for n in names] == ["model", "part", "ablation", "baseline", "baseline"]


@pytest.fixture(scope="module")
def table(make):
    pairs = make(subjects=5)
    ridge, rng = run_baseline("ridge", pairs)[0], np.random.default_rng(0)

    def trials(scores):
        return {
            d: [
                make_trials(order_scores(item, pairs.clips), "score", pairs.clips, s, 0, d)
                for s, item in scores.items()
            ]
            for d in DIRECTIONS
        }

    def noisy(size):
        return {
            s: SubjectScores(
                i.clip_rows,
                i.gallery,
                {"score": i.parts["score"] + size * rng.standard_normal(i.parts["score"].shape)},
            )
            for s, i in ridge.items()
        }

    def seeds(*scores):
        made = [trials(s) for s in scores]
        return {d: {n: m[d] for n, m in enumerate(made)} for d in DIRECTIONS}

    fewer = {s: item for s, item in ridge.items() if s != "03"}
    models = {
        "ridge": seeds(noisy(0.5)),
        "cca": seeds(fewer),
        "neuroalign_without_time": seeds(noisy(0.3), noisy(0.3)),
        "neuroalign": seeds(ridge, noisy(0.05)),
    }
    return summary_table(models, EMPTY, EMPTY, CONFIG)


def test_rows_are_grouped_and_complete(table):
    assert tuple(table.columns) == COLUMNS
    assert list(dict.fromkeys(table["group"])) == ["model", "ablation", "baseline"]
    assert len(table) == 4 * 2 * 3
    assert set(table["subjects"]) == {4, 5}
    assert (table["clips_low"] <= table["value"]).all()
    assert (table["value"] <= table["clips_high"]).all()


def test_differences_are_to_the_model_on_the_same_queries(table):
    own = table[table["model"] == "neuroalign"].set_index(["direction", "metric"])
    assert own["difference"].isna().all()
    for model in ("ridge", "neuroalign_without_time"):
        rows = table[table["model"] == model].set_index(["direction", "metric"])
        assert (rows["value"] - own["value"]).to_numpy() == pytest.approx(rows["difference"].to_numpy())
        assert (rows.drop("top5", level="metric")["difference_high"] < 0).all(), "noise costs"
    assert table.loc[table["model"] == "cca", "difference"].isna().all(), "one person is missing there"


def test_people_and_seeds_have_intervals_only_where_there_are_several(table):
    assert table.loc[table["model"] == "cca", "people_low"].isna().all()
    assert table.loc[table["model"] != "cca", "people_low"].notna().all()
    assert table.loc[table["model"] == "ridge", "seeds_low"].isna().all()
    assert table.loc[table["model"] == "neuroalign", "seeds_low"].notna().all()
