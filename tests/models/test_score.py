"""The score: late interaction against loops, fusion, scaling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.models.scaling import Scaler, Scalers, whitening, z_score
from neuroalign.models.score import Embedding, Weights, fuse, late_interaction, similarity_parts, weight_grid


def embedding(n, seed=0, codes=True) -> Embedding:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return Embedding(draw(n, 12), draw(n, 4, 6), draw(n, 4, 2, 5) if codes else None)


@pytest.mark.parametrize("near", [0, 1, 10])
def test_late_interaction_equals_a_naive_loop(near):
    a, b = embedding(3).steps, embedding(5, 1).steps
    cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)  # noqa: E731
    expected = [
        [
            np.mean([max(cosine(x[t], y[u]) for u in range(4) if abs(u - t) <= near) for t in range(4)])
            for y in b
        ]
        for x in a
    ]
    np.testing.assert_allclose(late_interaction(a, b, near), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(weight_grid(True, 1)))
def test_fused_score_is_the_formula(weights):
    parts = similarity_parts(embedding(4), embedding(9, 1))
    fused = fuse(parts, weights)
    expected = (
        weights.alpha * parts["pooled"]
        + weights.beta * parts["quantised"]
        + (1 - weights.alpha - weights.beta) * parts["late"]
    )
    np.testing.assert_allclose(fused["fused"], expected, atol=1e-5)
    np.testing.assert_allclose(fused["quantised"], parts["quantised"])


def test_without_codes_the_fused_score_is_the_continuous_one():
    parts = similarity_parts(embedding(4, codes=False), embedding(9, 1, codes=False))
    fused = fuse(parts, Weights(0.7, 0.0))
    assert set(fused) == {"fused", "continuous"}
    np.testing.assert_allclose(fused["fused"], fused["continuous"], rtol=1e-6)
    assert all(w.beta == 0 for w in weight_grid(False, 1))


def test_what_all_candidates_share_does_not_matter_and_queries_do_not_depend_on_each_other():
    brain, video = embedding(4), embedding(9, 1)
    shifted = Embedding(video.pooled + 5, video.steps + 5, video.codes + 5)
    for name, part in similarity_parts(brain, video).items():
        np.testing.assert_allclose(similarity_parts(brain, shifted)[name], part, atol=1e-4)
        np.testing.assert_allclose(
            similarity_parts(brain.take(np.array([2])), video)[name], part[[2]], atol=1e-5
        )


def test_small_galleries_are_centred_on_training_clips():
    brain, video = embedding(2), embedding(1, 1)
    centre = {name: np.zeros(x.shape[1:], np.float32) for name, x in video.vectors().items()}
    parts = similarity_parts(brain, video, 1, centre, centre)
    assert all(np.abs(part).max() > 0.01 for part in parts.values())


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 60), st.integers(2, 30), st.integers(0, 50))
def test_whitening_without_shrinkage_gives_unit_covariance(n, inputs, seed):
    x = np.random.default_rng(seed).standard_normal((n, inputs)) @ np.diag(np.linspace(1, 3, inputs))
    x -= x.mean(0)
    y = x @ whitening(x, inputs, 0.0)
    kept = min(inputs, n - 1)
    assert y.shape == (n, kept)
    np.testing.assert_allclose(y.T @ y / n, np.eye(kept), atol=1e-3)


def test_full_shrinkage_leaves_relative_variances():
    x = np.random.default_rng(0).standard_normal((500, 4)) * [1, 2, 3, 4]
    x -= x.mean(0)
    y = x @ whitening(x, 4, 1.0)
    np.testing.assert_allclose(y.var(0) / y.var(0).sum(), np.sort(x.var(0))[::-1] / x.var(0).sum(), rtol=0.1)


def test_scalers_survive_storage_pad_and_fall_back():
    wide, narrow = z_score(np.random.default_rng(0).normal(3, 2, (50, 4))), Scaler(np.zeros(2), np.ones(2))
    scalers = Scalers({("01", "early"): wide, ("", "early"): narrow}, {"features": wide})
    again = Scalers.of(scalers.arrays())
    assert again.brain_width("early") == 4
    unknown = again.scale_brain("99", "early", np.ones((1, 3, 2)))
    np.testing.assert_array_equal(unknown[0, 0], [1, 1, 0, 0])
    np.testing.assert_allclose(again.video["features"].std, wide.std)


def test_constant_units_scale_to_zero():
    assert float(np.abs(z_score(np.full((9, 1), 4.0))(np.full((2, 1), 4.0))).max()) == 0


def captioned(n, seed=0, codes=True, share=0.7) -> Embedding:
    """Clips with captions at some steps; nothing where there is none."""
    clips, text = embedding(n, seed, codes), embedding(n, seed + 50, codes)
    text = Embedding(text.steps.reshape(n, -1).copy(), text.steps, text.codes)
    clips = Embedding(
        np.random.default_rng(seed).standard_normal((n, 24)).astype(np.float32), clips.steps, clips.codes
    )
    present = np.random.default_rng(seed).random((n, 4)) < share
    present[1] = False
    text.steps[~present] = 0
    text.pooled[:] = text.steps.reshape(n, -1)
    if codes:
        text.codes[~present] = 0
    text.present = present
    clips.text = text
    return clips


def brain_of(n) -> Embedding:
    item = embedding(n, 9)
    return Embedding(
        np.random.default_rng(9).standard_normal((n, 24)).astype(np.float32), item.steps, item.codes
    )


def naive_sum(clips: Embedding, name: str, weight: float) -> np.ndarray:
    """The vectors of clips, one by one: video and captions without their means, captions only where there are any."""
    video, words = getattr(clips, name), getattr(clips.text, name)
    steps = clips.text.steps.shape[1]
    video, words = (x.reshape(len(x), steps, -1) for x in (video, words))
    out = video - video.mean(0)
    for t in range(steps):
        here = clips.text.present[:, t]
        if here.any():
            out[here, t] += weight * (words[here, t] - words[here, t].mean(0))
    return out.reshape(getattr(clips, name).shape)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_captions_are_added_to_the_video_in_every_part(weight):
    clips, brain = captioned(12), brain_of(5)
    parts = similarity_parts(brain, clips, 1, text=weight)
    whole = Embedding(*(naive_sum(clips, name, weight) for name in ("pooled", "steps", "codes")))
    # The sum has mean zero only where every clip has text; a centre of zeros leaves it as it is.
    nothing = {name: np.zeros(x.shape[1:], np.float32) for name, x in whole.vectors().items()}
    seven = np.arange(7)
    expected = similarity_parts(brain, whole.take(seven), 1, None, nothing)
    for name in ("pooled", "late", "quantised"):
        np.testing.assert_allclose(parts[name][:, :7], expected[name], atol=1e-5)
    if weight == 0:
        alone = similarity_parts(brain, Embedding(clips.pooled, clips.steps, clips.codes), 1)
        for name in alone:
            np.testing.assert_array_equal(parts[name], alone[name])


def test_a_clip_without_captions_is_compared_by_its_video_alone():
    clips, brain = captioned(12), brain_of(5)
    with_words, without = (similarity_parts(brain, clips, 1, text=w) for w in (1.0, 0.0))
    assert np.abs(with_words["text"][:, 1]).max() == 0
    for name in ("pooled", "late", "quantised"):
        np.testing.assert_allclose(with_words[name][:, 1], without[name][:, 1], atol=1e-6)
        assert np.abs(with_words[name][:, 0] - without[name][:, 0]).max() > 0.01


def test_scalers_of_text_are_kept_and_leave_gaps_empty():
    text = z_score(np.random.default_rng(0).normal(3, 2, (50, 4)))
    scalers = Scalers({("", "early"): text}, {"features": text}, {"text": text})
    again = Scalers.of(scalers.arrays())
    present = np.array([[True, False]])
    scaled = again.scale_text(np.zeros((1, 2, 4), np.float32), present)
    np.testing.assert_allclose(scaled[0, 0], -text.mean / text.std, rtol=1e-5)
    assert not scaled[0, 1].any()
    assert Scalers.of(Scalers({("", "early"): text}, {"features": text}).arrays()).text == {}
