"""Retrained controls are judged as controls: noise passes, a method that knows fails, and neither competes with the model."""

from __future__ import annotations

import numpy as np
import pytest

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation.baselines import run_baseline
from neuroalign.evaluation.controls import COLUMNS
from neuroalign.evaluation.evaluate import ScoreFile, evaluate
from neuroalign.evaluation.retrained import retrained_table
from neuroalign.evaluation.scores import SubjectScores, write_scores
from neuroalign.evaluation.trials import DIRECTIONS, make_trials, order_scores
from neuroalign.io import read_tsv, write_tsv
from neuroalign.pairs.store import write_brain, write_video

CONFIG = Evaluate(galleries=["full"], exclude_s=[0.0], draws=0, permutations=199, bootstrap=200, block_s=12.0)


def trials_of(pairs, scores):
    return {
        d: [
            make_trials(order_scores(item, pairs.clips), "score", pairs.clips, s, 0, d)
            for s, item in scores.items()
        ]
        for d in DIRECTIONS
    }


def noise(scores, seed):
    rng = np.random.default_rng(seed)
    return {
        s: SubjectScores(i.clip_rows, i.gallery, {"score": rng.standard_normal(i.parts["score"].shape)})
        for s, i in scores.items()
    }


@pytest.fixture(scope="module")
def ridge(pairs):
    return run_baseline("ridge", pairs)[0]


def judged(pairs, *seeds):
    made = [trials_of(pairs, scores) for scores in seeds]
    models = {"neuroalign_control_shifted": {d: {n: m[d] for n, m in enumerate(made)} for d in DIRECTIONS}}
    return retrained_table(models, CONFIG)


def test_noise_passes_and_knowledge_fails(pairs, ridge):
    table = judged(pairs, noise(ridge, 0), noise(ridge, 1))
    assert tuple(table.columns) == COLUMNS
    assert table["passed"].all()
    assert set(table["expected"]) == {"chance"}
    known = judged(pairs, ridge)
    assert not known.loc[known["subject"] == "all", "passed"].any()


def test_false_alarms_are_rare(pairs, ridge):
    """Of 40 controls of pure noise, each judged 95 % for all its people and directions, no more than a few fail."""
    failed = 0
    for seed in range(40):
        table = judged(pairs, noise(ridge, 100 + seed))
        failed += bool((~table.loc[table["metric"] == "mrr", "passed"].astype(bool)).any())
    # Of 40 at 5 %: more than 6 have a chance of 1.4 %.
    assert failed <= 6


def test_they_are_rows_of_the_controls_and_of_nothing_else(pairs, ridge, tmp_path):
    write_tsv(tmp_path / "clips.tsv", pairs.clips)
    for subject, windows in pairs.brain.items():
        write_brain(tmp_path / f"sub-{subject}.h5", windows)
    write_video(tmp_path / "video.h5", pairs.video)
    assert len(read_tsv(tmp_path / "clips.tsv")) == len(pairs.clips)
    files = {}
    for name, scores in {
        "neuroalign": ridge,
        "neuroalign_without_time": noise(ridge, 2),
        "neuroalign_control_shuffled": noise(ridge, 3),
    }.items():
        files[name] = ScoreFile(name, 0, 0, tmp_path / f"{name}.h5")
        write_scores(files[name].path, scores)
    config = CONFIG.model_copy(update={"permutations": 99})
    methods = [files["neuroalign"], files["neuroalign_without_time"]]
    results = evaluate(methods, tmp_path, config, retrained=[files["neuroalign_control_shuffled"]])
    assert set(results.metrics["model"]) == {"neuroalign", "neuroalign_without_time"}
    assert set(results.comparisons["model_b"]) == {"neuroalign_without_time"}
    own = results.controls[results.controls["control"] == "retrained_shuffled"]
    assert set(own["model"]) == {"neuroalign"}
    assert set(own["subject"]) == {"01", "02", "all"}
    groups = dict(zip(results.summary["model"], results.summary["group"], strict=True))
    assert groups["neuroalign_without_time"] == "ablation"
    assert groups["retrained_shuffled"] == groups["shuffled"] == "control"
    assert groups["repeat_to_repeat"] == "ceiling"
