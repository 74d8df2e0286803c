"""From score files to trials: queries, candidates, true pairs and their place in time.

A `Trials` is one direction of retrieval for one subject in one fold. It joins the score matrix with the clip
table, so that metrics, bootstrap and permutations need nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.evaluation.scores import StoredParts, SubjectScores

DIRECTIONS = ("fmri_to_video", "video_to_fmri")


@dataclass(frozen=True)
class Trials:
    """One direction of retrieval of one subject in one fold.

    Attributes
    ----------
    subject : str
    fold : int
    parts : mapping of str to float array of shape (windows, candidates)
    part : str
        Which of them is scored; see `scores`.
    pick : tuple of int arrays, optional
        Windows and candidates that take part, turned into queries and candidates by a transposition where
        `by_candidate`.
    query, candidate : int arrays of shape (pairs,)
        The true pairs. fMRI to video: every presentation is a query, its clip the candidate. Video to
        fMRI: every clip is a query; the candidates are one presentation of each clip, the first.
    by_candidate : bool
        Which side of a pair is brain: rotating the brain in time moves candidates if True (video to fMRI).
    rows : int array of shape (pairs,)
        Row of the clip table of the presentation in each pair.
    clips : list of str
        Clip id of each candidate.
    stimulus, start_s, duration_s : arrays of shape (candidates,)
    pair_stimulus, pair_start_s : arrays of shape (pairs,)
        Where in which stimulus each pair lies, for bootstrap blocks.
    runs : list of tuple, length pairs
        Run key of each presentation, without the subject: (fold, session, task, run).
    onset_s : float array of shape (pairs,)
        Onset of each presentation in its run.
    """

    subject: str
    fold: int
    parts: Mapping[str, np.ndarray]
    part: str
    pick: tuple[np.ndarray, np.ndarray] | None
    query: np.ndarray
    candidate: np.ndarray
    by_candidate: bool
    rows: np.ndarray
    clips: list[str]
    stimulus: np.ndarray
    start_s: np.ndarray
    duration_s: np.ndarray
    pair_stimulus: np.ndarray
    pair_start_s: np.ndarray
    runs: list[tuple]
    onset_s: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """The score matrix, float array of shape (queries, candidates); read now where it is in a file.

        Raises
        ------
        UserError
            If it holds what is not a number: nothing is larger than that, and it would take every first rank.
        """
        matrix = self.parts[self.part]
        if not np.isfinite(matrix).all():
            raise UserError(
                f"The scores '{self.part}' of subject {self.subject} hold values that are not numbers: look at the log of the model's "
                "training, and score again."
            )
        if self.pick is None:
            return matrix
        windows, columns = self.pick
        return matrix[np.ix_(windows, columns)].T

    def rotation(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of one run under each of its rotations.

        Parameters
        ----------
        order : int array of shape (n,)
            The presentations of the run in order of time.

        Returns
        -------
        query, candidate : int arrays of shape (n, n)
            Row k: every presentation takes the label of the one k places later. Row 0 are the true pairs.
        """
        n = len(order)
        return tuple(
            np.broadcast_to(x, (n, n))
            for x in self._labelled(order, order[(np.arange(n) + np.arange(n)[:, None]) % n])
        )

    def rotated(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs when presentation i takes the label of presentation ``source[..., i]``: query, candidate."""
        pairs = self._labelled(np.arange(len(self.rows)), np.asarray(source))
        return tuple(np.broadcast_to(x, np.shape(source)) for x in pairs)

    def _labelled(self, own: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Query and candidate of presentations `own` with the labels of `source`."""
        if self.by_candidate:
            return self.query[source], self.candidate[own]
        return self.query[own], self.candidate[source]


def order_scores(item: SubjectScores, clips: pd.DataFrame) -> SubjectScores:
    """The same scores with windows and candidates in the order of the clip table, so that methods can be compared."""
    rank = {clip: i for i, clip in enumerate(dict.fromkeys(clips["clip_id"]))}
    unknown = [clip for clip in item.gallery if clip not in rank]
    if unknown or (len(item.clip_rows) and item.clip_rows.max() >= len(clips)):
        raise UserError(
            f"The scores hold clips that the clip table does not ({(unknown or ['row numbers'])[0]}); "
            "they come from other pairs: score again."
        )
    if len(set(item.gallery)) != len(item.gallery):
        raise UserError("The gallery of a score file holds a clip twice; score again.")
    rows = np.argsort(item.clip_rows, kind="stable")
    columns = np.array(sorted(range(len(item.gallery)), key=lambda i: rank[item.gallery[i]]), dtype=int)
    parts: Mapping[str, np.ndarray]
    if isinstance(item.parts, StoredParts):
        parts = replace(item.parts, rows=rows, columns=columns)
    else:
        parts = {part: matrix[rows][:, columns] for part, matrix in item.parts.items()}
    return SubjectScores(item.clip_rows[rows], [item.gallery[i] for i in columns], parts)


def make_trials(
    item: SubjectScores, part: str, clips: pd.DataFrame, subject: str, fold: int, direction: str
) -> Trials:
    """Join one score matrix with the clip table.

    Parameters
    ----------
    item : SubjectScores
        Ordered by `order_scores`.
    part : str
        Which matrix of it.
    clips : DataFrame
        The clip table of this fold.
    subject : str
    fold : int
    direction : str
        One of `DIRECTIONS`.

    Raises
    ------
    UserError
        If a presentation's clip is not in the gallery, or presentations are not of the test split.
    """
    table = clips.iloc[item.clip_rows]
    if not (table["split"] == "test").all():
        raise UserError(f"Scores of subject {subject} hold clips outside the test split; score again.")
    column = {clip: i for i, clip in enumerate(item.gallery)}
    try:
        truth = np.array([column[clip] for clip in table["clip_id"]], dtype=np.int64)
    except KeyError as error:
        raise UserError(
            f"Clip {error} of subject {subject} is missing from its gallery; score again."
        ) from None
    about = clips.drop_duplicates("clip_id").set_index("clip_id").loc[item.gallery]
    pick = None
    if direction == "fmri_to_video":
        shown, candidates = np.arange(len(truth)), np.arange(len(item.gallery))
        query, candidate = shown, truth
    else:
        # One presentation per clip: the first in time order of the clip table.
        candidates, shown = np.unique(truth, return_index=True)
        pick = (shown, candidates)
        query = candidate = np.arange(len(candidates))
    about, table = about.iloc[candidates], table.iloc[shown]
    keys = table[["session", "task", "run"]].astype(str).itertuples(index=False, name=None)
    return Trials(
        subject=subject,
        fold=fold,
        parts=item.parts,
        part=part,
        pick=pick,
        query=query,
        candidate=candidate,
        by_candidate=direction == "video_to_fmri",
        rows=item.clip_rows[shown],
        clips=list(about.index),
        stimulus=about["stimulus"].to_numpy(str),
        start_s=about["start_s"].to_numpy(float),
        duration_s=about["duration_s"].to_numpy(float),
        pair_stimulus=table["stimulus"].to_numpy(str),
        pair_start_s=table["start_s"].to_numpy(float),
        runs=[(fold, *key) for key in keys],
        onset_s=table["onset_s"].to_numpy(float),
    )
