"""Both stages on data with known delays, end to end; files, API, exact resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

import neuroalign
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries
from neuroalign.models.score import score_pairs
from neuroalign.pairs.store import BrainWindows
from neuroalign.training import loop
from neuroalign.training.codes import code_assignments, code_clips
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.validation import retrieval
from neuroalign.training.vq import train_vq
from neuroalign.video import shards

TRUE_DELAYS = (4.2, 5.2, 6.4)
GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}


def measured(model, pairs) -> dict[str, dict[str, float]]:
    """Mean retrieval of test clips by every part, over subjects."""
    found: dict[str, list[dict[str, float]]] = {}
    ids = pairs.clips["clip_id"].to_numpy()
    for rows, gallery, parts in score_pairs(model, pairs).values():
        own = np.array([gallery.index(c) for c in ids[rows]])
        for part, matrix in parts.items():
            assert matrix.shape == (len(rows), len(gallery))
            found.setdefault(part, []).append(retrieval(matrix, own))
    return {p: {k: float(np.mean([r[k] for r in rs])) for k in rs[0]} for p, rs in found.items()}


@pytest.fixture(scope="module")
def trained(make_pairs, tiny, tmp_path_factory):
    """A branch folder with both stages, trained on the default synthetic data, and these data."""
    pairs, branch = make_pairs(shifts=(-0.5, 0.0, 0.5)), tmp_path_factory.mktemp("seed-0")
    config = tiny({"epochs": 10, "encoder": {"dim": 32, "depth": 1, "heads": 2}})
    train_ntcl(pairs, branch / "ntcl", config, 0, made_by={"made": "by a test"}, geometry=GEOMETRY)
    train_vq(pairs, branch / "ntcl", branch / "vq", config, 0, made_by={})
    return branch, pairs


def test_true_delays_are_recovered(trained):
    branch, pairs = trained
    table = pd.read_csv(branch / "ntcl" / "delays.tsv", sep="\t", dtype={"subject": str})
    group = table[table["subject"] == "all"].set_index("level")["delay_s"]
    learned = group[["early", "intermediate", "high"]].to_numpy()
    assert (np.diff(learned) > 0).all()
    np.testing.assert_allclose(learned, TRUE_DELAYS, atol=0.7)
    people = [
        table[(table["subject"] == s) & (table["level"] == "early")]["delay_s"].item() for s in pairs.subjects
    ]
    assert people[0] < people[1] < people[2]


def test_retrieval_of_unseen_clips_is_far_above_chance_and_survives_quantisation(trained):
    branch, pairs = trained
    first = measured(neuroalign.load(branch / "ntcl"), pairs)
    second = measured(neuroalign.load(branch), pairs)
    chance = 1 / 40
    assert set(first) == {"fused", "continuous"}
    assert set(second) == {"fused", "continuous", "quantised"}
    assert first["continuous"]["top1"] > 20 * chance
    assert second["quantised"]["top1"] > 15 * chance
    assert second["fused"]["top1"] > first["fused"]["top1"] - 0.1


def test_shuffled_pairing_is_at_chance(make_pairs, tiny, tmp_path):
    pairs = make_pairs(clips=(40, 15, 40), subjects=2)
    rng = np.random.default_rng(0)
    for windows in pairs.brain.values():
        order = rng.permutation(len(windows.rows))
        windows.levels = {level: data[order] for level, data in windows.levels.items()}
    train_ntcl(pairs, tmp_path, tiny({"epochs": 3}), 0, made_by={}, geometry=GEOMETRY)
    # 4 x chance bounds what 160 queries reach by luck.
    assert measured(neuroalign.load(tmp_path), pairs)["fused"]["top1"] < 4 / 40


def test_files(trained):
    branch, _ = trained
    history = pd.read_csv(branch / "ntcl" / "history.tsv", sep="\t")
    assert list(history) == ["epoch", "split", "term", "value"]
    terms = set(history[history["split"] == "train"]["term"])
    assert terms == {"global", "level", "time", "pred", "shift", "total"}
    assert {"top1", "top5", "mrr", "total"} <= set(history[history["split"] == "validation"]["term"])
    second = pd.read_csv(branch / "vq" / "history.tsv", sep="\t")
    terms = set(second[second["split"] == "train"]["term"])
    assert terms == {"commitment", "agreement", "prediction", "reconstruction", "contrast", "total"}
    meta = json.loads((branch / "ntcl" / "model.json").read_text())
    assert meta["provenance"] == {"made": "by a test"}
    assert meta["geometry"]["hrf"]["method"] == "adaptive"
    assert not list(branch.rglob(loop.CHECKPOINT_FILE))


def test_codes_and_usage(trained):
    branch, pairs = trained
    codes = pd.read_csv(branch / "vq" / "codes.tsv", sep="\t")
    assert list(codes) == ["level", "depth", "code", "modality", "count", "weight"]
    weights = codes.groupby(["level", "depth", "code"])["weight"].sum()
    np.testing.assert_allclose(weights, 2.0, atol=1e-4)
    tokens = 3 * (70 + 25) * 4
    assert (codes.groupby(["level", "depth", "modality"])["count"].sum() == tokens).all()
    usage = pd.read_csv(branch / "vq" / "usage.tsv", sep="\t")
    assert set(usage["depth"]) == {1, 2, 3, 4}
    assert usage["perplexity"].between(1, 16).all()
    assert usage["same_code_share"].between(0, 1).all()
    first = usage[usage["depth"] == 1]
    assert (first["same_code_share"] > 1.5 * first["same_code_chance"]).all()
    assert (first["same_code_chance"] >= 1 / 16 - 1e-9).all()
    assert len(code_assignments(neuroalign.load(branch), pairs, "test")) == len(codes)


def test_code_clips_are_the_most_used_codes_and_their_clips(trained):
    branch, pairs = trained
    table = pd.read_csv(branch / "vq" / "code_clips.tsv", sep="\t")
    assert list(table) == ["level", "depth", "code", "clip_id", "count"]
    codes = pd.read_csv(branch / "vq" / "codes.tsv", sep="\t")
    codes = codes[codes["depth"] == 1].groupby(["level", "code"], sort=False)["count"].sum()
    everything = code_clips(neuroalign.load(branch), pairs, codes=16, clips=10**6)
    total = everything.groupby(["level", "code"])["count"].sum()
    pd.testing.assert_series_equal(total, codes[codes > 0].sort_index(), check_names=False)
    for level, part in table.groupby("level"):
        used = codes[level].sort_values(ascending=False)
        assert part["code"].nunique() <= 12
        assert codes[level][part["code"]].min() >= used.iloc[: part["code"].nunique()].min()
        assert (part.groupby("code").size() <= 8).all()
    test = set(pairs.clips.loc[pairs.clips["split"] == "test", "clip_id"])
    assert not test & set(everything["clip_id"])


def test_same_code_share_rises_when_modalities_start_apart(make_pairs, tiny, tmp_path):
    pairs = make_pairs(noise=0.3, aligned=True, delays=(5.0,), units=(20,))
    config = tiny(
        {"epochs": 2, "lr": 1e-3, "encoder": {"dim": 16, "depth": 0, "heads": 2, "linear_start": False}},
        {"epochs": 15, "lr": 1e-2, "encoder_lr": 1.0, "decay": 0.9, "patience": 15, "depth": 1},
    )
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    share = pd.read_csv(tmp_path / "vq" / "usage.tsv", sep="\t").set_index("epoch")["same_code_share"]
    assert share.iloc[-3:].mean() > 2 * share[0]
    assert share.iloc[-3:].mean() > 0.3


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def assert_equal_files(one: Path, other: Path) -> None:
    a, b = weights_of(one), weights_of(other)
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert (one / "history.tsv").read_bytes() == (other / "history.tsv").read_bytes()


def test_same_seed_same_weights_and_a_killed_run_resumes_exactly(make_pairs, tiny, tmp_path, monkeypatch):
    pairs = make_pairs(clips=(30, 12, 5), subjects=2)
    config = tiny({"epochs": 7, "patience": 99}, {"epochs": 7, "patience": 99})

    def stage(name: str, branch: Path) -> None:
        if name == "ntcl":
            train_ntcl(pairs, branch / "ntcl", config, 3, made_by={}, geometry=GEOMETRY)
        else:
            train_vq(pairs, branch / "ntcl", branch / "vq", config, 3, made_by={})

    write = loop.Trainer.write_checkpoint

    def write_and_die(trainer):
        write(trainer)
        raise KeyboardInterrupt

    whole, again, killed = (tmp_path / name for name in ("whole", "again", "killed"))
    for name in ("ntcl", "vq"):
        stage(name, whole)
        stage(name, again)
        assert_equal_files(whole / name, again / name)
        with monkeypatch.context() as patched:
            patched.setattr(loop.Trainer, "write_checkpoint", write_and_die)
            with pytest.raises(KeyboardInterrupt):
                stage(name, killed)
        assert (killed / name / loop.CHECKPOINT_FILE).exists()
        assert not (killed / name / "model.json").exists()
        stage(name, killed)
        assert_equal_files(whole / name, killed / name)


def test_a_checkpoint_of_another_seed_or_a_damaged_one_is_not_taken_up(
    make_pairs, tiny, tmp_path, monkeypatch
):
    pairs = make_pairs(clips=(20, 8, 3), subjects=2)
    config = tiny({"epochs": 2})
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *args, **kwargs: None)
        train_ntcl(pairs, tmp_path / "a", config, 0, made_by={}, geometry=GEOMETRY)
    assert (tmp_path / "a" / loop.CHECKPOINT_FILE).exists()
    train_ntcl(pairs, tmp_path / "b", config, 1, made_by={}, geometry=GEOMETRY)
    train_ntcl(pairs, tmp_path / "a", config, 1, made_by={}, geometry=GEOMETRY)
    assert_equal_files(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / loop.CHECKPOINT_FILE).write_bytes(b"half a file")
    train_ntcl(pairs, tmp_path / "a", config, 1, made_by={}, geometry=GEOMETRY)
    assert_equal_files(tmp_path / "a", tmp_path / "b")


def test_other_seed_other_weights_and_torch_is_left_alone(make_pairs, tiny, tmp_path):
    pairs = make_pairs(clips=(20, 8, 3), subjects=2)
    before = torch.get_rng_state()
    for seed in (0, 1):
        train_ntcl(pairs, tmp_path / str(seed), tiny({"epochs": 1}), seed, made_by={}, geometry=GEOMETRY)
    assert torch.equal(before, torch.get_rng_state())
    a, b = weights_of(tmp_path / "0"), weights_of(tmp_path / "1")
    assert any(not np.array_equal(a[n], b[n]) for n in a)


def test_test_split_leaves_no_trace(make_pairs, tiny, tmp_path):
    for name in ("a", "b"):
        pairs = make_pairs(clips=(20, 8, 10), subjects=2)
        if name == "b":
            test = (pairs.clips["split"] == "test").to_numpy()
            for windows in pairs.brain.values():
                for data in windows.levels.values():
                    data[test[windows.rows]] = 1e3
            for data in pairs.video.levels.values():
                data[28:] = -1e3
        train_ntcl(pairs, tmp_path / name, tiny({"epochs": 2}), 0, made_by={}, geometry=GEOMETRY)
    assert_equal_files(tmp_path / "a", tmp_path / "b")


def test_load_embeds_new_people_series_and_embeddings(trained):
    branch, pairs = trained
    model = neuroalign.load(branch)
    windows, rows = pairs.of("01", "test")
    known = model.embed_fmri(windows, "01")
    unknown = model.embed_fmri(windows)
    assert known.pooled.shape == unknown.pooled.shape
    assert not np.allclose(known.pooled, unknown.pooled)
    clips = model.embed_video({level: x[rows] for level, x in pairs.video.levels.items()})
    assert model.score(known, clips).shape == (40, 40)
    units = {level: x.shape[-1] for level, x in windows.levels.items()}
    volumes = 60
    series = RoiSeries(
        {level: np.ones((volumes, n), np.float32) for level, n in units.items()},
        pairs.brain["01"].unit_labels,
        np.arange(volumes) * 1.5,
        np.ones(volumes, bool),
        {"tr": 1.5},
    )
    assert len(model.embed_fmri(series, onset_s=np.array([3.0, 10.0]))) == 2
    times = np.arange(30) + 0.5
    embedding = shards.Embedding(
        {level: np.ones((30, 16), np.float32) for level in pairs.video.levels}, times
    )
    assert len(model.embed_video(embedding, start_s=[0.0, 8.0])) == 2
    with pytest.raises(UserError, match="does not cover"):
        model.embed_video(embedding, start_s=100.0)
    with pytest.raises(UserError, match="onset_s"):
        model.embed_fmri(series)
    with pytest.raises(UserError, match="too few usable"):
        model.embed_fmri(series, onset_s=500.0)


def test_load_says_what_is_wrong(trained, tmp_path):
    branch, pairs = trained
    with pytest.raises(UserError, match="no trained model"):
        neuroalign.load(tmp_path)
    model = neuroalign.load(branch)
    windows, _ = pairs.of("01", "test")
    cut = BrainWindows(
        windows.rows,
        {level: x[..., :3] for level, x in windows.levels.items()},
        windows.times,
        windows.valid,
        windows.unit_labels,
        windows.aligned,
    )
    with pytest.raises(UserError, match="same atlas"):
        model.embed_fmri(cut)
    with pytest.raises(UserError, match="lack level 'early'"):
        model.embed_video({"earlie": np.zeros((1, 4, 16))})
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((branch / "vq" / name).read_bytes()[:2000])
    with pytest.raises(UserError, match="not valid JSON"):
        neuroalign.load(tmp_path)
    (tmp_path / "model.json").write_bytes((branch / "vq" / "model.json").read_bytes())
    with pytest.raises(UserError, match="cannot be read"):
        neuroalign.load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"voxels": True},
        {"aligned": True},
        {"voxels": True, "aligned": True},
        {"units": (12,), "delays": (5.0,)},
    ],
)
def test_every_kind_of_input_trains(make_pairs, tiny, tmp_path, options):
    pairs = make_pairs(clips=(40, 15, 20), subjects=2, **options)
    config = tiny({"epochs": 3}, {"epochs": 2})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    model = neuroalign.load(tmp_path)
    assert measured(model, pairs)["fused"]["top1"] > 3 / 20
    aligned = options.get("aligned", False)
    assert (len(pd.read_csv(tmp_path / "vq" / "delays.tsv", sep="\t")) == 0) is aligned
    if options.get("voxels"):
        with pytest.raises(UserError, match="knows no subject"):
            model.embed_fmri(pairs.of("01", "test")[0], "99")


def test_fewer_video_levels_padded_volumes_betas_and_censoring(make_pairs, tiny, tmp_path):
    pairs = make_pairs(clips=(40, 15, 20), subjects=2)
    pairs.video.levels = {"features": np.concatenate(list(pairs.video.levels.values()), axis=2)}
    second = pairs.brain["02"]
    pairs.brain["02"] = BrainWindows(
        second.rows,
        {level: x[:, :-2] for level, x in second.levels.items()},
        second.times[:, :-2],
        second.valid[:, :-2],
        second.unit_labels,
        second.aligned,
    )
    first = pairs.brain["01"]
    first.valid[:, 4] = False
    for data in first.levels.values():
        data[:, 4] = np.nan
    train_ntcl(pairs, tmp_path, tiny({"epochs": 2}), 0, made_by={}, geometry=GEOMETRY)
    assert measured(neuroalign.load(tmp_path), pairs)["fused"]["top1"] > 5 / 20


def test_switched_off_terms_are_absent(make_pairs, tiny, tmp_path):
    pairs = make_pairs(clips=(20, 8, 3), subjects=2)
    off = {"level": 0, "time": 0, "pred": 0, "shift": 0}
    vq_off = {"commitment": 0, "prediction": 0, "reconstruction": 0, "contrast": 0}
    config = tiny(
        {"epochs": 1, "terms": off, "soften_s": 0}, {"epochs": 1, "terms": vq_off, "dynamic": False}
    )
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    for stage, expected in (("ntcl", {"global", "total"}), ("vq", {"agreement", "total"})):
        history = pd.read_csv(tmp_path / stage / "history.tsv", sep="\t")
        assert set(history[history["split"] == "train"]["term"]) == expected


def test_bfloat16_trains_both_stages(make_pairs, tiny, tmp_path):
    pairs = make_pairs(clips=(30, 12, 20), subjects=2)
    config = tiny({"epochs": 2}, {"epochs": 1}).model_copy(update={"precision": "bfloat16"})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    assert measured(neuroalign.load(tmp_path), pairs)["fused"]["top1"] > 5 / 20


def by_subject(pairs):
    """The same data split by people: the last is tested, the one before validates."""
    order = dict(
        zip(pairs.subjects, [*["train"] * (len(pairs.subjects) - 2), "validation", "test"], strict=True)
    )
    pairs.clips["split"] = pairs.clips["subject"].map(order)
    return pairs


def test_unseen_people_validate_and_are_tested(make_pairs, tiny, tmp_path):
    pairs = by_subject(make_pairs(clips=(20, 10, 20), subjects=4))
    config = tiny({"epochs": 2}, {"epochs": 1})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    model = neuroalign.load(tmp_path)
    assert model.network.architecture.subjects == pairs.subjects[:2]
    scores = score_pairs(model, pairs)
    assert list(scores) == pairs.subjects[-1:]
    assert measured(model, pairs)["fused"]["top1"] > 5 / 50


def test_unseen_people_need_shared_units(make_pairs, tiny, tmp_path):
    pairs = by_subject(make_pairs(clips=(10, 5, 5), subjects=3))
    last = pairs.brain[pairs.subjects[-1]]
    last.unit_labels = {
        level: [f"voxel-{k}" for k in range(len(names))] for level, names in last.unit_labels.items()
    }
    with pytest.raises(UserError, match="units to parcels"):
        train_ntcl(pairs, tmp_path, tiny(), 0, made_by={}, geometry=GEOMETRY)
