"""The chunked ranks against the full matrix, in both directions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.evaluation import at_scale
from neuroalign.evaluation.at_scale import Neighbours, rank_pairs, retrieval_metrics
from neuroalign.evaluation.retrieval import METRICS, near_clips, outranked, query_values, summarise


def full(brain, video, truth, near):
    """The same by the full matrix: scores of small whole numbers are exact in any order of summation."""
    scores = brain @ video.T
    clips, first = np.unique(truth, return_index=True)
    windows = outranked(scores, near).at(np.arange(len(truth)), truth)
    back = scores[first][:, clips].T
    return {
        "fmri_to_video": windows,
        "video_to_fmri": outranked(back, near[np.ix_(clips, clips)]).at(*[np.arange(len(clips))] * 2),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 24), st.integers(1, 3), st.sampled_from([0.0, 4.0, 11.0]), st.integers(0, 10**6)
)  # fmt: skip
def test_blocks_equal_the_full_matrix_with_ties_repeats_and_exclusion(
    windows, clips, largest, exclude_s, seed
):
    rng = np.random.default_rng(seed)
    brain = rng.integers(-largest, largest + 1, (windows, 3)).astype(np.float32)
    video = rng.integers(-largest, largest + 1, (clips, 3)).astype(np.float32)
    # Copies of one clip, several presentations of a clip, and clips that nobody saw.
    video[rng.integers(clips)] = video[0]
    truth = rng.integers(0, clips, windows)
    about = rng.choice(["a", "b"], clips), 3.0 * rng.permutation(clips), rng.choice([2.0, 4.0, 9.0], clips)
    near = near_clips(*about, exclude_s)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks, so that there are several.
        patch.setattr(at_scale, "_ROWS", 7)
        patch.setattr(at_scale, "_COLUMNS", 5)
        patch.setattr(at_scale, "_BYTE", 3)
        found = rank_pairs(brain, video, truth, Neighbours(*about, exclude_s))
    for direction, (higher, tied, size) in full(brain, video, truth, near).items():
        assert np.array_equal(found[direction].higher, higher)
        assert np.array_equal(found[direction].tied, tied)
        assert np.array_equal(found[direction].size, size)


def test_neighbours_are_those_of_the_matrix():
    rng = np.random.default_rng(0)
    about = rng.choice(["a", "b", "c"], 60), rng.uniform(0, 100, 60), rng.choice([2.0, 30.0], 60)
    for exclude_s in (0.0, 1.0, 20.0, 500.0):
        found = np.zeros((60, 60), bool)
        found[Neighbours(*about, exclude_s).pairs(np.arange(60))] = True
        assert np.array_equal(found, near_clips(*about, exclude_s))


def test_the_table_agrees_with_cosines_of_the_full_matrix():
    rng = np.random.default_rng(1)
    video = rng.standard_normal((300, 16))
    brain = video + 1.5 * rng.standard_normal(video.shape)
    brain, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (brain, video))
    about = {"stimulus": np.arange(300) // 100, "start_s": np.arange(300) % 100 * 4.0}
    about["duration_s"] = np.full(300, 4.0)
    table = retrieval_metrics(brain, video, **about, exclude_s=(0.0, 10.0), galleries=("full", 50, 299))
    assert set(table[table["exclude_s"] == 10]["gallery"]) == {"full", "50-way"}, "299 are not left"
    for (direction, exclude_s), rows in table.groupby(["direction", "exclude_s"]):
        scores = brain @ video.T if direction == "fmri_to_video" else video @ brain.T
        near = near_clips(*about.values(), exclude_s)
        counts = outranked(scores, near).at(np.arange(300), np.arange(300))
        for metric in METRICS:
            for gallery, ways in (("full", None), ("50-way", 50)):
                row = rows[(rows["metric"] == metric) & (rows["gallery"] == gallery)].iloc[0]
                assert row["value"] == pytest.approx(summarise(metric, query_values(metric, *counts, ways)))
                assert row["n_queries"] == 300


def test_equal_embeddings_are_at_chance_and_close_scores_are_tied():
    ones = np.full((40, 8), np.float32(1 / np.sqrt(8)))
    table = retrieval_metrics(ones, ones, galleries=("full",))
    assert table["value"].to_numpy() == pytest.approx(table["chance"].to_numpy())
    near = ones.copy()
    near[1:] *= np.float32(1 + 1e-4)
    assert rank_pairs(ones, near)["fmri_to_video"].higher[0] == 39
    assert rank_pairs(ones, near, tolerance=1e-3)["fmri_to_video"].tied[0] == 39


def test_what_cannot_be_compared_is_refused():
    good = np.ones((4, 3))
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_pairs(good, np.ones((4, 2)))
    with pytest.raises(ValueError, match="truth must name"):
        rank_pairs(good, good, np.array([0, 1, 2, 4]))
    with pytest.raises(ValueError, match="not finite"):
        rank_pairs(np.full((4, 3), np.nan), good)
    with pytest.raises(ValueError, match="only where stimulus"):
        retrieval_metrics(good, good, exclude_s=(5.0,))
