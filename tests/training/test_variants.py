"""Ablations remove what they say, and the model trained on pairs that tell it nothing is at chance, unless something leaks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from neuroalign.config.evaluate import Evaluate
from neuroalign.config.fmri import Fmri
from neuroalign.config.train import Train
from neuroalign.config.variants import ABLATIONS
from neuroalign.errors import Problems, UserError
from neuroalign.evaluation.leakage import check_model
from neuroalign.evaluation.retrained import retrained_table
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.evaluation.trials import DIRECTIONS, make_trials, order_scores
from neuroalign.models.score import score_pairs
from neuroalign.models.trained import load
from neuroalign.pairs.store import PairedDataset, VideoWindows
from neuroalign.pairs.variants import change_pairs
from neuroalign.training import data, ntcl, vq

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {}}
CONFIG = Evaluate(galleries=["full"], exclude_s=[0.0], draws=0, permutations=999, bootstrap=400, block_s=12.0)


@pytest.fixture(scope="module")
def pairs(make_pairs):
    return make_pairs(subjects=2, clips=(50, 16, 30), noise=0.5)


def trained(pairs, folder, config: Train, stages: int = 2, seed: int = 0):
    """The model of one or both stages."""
    ntcl.train_ntcl(pairs, folder / "ntcl", config, seed, made_by={}, geometry=GEOMETRY)
    if stages == 2:
        vq.train_vq(pairs, folder / "ntcl", folder / "vq", config, seed, made_by={})
    return load(folder)


def ablated(name: str, config: Train) -> Train:
    plain = SimpleNamespace(train=config, fmri=Fmri())
    return Train(**ABLATIONS[name].train(plain))


def judged(name: str, model, pairs) -> pd.DataFrame:
    """The rows of a retrained control on the test windows."""
    check_model(model, pairs)
    scores = {s: SubjectScores(*item) for s, item in score_pairs(model, pairs).items()}
    trials = {
        d: {
            0: [
                make_trials(order_scores(item, pairs.clips), "fused", pairs.clips, s, 0, d)
                for s, item in scores.items()
            ]
        }
        for d in DIRECTIONS
    }
    return retrained_table({f"neuroalign_control_{name}": trials}, CONFIG)


@pytest.mark.slow
def test_a_canonical_response_stays_canonical_and_the_same_for_all(pairs, tmp_path, tiny):
    config = ablated("no_adaptation", tiny(ntcl={"epochs": 2}, vq={"epochs": 2, "encoder_lr": 1.0}))
    model = trained(pairs, tmp_path, config)
    layer = model.network.haemodynamic
    assert layer.log_delay.exp().tolist() == pytest.approx([5.0] * 3)
    assert layer.log_dispersion.exp().tolist() == pytest.approx([5**0.5] * 3)
    assert layer.subject_shift.tolist() == [0.0, 0.0]
    assert layer.query.abs().max() == 0
    learned = trained(pairs, tmp_path / "own", tiny(ntcl={"epochs": 1}), stages=1).network.haemodynamic
    assert (learned.log_delay.exp() - 5).abs().max() > 0.05


def test_without_gradients_the_encoders_stay_at_the_linear_start(pairs, tmp_path, tiny):
    config = ablated("no_gradient", tiny(vq={"epochs": 2}))
    model = trained(pairs, tmp_path, config)
    start = load(tmp_path / "ntcl").network.state_dict()
    assert load(tmp_path / "ntcl").meta["best_epoch"] == 0
    kept = {n: v for n, v in start.items() if n.startswith(("encoders.", "pools."))}
    assert len(kept) > 20
    for name, value in kept.items():
        assert torch.equal(model.network.state_dict()[name], value), name
    gates = [v for name, v in start.items() if "gate_" in name]
    assert gates
    assert all(not gate.any() for gate in gates), "linear"


def test_uniform_mixing_hears_all_video_levels_alike(pairs, tmp_path, tiny):
    config = ablated("no_mixing", tiny(ntcl={"epochs": 2}))
    model = trained(pairs, tmp_path, config, stages=1)
    mixing = model.network.encoders["video"].mixing
    assert torch.equal(mixing.logits, torch.zeros(3, 3))
    assert "encoders.video.mixing.logits" not in dict(model.network.named_parameters())


def test_one_level_on_each_side(pairs, tmp_path, tiny):
    merged = change_pairs(pairs, "merged", 0)
    config = ablated("no_hierarchy", tiny(ntcl={"epochs": 1}))
    model = trained(merged, tmp_path, config, stages=1)
    architecture = model.network.architecture
    assert list(architecture.brain_levels) == list(architecture.video_levels) == ["all"]
    assert architecture.brain_levels["all"] == 60, "no component is lost to the limit of one level"
    check_model(model, merged)
    assert set(score_pairs(model, merged)) == {"01", "02"}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["shuffled", "shifted", "time_only"])
def test_the_model_retrained_on_nothing_is_at_chance(pairs, tmp_path, tiny, change):
    changed = change_pairs(pairs, change, 0)
    table = judged(change, trained(changed, tmp_path, tiny(ntcl={"epochs": 3}, vq={"epochs": 2})), changed)
    assert set(table["control"]) == {f"retrained_{change}"}
    assert set(table["model"]) == {"neuroalign"}
    assert table["passed"].all()


@pytest.mark.slow
def test_training_that_reads_test_windows_is_not_at_chance_when_shuffled(pairs, tmp_path, tiny, monkeypatch):
    """Planted: what calls itself the training part holds the test windows too, and training is not blind to them."""
    changed = change_pairs(pairs, "shuffled", 0)
    leaky = PairedDataset(changed.clips.copy(), changed.brain, changed.video)
    leaky.clips.loc[leaky.clips["split"] == "test", "split"] = "train"
    model = trained(leaky, tmp_path, tiny(ntcl={"epochs": 1}, vq={"epochs": 1}))
    with pytest.raises(Problems, match="trained on other windows than the train windows of these pairs"):
        check_model(model, changed)
    monkeypatch.setitem(globals(), "check_model", lambda *_: None)
    table = judged("shuffled", model, changed)
    top1 = table[(table["metric"] == "top1") & (table["subject"] == "all")]
    assert (top1["value"] > 2 * top1["chance"]).all()
    assert not top1["passed"].any()


def test_choosing_by_test_windows_is_refused(pairs, tmp_path, tiny):
    """Planted: the validation part holds the test windows. The scalers are right, and the digest is not."""
    leaky = PairedDataset(pairs.clips.copy(), pairs.brain, pairs.video)
    leaky.clips.loc[leaky.clips["split"] == "test", "split"] = "validation"
    model = trained(leaky, tmp_path, tiny(ntcl={"epochs": 1}), stages=1)
    with pytest.raises(Problems, match="chosen on other windows than the validation windows of these pairs"):
        check_model(model, pairs)


def test_scalers_fitted_on_test_windows_are_refused(pairs, tmp_path, tiny, monkeypatch):
    """Planted: only the scalers see everything; what is learned and chosen from is right."""
    honest = ntcl.fit_scalers

    def leaky(_, encoder):
        everything = PairedDataset(pairs.clips.assign(split="train"), pairs.brain, pairs.video)
        return honest(everything, encoder)

    monkeypatch.setattr(ntcl, "fit_scalers", leaky)
    model = trained(pairs, tmp_path, tiny(ntcl={"epochs": 1}), stages=1)
    with pytest.raises(Problems, match="was not fitted on the training windows alone"):
        check_model(model, pairs)


def test_training_code_that_asks_for_test_windows_finds_none(pairs, tmp_path, tiny, monkeypatch):
    """Planted: batches are drawn from the test split instead of the validation split."""
    honest = data.ScaledWindows
    monkeypatch.setattr(
        data,
        "ScaledWindows",
        lambda pairs, scalers, split, known: honest(
            pairs, scalers, "test" if split == "validation" else split, known
        ),
    )
    with pytest.raises(UserError, match="The validation split holds no clip"):
        trained(pairs, tmp_path, tiny(ntcl={"epochs": 1}), stages=1)


def drifting(make_pairs, guard: int) -> PairedDataset:
    """One film whose features are a slow drift, cut into blocks of ten clips: train, test, train, validation and so on.

    The brain knows nothing of it. With `guard` clips left out at each border, neighbours in time are in one part.
    """
    pairs = make_pairs(subjects=2, clips=(0, 0, 120), noise=1.0, aligned=True)
    blocks = ["train", "test", "train", "validation"]
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.standard_normal((120 * 4, 3)), axis=0).reshape(120, 4, 3)
    levels = {
        name: (walk @ rng.standard_normal((3, data.shape[2]))).astype(np.float32)
        for name, data in pairs.video.levels.items()
    }
    number = pairs.clips["clip_id"].str[4:].astype(int)
    split = pd.Series([blocks[(n // 10) % 4] for n in number], index=pairs.clips.index)
    edge = (number % 10 < guard) | (number % 10 >= 10 - guard)
    clips = pairs.clips.assign(
        stimulus="film", start_s=4.0 * number, onset_s=4.0 * number, split=split.where(~edge, "guard")
    )
    return PairedDataset(
        clips, pairs.brain, VideoWindows(pairs.video.clip_ids, levels, pairs.video.step_times)
    )


def test_time_alone_tells_clips_where_blocks_have_no_guard(make_pairs, tmp_path, tiny):
    """Planted: blocks of 40 s side by side. Time in the film predicts a slow film's features, and so the test clip."""
    pairs = drifting(make_pairs, guard=0)
    changed = change_pairs(pairs, "time_only", 0)
    table = judged(
        "time_only", trained(changed, tmp_path, tiny(ntcl={"epochs": 2}, vq={"epochs": 1})), changed
    )
    rows = table[(table["metric"] == "mrr") & (table["subject"] == "all")]
    assert not rows["passed"].any()
