"""Ceilings: how well the brain itself identifies a test clip, without any model of the video.

``repeat_to_repeat``
    A later presentation of a clip to the same person, against the first presentation of every repeated clip.
``subject_to_group``
    One person's window against the mean of the others' windows of each clip.

Both compare windows by correlation over steps and units after removing the mean over the gallery. They need
repeats, or clips seen by several people with the same parcels, and are left out where the data have none.
"""

from __future__ import annotations

import numpy as np

from neuroalign.evaluation.baselines._data import Material, Part
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.linear import cosine


def repeat_to_repeat(data: Material) -> dict[str, SubjectScores]:
    """Identify repeats by the first presentation, subject by subject.

    Parameters
    ----------
    data : Material

    Returns
    -------
    scores : dict of subject to SubjectScores
        Only subjects with at least two repeated test clips.
    """
    found = {}
    for subject, parts in data.subjects.items():
        test = parts["test"]
        first, later = _first_and_later(test)
        gallery = first[np.isin(test.contents[first], test.contents[later])]
        if len(gallery) < 2:
            continue
        found[subject] = SubjectScores(
            test.rows[later],
            [data.clip_ids[i] for i in test.contents[gallery]],
            {"score": cosine(test.brain[later], test.brain[gallery])},
        )
    return found


def subject_to_group(data: Material) -> dict[str, SubjectScores]:
    """Identify one person's windows by the mean of the others.

    Parameters
    ----------
    data : Material

    Returns
    -------
    scores : dict of subject to SubjectScores
        Empty where units differ between subjects; only clips that somebody else saw too.
    """
    found: dict[str, SubjectScores] = {}
    if not data.same_units:
        return found
    for subject, parts in data.subjects.items():
        test = parts["test"]
        others = [p["test"] for s, p in data.subjects.items() if s != subject and len(p["test"])]
        if not len(test) or not others:
            continue
        contents = np.concatenate([p.contents for p in others])
        brain = np.concatenate([p.brain for p in others])
        gallery = np.intersect1d(test.contents, contents)
        if len(gallery) < 2:
            continue
        group = np.stack([brain[contents == clip].mean(axis=0) for clip in gallery])
        own = np.isin(test.contents, gallery)
        found[subject] = SubjectScores(
            test.rows[own], [data.clip_ids[i] for i in gallery], {"score": cosine(test.brain[own], group)}
        )
    return found


def _first_and_later(test: Part) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first presentation of each content, and of all others."""
    first = np.sort(np.unique(test.contents, return_index=True)[1])
    return first, np.setdiff1d(np.arange(len(test)), first)
