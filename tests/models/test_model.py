"""The assembled network and the token quantiser."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroalign.config.train import Encoder, Vq
from neuroalign.models.model import Architecture, BrainInput, NeuroAlign
from neuroalign.models.quantise.residual import TokenQuantiser

MODALITIES = ["fmri", "video", "text"]


def architecture(**changes) -> Architecture:
    base = Architecture(
        brain_levels={"early": 6, "high": 5},
        video_levels={"features": 7},
        subjects=["01", "02"],
        shared_units=True,
        aligned=False,
        step_times=[0.5, 1.5, 2.5],
        encoder=Encoder(dim=16, heads=2, depth=1).model_dump(),
    )
    return replace(base, **changes)


def quantiser(depth=2, **options) -> TokenQuantiser:
    torch.manual_seed(0)
    settings = {"codes": 8, "code_dim": 4, "decay": 0.9, "tau": 0.5, "dynamic": True, "revive_after": 20}
    return TokenQuantiser(2, 6, MODALITIES, depth=depth, **{**settings, **options})


def test_architecture_survives_json_and_keeps_the_order_of_levels():
    one = architecture(brain_levels={"zeta": 3, "alpha": 4}, vq=Vq().model_dump(mode="json"))
    again = Architecture.of(json.loads(json.dumps(one.plain(), sort_keys=True)))
    assert again == one
    assert list(again.brain_levels) == ["zeta", "alpha"]


def test_encoded_shapes():
    network = NeuroAlign(architecture())
    brain = BrainInput(
        {"early": torch.randn(4, 9, 6), "high": torch.randn(4, 9, 5)},
        torch.arange(9.0).expand(4, -1),
        torch.ones(4, 9, dtype=torch.bool),
        torch.tensor([0, 1, -1, 0]),
    )
    b, v = network.encode_fmri(brain), network.encode_video({"features": torch.randn(5, 3, 7)})
    assert b.tokens.shape == (4, 3, 2, 16)
    assert v.tokens.shape == (5, 3, 2, 16)
    assert b.steps.shape == (4, 3, 16)
    assert b.pooled.shape[1] == v.pooled.shape[1] == 48
    assert network.quantiser is None
    assert float(network.scale("global").detach()) == pytest.approx(10.0)


def test_residual_quantisation_is_what_it_says():
    model = quantiser()
    out = model("text", torch.randn(3, 5, 2, 6))
    torch.testing.assert_close(out.tokens.norm(dim=-1), torch.ones(3, 5, 2))
    for level in range(2):
        first, second = (model.codebooks[level][depth] for depth in (0, 1))
        u = out.tokens[:, :, level]
        a = first(first.assign(u))
        expected = a + second(second.assign(u - a))
        torch.testing.assert_close(out.codes[:, :, level], expected)
        torch.testing.assert_close(out.residuals[1][:, :, level], u - a)


def test_gradient_passes_straight_through():
    model = quantiser()
    tokens = torch.randn(2, 3, 2, 6, requires_grad=True)
    out = model("fmri", tokens)
    weight = torch.randn_like(out.codes)
    (through,) = torch.autograd.grad((out.codes * weight).sum(), tokens, retain_graph=True)
    (direct,) = torch.autograd.grad((out.tokens * weight).sum(), tokens)
    torch.testing.assert_close(through, direct)


def test_three_modalities_share_codes_and_depth_lowers_the_error():
    generator = torch.Generator().manual_seed(0)
    tokens = {m: torch.randn(40, 3, 2, 6) for m in MODALITIES}
    errors = []
    for depth in (1, 2, 3):
        model = quantiser(depth)
        model.start_from(tokens, generator)
        for _ in range(5):
            model.update({m: model(m, z) for m, z in tokens.items()}, generator)
        found = model("video", tokens["video"])
        errors.append(float((found.codes - found.tokens).square().sum(-1).mean().detach()))
    assert errors[0] > errors[1] > errors[2]
    assert model.codebooks[0][0].error_count.shape == (3, 8)
    assert bool((model.codebooks[0][0].error_count.sum(dim=1) > 0).all())


def test_distributions_are_normalised_and_peak_at_the_assigned_code():
    model = quantiser()
    out = model("video", torch.randn(3, 5, 2, 6))
    log_p = model.distributions(out.tokens, 0.1)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3, 5, 2))
    np.testing.assert_array_equal(log_p.argmax(-1), out.index[..., 0])
