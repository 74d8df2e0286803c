"""The response that is fitted forwards, and reading along it: against simulated volumes with known delays and noise."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma

from neuroalign.models.encoders.haemodynamic import CONTEXT_STEPS, HaemodynamicAttention, response
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import BrainInput
from neuroalign.training.response import (
    film_around,
    fit_response,
    join_films,
    noise_autocorrelation,
    volumes_of,
)

STEPS, TR = 4, 2.0


def smooth(rng, n, features, width=3.0):
    x = rng.standard_normal((n + 40, features))
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / width) ** 2)
    return np.stack([np.convolve(c, kernel / kernel.sum(), "same") for c in x.T], 1)[20:-20] * 3


def watched(delays, noise=0.5, seconds=600, films=2, features=6, units=8, seed=0):
    """Volumes of levels that answer films with canonical responses of different delay; windows of 4-s clips."""
    rng = np.random.default_rng(seed)
    times = np.arange(0.5, seconds, 1.0)
    volume_times = np.arange(TR / 2, seconds, TR)
    video, start, stimulus, windows = [], [], [], {f"level{i}": [] for i in range(len(delays))}
    maps = [rng.standard_normal((features, units)) for _ in delays]
    at, valid = [], []
    for film in range(films):
        x = smooth(rng, len(times), features)
        lag = volume_times[:, None] - times
        series = []
        for delay, weight in zip(delays, maps, strict=True):
            # scipy's densities, not our formula: shape 6, peak moved to the delay.
            shape = delay**2 / 5 + 1
            h = gamma.pdf(lag, shape, scale=5 / delay)
            series.append(h @ x @ weight + noise * rng.standard_normal((len(volume_times), units)))
        for begin in range(0, seconds - 20, STEPS):
            inside = np.flatnonzero((volume_times >= begin) & (volume_times < begin + STEPS + 12))
            video.append(x[begin : begin + STEPS])
            start.append(float(begin))
            stimulus.append(film)
            at.append(volume_times[inside] - begin)
            valid.append(np.ones(len(inside), bool))
            for level, values in zip(windows, series, strict=True):
                windows[level].append(values[inside])
    tensor = lambda v: torch.tensor(np.array(v), dtype=torch.float32)  # noqa: E731
    n = len(video)
    brain = BrainInput(
        {k: tensor(v) for k, v in windows.items()},
        tensor(at),
        torch.tensor(np.array(valid)),
        torch.zeros(n, dtype=torch.long),
    )
    content = Content(torch.arange(n), torch.tensor(stimulus), tensor(start))
    return brain, tensor(video), content


def test_delays_of_all_levels_are_found():
    truth = (4.0, 5.5, 7.5)
    brain, video, content = watched(truth)
    films = join_films(video, torch.arange(len(video)), content, torch.arange(STEPS) + 0.5)
    layer = HaemodynamicAttention(3, 1, 8, STEPS)
    volumes = volumes_of(brain, torch.arange(len(video)), content, films, torch.Generator().manual_seed(0))
    fit_response(layer, volumes)
    found = layer.log_delay.detach().exp().numpy()
    assert np.abs(found - truth).max() < 0.5
    assert list(found) == sorted(found)


def test_films_are_put_together_from_clips_that_overlap():
    film = torch.arange(20.0)[:, None]
    starts = [0, 2, 4, 12]
    video = torch.stack([film[s : s + 4] for s in starts])
    content = Content(torch.arange(4), torch.zeros(4, dtype=torch.long), torch.tensor(starts).float())
    joined = join_films(video, torch.arange(4), content, torch.arange(4) + 0.5)
    assert joined.features[:, 0].tolist() == [*range(8), *range(12, 16)]
    assert joined.times.tolist() == [t + 0.5 for t in [*range(8), *range(12, 16)]]


def test_volumes_after_a_gap_in_what_is_known_of_the_film_are_left_out():
    brain, video, content = watched((5.0,), films=1)
    # What a validation part in the middle of the film leaves.
    clips = torch.nonzero((content.start_s < 200) | (content.start_s > 300))[:, 0]
    films = join_films(video, clips, content, torch.arange(STEPS) + 0.5)
    rows = BrainInput(
        {k: x[clips] for k, x in brain.levels.items()},
        brain.times[clips],
        brain.valid[clips],
        brain.subject[clips],
    )
    volumes = volumes_of(rows, clips, content, films, torch.Generator().manual_seed(0))
    at = content.start_s[clips][:, None] + brain.times[clips]
    assert len(volumes.subject) < int(rows.valid.sum())
    # The nearest known step is at most a step away from every volume that is used.
    assert float(torch.where(volumes.lag_s > 0, volumes.lag_s, torch.inf).min(1).values.max()) <= 13
    assert float(at.max()) > 300


def test_clips_that_are_films_of_their_own_say_nothing_of_what_surrounds_them():
    video = torch.randn(40, STEPS, 5)
    content = Content(torch.arange(40), torch.arange(40), torch.zeros(40))
    films = join_films(video, torch.arange(40), content, torch.arange(STEPS) + 0.5)
    around = film_around(films, STEPS)
    inside = around[CONTEXT_STEPS : CONTEXT_STEPS + STEPS]
    torch.testing.assert_close(inside, torch.eye(STEPS))
    outside = torch.cat([around[: CONTEXT_STEPS - STEPS], around[CONTEXT_STEPS + 2 * STEPS :]])
    assert float(outside.abs().max()) == 0.0


def test_a_smooth_film_is_predicted_from_the_clip():
    _, video, content = watched((5.0,))
    films = join_films(video, torch.arange(len(video)), content, torch.arange(STEPS) + 0.5)
    around = film_around(films, STEPS)
    x, errors, size = films.features[: films.last[0]], [], []
    for begin in range(30, 500, 7):
        clip = x[begin : begin + STEPS]
        errors.append((x[begin - 1] - around[CONTEXT_STEPS - 1] @ clip).square().sum())
        size.append(x[begin - 1].square().sum())
    assert sum(errors) < 0.3 * sum(size)


def test_noise_is_found_and_read_away():
    rng = np.random.default_rng(1)
    n, volumes = 4000, 8
    e = rng.standard_normal((n, volumes, 3))
    for v in range(1, volumes):
        e[:, v] = 0.7 * e[:, v - 1] + math.sqrt(1 - 0.49) * e[:, v]
    times = torch.arange(volumes).float().expand(n, -1) * TR + 1
    brain = BrainInput(
        {"a": torch.tensor(e, dtype=torch.float32)},
        times,
        torch.ones(n, volumes, dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
    )
    noise, spacing = noise_autocorrelation(brain)
    assert spacing == TR
    np.testing.assert_allclose(noise[0, :volumes], 0.7 ** np.arange(volumes), atol=0.05)
    layer = HaemodynamicAttention(1, 1, 3, STEPS)
    layer.noise.copy_(noise)
    layer.noise_spacing_s.fill_(spacing)
    steps = torch.arange(STEPS) + 0.5
    lower = layer.calibrate(times, brain.valid, steps, brain.subject)
    assert torch.equal(lower, lower.tril())
    with torch.no_grad():
        information = layer.information(times[:1], brain.valid[:1], steps, brain.subject[:1])[0, 0]
        z = layer(brain.levels["a"][:, :, None], times, brain.valid, steps, brain.subject)[:, :, 0]
    torch.testing.assert_close(lower.T @ lower, information, rtol=0.1, atol=0.05)
    weights = layer.weights(times[:1], brain.valid[:1], steps, brain.subject[:1])[0, 0]
    covariance = torch.einsum("ntu,nsu->ts", z, z) / (n * 3)
    true = 0.7 ** (torch.arange(volumes)[:, None] - torch.arange(volumes)).abs().float()
    torch.testing.assert_close(covariance, weights @ true @ weights.T, atol=0.05, rtol=0.05)
    # White and of unit variance in what the volumes tell; less where they tell next to nothing.
    values = torch.linalg.eigvalsh(covariance)
    assert 0.85 < float(values[-1]) < 1.15
    assert 0.7 < float(values[-2]) < 1.15


def test_reading_gives_the_film_as_the_video_side_shows_it():
    layer = HaemodynamicAttention(1, 1, 1, STEPS)
    steps, times = torch.arange(STEPS) + 0.5, torch.arange(16.0)[None]
    valid, subject = torch.ones(1, 16, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    lower = layer.calibrate(times, valid, steps, subject)
    film = torch.tensor([0.3, -1.0, 2.0, 0.5])
    with torch.no_grad():
        evoked = layer.design(times, valid, steps, subject)[0, 0] @ film
        read = layer(evoked[None, :, None, None], times, valid, steps, subject)[0, :, 0, 0]
    expected = lower @ film
    # What the response blurs away is not made up.
    assert float((read - expected).norm() / expected.norm()) < 0.2


def test_the_response_is_the_canonical_one():
    lag = torch.linspace(0.1, 30, 300, dtype=torch.float64)
    ours = response(
        lag, torch.tensor(5.0, dtype=torch.float64), torch.tensor(math.sqrt(5.0), dtype=torch.float64)
    )
    spm = gamma.pdf(lag.numpy(), 6) - gamma.pdf(lag.numpy(), 16) / 6
    np.testing.assert_allclose(ours, spm / gamma.pdf(5, 6), atol=2e-3)


@pytest.mark.parametrize("missing", [1, 3])
def test_censored_volumes_leave_the_others_unbiased(missing):
    layer = HaemodynamicAttention(1, 1, 1, STEPS)
    steps, times = torch.arange(STEPS) + 0.5, torch.arange(16.0)[None]
    valid, subject = torch.ones(1, 16, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    valid[0, 5 : 5 + missing] = False
    weights = layer.weights(times, valid, steps, subject).detach()
    assert float(weights[..., ~valid[0]].abs().max()) == 0.0
    assert bool(torch.isfinite(weights).all())
