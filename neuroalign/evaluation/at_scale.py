"""Retrieval over tens of thousands of clips: both directions from one pass over blocks of the similarity matrix.

For score files, whose matrices fit in memory, see `evaluation.retrieval`; conventions and metrics are the same. Here the
score is the dot product of two embeddings (the cosine, if their rows have length one), and neither the matrix nor anything
of its size is ever held: a block is computed once, compared with the score of the true clip of its rows and of its
columns, and dropped.

Ties
    Scores in single precision depend on the order of summation, so that a candidate counts as tied when its score lies
    within `tolerance` of the true one: by default four units in the last place of the largest possible score (5e-7 for cosines).
    Ties enter as expectations, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuroalign.evaluation.retrieval import METRICS, chance, query_values, summarise

# Block of the similarity matrix: small enough for the cache, large enough for the product to run at full speed. Sums of
# comparisons are kept in bytes, hence multiples of 255 rows.
_ROWS, _COLUMNS = 4 * 255, 1024
_BYTE = 255


@dataclass(frozen=True)
class Ranked:
    """By how many candidates the true one of each query is beaten.

    Attributes
    ----------
    higher, tied : int array of shape (queries,)
        Candidates with a higher score, and others with the same.
    size : int array of shape (queries,)
        Candidates of each query, the true one included, neighbours excluded.
    """

    higher: np.ndarray
    tied: np.ndarray
    size: np.ndarray


class Neighbours:
    """Which clips are too near in time to the true one to be candidates; pairs are made when asked for.

    Equal to `retrieval.near_clips`, without its matrix.

    Parameters
    ----------
    stimulus : array of str, shape (clips,)
    start_s, duration_s : float arrays of shape (clips,)
    exclude_s : float
    """

    def __init__(self, stimulus: np.ndarray, start_s: np.ndarray, duration_s: np.ndarray, exclude_s: float):
        self.stimulus = np.unique(np.asarray(stimulus), return_inverse=True)[1]
        self.start = np.asarray(start_s, float)
        self.end = self.start + np.asarray(duration_s, float)
        self.exclude_s = exclude_s
        longest = float((self.end - self.start).max(initial=0.0))
        # One axis for all stimuli, with gaps that no neighbourhood reaches across.
        reach = exclude_s + longest
        apart = float(np.ptp(self.start)) + 3 * (reach + 1.0)
        place = self.start + self.stimulus * apart
        self._order = np.argsort(place, kind="stable")
        ordered = place[self._order]
        self._low = np.searchsorted(ordered, place - reach, "left")
        self._high = np.searchsorted(ordered, place + (self.end - self.start) + exclude_s, "right")

    def pairs(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position in `clips` and neighbour of every pair of neighbours that the clips have."""
        if self.exclude_s <= 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        low, count = self._low[clips], self._high[clips] - self._low[clips]
        position = np.repeat(np.arange(len(clips)), count)
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        other = self._order[np.repeat(low, count) + offset]
        own = clips[position]
        gap = np.maximum(self.start[own], self.start[other]) - np.minimum(self.end[own], self.end[other])
        near = (np.maximum(gap, 0.0) < self.exclude_s - 1e-6) & (own != other)
        near &= self.stimulus[own] == self.stimulus[other]
        return position[near], other[near]


def rank_pairs(
    brain: np.ndarray,
    video: np.ndarray,
    truth: np.ndarray | None = None,
    neighbours: Neighbours | None = None,
    tolerance: float | None = None,
) -> dict[str, Ranked]:
    """Rank the true clip of every brain window, and the true window of every clip.

    Parameters
    ----------
    brain : array of shape (windows, d)
    video : array of shape (clips, d)
        Their dot products are the scores; computed in single precision.
    truth : int array of shape (windows,), optional
        The clip each window belongs to; window i belongs to clip i if absent.
    neighbours : Neighbours, optional
        Of the clips; nothing is excluded if absent.
    tolerance : float, optional
        Scores no further apart are tied.

    Returns
    -------
    ranked : dict of direction to Ranked
        ``fmri_to_video``: a query per window, candidates are all clips. ``video_to_fmri``: a query per clip that has a
        window, in the order of clips; candidates are the first window of each such clip.

    Raises
    ------
    ValueError
        If shapes do not agree or a value is not finite.
    """
    brain, video = np.asarray(brain, np.float32), np.asarray(video, np.float32)
    windows, clips = len(brain), len(video)
    truth = np.arange(windows) if truth is None else np.asarray(truth, np.int64)
    if brain.ndim != 2 or video.ndim != 2 or brain.shape[1] != video.shape[1]:
        raise ValueError(f"embeddings of shape {brain.shape} and {video.shape} cannot be compared")
    if len(truth) != windows or (windows and not 0 <= truth.min() <= truth.max() < clips):
        raise ValueError(f"truth must name one of {clips} clips for each of {windows} windows")
    # A sum is finite only if all its terms are, short of overflow, which a score would not survive either.
    longest = [float(np.sqrt(np.einsum("ij,ij->i", x, x).max(initial=0.0))) for x in (brain, video)]
    if not np.isfinite(longest).all():
        raise ValueError("the embeddings hold values that are not finite")
    if tolerance is None:
        tolerance = 4 * float(np.finfo(np.float32).eps) * longest[0] * longest[1]
    asked, first = np.unique(truth, return_index=True)
    # First windows before repeats: only they are candidates of clips.
    order = np.concatenate([first, np.setdiff1d(np.arange(windows), first)])
    own = np.einsum("ij,ij->i", brain, video[truth])
    column = np.full(clips, np.inf, np.float32)
    column[asked] = own[first]
    by_row = np.zeros((3, windows), np.int64)
    by_column = np.zeros((3, clips), np.int64)
    scores = np.empty((_ROWS, _COLUMNS), np.float32)
    for begin in range(0, windows, _ROWS):
        rows = order[begin : begin + _ROWS]
        candidates = max(0, min(len(first) - begin, len(rows)))
        block = brain[rows]
        excluded = _excluded(truth[rows], neighbours)
        for left in range(0, clips, _COLUMNS):
            right = min(left + _COLUMNS, clips)
            tile = np.matmul(block, video[left:right].T, out=scores[: len(rows), : right - left])
            inside = slice(*np.searchsorted(excluded[1], [left, right]))
            out = excluded[0][inside], excluded[1][inside] - left
            by_row[:, rows] += _row_counts(tile, own[rows], tolerance, out)
            if candidates:
                out = tuple(x[out[0] < candidates] for x in out)
                edge = column[left:right]
                by_column[:, left:right] += _column_counts(tile[:candidates], edge, tolerance, out)
    return {
        "fmri_to_video": _ranked(by_row, clips),
        "video_to_fmri": _ranked(by_column[:, asked], len(first)),
    }


def _excluded(truth: np.ndarray, neighbours: Neighbours | None) -> tuple[np.ndarray, np.ndarray]:
    """Row and clip of every pair that is no comparison, the true pair among them, sorted by clip."""
    row, clip = np.arange(len(truth)), truth
    if neighbours is not None:
        position, other = neighbours.pairs(truth)
        row, clip = np.concatenate([row, position]), np.concatenate([clip, other])
    order = np.argsort(clip, kind="stable")
    return row[order], clip[order]


def _row_counts(tile: np.ndarray, own: np.ndarray, tolerance: float, out: tuple) -> np.ndarray:
    """Candidates of each row that are above, not below, and not there: int array of shape (3, rows)."""
    counts = np.empty((3, len(tile)), np.int64)
    for i, edge in enumerate((own + np.float32(tolerance), own - np.float32(tolerance))):
        beats = (np.greater if i == 0 else np.greater_equal)(tile, edge[:, None])
        # Eight comparisons to a byte, of which the bits are counted: a sum of booleans would take longer than the product.
        counts[i] = np.bitwise_count(np.packbits(beats, axis=1)).sum(axis=1, dtype=np.int64)
        counts[i] -= np.bincount(out[0][beats[out]], minlength=len(tile))
    counts[2] = np.bincount(out[0], minlength=len(tile))
    return counts


def _column_counts(tile: np.ndarray, own: np.ndarray, tolerance: float, out: tuple) -> np.ndarray:
    """The same for the columns of a tile: int array of shape (3, columns)."""
    counts = np.zeros((3, tile.shape[1]), np.int64)
    for i, edge in enumerate((own + np.float32(tolerance), own - np.float32(tolerance))):
        beats = (np.greater if i == 0 else np.greater_equal)(tile, edge)
        for begin in range(0, len(tile), _BYTE):
            counts[i] += np.add.reduce(beats[begin : begin + _BYTE].view(np.uint8), axis=0, dtype=np.uint8)
        counts[i] -= np.bincount(out[1][beats[out]], minlength=tile.shape[1])
    counts[2] = np.bincount(out[1], minlength=tile.shape[1])
    return counts


def _ranked(counts: np.ndarray, candidates: int) -> Ranked:
    higher, not_lower, excluded = counts
    # The true pair is among what is excluded, but stays in the gallery.
    return Ranked(higher, not_lower - higher, candidates - excluded + 1)


def retrieval_metrics(
    brain_embeddings: np.ndarray,
    video_embeddings: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    stimulus: np.ndarray | None = None,
    start_s: np.ndarray | None = None,
    duration_s: np.ndarray | None = None,
    exclude_s: Sequence[float] = (0.0,),
    galleries: Sequence[str | int] = ("full", 50, 300),
    tolerance: float | None = None,
) -> pd.DataFrame:
    """Every metric in both directions, in memory that grows with the clips and not with their square.

    Parameters
    ----------
    brain_embeddings : array of shape (windows, d)
    video_embeddings : array of shape (clips, d)
        Rows of length one, for the cosine as score.
    truth : int array of shape (windows,), optional
        See `rank_pairs`.
    stimulus, start_s, duration_s : arrays of shape (clips,), optional
        Position of each clip; needed where something is excluded.
    exclude_s : sequence of float
    galleries : sequence of ``"full"`` or int
        N-way galleries are expectations over all draws of distractors; sizes above a query's gallery are left out.
    tolerance : float, optional

    Returns
    -------
    table : DataFrame
        `direction, gallery, gallery_size, exclude_s, metric, value, chance, n_queries`, as in ``metrics.tsv``.
    """
    if any(s > 0 for s in exclude_s) and any(x is None for x in (stimulus, start_s, duration_s)):
        raise ValueError("neighbours can be excluded only where stimulus, start_s and duration_s are given")
    rows = []
    for seconds in exclude_s:
        near = Neighbours(stimulus, start_s, duration_s, seconds) if seconds > 0 else None
        ranked = rank_pairs(brain_embeddings, video_embeddings, truth, near, tolerance)
        for direction, found in ranked.items():
            smallest = int(found.size.min(initial=np.iinfo(np.int64).max))
            for gallery in galleries:
                ways = None if gallery == "full" else int(gallery)
                if ways is not None and ways > smallest:
                    continue
                for metric in METRICS:
                    values = query_values(metric, found.higher, found.tied, found.size, ways)
                    rows.append(
                        {
                            "direction": direction,
                            "gallery": "full" if ways is None else f"{ways}-way",
                            "gallery_size": float(found.size.mean()) if ways is None else float(ways),
                            "exclude_s": seconds,
                            "metric": metric,
                            "value": float(summarise(metric, values)),
                            "chance": chance(metric, found.size, ways),
                            "n_queries": len(values),
                        }
                    )
    return pd.DataFrame(rows)
