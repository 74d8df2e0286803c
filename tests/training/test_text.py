"""Text as the third modality, from the linear start to the trained model: it helps where it knows something, and only there."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import neuroalign
from neuroalign.config.train import TextPairs, Train
from neuroalign.errors import UserError
from neuroalign.models.model import NeuroAlign
from neuroalign.models.score import score_pairs
from neuroalign.text.captions import Captions
from neuroalign.training.canonical import Recipe, Samples
from neuroalign.training.data import fit_scalers, take_batch, to_tensors
from neuroalign.training.linear_start import start_linear
from neuroalign.training.linear_text import TextSamples, joint_maps
from neuroalign.training.ntcl import architecture_of, encode, train_ntcl
from neuroalign.training.seeds import seeded
from neuroalign.training.terms import ntcl_loss, ntcl_terms, pairings
from neuroalign.training.validation import retrieval
from neuroalign.training.vq import train_vq
from neuroalign.video import shards

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}
# What noise in place of captions may cost: top-1 of 120 queries moves by 0.008 a query.
TOLERANCE = 0.02


def captioned(make_pairs, kind: str, gaps: float = 0.0, **options):
    """People whose high level is driven by what the video's features do not hold, and captions that do, or are noise."""
    pairs = make_pairs(**{"noise": 4.0, "clips": (70, 25, 40), **options})
    high = pairs.video.levels.pop("high")
    rng = np.random.default_rng(100)
    words = rng.standard_normal((*high.shape[:2], 24))
    if kind == "telling":
        words = high @ rng.standard_normal((high.shape[2], 24)) / 4 + 0.1 * words
    has = rng.random(high.shape[:2]) >= gaps
    if kind != "none":
        pairs.video.text = np.where(has[..., None], words, 0).astype(np.float32)
        pairs.video.has_text = has
    return pairs


def measured(model, pairs) -> dict[str, dict[str, float]]:
    """Mean retrieval of test clips by every score, over subjects."""
    found: dict[str, list[dict[str, float]]] = {}
    ids = pairs.clips["clip_id"].to_numpy()
    for rows, gallery, parts in score_pairs(model, pairs).values():
        own = np.array([gallery.index(c) for c in ids[rows]])
        for part, matrix in parts.items():
            found.setdefault(part, []).append(retrieval(matrix, own))
    return {p: {k: float(np.mean([r[k] for r in rs])) for k in rs[0]} for p, rs in found.items()}


def without_text(pairs):
    return replace(pairs, video=replace(pairs.video, text=None, has_text=None))


@pytest.fixture(scope="module")
def config(tiny) -> Train:
    return tiny(
        {"epochs": 2, "encoder": {"dim": 32, "depth": 1, "heads": 2, "subject_rank": 2}}, {"epochs": 2}
    )


@pytest.fixture(scope="module")
def trained(make_pairs, config, tmp_path_factory):
    """Both stages on telling captions with gaps: branch folder and data."""
    torch.set_num_threads(1)
    pairs = captioned(make_pairs, "telling", gaps=0.2, clips=(70, 40, 40))
    branch = tmp_path_factory.mktemp("seed-0")
    train_ntcl(pairs, branch / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, branch / "ntcl", branch / "vq", config, 0, made_by={})
    return branch, pairs


def test_telling_captions_help_and_noise_does_not_hurt(make_pairs, config, tmp_path):
    found, models = {}, {}
    for kind in ("none", "telling", "noise"):
        pairs = captioned(make_pairs, kind)
        train_ntcl(pairs, tmp_path / kind, config, 0, made_by={}, geometry=GEOMETRY)
        models[kind] = neuroalign.load(tmp_path / kind)
        found[kind] = measured(models[kind], pairs)
    alone = found["none"]["fused"]
    assert models["telling"].weights.text > 0
    assert found["telling"]["fused"]["top1"] > alone["top1"] + 0.06
    assert found["telling"]["fused"]["mrr"] > alone["mrr"] + 0.05
    assert found["telling"]["text"]["top1"] > 3 / 40
    # Without captions at hand, the model that learned from them is nearly the one that did not.
    assert found["telling"]["video_only"]["mrr"] > alone["mrr"] - 0.05
    assert models["noise"].weights.text == 0
    assert found["noise"]["fused"]["top1"] >= alone["top1"] - TOLERANCE
    assert found["noise"]["fused"] == found["noise"]["video_only"]


def test_captions_tell_when_a_level_answers_that_the_video_does_not_drive(make_pairs, config, tmp_path):
    errors = {}
    for kind in ("none", "telling"):
        pairs = captioned(make_pairs, kind, noise=3.0)
        scalers = fit_scalers(pairs, config.ntcl.encoder)
        with seeded(0) as generator:
            network = NeuroAlign(architecture_of(pairs, scalers, config.ntcl))
            start_linear(network, to_tensors(pairs, scalers), generator)
        errors[kind] = abs(float(network.haemodynamic.log_delay.detach()[-1].exp()) - 6.4)
    assert errors["telling"] < 0.7
    assert errors["telling"] < errors["none"]


def test_a_start_with_noise_is_the_start_of_the_video_alone(make_pairs, config):
    states = {}
    for kind in ("none", "noise"):
        pairs = captioned(make_pairs, kind, clips=(50, 15, 5))
        scalers = fit_scalers(pairs, config.ntcl.encoder)
        with seeded(0) as generator:
            network = NeuroAlign(architecture_of(pairs, scalers, config.ntcl))
            start_linear(network, to_tensors(pairs, scalers), generator)
        states[kind] = {
            n: v for n, v in network.state_dict().items() if n.startswith(("encoders.", "pools."))
        }
    # Directions beyond the rank hold random numbers, and a network with text has drawn more of them before.
    for name in ("log_delay", "log_dispersion", "subject_shift"):
        key = f"encoders.fmri.resample.{name}"
        assert torch.equal(states["none"][key], states["noise"][key])
    for name in ("encoders.fmri.patches.0.weight", "encoders.video.maps.1"):
        a, b = (states[kind][name] for kind in ("none", "noise"))
        assert float((a - b).abs().max()) < 0.1 * float(a.abs().max())


def samples(seed=0, n=120, steps=2, features=6, words=5, mix=0.0):
    """Brain, video and text of a linear world; `mix` is how much of the text the video knows."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32))  # noqa: E731
    v, own = draw(n, steps, features), draw(n, steps, words)
    t = (1 - mix) * own + mix * v[..., :words]
    x = torch.cat([v, t], -1) @ draw(features + words, 12) + 0.5 * draw(n, steps, 12)
    rows = torch.arange(n)
    return Samples(x, v, rows, torch.zeros(n, dtype=torch.long), shared=True), TextSamples(
        t, torch.ones(n, steps) > 0
    )


def test_at_strength_zero_brain_and_video_are_those_of_the_video_alone():
    data, text = samples()
    rows, recipe = torch.arange(120), Recipe(0.1, 0.1, 0.5)
    a, b, _ = joint_maps(data, text, rows, recipe, 8, 0.0)
    plain = data.fit(rows).maps(recipe, 8)
    assert torch.equal(a, plain[0])
    assert torch.equal(b, plain[1])


def test_two_modalities_that_know_nothing_of_each_other_add_up_to_the_joint_variates():
    data, text = samples(n=3000)
    rows, recipe = torch.arange(3000), Recipe(0.1, 0.1, 0.5)
    _, b_video, b_text = joint_maps(data, text, rows, recipe, 8, 1.0)
    both = replace(data, y=torch.cat([data.y, text.t], -1))
    joint = both.fit(rows).maps(recipe, 8)[1]
    total, guess = both.y @ joint, data.y @ b_video + text.t @ b_text
    assert float((total - guess).norm() / total.norm()) < 0.1


def test_a_modality_takes_over_what_it_predicts_of_the_other():
    data, text = samples(n=3000, mix=1.0)
    rows, recipe = torch.arange(3000), Recipe(0.1, 0.1, 0.5)
    _, b_video, _ = joint_maps(data, text, rows, recipe, 8, 1.0)
    both = replace(data, y=torch.cat([data.y, text.t], -1))
    total = both.y @ both.fit(rows).maps(recipe, 8)[1]
    # The text is part of the video here, so that the video alone gives the joint variates.
    assert float((total - data.y @ b_video).norm() / total.norm()) < 0.1


def test_every_pair_is_logged_and_can_be_switched_off(make_pairs, tiny, tmp_path):
    pairs = captioned(make_pairs, "telling", gaps=0.3, clips=(30, 12, 3), subjects=2)
    terms = ("global", "level", "time", "pred")
    for name, weights, expected in (
        ("both", {}, {f"{t}{p}" for t in terms for p in ("", "_fmri_text", "_video_text")}),
        ("one", {"video_text": 0}, {f"{t}{p}" for t in terms for p in ("", "_fmri_text")}),
        ("none", {"fmri_text": 0, "video_text": 0}, set(terms)),
    ):
        config = tiny({"epochs": 1}, {"epochs": 1}).model_copy(update={"text": TextPairs(**weights)})
        train_ntcl(pairs, tmp_path / name / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
        history = pd.read_csv(tmp_path / name / "ntcl" / "history.tsv", sep="\t")
        for split in ("train", "validation"):
            found = set(history[history["split"] == split]["term"])
            assert {t for t in found if t.startswith(terms)} == expected
    config = tiny({"epochs": 1}, {"epochs": 1})
    train_vq(pairs, tmp_path / "both" / "ntcl", tmp_path / "vq", config, 0, made_by={})
    history = pd.read_csv(tmp_path / "vq" / "history.tsv", sep="\t")
    expected = {
        f"{t}{p}"
        for t in ("commitment", "agreement", "prediction")
        for p in ("", "_fmri_text", "_video_text")
    }
    expected |= {"reconstruction", "reconstruction_text", "contrast", "total"}
    assert set(history[history["split"] == "train"]["term"]) == expected


def test_the_loss_is_the_weighted_sum_and_gaps_take_no_part(make_pairs, config):
    pairs = captioned(make_pairs, "telling", gaps=0.6, clips=(30, 12, 3), subjects=2)
    pairs.video.has_text[:5] = False
    pairs.video.text[:5] = 0
    scalers = fit_scalers(pairs, config.ntcl.encoder)
    data = to_tensors(pairs, scalers)
    torch.manual_seed(0)
    network = NeuroAlign(architecture_of(pairs, scalers, config.ntcl)).eval()
    batch = take_batch(data, data.train, torch.arange(24))
    encoded = encode(network, batch, nullcontext())
    weights = TextPairs(fmri_text=0.5, video_text=0.25)
    found = pairings(batch, encoded, weights)
    assert [p.name for p in found] == ["", "_fmri_text", "_video_text"]
    has = batch.text.present.any(1)
    for pair in found[1:]:
        assert bool(pair.present.any(1).all())
        assert len(pair.columns.clip) == int(has.sum())
        torch.testing.assert_close(pair.rows.clip, pair.columns.clip[pair.own])
        a, b = pair.take(encoded)
        assert len(a.pooled) == len(pair.own)
        assert len(b.pooled) == len(pair.columns.clip)
    terms = ntcl_terms(network, encoded, batch, config.ntcl, weights)
    kinds = {"global": 1.0, "level": 0.5, "time": 0.25, "pred": 0.25}
    factors = {"": 1.0, "_fmri_text": 0.5, "_video_text": 0.25}
    expected = sum(k * f * terms[f"{n}{p}"] for n, k in kinds.items() for p, f in factors.items())
    expected = expected + config.ntcl.terms.shift * terms["shift"]
    torch.testing.assert_close(ntcl_loss(terms, config.ntcl, weights), expected)


def test_files_of_both_stages_know_the_third_modality(trained):
    branch, pairs = trained
    codes = pd.read_csv(branch / "vq" / "codes.tsv", sep="\t")
    counts = codes.groupby(["level", "depth", "modality"])["count"].sum().unstack()
    table = pairs.clips[pairs.clips["split"].isin(["train", "validation"])]
    spoken = pairs.video.has_text[pairs.video.rows_of(table["clip_id"])].sum()
    assert (counts["text"] == spoken).all()
    assert (counts["fmri"] == 4 * len(table)).all()
    assert (counts["video"] == 4 * len(table)).all()
    usage = pd.read_csv(branch / "vq" / "usage.tsv", sep="\t")
    assert {"perplexity_text", "used_share_text", "same_code_share_text", "same_code_chance_text"} <= set(
        usage
    )
    assert usage["same_code_share_text"].between(0, 1).all()
    first = usage[(usage["depth"] == 1) & (usage["level"] == "high")]
    assert (first["same_code_share_text"] > first["same_code_chance_text"]).all()
    clips = pd.read_csv(branch / "vq" / "code_clips.tsv", sep="\t")
    assert clips["count"].gt(0).all()


def test_quantised_models_use_captions_too(trained):
    branch, pairs = trained
    found = measured(neuroalign.load(branch), pairs)
    assert set(found) == {"fused", "continuous", "quantised", "video_only", "text"}
    assert found["fused"]["mrr"] > found["video_only"]["mrr"] + 0.03
    assert found["quantised"]["top1"] > 4 / 40


def test_a_gallery_without_captions_gets_the_video_alone_and_is_told(trained, caplog):
    branch, pairs = trained
    model = neuroalign.load(branch)
    with caplog.at_level(logging.WARNING):
        plain = score_pairs(model, without_text(pairs))
    assert "scored by video alone" in caplog.text
    assert set(next(iter(plain.values()))[2]) == {"fused", "continuous", "quantised"}
    for subject, (_, _, parts) in score_pairs(model, pairs).items():
        np.testing.assert_allclose(plain[subject][2]["fused"], parts["video_only"], atol=1e-6)
    silent = replace(pairs.video, text=0 * pairs.video.text, has_text=np.zeros_like(pairs.video.has_text))
    for subject, (_, _, parts) in score_pairs(model, replace(pairs, video=silent)).items():
        np.testing.assert_allclose(parts["fused"], plain[subject][2]["fused"], atol=1e-6)


def test_loaded_models_embed_captions_of_a_film(trained):
    branch, pairs = trained
    model = neuroalign.load(branch)
    film = shards.Embedding(
        {level: np.tile(x[3], (8, 1)) for level, x in pairs.video.levels.items()}, np.arange(32) + 0.5
    )
    words = np.tile(np.where(pairs.video.has_text[3][:, None], pairs.video.text[3], 0), (8, 1))
    said = ["word" if has else "" for has in np.tile(pairs.video.has_text[3], 8)]
    captions = Captions(said, words, film.times, {"window_s": 1.0, "stride_s": 1.0})
    clips = model.embed_video(film, [0.0, 4.0], captions)
    expected = model.embed_video(pairs.video.select(np.array([3])))
    np.testing.assert_array_equal(clips.text.present[0], pairs.video.has_text[3])
    np.testing.assert_allclose(clips.text.pooled[0], expected.text.pooled[0], atol=1e-5)
    assert model.embed_video(film, [0.0]).text is None
    brain = model.embed_fmri(*pairs.of("01", "test")[:1], "01")
    assert model.score(brain, clips).shape == (len(brain), 2)
    narrow = Captions(said, words[:, :3], film.times, captions.attributes)
    with pytest.raises(UserError, match=r"captions have shape .* embed them with the text model"):
        model.embed_video(film, [0.0], narrow)


def test_too_few_captions_in_training_are_a_sentence(make_pairs, config, tmp_path):
    pairs = captioned(make_pairs, "telling", clips=(20, 8, 3), subjects=2)
    pairs.video.has_text[2:] = False
    pairs.video.text[~pairs.video.has_text] = 0
    pairs.video.has_text[:2, 1:] = False
    with pytest.raises(UserError, match="Only 2 steps of the training clips have a caption"):
        train_ntcl(pairs, tmp_path, config, 0, made_by={}, geometry=GEOMETRY)


def test_captions_of_test_clips_leave_no_trace(make_pairs, tiny, tmp_path):
    weights = []
    for name in ("a", "b"):
        pairs = captioned(make_pairs, "telling", clips=(30, 12, 8), subjects=2)
        if name == "b":
            pairs.video.text[42:] = 1e3
        train_ntcl(pairs, tmp_path / name, tiny({"epochs": 1}), 0, made_by={}, geometry=GEOMETRY)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "precision"), [({"voxels": True}, "float32"), ({"aligned": True}, "bfloat16")]
)
def test_every_kind_of_brain_takes_captions(make_pairs, tiny, tmp_path, options, precision):
    pairs = captioned(make_pairs, "telling", gaps=0.3, noise=1.0, clips=(40, 15, 20), subjects=2, **options)
    config = tiny(
        {"epochs": 1, "encoder": {"dim": 16, "depth": 1, "heads": 2, "pooling": "mean"}}, {"epochs": 1}
    ).model_copy(update={"precision": precision})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    assert measured(neuroalign.load(tmp_path), pairs)["fused"]["top1"] > 3 / 20
