"""The first minutes of a person, what is tested after them, and what others saw of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.errors import UserError
from neuroalign.pairs.minutes import (
    adaptation_parts,
    contiguous_folds,
    first_minutes,
    near_in_content,
    near_in_run,
    question_of,
    seconds_until,
)


def table(runs: dict[str, list[tuple[str, float, float]]], subject="01", split="test", duration=4.0):
    """Clips by run: (stimulus, start in the stimulus, onset in the run)."""
    return pd.DataFrame(
        [
            (
                f"{film}@{start:.3f}+{duration:.3f}",
                film,
                start,
                duration,
                subject,
                "",
                "film",
                run,
                onset,
                split,
            )
            for run, clips in runs.items()
            for film, start, onset in clips
        ],
        columns=[
            *("clip_id", "stimulus", "start_s", "duration_s", "subject", "session", "task", "run", "onset_s"),
            "split",
        ],
    )


def film(name: str, seconds: float, onset: float = 0.0, step: float = 4.0):
    return [(name, float(t), onset + t) for t in np.arange(0, seconds, step)]


def naive_near(clips, others, by, start, guard):
    return np.array(
        [
            any(
                all(a[k] == b[k] for k in by)
                and max(a[start], b[start]) - min(a[start] + a["duration_s"], b[start] + b["duration_s"])
                < guard - 1e-6
                for b in others.to_dict("records")
            )
            for a in clips.to_dict("records")
        ],
        dtype=bool,
    )


def test_seconds_count_overlap_once_and_gaps_not_at_all():
    clips = table({"1": film("a", 12, step=2.0), "2": [("b", 0.0, 100.0), ("b", 50.0, 160.0)]})
    # Clips of 4 s every 2 s: 4, 6, 8 … seconds; then two of 4 s each in another run.
    np.testing.assert_allclose(seconds_until(clips), [4, 6, 8, 10, 12, 14, 18, 22])
    np.testing.assert_array_equal(first_minutes(clips, np.arange(8), 10 / 60), [0, 1, 2, 3])
    np.testing.assert_array_equal(first_minutes(clips, np.arange(8), None), np.arange(8))
    assert not len(first_minutes(clips, np.arange(8), 0))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 5.0, 20.0]))
def test_nearness_is_that_of_a_naive_loop(seed, guard):
    rng = np.random.default_rng(seed)
    runs = {
        str(r): [
            (f"f{rng.integers(3)}", float(rng.integers(60)), float(t)) for t in np.sort(rng.choice(80, 5))
        ]
        for r in range(3)
    }
    clips = table(runs)
    part = rng.random(len(clips)) < 0.3
    others = clips[part]
    np.testing.assert_array_equal(
        near_in_run(clips, part, guard),
        naive_near(clips, others, ["subject", "session", "task", "run"], "onset_s", guard),
    )
    np.testing.assert_array_equal(
        near_in_content(clips, others, guard), naive_near(clips, others, ["stimulus"], "start_s", guard)
    )


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(10, 60), min_size=1, max_size=3),
    st.floats(0.1, 0.9),
    st.sampled_from([0.0, 10.0, 20.0]),
)
def test_parts_are_in_time_and_guarded(lengths, share, guard):
    clips = table({str(i): film(f"film{i}", 4.0 * n) for i, n in enumerate(lengths)})
    try:
        minutes, adaptation, tested = adaptation_parts(clips, "01", [0, 0.5, 1, 2, 5], share, guard)
    except UserError:
        return
    total = 4.0 * sum(lengths)
    assert minutes == sorted(m for m in (0, 0.5, 1, 2, 5) if 60 * m <= (1 - share) * total + 1e-6)
    assert len(adaptation) == int(60 * minutes[-1] // 4)
    assert not set(adaptation) & set(tested)
    if len(adaptation):
        assert adaptation.max() < tested.min()
        run, onset = clips["run"].to_numpy(), clips["onset_s"].to_numpy()
        gap = onset[tested][:, None] - (onset[adaptation] + 4)[None]
        assert (gap[run[tested][:, None] == run[adaptation][None]] >= guard - 1e-6).all()


def test_repeats_of_adaptation_clips_are_not_tested():
    clips = table({"1": film("a", 60), "2": film("a", 60) + film("b", 60, onset=100.0)})
    _, adaptation, tested = adaptation_parts(clips, "01", [1], 0.5, 0.0)
    assert set(clips["stimulus"].iloc[adaptation]) == {"a"}
    assert set(clips["stimulus"].iloc[tested]) == {"b"}
    with pytest.raises(UserError, match="leave no clip to test on"):
        adaptation_parts(table({"1": film("a", 60), "2": film("a", 60)}), "01", [1], 0.5, 0.0)
    with pytest.raises(UserError, match="no test clip"):
        adaptation_parts(clips.assign(split="train"), "01", [1], 0.5, 0.0)


def test_known_and_new_content_are_told_apart():
    others = table({"1": film("seen", 40)}, subject="02", split="train")
    others = pd.concat([others, table({"2": film("guarded", 40)}, subject="02", split="guard")])
    mine = table({"1": film("seen", 80), "2": film("guarded", 8), "3": film("never", 8)})
    clips = pd.concat([others, mine], ignore_index=True)
    rows = np.arange(len(others), len(clips))
    found = question_of(clips, rows, 20.0)
    # Seconds 0 to 40 were seen by others; what begins before 60 stands too near to be called new.
    expected = ["known"] * 10 + [""] * 5 + ["new"] * 5 + ["new"] * 4
    assert found.tolist() == expected
    assert set(question_of(clips, rows, 20.0, subjects=["03"])) == {"new"}


def test_folds_are_contiguous_purged_and_cover_everything():
    clips = table({"1": film("a", 240)})
    folds = contiguous_folds(clips)
    np.testing.assert_array_equal(np.concatenate([j for _, j in folds]), np.arange(60))
    for fit, judged in folds:
        assert np.abs(fit[:, None] - judged[None]).min() * 4 - 4 >= 20
    assert contiguous_folds(table({"1": film("a", 60)})) == []
