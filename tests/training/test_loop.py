"""Schedule, parameter groups, batches, validation metrics, the linear start."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.train import Optimiser, Train
from neuroalign.errors import UserError
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import NeuroAlign
from neuroalign.training.canonical import RECIPES, Canonical, Recipe, correlation_sum, folds
from neuroalign.training.codes import perplexity
from neuroalign.training.data import batch_rows, fit_scalers, to_tensors
from neuroalign.training.device import resolve_device
from neuroalign.training.linear_start import start_linear
from neuroalign.training.loop import Trainer, parameter_groups, warmup_cosine
from neuroalign.training.ntcl import architecture_of
from neuroalign.training.seeds import seeded
from neuroalign.training.validation import (
    ValidationScores,
    choose_weights,
    rank_quality,
    retrieval,
    text_candidates,
    text_weight,
)


def test_schedule_warms_up_and_falls_to_zero():
    shares = [warmup_cosine(step, 100, 0.1) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == 1.0
    assert shares[-1] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(shares[9:]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(2, 80), st.integers(0, 9))
def test_batches_are_a_partition(n, size, seed):
    batches = list(batch_rows(n, size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert max(map(len, batches)) <= 1.5 * size + 1
    assert len(batches) == max(1, round(n / size))


def test_parameter_groups_take_the_longest_prefix_and_freeze():
    network = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
    groups = parameter_groups(
        network, Optimiser(lr=1.0, weight_decay=0.1), {"a": 0.5, "a.bias": 0.25, "b": 0.0}
    )
    rates = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert rates == {(0.5, 0.1): 1, (0.25, 0.0): 1}
    assert not network["b"].weight.requires_grad


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 99))
def test_retrieval_equals_sorting(n, seed):
    scores = np.random.default_rng(seed).standard_normal((n, n))
    own = np.random.default_rng(seed).permutation(n)
    forward = [1 + list(np.argsort(-row)).index(c) for row, c in zip(scores, own, strict=True)]
    backward = [1 + list(np.argsort(-scores[:, c])).index(q) for q, c in enumerate(own)]
    got = retrieval(scores, own)
    assert got["mrr"] == pytest.approx(np.mean([1 / r for r in forward + backward]))
    assert got["top5"] == pytest.approx(np.mean([r <= 5 for r in forward + backward]))


def test_constant_scores_are_no_better_than_the_middle_rank():
    assert retrieval(np.zeros((9, 9)), np.arange(9))["mrr"] == pytest.approx(1 / 5)


def correlated(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Five inputs and four outputs with two canonical correlations of the root of one half."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n, 2))
    x = torch.tensor(np.c_[shared, rng.standard_normal((n, 3))] @ rng.standard_normal((5, 5)))
    y = torch.tensor(np.c_[shared + rng.standard_normal((n, 2)), rng.standard_normal((n, 2))])
    return x - x.mean(0), y - y.mean(0)


def test_canonical_maps_match_singular_values_of_the_whitened_covariance():
    x, y = correlated()
    a, b = Canonical(x, y, torch.zeros(len(x), dtype=torch.long)).maps(Recipe(0.0, 0.0, 0.5), 6)
    u, v = x.numpy() @ a[0].numpy(), y.numpy() @ b.numpy()
    correlations = np.array([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(4)])
    np.testing.assert_allclose(correlations[:2], np.sqrt(0.5), atol=0.03)
    assert (np.abs(correlations[2:]) < 0.1).all()
    assert float(a[0, :, 4:].abs().sum()) == 0.0
    np.testing.assert_allclose(float(correlation_sum(x, y, 0.0, 0.0)), (correlations**2).sum(), rtol=0.01)
    # Variates have unit variance times the power of their correlation.
    np.testing.assert_allclose(u[:, :2].std(0), np.sqrt(correlations[:2]), rtol=1e-2)


def test_all_shrinkage_on_the_video_side_is_ridge_regression():
    x, y = correlated(300)
    a, b = Canonical(x, y, torch.zeros(len(x), dtype=torch.long)).maps(Recipe(0.3, 1.0, 0.5), 6)
    covariance = (x.T @ x / len(x)).numpy()
    penalised = 0.7 * covariance + 0.3 * np.trace(covariance) / 5 * np.eye(5)
    ridge = np.linalg.solve(penalised, (x.T @ y / len(x)).numpy())
    product = a[0].numpy() @ b.numpy().T
    np.testing.assert_allclose(product / np.linalg.norm(product), ridge / np.linalg.norm(ridge), atol=2e-3)


def test_units_of_ones_own_are_one_wide_analysis():
    x, y = correlated(600)
    owner = torch.arange(600) % 2
    a, b = Canonical(x, y, owner).maps(Recipe(0.0, 0.0, 1.0), 4)
    wide = torch.zeros(600, 10, dtype=torch.double)
    for person in (0, 1):
        mine = owner == person
        wide[mine, 5 * person : 5 * person + 5] = x[mine] - x[mine].mean(0)
    naive_a, naive_b = Canonical(wide, y, torch.zeros(600, dtype=torch.long)).maps(Recipe(0.0, 0.0, 1.0), 4)
    # Means per owner against one mean of all: equal up to the spread of means.
    np.testing.assert_allclose(
        a.flatten(0, 1) @ b.T, naive_a[0] @ naive_b.T, atol=0.05 * float((naive_a[0] @ naive_b.T).abs().max())
    )


def test_folds_purge_neighbours_and_judge_every_window_once():
    content = Content(
        torch.arange(40), torch.arange(40) // 20, torch.arange(40, dtype=torch.float32) % 20 * 4.0
    )
    clip = torch.arange(40).repeat(3)
    seen = []
    for fit, judged in folds(content, clip):
        seen += judged.tolist()
        a, b = content.take(clip[fit]), content.take(clip[judged])
        near = (a.stimulus[:, None] == b.stimulus) & ((a.start_s[:, None] - b.start_s).abs() <= 20)
        assert not near.any()
    assert sorted(seen) == list(range(120))


def test_a_fresh_network_scores_as_the_linear_model_it_starts_from(make_pairs, tiny):
    pairs = make_pairs(clips=(40, 15, 5), subjects=2, aligned=True)
    config = tiny({"encoder": {"dim": 48, "depth": 1, "heads": 2}}).ntcl
    scalers = fit_scalers(pairs, config.encoder)
    data = to_tensors(pairs, scalers)
    network = NeuroAlign(architecture_of(pairs, scalers, config)).eval()
    with seeded(0) as generator:
        recipe, strength = start_linear(network, data, generator)
    assert recipe in RECIPES
    assert strength is None
    x = torch.cat(list(data.train.brain.levels.values()), dim=-1)
    y = torch.cat(list(data.video.values()), dim=-1)
    owner = torch.zeros(x.shape[0] * x.shape[1], dtype=torch.long)
    a, b = Canonical(x.flatten(0, 1), y[data.train.clip].flatten(0, 1), owner).maps(recipe, 48)
    with torch.no_grad():
        brain, video = network.encode_fmri(data.train.brain), network.encode_video(data.video)
    # Up to the small noise that fills unused directions.
    for got, wanted in ((brain.steps, x @ a[0]), (video.steps, y @ b)):
        assert float((got - wanted).norm() / wanted.norm()) < 0.05


def test_quality_of_ranks():
    assert rank_quality(np.eye(9), np.arange(9)) == pytest.approx(1)
    worst = 1 - np.eye(9)
    assert rank_quality(worst, np.arange(9)) == pytest.approx(0)
    assert rank_quality(np.zeros((9, 9)), np.arange(9)) == pytest.approx(1 - np.log(5) / np.log(9))


def scores_of(rng: np.random.Generator, **noise: float) -> list[ValidationScores]:
    """Three people, 30 clips, parts of the score with so much noise."""
    clips = np.arange(30)
    return [
        ValidationScores(
            {n: np.eye(30) + size * rng.standard_normal((30, 30)) for n, size in noise.items()}, clips, clips
        )
        for _ in range(3)
    ]


def test_parts_that_only_add_noise_switch_themselves_off():
    chosen = []
    for seed in range(5):
        scores = scores_of(np.random.default_rng(seed), pooled=0.4, late=5.0, quantised=5.0)
        chosen.append(choose_weights(scores, 1))
    assert all(w.alpha >= 0.9 for w in chosen)
    assert np.mean([w.beta for w in chosen]) <= 0.05


def test_a_part_that_clearly_helps_takes_part():
    weights = choose_weights(scores_of(np.random.default_rng(0), pooled=2.0, late=5.0, quantised=0.3), 1)
    assert weights.beta > 0.2


def test_captions_that_say_nothing_get_no_weight_and_a_start_without_them_is_the_last_word():
    """Among several candidates the best of noise is often better than nothing by one standard error; by two, seldom."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        (alone,) = scores_of(rng, pooled=1.5)[:1]
        noise = rng.standard_normal((30, 30))
        alone.parts["late"] = alone.parts["pooled"]
        for w in text_candidates(None):
            alone.with_text[w] = dict.fromkeys(("pooled", "late"), alone.parts["pooled"] + w * noise)
        found.append(text_weight([alone], 1))
    assert np.mean(np.array(found) > 0) <= 0.05
    telling = replace(alone, with_text={1.0: dict.fromkeys(("pooled", "late"), np.eye(30))})
    assert text_weight([telling], 1) == 1
    assert text_candidates(0.0) == ()
    assert text_candidates(0.5) == text_candidates(None)


def test_a_term_that_some_batches_lack_is_averaged_over_those_that_have_it(tmp_path):
    network, given = torch.nn.Linear(1, 1), iter(range(9))
    config = Optimiser(epochs=1, batch_size=4)
    trainer = Trainer(
        network,
        config,
        parameter_groups(network, config, {}),
        torch.Generator().manual_seed(0),
        tmp_path,
        "x",
    )

    def step(rows):
        loss = network.weight.square().sum()
        return loss, {"always": torch.tensor(3.0)} | (
            {"seldom": torch.tensor(2.0)} if next(given) == 0 else {}
        )

    history = trainer.fit(16, step, lambda epoch: (0.0, []))
    found = {term: value for _, split, term, value in history if split == "train"}
    assert found["always"] == 3
    assert found["seldom"] == 2


def test_what_is_kept_is_the_mean_of_the_weights(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    config = Optimiser(epochs=1, batch_size=2, lr=0.1, weight_decay=0, warmup=0, average=0.5)
    groups = parameter_groups(network, config, {})
    trainer = Trainer(network, config, groups, torch.Generator().manual_seed(0), tmp_path, "mark")
    visited = []

    def step(rows):
        return (network.weight - 100).square().sum(), {}

    trainer.fit(8, step, lambda epoch: (float(epoch), []), lambda: visited.append(float(network.weight)))
    mean = 0.0
    for value in visited:
        mean = 0.5 * mean + 0.5 * value
    assert float(network.weight) == pytest.approx(mean, rel=1e-6)
    assert 0 < mean < visited[-1]


def test_perplexity():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([7, 0])) == pytest.approx(1)


def test_asking_for_a_missing_gpu_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(Train()).type == "cpu"
    with pytest.raises(UserError, match="no GPU"):
        resolve_device(Train(device="cuda"))
