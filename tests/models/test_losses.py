"""Loss terms against naive loops and by their defining properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from neuroalign.models.losses.contrast import (
    Content,
    centred,
    info_nce,
    level_info_nce,
    soft_cross_entropy,
    soft_targets,
)
from neuroalign.models.losses.prediction import Predictor, prediction_loss
from neuroalign.models.losses.temporal import time_contrast
from neuroalign.models.quantise.losses import code_agreement, commitment, reconstruction


def content(clips, stimuli=None, starts=None) -> Content:
    stimuli = stimuli if stimuli is not None else [0] * len(clips)
    starts = starts if starts is not None else [100.0 * c for c in clips]
    return Content(torch.tensor(clips), torch.tensor(stimuli), torch.tensor(starts))


def test_multi_positive_info_nce_equals_a_naive_loop():
    torch.manual_seed(0)
    rows, columns = content([3, 5, 3, 7, 5, 3]), content([3, 5, 7])
    a, b = torch.randn(6, 8), torch.randn(3, 8)
    targets = soft_targets(rows, columns, 0.0)
    got = info_nce(a, b, targets, torch.tensor(5.0))

    s = [[5.0 * float(F.cosine_similarity(x, y, dim=0)) for y in b] for x in a]
    forward = np.mean(
        [-(s[i][j] - np.log(np.exp(s[i]).sum())) for i in range(6) for j in range(3) if targets[i, j]]
    )
    backward = []
    for j in range(3):
        column = np.array([s[i][j] for i in range(6)])
        positives = [i for i in range(6) if targets[i, j]]
        backward.append(np.mean([-(column[i] - np.log(np.exp(column).sum())) for i in positives]))
    assert float(got) == pytest.approx(0.5 * forward + 0.5 * np.mean(backward), rel=1e-5)


def test_softened_targets():
    clips = content([0, 1, 2], stimuli=[0, 0, 1], starts=[0.0, 4.0, 4.0])
    targets = soft_targets(clips, clips, 4.0)
    near = math.exp(-0.5)
    expected = torch.tensor([[1.0, near, 0.0], [near, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(soft_targets(clips, clips, 0.0), torch.eye(3))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 100))
def test_soft_rows_sum_to_one_uniform_logits_give_log_n(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(n, m, generator=generator) + 0.01
    # With uniform logits the loss is log m exactly if, and only if, the rows it uses sum to one.
    assert float(soft_cross_entropy(torch.zeros(n, m), targets)) == pytest.approx(math.log(m), rel=1e-5)


def test_rows_without_target_and_masked_candidates_are_harmless():
    logits = torch.tensor([[0.0, float("-inf")], [1.0, 2.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = soft_cross_entropy(logits, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0)
    assert bool(torch.isfinite(logits.grad).all())


def test_level_loss_is_the_mean_of_levels_and_ignores_scale():
    torch.manual_seed(1)
    a, b, targets = torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5), torch.eye(4)
    one = [info_nce(a[:, :, i].flatten(1), b[:, :, i].flatten(1), targets, torch.tensor(3.0)) for i in (0, 1)]
    got = level_info_nce(a, 7 * b, targets, torch.tensor(3.0))
    assert float(got) == pytest.approx(float(sum(one)) / 2, rel=1e-5)


def test_centred_removes_what_all_clips_share():
    x = torch.randn(5, 3)
    torch.testing.assert_close(centred(x + 10), centred(x), atol=1e-5, rtol=1e-5)


def test_time_contrast_rewards_the_right_step_and_sees_only_neighbours():
    torch.manual_seed(0)
    steps = torch.arange(4) + 0.5
    clips = content([0, 1, 2], stimuli=[0, 0, 0], starts=[0.0, 4.0, 400.0])
    video = F.normalize(torch.randn(3, 4, 16), dim=-1)
    right = time_contrast(video, video, clips, clips, steps, torch.tensor(10.0), 10.0)
    rolled = time_contrast(video.roll(1, 1), video, clips, clips, steps, torch.tensor(10.0), 10.0)
    assert right < 0.7 * rolled
    brain = torch.randn(3, 4, 16, requires_grad=True)
    distant = video.clone().requires_grad_()
    time_contrast(
        brain[:1], distant, clips.take(torch.tensor([0])), clips, steps, torch.tensor(10.0), 10.0
    ).backward()
    assert float(distant.grad[2].abs().sum()) == 0.0
    assert float(distant.grad[1].abs().sum()) > 0.0


def test_prediction_equals_info_nce_at_a_single_distance_and_vanishes_for_one_step():
    torch.manual_seed(0)
    brain, video, targets = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.eye(3)
    predictor = Predictor(4, 3)
    loss = prediction_loss(predictor(brain), predictor(video), brain, video, targets, torch.tensor(2.0))
    expected = 0.5 * (
        info_nce(brain[:, 0], video[:, 1], targets, torch.tensor(2.0))
        + info_nce(brain[:, 1], video[:, 0], targets, torch.tensor(2.0))
    )
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    one = brain[:, :1]
    assert float(prediction_loss(predictor(one), predictor(one), one, one, targets, torch.tensor(1.0))) == 0.0


def test_commitment_pulls_the_tokens_only():
    tokens, own, partner = (torch.randn(2, 3, 1, 4, requires_grad=True) for _ in range(3))
    loss = commitment(tokens, own, partner)
    by_hand = ((tokens - own) ** 2).sum(-1).mean() + 0.5 * ((tokens - partner) ** 2).sum(-1).mean()
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-6)
    loss.backward()
    assert own.grad is None
    assert partner.grad is None
    assert tokens.grad is not None


def test_code_agreement_is_smallest_for_equal_sharp_distributions():
    torch.manual_seed(0)
    sharp = (20 * torch.randn(4, 2, 1, 6)).log_softmax(-1)
    own, targets = torch.arange(4), torch.eye(4)
    assert code_agreement(sharp, sharp, own, targets) < code_agreement(sharp, sharp.roll(1, 0), own, targets)
    b, v = sharp[:1], torch.randn(1, 2, 1, 6).log_softmax(-1)
    by_hand = -0.5 * (b.exp() * v + v.exp() * b).sum(-1).mean() / math.log(6)
    assert float(code_agreement(b, v, own[:1], torch.ones(1, 1))) == pytest.approx(float(by_hand), rel=1e-5)


def test_reconstruction_has_no_gradient_to_its_target():
    decoded, tokens = torch.randn(2, 1, 1, 4, requires_grad=True), torch.randn(2, 1, 1, 4, requires_grad=True)
    reconstruction(decoded, tokens).backward()
    assert tokens.grad is None
    assert float(reconstruction(tokens, 3 * tokens)) == pytest.approx(0.0, abs=1e-6)
