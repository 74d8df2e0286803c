"""Gradients of both stages' losses: where they must be zero, and where they must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroalign.config.train import Encoder, Ntcl, TextPairs, Train, Vq
from neuroalign.models.losses.contrast import Content, info_nce, level_info_nce
from neuroalign.models.losses.prediction import Predictor, prediction_loss
from neuroalign.models.losses.temporal import time_contrast
from neuroalign.models.model import FMRI, TEXT, VIDEO, Architecture, BrainInput, NeuroAlign, TextInput
from neuroalign.models.quantise.losses import code_agreement, commitment, reconstruction
from neuroalign.training.data import Batch
from neuroalign.training.loop import parameter_groups
from neuroalign.training.ntcl import encode
from neuroalign.training.terms import ntcl_terms, vq_loss, vq_terms

CLIPS, WINDOWS, STEPS, VOLUMES = 6, 8, 4, 9
ALL_PAIRS = TextPairs(fmri_text=1.0, video_text=1.0)


def make_network(text: bool = False) -> NeuroAlign:
    """A network of both stages that is nowhere linear: gates, queries and subject terms are not 0."""
    torch.manual_seed(0)
    architecture = Architecture(
        brain_levels={"early": 6, "high": 5},
        video_levels={"a": 7, "b": 4},
        subjects=["01", "02"],
        shared_units=True,
        aligned=False,
        step_times=[0.5, 1.5, 2.5, 3.5],
        encoder=Encoder(dim=16, heads=2, depth=1, input_dropout=0.0).model_dump(),
        vq=Vq(codes=8, code_dim=6, depth=2).model_dump(mode="json"),
        text_levels={TEXT: 5} if text else {},
    )
    network = NeuroAlign(architecture)
    for name, parameter in network.named_parameters():
        if name.startswith(("encoders.", "quantiser.")):
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return network


def make_batch(text: bool = False) -> Batch:
    """Windows of two known people and a stranger; two clips were seen twice; some volumes are censored."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    valid = torch.ones(WINDOWS, VOLUMES, dtype=torch.bool)
    valid[:, 3] = False
    valid[2, 6:] = False
    brain = BrainInput(
        {"early": draw(WINDOWS, VOLUMES, 6), "high": draw(WINDOWS, VOLUMES, 5)},
        (1.5 * torch.arange(VOLUMES) + 0.4).expand(WINDOWS, -1).clone(),
        valid,
        torch.tensor([0, 1, -1, 0, 1, 0, 1, -1]),
    )
    own = torch.tensor([0, 1, 2, 3, 4, 5, 2, 0])
    columns = Content(
        torch.arange(CLIPS), torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0.0, 4, 8, 0, 4, 8])
    )
    words = None
    if text:
        present = torch.ones(CLIPS, STEPS, dtype=torch.bool)
        present[1, 2:] = False
        present[4] = False
        words = TextInput({TEXT: draw(CLIPS, STEPS, 5)}, present)
    video = {"a": draw(CLIPS, STEPS, 7), "b": draw(CLIPS, STEPS, 4)}
    return Batch(brain, video, own, columns.take(own), columns, words)


def terms_of(network: NeuroAlign, batch: Batch) -> dict[str, torch.Tensor]:
    """All terms of both stages; those of stage 2 are prefixed."""
    encoded = encode(network, batch, torch.enable_grad())
    first = ntcl_terms(network, encoded, batch, Ntcl(), ALL_PAIRS)
    train = Train(text=ALL_PAIRS.model_dump())
    second, _ = vq_terms(network, encoded, batch, train)
    return first | {f"vq_{name}": value for name, value in second.items()}


def moved_by(network: NeuroAlign, term: torch.Tensor) -> set[str]:
    """Names of the parameters that a term pulls at."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    return {n for n, g in zip(names, gradients, strict=True) if g is not None and bool(g.abs().sum() > 0)}


@pytest.fixture(scope="module")
def reach() -> dict[str, set[str]]:
    """The parameters that each term moves, with text."""
    network = make_network(text=True)
    return {name: moved_by(network, term) for name, term in terms_of(network, make_batch(text=True)).items()}


def test_every_term_moves_the_encoders_of_its_own_modalities_alone(reach):
    pairs = {"_fmri_text": {FMRI, TEXT}, "_video_text": {VIDEO, TEXT}}
    assert len(reach) >= 20
    for name, moved in reach.items():
        if name in ("shift", "vq_contrast"):
            continue
        wanted = next((m for suffix, m in pairs.items() if name.endswith(suffix)), {FMRI, VIDEO})
        if name == "vq_reconstruction_text":
            wanted = {TEXT}
        assert {n.split(".")[1] for n in moved if n.startswith("encoders.")} == wanted, name


@pytest.mark.parametrize("term", ["global", "level", "time", "pred"])
def test_stage_one_terms_move_their_own_temperature_and_only_prediction_moves_predictors(reach, term):
    for suffix in ("", "_fmri_text", "_video_text"):
        moved = reach[term + suffix]
        assert {n for n in moved if n.startswith("log_scale.")} == {f"log_scale.{term}{suffix}"}
        assert any(n.startswith("predictors.") for n in moved) == (term == "pred")
        assert not any(n.startswith("quantiser.") for n in moved)


def test_the_penalty_on_shifts_moves_shifts_alone(reach):
    assert reach["shift"] == {"encoders.fmri.resample.subject_shift"}


def test_stage_one_terms_move_delays_and_subject_terms(reach):
    for name in ("log_delay", "log_dispersion", "subject_shift", "query"):
        assert f"encoders.fmri.resample.{name}" in reach["global"]
    assert {"encoders.fmri.patches.0.down", "encoders.fmri.patches.0.up"} <= reach["global"]


def test_stage_two_terms_reach_projections_and_only_those_that_decode_reach_decoders(reach):
    for name, moved in reach.items():
        if not name.startswith("vq_") or name == "vq_contrast":
            continue
        assert any(n.startswith("quantiser.projections.") for n in moved), name
        decodes = name.startswith(("vq_reconstruction", "vq_prediction"))
        assert any(n.startswith("quantiser.decoders.") for n in moved) == decodes, name


def test_codebooks_have_no_gradient_and_no_optimiser():
    network = make_network()
    assert not [n for n, _ in network.named_parameters() if "codebooks" in n]
    before = {n: b.clone() for n, b in network.named_buffers() if "codebooks" in n}
    assert before
    terms = terms_of(network, make_batch())
    sum(terms.values()).backward()
    for name, buffer in network.named_buffers():
        if "codebooks" in name:
            assert not buffer.requires_grad
            assert buffer.grad is None
            assert torch.equal(buffer, before[name])


def test_commitment_is_the_pull_to_both_codes_and_nothing_else():
    """Against the gradient written by hand; codes that depend on the tokens (straight-through) change nothing."""
    u = torch.randn(5, 4, requires_grad=True)
    own = u + (torch.randn(5, 4) - u).detach()
    partner_tokens = torch.randn(5, 4, requires_grad=True)
    partner = 2 * partner_tokens
    commitment(u, own, partner).backward()
    by_hand = (2 * (u - own) + (u - partner)) / len(u)
    torch.testing.assert_close(u.grad, by_hand.detach())
    assert partner_tokens.grad is None


def test_the_reconstruction_pulls_the_decoder_but_not_its_target():
    network, batch = make_network(), make_batch()
    encoded = encode(network, batch, torch.enable_grad())
    target = encoded[VIDEO].tokens
    decoded = network.quantiser.decode(VIDEO, network.quantiser(VIDEO, target.detach()).codes)
    encoder = list(network.encoders[VIDEO].parameters())
    found = torch.autograd.grad(reconstruction(decoded, target), encoder, allow_unused=True)
    assert all(g is None for g in found)


@pytest.mark.parametrize("stage", ["ntcl", "vq"])
def test_censored_volumes_have_no_gradient_in_any_loss_and_valid_ones_do(stage):
    network, batch = make_network(), make_batch()
    for x in batch.brain.levels.values():
        x.requires_grad_()
    terms = terms_of(network, batch)
    chosen = [v for k, v in terms.items() if k.startswith("vq_") == (stage == "vq") and k != "shift"]
    sum(chosen).backward()
    for x in batch.brain.levels.values():
        assert float(x.grad[~batch.brain.valid].abs().sum()) == 0.0
        # Volumes before the first step say nothing of the clip; most others must.
        assert float((x.grad[batch.brain.valid].abs().sum(-1) > 0).float().mean()) > 0.8


def test_missing_captions_have_no_gradient_in_any_loss_and_others_do():
    network, batch = make_network(text=True), make_batch(text=True)
    words = batch.text.levels[TEXT].requires_grad_()
    sum(terms_of(network, batch).values()).backward()
    assert float(words.grad[~batch.text.present].abs().sum()) == 0.0
    assert bool((words.grad[batch.text.present].abs().sum(-1) > 0).all())


def test_a_stranger_moves_no_subject_parameter():
    network, batch = make_network(), make_batch()
    batch.brain.subject[:] = -1
    moved = moved_by(network, terms_of(network, batch)["global"])
    assert not {n for n in moved if n.endswith((".down", ".up"))}
    assert "encoders.fmri.resample.subject_shift" not in moved
    assert "encoders.fmri.patches.0.weight" in moved


def test_quantised_predictions_see_no_later_token():
    """Causal after quantisation too: nothing that predicts at step t depends on tokens after t."""
    network = make_network()
    tokens = torch.randn(3, STEPS, 2, 16, requires_grad=True)
    quantiser, pool = network.quantiser, network.pools[FMRI]
    predicted = network.predictors[FMRI](pool.steps(quantiser.decode(FMRI, quantiser(FMRI, tokens).codes)))
    for t in range(STEPS):
        (gradient,) = torch.autograd.grad(predicted[:, t].sum(), tokens, retain_graph=True)
        assert float(gradient[:, t + 1 :].abs().sum()) == 0.0
        assert float(gradient[:, t].abs().sum()) > 0.0


def test_encoder_lr_zero_freezes_stage_one_and_trains_what_stage_two_adds():
    network, batch, stage = make_network(), make_batch(), Vq(encoder_lr=0.0, lr=0.01)
    rates = dict.fromkeys(("encoders.", "pools.", "log_scale."), stage.lr * stage.encoder_lr)
    optimiser = torch.optim.AdamW(parameter_groups(network, stage, rates))
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        terms, _ = vq_terms(network, encode(network, batch, torch.enable_grad()), batch, Train(vq=stage))
        vq_loss(terms, stage, ALL_PAIRS).backward()
        optimiser.step()
    for name, parameter in network.named_parameters():
        if name.startswith(tuple(rates)):
            assert parameter.grad is None
            assert torch.equal(parameter, before[name]), name
        else:
            assert not torch.equal(parameter, before[name]), name


# --- shapes ------------------------------------------------------------------------------------------------------


def test_wrong_shapes_are_named():
    content = Content(torch.arange(3), torch.zeros(3), torch.arange(3.0))
    x, y, scale = torch.randn(3, 4, 5), torch.randn(2, 4, 5), torch.tensor(1.0)
    times, targets = torch.arange(4.0), torch.eye(3)
    predictor = Predictor(5, 2)
    logs = torch.randn(3, 4, 2, 6).log_softmax(-1)
    wrong = {
        r"info_nce: b has shape \(2, 6\), but \(m, d\) is needed with d = 5": lambda: info_nce(
            x[:, 0], torch.randn(2, 6), torch.ones(3, 2), scale
        ),
        r"info_nce: targets has shape \(3, 3\), but \(n, m\) is needed with n = 3, m = 2": lambda: info_nce(
            x[:, 0], y[:, 0], targets, scale
        ),
        "level_info_nce: a has shape": lambda: level_info_nce(x, x, targets, scale),
        r"time_contrast: step_times has shape \(3,\)": lambda: time_contrast(
            x, x, content, content, times[:3], scale, 0.0
        ),
        "time_contrast: video_content has shape": lambda: time_contrast(
            x, y, content, content, times, scale, 0.0
        ),
        r"prediction_loss: predicted_brain has shape \(2, 4, 2, 5\).* m = 3|prediction_loss: video": lambda: (
            prediction_loss(predictor(x), predictor(y), x, x, targets, scale)
        ),
        r"commitment: partner has shape \(2, 4, 5\), but the tokens have \(3, 4, 5\)": lambda: commitment(
            x, x, y
        ),
        "reconstruction: decoded has shape": lambda: reconstruction(y, x),
        r"code_agreement: own has shape \(2,\)": lambda: code_agreement(logs, logs, torch.arange(2), targets),
        r"tokens of fmri: tokens has shape \(3, 4, 2, 5\).* levels = 2, dim = 16": lambda: (
            make_network().quantiser(FMRI, torch.randn(3, 4, 2, 5))
        ),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_finite_difference_agrees_with_the_gradient_of_the_whole_stage_two_loss():
    """The whole chain (encoder to agreement) in double precision, along a random direction of the brain's patches."""
    network, batch = make_network().double().eval(), make_batch()
    batch.brain.levels = {k: x.double() for k, x in batch.brain.levels.items()}
    batch.brain.times = batch.brain.times.double()
    network.step_times = network.step_times.double()
    batch.video = {k: x.double() for k, x in batch.video.items()}
    weight = network.encoders[FMRI].patches[0].weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def agreement() -> torch.Tensor:
        tokens = {
            FMRI: network.encode_fmri(batch.brain).tokens,
            VIDEO: network.encode_video(batch.video).tokens,
        }
        logs = [
            network.quantiser.distributions(network.quantiser.project(m, t), 0.2) for m, t in tokens.items()
        ]
        return code_agreement(*logs, batch.own, torch.eye(CLIPS, dtype=torch.float64)[batch.own])

    (gradient,) = torch.autograd.grad(agreement(), weight)
    step = 1e-5
    with torch.no_grad():
        weight += step * direction
        high = float(agreement())
        weight -= 2 * step * direction
        low = float(agreement())
    assert (high - low) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)
    assert np.isfinite(high)
