"""What every baseline starts from: matrices of brain and video on clip steps, scaled by the training set.

Nothing here looks at test data to decide anything. The lag of unaligned data is swept on validation; means and
standard deviations come from training windows; test windows are only transformed. How baselines choose is in `_choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from neuroalign.errors import UserError
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.pairs.lags import best_lag, lag_curve
from neuroalign.pairs.linear import fit_scale, scaled
from neuroalign.pairs.store import BrainWindows, PairedDataset
from neuroalign.pairs.windows import on_steps

LAGS_S = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
_TYPICAL_LAG_S = 5.0
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """One part of the split of one subject.

    Attributes
    ----------
    brain : float32 array of shape (n, T, units)
        Scaled by the training set.
    contents : int array of shape (n,)
        Row of `Material.video` of each window.
    rows : int array of shape (n,)
        Row of the clip table.
    """

    brain: np.ndarray
    contents: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, keep: np.ndarray) -> Part:
        """The windows where the boolean array (or index) `keep` says so."""
        return Part(self.brain[keep], self.contents[keep], self.rows[keep])


@dataclass(frozen=True)
class Material:
    """Brain and video of all subjects, ready for linear models.

    Attributes
    ----------
    subjects : dict of str to dict of str to Part
        By subject and part of the split.
    video : float32 array of shape (contents, T, dim)
        Levels side by side, scaled by the training contents.
    clip_ids : list of str
    stimulus : str array of shape (contents,)
    start_s : float array of shape (contents,)
        Where each content lies.
    bands : list of int
        Units of each brain level, in order.
    same_units : bool
        Whether unit j is the same parcel in every subject.
    """

    subjects: dict[str, dict[str, Part]]
    video: np.ndarray
    clip_ids: list[str]
    stimulus: np.ndarray
    start_s: np.ndarray
    bands: list[int]
    same_units: bool

    def trained(self) -> list[str]:
        """Subjects with training windows."""
        return [s for s, parts in self.subjects.items() if len(parts["train"])]

    def training(self) -> dict[str, Part]:
        """The training part of every subject that has one."""
        return {s: self.subjects[s]["train"] for s in self.trained()}

    def pooled(self, part: str) -> Part:
        """One part of all subjects, one after the other."""
        return together(p[part] for p in self.subjects.values())


def together(parts: Iterable[Part]) -> Part:
    """Parts one after the other."""
    kept = [p for p in parts if len(p)]
    return Part(
        np.concatenate([p.brain for p in kept]),
        np.concatenate([p.contents for p in kept]),
        np.concatenate([p.rows for p in kept]),
    )


def material(pairs: PairedDataset, lags_s: Sequence[float], target: np.ndarray | None = None) -> Material:
    """Put brain and video on clip steps and scale them.

    Parameters
    ----------
    pairs : PairedDataset
    lags_s : sequence of float
        Lags at which brain volumes are read; several are stacked as units. Of no effect on aligned data.
    target : float array of shape (contents, T, dim), optional
        Used instead of the video levels (control models).

    Notes
    -----
    Units are scaled per subject by its training windows. A subject without any (an unseen subject) is scaled by
    the mean and standard deviation over the training windows of the others.
    """
    video = np.concatenate(list(pairs.video.levels.values()), axis=2) if target is None else target
    video = np.asarray(video, np.float32)
    raw: dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for subject in pairs.subjects:
        raw[subject] = {}
        for name in SPLITS:
            windows, contents = pairs.of(subject, name)
            raw[subject][name] = (_steps(windows, pairs.video.step_times, lags_s), contents, windows.rows)
    steps = next(iter(raw.values()))["train"][0].shape[1]
    if steps != video.shape[1]:
        video = video.mean(axis=1, keepdims=True)
    same = pairs.same_units
    trained = [s for s in raw if len(raw[s]["train"][0])]
    if not trained:
        raise UserError("No subject has training windows; check the split (pairs/clips.tsv).")
    scales = {s: fit_scale(raw[s]["train"][0]) for s in trained}
    common = fit_scale(np.concatenate([raw[s]["train"][0] for s in trained])) if same else None
    subjects = {}
    for subject, parts in raw.items():
        scale = scales.get(subject, common)
        if scale is None:
            continue
        subjects[subject] = {n: Part(scaled(b, scale), c, r) for n, (b, c, r) in parts.items()}
    seen = np.unique(np.concatenate([subjects[s]["train"].contents for s in trained]))
    first = pairs.brain[trained[0]]
    copies = raw[trained[0]]["train"][0].shape[2] // sum(d.shape[2] for d in first.levels.values())
    table = pairs.clips.drop_duplicates("clip_id").set_index("clip_id").reindex(pairs.video.clip_ids)
    return Material(
        subjects,
        scaled(video, fit_scale(video[seen])),
        pairs.video.clip_ids,
        table["stimulus"].to_numpy(str),
        table["start_s"].fillna(0.0).to_numpy(float),
        [d.shape[2] for _ in range(copies) for d in first.levels.values()],
        same,
    )


def _steps(windows: BrainWindows, step_times: np.ndarray, lags_s: Sequence[float]) -> np.ndarray:
    if windows.aligned:
        return np.concatenate(list(windows.levels.values()), axis=2)
    return np.concatenate([on_steps(windows, step_times, lag) for lag in lags_s], axis=2)


def require_same_units(data: Material, name: str) -> None:
    """Pooled maps need the same parcels in everyone."""
    if not data.same_units:
        raise UserError(
            f"Baseline '{name}' needs the same units in every subject, but they differ here (voxels); "
            "set fmri.units to parcels or remove it from baselines."
        )


def lag_for(pairs: PairedDataset) -> tuple[float, ...]:
    """The lag of unaligned data, swept on validation: the one at which ridge from the features does best.

    Swept once, for all subjects together and for every baseline that reads the brain at one lag: choosing it by the
    baseline itself would cost several times the work and change little. Aligned data are read as they are (0).
    """
    if all(windows.aligned for windows in pairs.brain.values()):
        return (0.0,)
    lag = best_lag(lag_curve(pairs, LAGS_S))
    return (_TYPICAL_LAG_S if lag is None else lag,)


def score_test(
    data: Material, score: Callable[[str, np.ndarray, np.ndarray], np.ndarray], subjects: Iterable[str]
) -> dict[str, SubjectScores]:
    """Score the test windows of subjects.

    Parameters
    ----------
    data : Material
    score : callable
        (subject, brain (n, T, units), video (m, T, dim)) to a score matrix (n, m).
    subjects : iterable of str
    """
    results = {}
    for subject in subjects:
        part = data.subjects[subject]["test"]
        if not len(part):
            continue
        gallery = np.unique(part.contents)
        matrix = score(subject, part.brain, data.video[gallery])
        results[subject] = SubjectScores(part.rows, [data.clip_ids[i] for i in gallery], {"score": matrix})
    return results
