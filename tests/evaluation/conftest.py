"""A small paired dataset with known truth: units respond linearly to video features, at a known lag."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows

LAG_S = 5.0
STEPS = 4


def make_pairs(
    aligned: bool = True,
    subjects: int = 2,
    noise: float = 1.0,
    signal: float = 1.0,
    seed: int = 0,
    same_units: bool = True,
    low_level: bool = True,
) -> PairedDataset:
    """Pairs with a training film, a validation film and a test film in two runs, shown twice to the first subject."""
    rng = np.random.default_rng(seed)
    films = {"train": (50, 1), "validation": (16, 1), "test": (24, 2)}
    contents = [(film, 4.0 * i) for film, (n, _) in films.items() for i in range(n)]
    ids = [f"{film}@{start:.3f}+4.000" for film, start in contents]
    features = rng.standard_normal((len(contents), STEPS, 12)).astype(np.float32)
    weights = rng.standard_normal((12, 20))
    rows, brain = [], {}
    for number in range(subjects):
        label = f"{number + 1:02d}"
        own = weights + 0.3 * rng.standard_normal(weights.shape)
        shown, table_rows = [], []
        for repeat in range(2 if number == 0 else 1):
            for content, (film, start) in enumerate(contents):
                if repeat and film != "test":
                    continue
                half = int(films[film][1] == 2 and start >= 48)
                table_rows.append(len(rows))
                shown.append(content)
                rows.append(
                    (
                        ids[content],
                        film,
                        start,
                        4.0,
                        label,
                        "",
                        film,
                        f"{1 + half + 2 * repeat}",
                        start - 48 * half,
                        film,
                        film,
                        repeat,
                    )
                )
        clean = signal * features[shown] @ own
        units = 20 if same_units else 20 - number
        data = (clean + noise * rng.standard_normal(clean.shape) * np.sqrt(12))[..., :units]
        times = np.tile(np.arange(STEPS) + 0.5, (len(shown), 1))
        if not aligned:
            pad = noise * rng.standard_normal((len(shown), int(LAG_S), units)) * np.sqrt(12)
            data = np.concatenate([pad, data, pad], axis=1)
            times = np.tile(np.arange(data.shape[1]) + 0.5, (len(shown), 1))
        data = data.astype(np.float32)
        brain[label] = BrainWindows(
            np.array(table_rows),
            {"early": data[..., :8], "high": data[..., 8:]},
            times.astype(np.float32),
            np.ones(times.shape, bool),
            {"early": [f"e{i}" for i in range(8)], "high": [f"h{i}" for i in range(units - 8)]},
            aligned,
        )
    clips = pd.DataFrame(
        rows,
        columns=[
            "clip_id",
            "stimulus",
            "start_s",
            "duration_s",
            "subject",
            "session",
            "task",
            "run",
            "onset_s",
            "split",
            "group",
            "repeat",
        ],
    )
    steps = (np.arange(STEPS) + 0.5).astype(np.float32)
    low = rng.standard_normal((len(contents), STEPS, 3)).astype(np.float32) if low_level else None
    return PairedDataset(
        clips, brain, VideoWindows(ids, {"a": features[..., :5], "b": features[..., 5:]}, steps, low)
    )


@pytest.fixture(scope="session")
def pairs() -> PairedDataset:
    """Aligned pairs with a clear signal."""
    return make_pairs()


@pytest.fixture(scope="session")
def make():
    """The builder, for tests that need another data set."""
    return make_pairs
