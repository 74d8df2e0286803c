"""The evaluator from files to tables: columns, pooling, seeds, folds, controls, ceilings, rankings."""

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.evaluate import Evaluate
from neuroalign.errors import Problems, UserError
from neuroalign.evaluation.baselines import run_baseline
from neuroalign.evaluation.evaluate import (
    CEILING_COLUMNS,
    COMPARISON_COLUMNS,
    METRIC_COLUMNS,
    RANKING_COLUMNS,
    ScoreFile,
    evaluate,
    write_results,
)
from neuroalign.evaluation.scores import SubjectScores, write_scores
from neuroalign.io import read_tsv, write_tsv
from neuroalign.pairs.store import write_brain, write_video

CONFIG = Evaluate(galleries=["full", 5, 300], draws=0, permutations=199, bootstrap=200, block_s=12.0)


def save(pairs, folder, folds=1):
    clips = pairs.clips.copy()
    if folds == 2:
        clips["split_0"] = clips["split"]
        swap = {"test": "validation", "validation": "test"}
        clips["split_1"] = [swap.get(s, s) for s in clips["split"]]
    write_tsv(folder / "clips.tsv", clips)
    for subject, windows in pairs.brain.items():
        write_brain(folder / f"sub-{subject}.h5", windows)
    write_video(folder / "video.h5", pairs.video)


def model_scores(pairs, seed):
    """A stand-in for NeuroAlign: ridge with noise for the parts."""
    rng = np.random.default_rng(seed)
    scores = {}
    for subject, item in run_baseline("ridge", pairs)[0].items():
        clean = item.parts["score"]
        order = rng.permutation(len(item.clip_rows))
        columns = rng.permutation(len(item.gallery))
        noisy = clean + 0.3 * rng.standard_normal(clean.shape)
        scores[subject] = SubjectScores(
            item.clip_rows[order],
            [item.gallery[i] for i in columns],
            {
                name: data[order][:, columns]
                for name, data in {
                    "fused": clean,
                    "continuous": noisy,
                    "quantised": np.zeros_like(clean),
                }.items()
            },
        )
    return scores


@pytest.fixture(scope="module")
def stage(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    save(pairs, folder / "pairs")
    files = []
    for seed in (0, 1):
        path = folder / f"neuroalign-{seed}.h5"
        write_scores(path, model_scores(pairs, seed))
        files.append(ScoreFile("neuroalign", seed, 0, path))
    for name in ("ridge", "cca"):
        path = folder / f"{name}.h5"
        write_scores(path, run_baseline(name, pairs)[0])
        files.append(ScoreFile(name, 0, 0, path))
    return files, folder / "pairs", folder


@pytest.fixture(scope="module")
def results(stage):
    return evaluate(stage[0], stage[1], CONFIG)


def one(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return table.iloc[0]


def test_metrics_have_the_fixed_columns_and_every_row(results):
    table = results.metrics
    assert tuple(table.columns) == METRIC_COLUMNS
    assert set(table["model"]) == {
        "neuroalign",
        "neuroalign_continuous",
        "neuroalign_quantised",
        "ridge",
        "cca",
    }
    assert set(table["gallery"]) == {"full", "5-way"}, "300 candidates are not there"
    assert set(table["subject"]) == {"01", "02", "all"}
    assert set(table.loc[table["model"] == "neuroalign", "seed"]) == {0, 1, "all"}
    assert set(table.loc[table["model"] == "ridge", "seed"]) == {0}
    assert not table.duplicated(
        ["model", "seed", "subject", "direction", "gallery", "exclude_s", "metric"]
    ).any()
    assert (
        (table["ci_low"] <= table["value"] + 1e-9) & (table["value"] <= table["ci_high"] + 1e-9)
    ).mean() > 0.95


def test_order_of_windows_and_candidates_in_the_file_changes_nothing(results):
    keys = {
        "direction": "fmri_to_video",
        "gallery": "full",
        "exclude_s": 0.0,
        "metric": "mrr",
        "subject": "all",
    }
    shuffled = one(results.metrics, model="neuroalign", seed="all", **keys)
    plain = one(results.metrics, model="ridge", seed=0, **keys)
    for column in ("value", "ci_low", "ci_high", "p_value", "n_queries"):
        assert shuffled[column] == pytest.approx(plain[column])


def test_a_constant_part_is_exactly_at_chance(results):
    part = results.metrics[results.metrics["model"] == "neuroalign_quantised"]
    assert part["value"].to_numpy() == pytest.approx(part["chance"].to_numpy())
    assert (part["p_value"] == 1).all()


def test_pool_queries_and_galleries(results):
    rows = results.metrics[(results.metrics["model"] == "ridge") & (results.metrics["metric"] == "top1")]
    keys = {"gallery": "full", "exclude_s": 0.0}
    brain = {s: one(rows, subject=s, direction="fmri_to_video", **keys) for s in ("01", "02", "all")}
    assert [brain[s]["n_queries"] for s in brain] == [48, 24, 72], "subject 01 saw the test film twice"
    pooled = (48 * brain["01"]["value"] + 24 * brain["02"]["value"]) / 72
    assert brain["all"]["value"] == pytest.approx(pooled)
    video = one(rows, subject="01", direction="video_to_fmri", **keys)
    assert (video["n_queries"], video["gallery_size"]) == (24, 24), "one presentation of each clip"
    excluded = one(rows, subject="02", direction="fmri_to_video", gallery="full", exclude_s=10.0)
    # Gaps of 0, 4 and 8 s: three neighbours on each side, fewer at the ends of the film.
    assert excluded["gallery_size"] == pytest.approx(24 - (6 * 24 - 2 * (3 + 2 + 1)) / 24, abs=1e-3)
    assert brain["all"]["p_value"] < 0.02


def test_comparisons_are_paired(results):
    table = results.comparisons
    assert tuple(table.columns) == COMPARISON_COLUMNS
    same = table[table["model_b"] == "ridge"]
    assert (same["difference"].abs() < 1e-12).all()
    assert (same["p_value"] == 1).all()
    row = one(
        table,
        model_b="neuroalign_quantised",
        subject="all",
        direction="fmri_to_video",
        gallery="full",
        exclude_s=0.0,
        metric="top1",
    )
    assert row["ci_low"] > 0
    assert row["p_value"] < 0.05


def test_controls_pass_on_clean_data(results):
    table = results.controls
    assert set(table["control"]) == {"shifted", "shuffled", "time_only", "shuffled_training", "low_level"}
    assert table["passed"].mean() > 0.97
    assert set(table.loc[table["control"] == "low_level", "expected"]) == {"below_model"}


def test_repeats_and_the_group_give_ceilings(results):
    table = results.ceilings
    assert tuple(table.columns) == CEILING_COLUMNS
    keys = {"direction": "fmri_to_video", "gallery": "full", "exclude_s": 0.0, "metric": "top1"}
    repeat = one(table, ceiling="repeat_to_repeat", subject="01", **keys)
    assert repeat["n_queries"] == 24
    assert repeat["value"] > 0.5
    assert "02" not in set(table.loc[table["ceiling"] == "repeat_to_repeat", "subject"])
    assert one(table, ceiling="subject_to_group", subject="02", **keys)["value"] > 0.5


def test_rankings_agree_with_metrics(results):
    table = results.rankings
    assert tuple(table.columns) == RANKING_COLUMNS
    mine = table[
        (table["model"] == "ridge") & (table["subject"] == "02") & (table["direction"] == "fmri_to_video")
    ]
    hits = (mine["top_1"] == mine["clip_id"]).mean()
    keys = {
        "gallery": "full",
        "exclude_s": 0.0,
        "metric": "top1",
        "subject": "02",
        "direction": "fmri_to_video",
    }
    assert hits == pytest.approx(one(results.metrics, model="ridge", seed=0, **keys)["value"])
    assert np.array_equal(mine["rank"] == 1, mine["top_1"] == mine["clip_id"])


def test_results_are_written_and_reproducible(results, stage, tmp_path):
    paths = write_results(results, tmp_path, {"config": {}})
    assert paths["provenance"].exists()
    again = write_results(evaluate(stage[0], stage[1], CONFIG), tmp_path / "again")
    for name in ("metrics", "comparisons", "controls", "ceilings", "rankings"):
        assert paths[name].read_bytes() == again[name].read_bytes()
    assert tuple(read_tsv(paths["metrics"], text=("subject",)).columns) == METRIC_COLUMNS


def test_a_leak_shows_in_the_controls(pairs, tmp_path):
    """Scores that know the run but nothing within it beat chance, and the shifted control says why."""
    save(pairs, tmp_path / "pairs")
    scores = {}
    for subject in pairs.subjects:
        table = pairs.clips[(pairs.clips["subject"] == subject) & (pairs.clips["split"] == "test")]
        gallery = list(dict.fromkeys(table["clip_id"]))
        late = table["start_s"].to_numpy() >= 48
        first = table.drop_duplicates("clip_id")["start_s"].to_numpy() >= 48
        near = (late[:, None] == first).astype(float)
        scores[subject] = SubjectScores(table.index.to_numpy(), gallery, {"fused": near})
    write_scores(tmp_path / "s.h5", scores)
    found = evaluate([ScoreFile("neuroalign", 0, 0, tmp_path / "s.h5")], tmp_path / "pairs", CONFIG).controls
    keys = {"subject": "all", "direction": "fmri_to_video", "metric": "top1"}
    assert not one(found, control="shifted", **keys)["passed"]
    assert one(found, control="shuffled", **keys)["passed"]


def test_queries_of_folds_are_pooled_and_galleries_are_not(make, tmp_path):
    pairs = make(noise=3.0)
    save(pairs, tmp_path / "pairs", folds=2)
    from neuroalign.pairs.store import read_pairs

    files = []
    for fold in (0, 1):
        path = tmp_path / f"fold-{fold}.h5"
        write_scores(path, run_baseline("ridge", read_pairs(tmp_path / "pairs", fold))[0])
        files.append(ScoreFile("ridge", 0, fold, path))
    table = evaluate(files, tmp_path / "pairs", CONFIG, folds=2).metrics
    row = one(
        table, subject="02", direction="fmri_to_video", gallery="full", exclude_s=0.0, metric="top1", seed=0
    )
    assert row["n_queries"] == 24 + 16
    assert row["gallery_size"] == pytest.approx((24 * 24 + 16 * 16) / 40)
    with pytest.raises(UserError, match="no scores of fold 1"):
        evaluate(files[:1], tmp_path / "pairs", CONFIG, folds=2)


def test_wrong_input_is_one_sentence(pairs, stage, tmp_path):
    files, folder, _ = stage
    with pytest.raises(UserError, match="no score files"):
        evaluate([], folder, CONFIG)
    item = run_baseline("ridge", pairs)[0]["01"]
    broken = item.parts["score"].copy()
    broken[0, 0] = np.nan
    for bad, message in (
        (SubjectScores(item.clip_rows, item.gallery, {"score": broken}), "not numbers"),
        (SubjectScores(item.clip_rows, ["other", *item.gallery[1:]], item.parts), "other pairs"),
        (SubjectScores(item.clip_rows, item.gallery[1:], {"score": item.parts["score"][:, 1:]}), "missing"),
        (SubjectScores(item.clip_rows - 30, item.gallery, item.parts), "outside the test split"),
    ):
        write_scores(tmp_path / "bad.h5", {"01": bad})
        with pytest.raises(UserError, match=message):
            evaluate([ScoreFile("ridge", 0, 0, tmp_path / "bad.h5")], folder, CONFIG)
    leaking = pd.DataFrame(pairs.clips)
    leaking.loc[leaking.index[(leaking["repeat"] == 1)][0], "split"] = "train"
    save(type(pairs)(leaking, pairs.brain, pairs.video), tmp_path / "leak")
    with pytest.raises(Problems, match="same split"):
        evaluate(files, tmp_path / "leak", CONFIG)


@pytest.mark.parametrize("spoken", [False, True])
def test_captions_have_rows_only_where_a_test_clip_has_one(pairs, tmp_path, spoken):
    save(pairs, tmp_path / "pairs")
    scores = model_scores(pairs, 0)
    for number, item in enumerate(scores.values()):
        fused = item.parts["fused"]
        item.parts["video_only"] = fused
        # One subject's gallery with captions is enough.
        item.parts["text"] = fused if spoken and number == 0 else np.zeros_like(fused)
    write_scores(tmp_path / "scores.h5", scores)
    file = ScoreFile("neuroalign", 0, 0, tmp_path / "scores.h5")
    found = set(evaluate([file], tmp_path / "pairs", CONFIG).metrics["model"])
    expected = {"neuroalign", "neuroalign_continuous", "neuroalign_quantised"}
    assert found == expected | ({"neuroalign_video_only", "neuroalign_text"} if spoken else set())
