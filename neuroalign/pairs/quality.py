"""The smooth criterion by which the model and the baselines choose: retrieval that counts every rank."""

from __future__ import annotations

import numpy as np


def rank_quality(scores: np.ndarray, own: np.ndarray) -> float:
    r"""Smooth criterion of every choice: :math:`1 - \overline{\log r} / \log N` over both directions.

    1 where every true candidate is first; about :math:`1/\log N` at chance. Every rank counts, so that it
    moves less by luck than top-1 or the mean reciprocal rank of a few dozen clips, and good ranks count most, as they do in
    what is reported.

    Parameters
    ----------
    scores : array (queries, candidates)
    own : int array (queries,)
        True candidate of each query.
    """
    return float(np.mean(query_quality(scores, own)))


def query_quality(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """`rank_quality` of every query and, after them, of every candidate: array (queries + candidates,)."""
    forward = ranks(scores, scores[np.arange(len(own)), own])
    best = np.array([scores[own == c, c].max() for c in range(scores.shape[1])])
    backward = ranks(scores.T, best)
    forward = 1 - np.log(forward) / np.log(max(2, scores.shape[1]))
    backward = 1 - np.log(backward) / np.log(max(2, scores.shape[0]))
    return np.concatenate([forward, backward])


def ranks(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Rank of the `true` score of every query (queries,) among its candidates; ties share the mean of their ranks."""
    above = (scores > true[:, None]).sum(axis=1)
    ties = (scores == true[:, None]).sum(axis=1)
    return 1 + above + (ties - 1) / 2
