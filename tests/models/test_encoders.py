"""Encoders: the response, masks, causality, the linear start, unknown subjects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from neuroalign.models.encoders.brain import BrainEncoder, PatchEmbedding
from neuroalign.models.encoders.haemodynamic import HaemodynamicAttention, NearestInTime, log_response
from neuroalign.models.encoders.transformer import StepTransformer
from neuroalign.models.encoders.video import LevelMixing, VideoEncoder, diagonal_start
from neuroalign.models.losses.prediction import Predictor
from neuroalign.models.pooling import Pool

SIZES = {"dim": 16, "depth": 2, "heads": 4, "dropout": 0.0, "input_dropout": 0.0}


def open_gates(module: torch.nn.Module) -> None:
    """Give every gate and embedding a value, so that attention and MLP act."""
    for name, parameter in module.named_parameters():
        if "gate" in name or name.endswith(("step", "level", "query")):
            torch.nn.init.normal_(parameter)


def brain_encoder(aligned=False, shared=True, subjects=3, levels=None, **sizes) -> BrainEncoder:
    torch.manual_seed(0)
    return BrainEncoder(
        levels or {"early": 5, "high": 7},
        subjects,
        4,
        aligned=aligned,
        shared=shared,
        subject_rank=2,
        **{**SIZES, **sizes},
    )


def brain_arguments(n=3, volumes=8, levels=None):
    generator = torch.Generator().manual_seed(1)
    levels = levels or {"early": 5, "high": 7}
    return {
        "levels": {k: torch.randn(n, volumes, u, generator=generator) for k, u in levels.items()},
        "times": (torch.arange(volumes) * 2.0 + 0.7).expand(n, -1).clone(),
        "valid": torch.ones(n, volumes, dtype=torch.bool),
        "step_times": torch.arange(4) + 0.5,
        "subject": torch.arange(n) % 3,
    }


def test_canonical_response_is_a_gamma_density_of_shape_six():
    lag = np.linspace(0.5, 20, 40)
    density = stats.gamma(a=6, scale=1).pdf(lag)
    ours = log_response(torch.tensor(lag), torch.tensor(5.0), torch.tensor(math.sqrt(5.0))).exp().numpy()
    np.testing.assert_allclose(ours, density / stats.gamma(a=6, scale=1).pdf(5.0), rtol=1e-5)


def test_response_peaks_at_the_delay_with_the_curvature_of_the_dispersion():
    delay, dispersion = torch.tensor(6.3, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    at = delay.clone().requires_grad_()
    (first,) = torch.autograd.grad(log_response(at, delay, dispersion), at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    assert float(first.detach()) == pytest.approx(0, abs=1e-9)
    assert float(second) == pytest.approx(-1 / 1.7**2)


def test_attention_finds_an_impulse_at_the_delay():
    layer = HaemodynamicAttention(1, 1, 4, 6)
    times = torch.arange(0, 16, 0.5)[None]
    tokens = torch.zeros(1, times.shape[1], 1, 4)
    tokens[0, int((2.5 + 5.0) / 0.5)] = 1.0
    out = layer(
        tokens, times, torch.ones_like(times, dtype=torch.bool), torch.arange(6) + 0.5, torch.tensor([0])
    )
    assert int(out[0, :, 0, 0].argmax()) == 2


def test_delays_differ_by_subject_and_unknown_subjects_get_the_group():
    layer = HaemodynamicAttention(1, 2, 4, 6)
    with torch.no_grad():
        layer.subject_shift[:] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(layer.shift_of(torch.tensor([0, 1, -1])), torch.tensor([0.5, -0.5, 0.0]))
    assert float(layer.penalty().detach()) == pytest.approx(0.25)


@pytest.mark.parametrize("aligned", [True, False])
def test_masked_volumes_get_no_gradient_and_may_hold_anything(aligned):
    encoder = brain_encoder(aligned)
    open_gates(encoder)
    arguments = brain_arguments()
    arguments["valid"][:, 3] = False
    arguments["valid"][1, 5:] = False
    for x in arguments["levels"].values():
        x.requires_grad_()
    encoder(**arguments).square().sum().backward()
    for x in arguments["levels"].values():
        assert float(x.grad[~arguments["valid"]].abs().sum()) == 0.0
        assert float(x.grad[arguments["valid"]].abs().sum()) > 0.0
    before = encoder(**arguments)
    arguments["levels"] = {
        k: torch.where(arguments["valid"][..., None], x, torch.nan) for k, x in arguments["levels"].items()
    }
    torch.testing.assert_close(encoder(**arguments), before)


def test_a_window_without_valid_volumes_gives_finite_tokens():
    encoder, arguments = brain_encoder(), brain_arguments()
    arguments["valid"][0] = False
    assert bool(torch.isfinite(encoder(**arguments)).all())


def test_aligned_steps_pass_through_a_beta_is_broadcast_and_gaps_are_filled():
    layer, steps = NearestInTime(), torch.arange(4) + 0.5
    tokens = torch.randn(2, 4, 1, 3)
    valid = torch.ones(2, 4, dtype=torch.bool)
    out = layer(tokens, steps.expand(2, -1), valid, steps, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(out, tokens, atol=5e-3, rtol=0)
    beta = layer(
        tokens[:, :1], torch.full((2, 1), 2.0), valid[:, :1], steps, torch.zeros(2, dtype=torch.long)
    )
    torch.testing.assert_close(beta, tokens[:, :1].expand(-1, 4, -1, -1))
    valid[:, 3] = False
    filled = layer(tokens, steps.expand(2, -1), valid, steps, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(filled[:, 3], tokens[:, 2], atol=5e-3, rtol=0)


def test_encoders_start_as_linear_maps():
    encoder, a, b = brain_encoder(), brain_arguments(), brain_arguments()
    b["levels"] = {k: torch.randn_like(x) for k, x in b["levels"].items()}
    total = {**a, "levels": {k: a["levels"][k] + 2 * b["levels"][k] for k in a["levels"]}}
    torch.testing.assert_close(encoder(**total), encoder(**a) + 2 * encoder(**b), atol=1e-4, rtol=1e-4)


def test_no_token_sees_what_it_predicts():
    brain, video = brain_encoder(), VideoEncoder({"a": 6, "b": 4}, 2, 4, **SIZES)
    open_gates(brain)
    open_gates(video)
    features = {k: torch.randn(2, 4, d, requires_grad=True) for k, d in (("a", 6), ("b", 4))}
    predictor, pool = Predictor(16, 2), Pool(4, 2, 16, "steps")
    predictions = predictor(pool.steps(video(features)))
    for t in range(4):
        gradients = torch.autograd.grad(predictions[:, t].sum(), list(features.values()), retain_graph=True)
        for gradient in gradients:
            assert float(gradient[:, t + 1 :].abs().sum()) == 0.0
            assert float(gradient[:, t].abs().sum()) > 0.0
    resampled = torch.randn(2, 4, 2, 16, requires_grad=True)
    predictions = predictor(pool.steps(brain.transformer(resampled)))
    for t in range(4):
        (gradient,) = torch.autograd.grad(predictions[:, t].sum(), resampled, retain_graph=True)
        assert float(gradient[:, t + 1 :].abs().sum()) == 0.0


def test_transformer_uses_earlier_steps_once_its_gates_open():
    transformer = StepTransformer(3, 1, 8, 1, 2, 0.0)
    x = torch.randn(1, 3, 1, 8, requires_grad=True)
    torch.testing.assert_close(transformer(x), x)
    open_gates(transformer)
    (gradient,) = torch.autograd.grad(transformer(x)[:, 2].sum(), x)
    assert float(gradient[:, 0].abs().sum()) > 0


def test_parcel_map_is_shared_plus_low_rank_and_unknown_subjects_use_the_shared_part():
    torch.manual_seed(0)
    patch = PatchEmbedding(5, 8, 2, 3, True)
    torch.nn.init.normal_(patch.up)
    x = torch.randn(3, 4, 5)
    out = patch(x, torch.tensor([0, 1, -1]))
    own = patch.weight[0] + patch.down[1] @ patch.up[1]
    torch.testing.assert_close(out[1], x[1] @ own)
    torch.testing.assert_close(out[2], x[2] @ patch.weight[0])
    assert torch.linalg.matrix_rank(own - patch.weight[0]) <= 3


def test_voxel_maps_are_per_subject_and_refuse_unknown_subjects():
    patch = PatchEmbedding(5, 8, 2, 3, False)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(patch(x, torch.tensor([1, 0]))[0], x[0] @ patch.weight[1])
    with pytest.raises(ValueError, match="unknown subject"):
        patch(x, torch.tensor([0, -1]))


@pytest.mark.parametrize(
    ("brain", "video", "favourites"),
    [(3, 3, [0, 1, 2]), (3, 1, [0, 0, 0]), (2, 4, [0, 3]), (3, 5, [0, 2, 4])],
)
def test_levels_start_on_the_diagonal(brain, video, favourites):
    assert diagonal_start(brain, video).argmax(dim=1).tolist() == favourites
    mixing = LevelMixing(brain, video, 4)
    tokens = torch.randn(2, 3, video, 4)
    assert mixing(tokens).shape == (2, 3, brain, 4)
    torch.testing.assert_close(mixing(tokens), mixing.mix(tokens))


def test_pooled_cosine_of_steps_keeps_order_and_mean_forgets_it():
    torch.manual_seed(0)
    tokens = torch.randn(1, 4, 2, 8)
    for mode, alike in (("steps", False), ("mean", True)):
        pool = Pool(4, 2, 8, mode)
        one, other = pool(pool.steps(tokens)), pool(pool.steps(tokens.flip(1)))
        assert torch.allclose(one, other, atol=1e-5) is alike
