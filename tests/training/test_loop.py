"""Schedule, parameter groups, batches, validation metrics, the linear start."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.train import Optimiser, Train
from neuroalign.errors import UserError
from neuroalign.training.data import batch_rows
from neuroalign.training.device import resolve_device
from neuroalign.training.linear_start import canonical_maps, correlation_sum
from neuroalign.training.loop import parameter_groups, warmup_cosine
from neuroalign.training.validation import retrieval
from neuroalign.training.vq import perplexity


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


def test_canonical_maps_match_singular_values_of_the_whitened_covariance():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((4000, 2))
    x = torch.tensor(np.c_[shared, rng.standard_normal((4000, 3))] @ rng.standard_normal((5, 5)))
    y = torch.tensor(np.c_[shared + rng.standard_normal((4000, 2)), rng.standard_normal((4000, 2))])
    a, b = canonical_maps(x, y, 6, 0.0)
    u, v = (x - x.mean(0)).numpy() @ a.numpy(), (y - y.mean(0)).numpy() @ b.numpy()
    correlations = np.array([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(4)])
    np.testing.assert_allclose(correlations[:2], np.sqrt(0.5), atol=0.03)
    assert (np.abs(correlations[2:]) < 0.1).all()
    assert float(a[:, 4:].abs().sum()) == 0.0
    np.testing.assert_allclose(float(correlation_sum(x, y, 0.0)), (correlations**2).sum(), rtol=0.01)


def test_perplexity():
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(np.array([7, 0])) == pytest.approx(1)


def test_asking_for_a_missing_gpu_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(Train()).type == "cpu"
    with pytest.raises(UserError, match="no GPU"):
        resolve_device(Train(device="cuda"))
