"""Text in the network: what is missing counts nothing, in encoders, losses and codebooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.train import Encoder, Vq
from neuroalign.models.embed import embed_clips, with_text
from neuroalign.models.losses.contrast import Content, centred, soft_targets
from neuroalign.models.losses.prediction import prediction_loss
from neuroalign.models.losses.temporal import time_contrast
from neuroalign.models.model import Architecture, NeuroAlign, TextInput
from neuroalign.models.quantise.losses import code_agreement
from neuroalign.models.quantise.residual import TokenQuantiser

STEPS, DIM, LEVELS = 4, 16, 2


def network(pooling="steps", text=True, vq=False) -> NeuroAlign:
    torch.manual_seed(0)
    found = NeuroAlign(
        Architecture(
            brain_levels={"early": 6, "high": 5},
            video_levels={"features": 7},
            subjects=["01"],
            shared_units=True,
            aligned=True,
            step_times=[t + 0.5 for t in range(STEPS)],
            encoder=Encoder(dim=DIM, heads=2, depth=2, pooling=pooling).model_dump(),
            vq=Vq(codes=8, code_dim=4).model_dump() if vq else None,
            text_levels={"text": 9} if text else {},
        )
    ).eval()
    # Away from the start, so that blocks and embeddings take part.
    for parameter in found.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return found


def text_input(present: torch.Tensor, seed=0) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    return TextInput({"text": torch.randn(*present.shape, 9, generator=generator)}, present)


def test_a_network_without_text_has_nothing_of_it():
    plain, other = network(text=False), network()
    assert not plain.reads_text
    assert not any("text" in name for name in plain.state_dict())
    assert "text_levels" not in plain.architecture.plain()
    assert Architecture.of(plain.architecture.plain()) == plain.architecture
    assert Architecture.of(other.architecture.plain()) == other.architecture
    assert {n for n in other.state_dict() if "text" not in n} == set(plain.state_dict())


@pytest.mark.parametrize("pooling", ["steps", "mean"])
def test_what_is_missing_is_zero_and_changes_nothing(pooling):
    model = network(pooling)
    present = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()
    one, other = text_input(present), text_input(present)
    other.levels["text"] = torch.where(present[..., None], other.levels["text"], 1e3)
    a, b = model.encode_text(one), model.encode_text(other)
    torch.testing.assert_close(a.tokens, b.tokens, rtol=0, atol=0)
    torch.testing.assert_close(a.pooled, b.pooled, rtol=0, atol=0)
    assert bool((a.tokens[~present] == 0).all())
    assert float(a.pooled.detach()[2].abs().sum()) == 0
    assert bool(torch.isfinite(a.tokens).all())
    full = replace(one, present=torch.ones_like(present))
    unmasked = model.encoders["text"](one.levels)
    torch.testing.assert_close(model.encode_text(full).tokens, unmasked)
    # A mean is over the steps that there are.
    if pooling == "mean":
        weight = model.pools["text"].log_weight.exp()[:, None]
        torch.testing.assert_close(a.pooled[1], (a.steps[1] * weight)[present[1]].mean(0))


def test_the_last_step_sees_earlier_captions_but_no_gap():
    model = network()
    present = torch.tensor([[1, 0, 0, 1]]).bool()
    one, other = text_input(present), text_input(present)
    other.levels["text"][0, 0] += 1
    assert not torch.allclose(model.encode_text(one).tokens[0, 3], model.encode_text(other).tokens[0, 3])


def test_centring_leaves_out_what_is_missing():
    x, present = torch.randn(6, STEPS, 3), torch.rand(6, STEPS) < 0.6
    present[:, 0] = False
    found = centred(torch.where(present[..., None], x, 99.0), present)
    for t in range(STEPS):
        here = present[:, t]
        if here.any():
            torch.testing.assert_close(found[here, t], x[here, t] - x[here, t].mean(0))
        assert bool((found[~here, t] == 0).all())


def contents(n: int, films: int) -> Content:
    return Content(torch.arange(n), torch.arange(n) % films, torch.arange(n) * 3.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_masked_losses_ignore_what_is_missing_and_equal_plain_ones_without_gaps(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    n = 6
    own = torch.tensor([0, 1, 2, 3, 4, 5, 2, 0])
    columns = contents(n, 2)
    rows, scale, times = columns.take(own), torch.tensor(5.0), torch.arange(STEPS) + 0.5
    targets = soft_targets(rows, columns, 4.0)
    brain, text, noise = draw(len(own), STEPS, 3), draw(n, STEPS, 3), 10 * draw(n, STEPS, 3)
    present = torch.rand(n, STEPS, generator=generator) < 0.5
    present[:, int(torch.randint(STEPS, (1,), generator=generator))] = True
    logs = draw(len(own), STEPS, LEVELS, 5).log_softmax(-1), draw(n, STEPS, LEVELS, 5).log_softmax(-1)
    wrong = draw(n, STEPS, LEVELS, 5).log_softmax(-1)

    def losses(x, codes, mask):
        predicted = torch.stack([x, 2 * x], 2)
        ahead = torch.stack([brain, brain.flip(-1)], 2)
        return (
            time_contrast(brain, x, rows, columns, times, scale, 30.0, mask),
            prediction_loss(ahead, predicted, brain, x, targets, scale, mask),
            code_agreement(logs[0], codes, own, targets, mask),
        )

    x = text.clone().requires_grad_(True)
    found = losses(x, logs[1], present)
    here = present[..., None]
    hidden = losses(torch.where(here, text, noise), torch.where(here[..., None], logs[1], wrong), present)
    for a, b in zip(found, hidden, strict=True):
        torch.testing.assert_close(a, b)
        assert bool(torch.isfinite(a))
    (gradient,) = torch.autograd.grad(found[0] + found[1], x)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient[~present].abs().sum()) == 0
    everywhere = torch.ones_like(present)
    for a, b in zip(losses(text, logs[1], everywhere), losses(text, logs[1], None), strict=True):
        torch.testing.assert_close(a, b)


def test_clips_with_few_captioned_steps_win_no_other_clips_queries():
    """Codes agree exactly for every pair; how many steps have a caption must not decide whose codes agree best."""
    n = 32
    codes = torch.randn(n, STEPS, 3, 64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    present = torch.ones(n, STEPS, dtype=torch.bool)
    present[n // 2 :, 1:] = False
    own = torch.arange(n)
    for query in range(8):
        # The contrast of one row is minus the logarithm of the share that its softmax gives to the target.
        row = own[query : query + 1]
        costs = [
            float(code_agreement(codes[row], codes, row, torch.eye(n)[k : k + 1], present)) for k in range(n)
        ]
        assert int(np.argmin(costs)) == query


def quantiser() -> TokenQuantiser:
    torch.manual_seed(0)
    options = {"codes": 8, "code_dim": 4, "depth": 2, "decay": 0.9, "tau": 0.5, "revive_after": 20}
    return TokenQuantiser(LEVELS, 6, ["fmri", "video", "text"], dynamic=True, **options)


def test_missing_text_tokens_count_nothing_in_the_codebooks():
    present = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    tokens = {m: torch.randn(3, 3, LEVELS, 6) for m in ("fmri", "video", "text")}
    spoilt = tokens | {"text": torch.where(present[..., None, None], tokens["text"], 50.0)}
    books = []
    for given_tokens in (tokens, spoilt):
        model, generator = quantiser(), torch.Generator().manual_seed(0)
        model.start_from(given_tokens, generator, present={"text": present})
        for _ in range(3):
            batch = {m: model(m, z) for m, z in given_tokens.items()}
            model.update(batch, generator, {"text": present})
        books.append(model)
    for a, b in zip(books[0].buffers(), books[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    counted = books[0].codebooks[0][0].error_count.sum(dim=1)
    # Of nine tokens each, five of text are there; the moving average of equal counts is 1 - decay^3 of them.
    torch.testing.assert_close(counted, (1 - 0.9**3) * torch.tensor([9.0, 9.0, 5.0]))


def test_a_batch_without_captions_is_an_update_of_two_modalities():
    tokens = {m: torch.randn(3, 3, LEVELS, 6) for m in ("fmri", "video", "text")}
    nothing = {"text": torch.zeros(3, 3, dtype=torch.bool)}
    books = []
    for names, present in ((("fmri", "video", "text"), nothing), (("fmri", "video"), None)):
        model, generator = quantiser(), torch.Generator().manual_seed(0)
        for _ in range(3):
            model.update({m: model(m, tokens[m]) for m in names}, generator, present)
        books.append(model)
    for a, b in zip(books[0].buffers(), books[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    weights = books[0].codebooks[0][0].weights(torch.tensor([True, True, False]))
    torch.testing.assert_close(weights.sum(0), torch.full((8,), 2.0))
    assert float(weights[2].abs().sum()) == 0


@pytest.mark.parametrize("vq", [False, True])
def test_embedded_captions_say_what_is_missing(vq):
    model = network(vq=vq)
    present = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    clips = embed_clips(model, {"features": torch.randn(2, STEPS, 7)})
    found = with_text(model, clips, text_input(present))
    np.testing.assert_array_equal(found.text.present, present.numpy())
    gone = ~present.numpy()
    assert not found.text.steps[gone].any()
    assert not found.text.pooled[1].any()
    if vq:
        assert not found.text.codes[gone].any()
        assert (found.text.index[gone] == -1).all()
    assert len(found.take(np.array([1])).text.present) == 1
