"""bfloat16 in the forward pass: losses are float32, and near those of float32 throughout."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from neuroalign.config.train import Train
from neuroalign.models.model import NeuroAlign
from neuroalign.training.data import fit_scalers, take_batch, to_tensors
from neuroalign.training.device import precision
from neuroalign.training.ntcl import architecture_of, encode
from neuroalign.training.seeds import seeded
from neuroalign.training.terms import ntcl_loss, ntcl_terms, vq_loss, vq_terms


@pytest.fixture
def made(make_pairs, tiny):
    pairs, config = make_pairs(clips=(30, 8, 4), subjects=2), tiny()
    scalers = fit_scalers(pairs, config.ntcl.encoder)
    data = to_tensors(pairs, scalers)
    with seeded(0):
        architecture = architecture_of(pairs, scalers, config.ntcl)
        first = NeuroAlign(architecture)
        second = NeuroAlign(
            type(architecture)(**{**vars(architecture), "vq": config.vq.model_dump(mode="json")})
        )
        # Gates start at zero, which would hide the blocks.
        for network in (first, second):
            for name, parameter in network.named_parameters():
                if "gate" in name:
                    torch.nn.init.constant_(parameter, 0.5)
            network.eval()
    return first, second, take_batch(data, data.train, torch.arange(40)), config


def contexts():
    return [precision(Train(precision=p), torch.device("cpu")) for p in ("float32", "bfloat16")]


def test_terms_of_stage_one(made):
    network, _, batch, config = made
    found = []
    for context in contexts():
        encoded = encode(network, batch, context)
        assert all(x.dtype == torch.float32 for e in encoded.values() for x in (e.tokens, e.steps, e.pooled))
        terms = ntcl_terms(network, encoded, batch, config.ntcl, config.text)
        loss = ntcl_loss(terms, config.ntcl, config.text)
        assert all(value.dtype == torch.float32 for value in (*terms.values(), loss))
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in gradients)
        found.append(
            (
                {name: float(v.detach()) for name, v in terms.items()},
                torch.cat([g.flatten() for g in gradients]),
            )
        )
        network.zero_grad()
    (exact, gradient), (rough, other) = found
    assert rough == pytest.approx(exact, rel=0.02, abs=1e-6)
    assert rough != exact, "bfloat16 leaves a trace"
    assert float(torch.cosine_similarity(gradient, other, dim=0)) > 0.98


def test_terms_of_stage_two(made):
    _, network, batch, config = made
    found = []
    for context in contexts():
        terms, quantised = vq_terms(network, encode(network, batch, context), batch, config)
        assert all(q.residuals.dtype == torch.float32 for q in quantised.values())
        loss = vq_loss(terms, config.vq, config.text)
        assert all(value.dtype == torch.float32 for value in (*terms.values(), loss))
        found.append({name: float(v.detach()) for name, v in terms.items()})
    # A token between two codes may take the other one.
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=1e-3)
    assert found[1] != found[0]


def test_auto_is_exact_on_processors(monkeypatch):
    cpu = torch.device("cpu")
    assert isinstance(precision(Train(), cpu), nullcontext)
    assert isinstance(precision(Train(precision="float32"), torch.device("cuda")), nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert isinstance(precision(Train(), torch.device("cuda")), nullcontext)
