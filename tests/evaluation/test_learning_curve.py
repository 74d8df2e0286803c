"""The learning curve of unseen people: who is tested on what, and what its numbers are."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import neuroalign
from neuroalign.cli import main
from neuroalign.config.adapt import Adapt
from neuroalign.config.evaluate import Evaluate
from neuroalign.config.train import Train
from neuroalign.errors import UserError
from neuroalign.evaluation.learning_curve import (
    COLUMNS,
    CurveFile,
    curve_scores,
    learning_curve,
    unseen_people,
)
from neuroalign.evaluation.scores import write_scores
from neuroalign.io import read_tsv, write_tsv
from neuroalign.pairs.store import write_brain, write_video
from neuroalign.training.ntcl import train_ntcl

_SOURCE = Path(__file__).resolve().parents[1] / "models" / "conftest.py"
GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "none"}}
NEW = ("03", "04")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four people and a model of two of them; a fifth of the clips is content that nobody is trained on."""
    spec = importlib.util.spec_from_file_location("synthetic_pairs", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pairs = module.make_pairs(subjects=4, clips=(80, 20, 25), aligned=True, noise=1.5)
    clips = pairs.clips.copy()
    new = clips["split"] == "test"
    clips.loc[new, "split"] = "guard"
    clips.loc[clips["subject"].isin(NEW), "split"] = "test"
    pairs = replace(pairs, clips=clips)
    folder = tmp_path_factory.mktemp("curve")
    config = Train(device="cpu", ntcl={"epochs": 1, "encoder": {"dim": 16, "depth": 0, "heads": 2}})
    train_ntcl(pairs, folder / "model", config, 0, made_by={}, geometry=GEOMETRY)
    model = neuroalign.load(folder / "model")
    scores, chosen = curve_scores(model, pairs, Adapt(minutes=[0, 2, 4, 60], test=0.4), 0.0)
    return folder, pairs, model, scores, chosen


def test_unseen_people_are_tested_on_later_clips_by_question(made):
    _, pairs, model, scores, chosen = made
    assert unseen_people(model, pairs) == list(NEW)
    trained = set(pairs.clips.loc[pairs.clips["split"].isin(["train", "validation"]), "clip_id"])
    for subject in NEW:
        assert set(chosen[subject]) == {"0", "2", "4"}
        rows = np.flatnonzero((pairs.clips["subject"] == subject).to_numpy())
        for content, found in scores.items():
            item = found[subject]
            # 60 clips of 4 s are the longest adaptation; the rest is tested, whatever the minutes.
            assert item.clip_rows.min() >= rows[60]
            assert {p.split("@")[1] for p in item.parts if p.startswith("neuroalign")} == {"0", "2", "4"}
            assert {p.split("@")[1] for p in item.parts if p.startswith("ridge")} == {"2", "4"}
            assert all((clip in trained) == (content == "known") for clip in item.gallery)
        tested = np.concatenate([scores[c][subject].clip_rows for c in scores])
        assert sorted(tested) == rows[60:].tolist()


def test_the_curve_starts_at_the_shared_model(made):
    _, pairs, model, scores, _ = made
    item = scores["known"]["03"]
    windows = pairs.brain["03"].select(np.isin(pairs.brain["03"].rows, item.clip_rows))
    clips = model.embed_video(pairs.video.select(pairs.video.rows_of(item.gallery)))
    np.testing.assert_array_equal(
        item.parts["neuroalign@0"], model.score(model.embed_fmri(windows, "03"), clips)
    )


def test_the_table_holds_paired_gains(made, tmp_path):
    _, pairs, _, scores, _ = made
    files = []
    for seed in (0, 1):
        for content, found in scores.items():
            path = tmp_path / f"{content}-{seed}.h5"
            write_scores(path, found)
            files.append(CurveFile(content, seed, 0, path))
    config = Evaluate(galleries=["full"], exclude_s=[0.0], permutations=19, bootstrap=200)
    table = learning_curve(files, [pairs.clips], config)
    assert list(table) == list(COLUMNS)
    assert set(table["seed"]) == {0, 1, "all"}
    assert set(table["subject"]) == {*NEW, "all"}
    assert set(table["content"]) == {"known", "new"}
    start = table[(table["model"] == "neuroalign") & (table["minutes"] == 0)]
    assert (start["gain"] == 0).all()
    assert start["ci_low"].notna().all()
    keys = ["seed", "subject", "content", "direction", "metric"]
    both = table.merge(start[[*keys, "value"]], on=keys, suffixes=("", "_shared"))
    np.testing.assert_allclose(both["gain"], both["value"] - both["value_shared"], atol=1e-12)
    assert ((table["gain_low"] <= table["gain"]) & (table["gain"] <= table["gain_high"])).mean() > 0.95
    # Equal scores in both seeds: their mean is each of them.
    one, mean = (table[table["seed"] == s].reset_index(drop=True) for s in (0, "all"))
    np.testing.assert_allclose(one["value"], mean["value"])
    pool = table[(table["subject"] == "all") & (table["seed"] == 0) & (table["minutes"] == 4)]
    people = table[(table["subject"] != "all") & (table["seed"] == 0) & (table["minutes"] == 4)]
    mine = people[
        (people["metric"] == "mrr") & (people["model"] == "neuroalign") & (people["content"] == "known")
    ]
    row = pool[(pool["metric"] == "mrr") & (pool["model"] == "neuroalign") & (pool["content"] == "known")]
    for direction in ("fmri_to_video", "video_to_fmri"):
        gains = mine.loc[mine["direction"] == direction, "gain"]
        centre = row.loc[row["direction"] == direction, ["people_low", "people_high"]].mean(axis=1).item()
        assert centre == pytest.approx(gains.mean())


def test_scratch_and_shared_are_where_they_should_be(made, tmp_path):
    """With 4 minutes of clear signal a map from scratch is far above chance, and the adapted model not below it."""
    _, pairs, _, scores, _ = made
    write_scores(tmp_path / "known.h5", scores["known"])
    config = Evaluate(galleries=["full"], exclude_s=[0.0], permutations=19, bootstrap=100)
    table = learning_curve([CurveFile("known", 0, 0, tmp_path / "known.h5")], [pairs.clips], config)
    at = table[(table["subject"] == "all") & (table["metric"] == "mrr") & (table["minutes"] == 4)]
    at = at.groupby("model")["value"].mean()
    chance = table.loc[table["metric"] == "mrr", "chance"].mean()
    assert at["ridge_from_scratch"] > 2 * chance
    assert at["cca_from_scratch"] > 2 * chance
    assert at["neuroalign"] >= at["ridge_from_scratch"]


def test_a_model_that_has_seen_everybody_has_no_curve(made):
    _, pairs, model, _, _ = made
    known = replace(
        pairs, clips=pairs.clips.assign(split=np.where(pairs.clips["subject"] == "01", "test", "guard"))
    )
    with pytest.raises(UserError, match="split by subject"):
        curve_scores(model, known, Adapt(), 0.0)


def test_the_command_writes_a_model_that_knows_the_person(made, tmp_path, capsys):
    folder, pairs, _, _, _ = made
    store = tmp_path / "pairs"
    write_video(store / "video.h5", pairs.video)
    for subject, windows in pairs.brain.items():
        write_brain(store / f"sub-{subject}.h5", windows)
    write_tsv(store / "clips.tsv", pairs.clips)
    command = [
        "adapt",
        "--model",
        str(folder / "model"),
        "--pairs",
        str(store),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--subject", "sub-03", "--minutes", "3"])
    assert ended.value.code == 0
    assert "knows subject 03 from 45 clips" in capsys.readouterr().out
    used = read_tsv(tmp_path / "out" / "adaptation.tsv", text=("subject",))
    assert len(used) == 45
    assert set(used["subject"]) == {"03"}
    model = neuroalign.load(tmp_path / "out")
    assert model.network.architecture.subjects[-1] == "03"
    record = model.meta["adapted"]["03"]["provenance"]
    assert set(record["inputs"]) == {"model", "description", "clips", "windows"}
    for wrong, sentence in (
        (["--subject", "99"], "holds no subject '99'"),
        (["--subject", "01"], "knows subject '01' already"),
        (["--subject", "03", "--minutes", "-1"], "--minutes is -1"),
        (["--subject", "03", "--minutes", "0.01"], "raise --minutes"),
        (["--subject", "03", "--out", str(folder / "model")], "folder of the model itself"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *wrong])
        assert sentence in str(ended.value.code)
