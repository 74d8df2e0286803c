"""The curve of lags for many subjects: the numbers of the plain computation, without its matrices."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from neuroalign.pairs.lags import ALL, lag_curve
from neuroalign.pairs.linear import fit_scale, flat, scaled
from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows
from neuroalign.pairs.windows import on_steps

STEPS = np.arange(4) + 0.5


def many(
    splits: Sequence[str], *, clips: int = 30, features: int = 12, units: int = 6, repeats: int = 1
) -> PairedDataset:
    """Subjects who saw the same clips `repeats` times; `splits` has the part of each, or "clips" to split by clip.

    Subjects by clip miss a clip each, as censoring would have it.
    """
    rng = np.random.default_rng(0)
    names = [f"film@{4 * i}+4" for i in range(clips)]
    video = rng.standard_normal((clips, 4, features)).astype(np.float32)
    weights = rng.standard_normal((features, units)).astype(np.float32)
    by_clip = np.where(np.arange(clips) % 3 == 2, "validation", "train")
    rows, brain, times = [], {}, np.arange(0.0, 16.0).astype(np.float32)
    for number, split in enumerate(splits):
        shown = np.repeat(np.arange(clips), repeats)
        if split == "clips":
            shown = np.delete(shown, number)
        first = len(rows)
        rows += [
            {
                "subject": f"{number:03d}",
                "clip_id": names[i],
                "split": by_clip[i] if split == "clips" else split,
            }
            for i in shown
        ]
        answer = video[shown] @ weights
        # Held for the volumes around the response of each step, which comes 5 s later.
        data = answer[:, np.clip(np.arange(16) - 5, 0, 3)]
        data = data + 2 * rng.standard_normal(data.shape).astype(np.float32) + 3
        brain[f"{number:03d}"] = BrainWindows(
            np.arange(first, len(rows)),
            {"early": data[..., :2], "high": data[..., 2:]},
            np.tile(times, (len(shown), 1)),
            np.ones((len(shown), 16), bool),
            {"early": ["a", "b"], "high": [str(i) for i in range(units - 2)]},
            aligned=False,
        )
    return PairedDataset(pd.DataFrame(rows), brain, VideoWindows(names, {"f": video}, STEPS))


def plainly(pairs: PairedDataset, lags_s: Sequence[float]) -> pd.DataFrame:
    """Ridge of every presentation of every training window by the normal equations, one subject and lag at a time."""
    parts = {s: (pairs.of(s, "train"), pairs.of(s, "validation")) for s in pairs.subjects}
    trained = [s for s in parts if len(parts[s][0][1])]
    everything = np.concatenate([parts[s][0][1] for s in trained])
    video = pairs.video.levels["f"]
    video = scaled(video, fit_scale(video[np.unique(everything)]))
    rows = []
    for lag in lags_s:
        brain = {}
        for s in trained:
            data = on_steps(parts[s][0][0], STEPS, lag)
            brain[s] = flat(scaled(data, fit_scale(data)))
        for s, (_, (windows, contents)) in parts.items():
            if len(np.unique(contents)) < 2:
                continue
            x = flat(video[parts[s][0][1] if s in trained else everything]).astype(float)
            y = brain[s] if s in trained else np.concatenate(list(brain.values()))
            measured = flat(on_steps(windows, STEPS, lag))
            centred, new = x - x.mean(0), flat(video[contents]) - x.mean(0)
            gram = centred.T @ centred
            for alpha in (1.0, 10.0, 100.0):
                penalty = alpha * np.trace(gram) / min(x.shape) * np.eye(len(gram))
                predicted = new @ np.linalg.solve(gram + penalty, centred.T @ y)
                r = np.array([np.corrcoef(p, m)[0, 1] for p, m in zip(predicted.T, measured.T, strict=True)])
                for level, part in ((ALL, r), ("early", r[:2]), ("high", r[2:])):
                    rows.append((alpha, level, lag, part.mean()))
    table = pd.DataFrame(rows, columns=["alpha", "level", "lag_s", "r"])
    table = table.groupby(["alpha", "level", "lag_s"])["r"].mean()
    return table.loc[table.xs(ALL, level="level").idxmax()[0]]


CASES = {
    "own maps": ["clips"] * 3,
    "unseen": ["train", "train", "validation", "train", "validation", "test"],
    "both": ["clips", "train", "validation"],
}


@pytest.mark.parametrize("features", [12, 300], ids=["more samples", "more inputs"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("splits", CASES.values(), ids=CASES)
def test_curves_are_those_of_a_plain_computation(splits, repeats, features):
    pairs = many(splits, repeats=repeats, features=features)
    lags = (3.0, 4.5, 5.0, 7.0)
    found = lag_curve(pairs, lags)
    expected = plainly(pairs, lags)
    assert found["level"].tolist() == [level for level in (ALL, "early", "high") for _ in lags]
    assert found["lag_s"].tolist() == 3 * list(lags)
    np.testing.assert_allclose(
        found["r"],
        [expected[level, lag] for level, lag in zip(found["level"], found["lag_s"], strict=True)],
        atol=1e-5,
    )


def test_memory_does_not_grow_with_the_training_set_of_all_subjects():
    """16 training subjects of 100 clips and 4 unseen ones: matrices from all samples to predictions would take 123 MB."""
    pairs = many(["train"] * 16 + ["validation"] * 4, clips=100, features=60)
    tracemalloc.start()
    curve = lag_curve(pairs, (4.0, 5.0, 6.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(curve) == 9
    assert peak < 8e6


def test_inputs_are_decomposed_once_for_all_who_saw_the_same(monkeypatch):
    calls = []
    original = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: calls.append(len(matrix)) or original(matrix))
    lag_curve(many(["train"] * 6 + ["validation"] * 5), (4.0, 5.0))
    assert len(calls) == 1
