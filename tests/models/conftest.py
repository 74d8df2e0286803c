"""A synthetic paired dataset with known delays, small enough to train on in seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows

LEVELS = ("early", "intermediate", "high")
TRUE_DELAYS = (4.2, 5.2, 6.4)


def gamma_response(lag: np.ndarray, delay: float, dispersion: float = 2.0) -> np.ndarray:
    """A gamma density with given time to peak and width, peak 1 (an independent copy of the model's formula)."""
    shape, scale = (delay / dispersion) ** 2, dispersion**2 / delay
    lag = np.maximum(lag, 1e-6)
    return (lag / delay) ** shape * np.exp((delay - lag) / scale)


def make_pairs(
    *,
    subjects: int = 3,
    clips: tuple[int, int, int] = (70, 25, 40),
    steps: int = 4,
    units: tuple[int, ...] = (20, 20, 20),
    latent: int = 5,
    dim: int = 16,
    noise: float = 1.0,
    tr: float = 1.5,
    window_s: float = 12.0,
    delays: tuple[float, ...] = TRUE_DELAYS,
    shifts: tuple[float, ...] | None = None,
    aligned: bool = False,
    voxels: bool = False,
    seed: int = 0,
) -> PairedDataset:
    """People watching films made of isolated clips.

    A low-dimensional latent series per level drives both the features of that level (noiseless mixture) and the
    brain's units (subject-specific mixture of the latent convolved with a gamma response of the level's delay,
    plus white noise). Clips follow each other without rest, in an order of each subject's own, so that the next
    clip's response overlaps.
    """
    rng = np.random.default_rng(seed)
    total, dt = sum(clips), 0.25
    per_clip = round(steps / dt)
    levels = LEVELS[: len(delays)]
    # A latent value per second, interpolated: content changes on the scale of a step.
    knots = rng.standard_normal((len(levels), total, steps, latent))
    latents = knots.repeat(round(1 / dt), axis=2)
    mixing = rng.standard_normal((len(levels), latent, dim)) / np.sqrt(latent)
    features = {name: (knots[i] @ mixing[i]).astype(np.float32) for i, name in enumerate(levels)}
    names = [f"clip{i:03d}" for i in range(total)]
    split = np.repeat(["train", "validation", "test"], clips)
    base = [rng.standard_normal((latent, u)) for u in units]

    rows, brain = [], {}
    for s in range(subjects):
        subject = f"{s + 1:02d}"
        order = rng.permutation(total)
        shift = shifts[s] if shifts else 0.0
        volumes = round((steps + window_s) / tr)
        n_units = [u + s for u in units] if voxels else list(units)
        data = {}
        times = rng.uniform(0, tr, (total, 1)) + tr * np.arange(volumes)
        for i, name in enumerate(levels):
            course = latents[i, order].reshape(-1, latent)
            course = np.concatenate([course, np.zeros((round(40 / dt), latent))])
            kernel = gamma_response(np.arange(0, 25, dt), delays[i] + shift)
            response = np.stack([np.convolve(c, kernel)[: len(course)] for c in course.T], axis=1)
            response /= response.std()
            weights = base[i] + 0.5 * rng.standard_normal(base[i].shape)
            if voxels:
                weights = rng.standard_normal((latent, n_units[i]))
            if aligned:
                sampled = knots[i, order]
            else:
                # The clock of the response starts at the beginning of a sample's quarter second.
                at = (np.arange(total)[:, None] * per_clip) + times / dt
                left = np.floor(at).astype(int)
                part = (at - left)[..., None]
                sampled = response[left] * (1 - part) + response[left + 1] * part
            signal = sampled @ weights / np.sqrt(latent)
            data[name] = (signal + noise * rng.standard_normal(signal.shape)).astype(np.float32)
        step_times = np.tile(np.arange(steps) + 0.5, (total, 1)).astype(np.float32)
        count = data[levels[0]].shape[1]
        first = len(rows)
        rows += [
            {
                "clip_id": names[c],
                "stimulus": f"film{c:03d}",
                "start_s": 0.0,
                "duration_s": float(steps),
                "subject": subject,
                "session": "",
                "task": "film",
                "run": "1",
                "onset_s": float(position * steps),
                "split": split[c],
                "group": names[c],
                "repeat": 0,
            }
            for position, c in enumerate(order)
        ]
        brain[subject] = BrainWindows(
            np.arange(first, len(rows)),
            data,
            step_times if aligned else times.astype(np.float32),
            np.ones((total, count), bool),
            {name: [f"{name}_{u}" for u in range(n)] for name, n in zip(levels, n_units, strict=True)},
            aligned,
        )
    video = VideoWindows(names, features, (np.arange(steps) + 0.5).astype(np.float32))
    return PairedDataset(pd.DataFrame(rows), brain, video)


@pytest.fixture(scope="session")
def synthetic():
    """The generator of synthetic paired datasets, `make_pairs`."""
    return make_pairs


@pytest.fixture(autouse=True)
def _one_thread():
    """Results must not depend on how many threads a machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
