"""The paired dataset: clips, their HRF-aligned fMRI windows, their video windows and, where used, their captions.

On disk: ``pairs/clips.tsv`` (the clip table), ``pairs/sub-<label>.h5`` (one shard of fMRI windows per
subject) and ``pairs/video.h5`` (one video window per clip content). `PairedDataset` is the same in memory and
is what the model and every baseline learn from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neuroalign.io import atomic_hdf5, open_hdf5, read_strings, read_tsv, stamp
from neuroalign.pairs.windows import at_lags

CLIP_TEXT_COLUMNS = ("clip_id", "stimulus", "subject", "session", "task", "run", "split", "group")
_PART_BYTES = 1 << 25


@dataclass
class BrainWindows:
    """fMRI windows of one subject.

    Attributes
    ----------
    rows : int array of shape (n,)
        Row of the clip table that each window belongs to (ascending).
    levels : dict of str to float32 array of shape (n, volumes, units)
    times : float32 array of shape (n, volumes)
        Middle of each volume in seconds after clip start; padded volumes hold 0.
    valid : bool array of shape (n, volumes)
        False for padded and censored volumes.
    unit_labels : dict of str to list of str
    aligned : bool
        True if the haemodynamic delay is already dealt with (`shift`, `glm`, `none`): "volumes" are then clip
        steps (or a single beta) and no model should look for a lag. False for `adaptive`.
    lags_s : dict of str to float
        Lag per level at which aligned windows were read, where a sweep chose it; else empty.
    """

    rows: np.ndarray
    levels: dict[str, np.ndarray]
    times: np.ndarray
    valid: np.ndarray
    unit_labels: dict[str, list[str]]
    aligned: bool
    lags_s: dict[str, float] = field(default_factory=dict)

    def select(self, keep: np.ndarray) -> BrainWindows:
        """The windows where the boolean array (or index) `keep` says so."""
        return replace(
            self,
            rows=self.rows[keep],
            levels={level: data[keep] for level, data in self.levels.items()},
            times=self.times[keep],
            valid=self.valid[keep],
        )


@dataclass
class VideoWindows:
    """Video windows, one per clip content.

    Attributes
    ----------
    clip_ids : list of str
    levels : dict of str to float32 array of shape (contents, steps, dim)
        Ordered from early to late.
    step_times : float32 array of shape (steps,)
        Centre of each clip step in seconds after clip start.
    low_level : float32 array of shape (contents, steps, 3), optional
        Luminance, contrast and motion (see `video.shards`).
    text : float32 array of shape (contents, steps, dim), optional
        Embedded captions, the third modality; zeros where there is none. None where captions are not used.
    has_text : bool array of shape (contents, steps), optional
        Where there is a caption. None where `text` is.
    surround : dict of str to float32 array of shape (contents, dim), optional
        Mean features of the film around each clip (`windows.video_surround`). None where it is not kept.
    surround_share : float32 array of shape (contents,), optional
        How much of the surround the film covers. None where `surround` is.
    """

    clip_ids: list[str]
    levels: dict[str, np.ndarray]
    step_times: np.ndarray
    low_level: np.ndarray | None = None
    text: np.ndarray | None = None
    has_text: np.ndarray | None = None
    surround: dict[str, np.ndarray] | None = None
    surround_share: np.ndarray | None = None

    def select(self, rows: np.ndarray) -> VideoWindows:
        """The windows of the contents at `rows`."""
        optional = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("low_level", "text", "has_text", "surround_share")
        }
        ids = [self.clip_ids[row] for row in np.arange(len(self.clip_ids))[rows]]
        levels = {level: data[rows] for level, data in self.levels.items()}
        if self.surround is not None:
            optional["surround"] = {level: data[rows] for level, data in self.surround.items()}
        return VideoWindows(ids, levels, self.step_times, **optional)

    def merged(self, name: str = "all") -> VideoWindows:
        """The same with one level that holds the features of all, side by side."""
        around = None
        if self.surround is not None:
            around = {name: np.concatenate(list(self.surround.values()), axis=1)}
        levels = {name: np.concatenate(list(self.levels.values()), axis=2)}
        return replace(self, levels=levels, surround=around)

    def rows_of(self, clip_ids) -> np.ndarray:
        """Row of each clip id, in the order asked for."""
        index = {clip: row for row, clip in enumerate(self.clip_ids)}
        return np.array([index[clip] for clip in clip_ids], dtype=np.int64)


@dataclass
class PairedDataset:
    """Everything a method learns from and is tested on.

    Attributes
    ----------
    clips : DataFrame
        The clip table; ``split`` is that of the fold that was read.
    brain : dict of str to BrainWindows
        By subject label.
    video : VideoWindows
    """

    clips: pd.DataFrame
    brain: dict[str, BrainWindows]
    video: VideoWindows

    @property
    def subjects(self) -> list[str]:
        """Subject labels in table order."""
        return list(self.brain)

    @property
    def steps(self) -> int:
        """Clip steps T."""
        return len(self.video.step_times)

    @property
    def same_units(self) -> bool:
        """Whether all subjects have the same units, by their labels."""
        labels = [windows.unit_labels for windows in self.brain.values()]
        return all(item == labels[0] for item in labels)

    def of(self, subject: str, split: str) -> tuple[BrainWindows, np.ndarray]:
        """Windows of a subject in one part of the split, and the video row of each.

        Returns
        -------
        windows : BrainWindows with n windows
        video_rows : int array of shape (n,)
        """
        windows = self.brain[subject]
        keep = (self.clips["split"].to_numpy() == split)[windows.rows]
        return windows.select(keep), self.contents(subject, split)

    def contents(self, subject: str, split: str) -> np.ndarray:
        """The video rows that `of` gives, without a copy of any window."""
        rows = self.brain[subject].rows
        rows = rows[(self.clips["split"].to_numpy() == split)[rows]]
        return self.video.rows_of(self.clips["clip_id"].to_numpy()[rows])


def write_brain(
    path: str | os.PathLike,
    windows: BrainWindows,
    made_by: Mapping[str, Any] | None = None,
    per_fold: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Write the fMRI shard of one subject.

    Parameters
    ----------
    path : path
    windows : BrainWindows
        Of all clips and units, as every fold starts from.
    made_by : mapping, optional
        Provenance record.
    per_fold : mapping of name to mapping of level to array of shape (folds, ...), optional
        What folds chose for themselves: `lag_s` (folds,) in seconds; `reliability` and `selected` (folds, units).
        `read_pairs` applies `lag_s` and `selected`.
    """
    with atomic_hdf5(path) as file:
        for level, data in windows.levels.items():
            # Contiguous: training draws single windows at random, and a chunk of several would be read for each.
            file.create_dataset(f"levels/{level}/data", data=data.astype(np.float32))
            file.create_dataset(f"levels/{level}/unit_label", data=list(windows.unit_labels[level]))
        for name, by_level in (per_fold or {}).items():
            for level, values in by_level.items():
                file.create_dataset(f"levels/{level}/{name}", data=values)
        file["levels"].attrs["order"] = list(windows.levels)
        file.create_dataset("clip_row", data=windows.rows.astype(np.int64))
        file.create_dataset("times", data=windows.times.astype(np.float32))
        file.create_dataset("valid", data=windows.valid.astype(bool))
        file.attrs["aligned"] = windows.aligned
        stamp(file, made_by or {})


def write_video(
    path: str | os.PathLike, windows: VideoWindows, made_by: Mapping[str, Any] | None = None
) -> None:
    """Write the shard of video windows."""
    with atomic_hdf5(path) as file:
        for level, data in windows.levels.items():
            file.create_dataset(f"levels/{level}/data", data=data.astype(np.float32))
        file["levels"].attrs["order"] = list(windows.levels)
        file.create_dataset("clip_id", data=list(windows.clip_ids))
        file.create_dataset("step_times", data=windows.step_times.astype(np.float32))
        if windows.low_level is not None:
            file.create_dataset("low_level", data=windows.low_level.astype(np.float32))
        if windows.text is not None:
            file.create_dataset("text/data", data=windows.text.astype(np.float32))
            file.create_dataset("text/has_text", data=windows.has_text.astype(bool))
        if windows.surround is not None:
            for level, data in windows.surround.items():
                file.create_dataset(f"surround/levels/{level}", data=data.astype(np.float32))
            file.create_dataset("surround/share", data=windows.surround_share.astype(np.float32))
        stamp(file, made_by or {})


def read_clips(path: str | os.PathLike, fold: int = 0) -> pd.DataFrame:
    """Read the clip table; with several folds, ``split`` is that of `fold`."""
    clips = read_tsv(path, text=(*CLIP_TEXT_COLUMNS, f"split_{fold}"))
    if f"split_{fold}" in clips:
        clips["split"] = clips[f"split_{fold}"]
    return clips


def read_pairs(folder: str | os.PathLike, fold: int = 0, subjects: list[str] | None = None) -> PairedDataset:
    """Read the paired dataset of a folder into memory.

    Parameters
    ----------
    folder : path
        The ``pairs`` folder of the workflow.
    fold : int
        Which fold's split to use, and whose lag and units where folds chose their own.
    subjects : list of str, optional
        Read only these.
    """
    folder = Path(folder)
    clips = read_clips(folder / "clips.tsv", fold)
    names = [s for s in dict.fromkeys(clips["subject"]) if subjects is None or s in subjects]
    video = read_video(folder / "video.h5")
    brain = {}
    for subject in names:
        windows, lags = read_brain(folder / f"sub-{subject}.h5", fold)
        brain[subject] = at_lags(windows, video.step_times, lags) if lags else windows
    return PairedDataset(clips, brain, video)


def read_brain(
    path: Path, fold: int, data_of: Callable[[h5py.Dataset, np.ndarray | None], Any] | None = None
) -> tuple[BrainWindows, dict[str, float]]:
    """The shard of a subject with the units of a fold, and the lag per level where the fold chose one (not applied).

    Parameters
    ----------
    path : Path
    fold : int
    data_of : callable, optional
        The dataset of a level and which of its units are kept (None: all) to what stands for the windows; by default
        the windows, in memory.
    """
    data_of = data_of or _columns
    with open_hdf5(path) as file:
        group = file["levels"]
        order = [str(n) for n in group.attrs["order"]]
        labels = {n: read_strings(group[n]["unit_label"]) for n in order}
        chosen = {n: group[n]["selected"][fold] for n in order if "selected" in group[n]}
        lags = {n: float(group[n]["lag_s"][fold]) for n in order if "lag_s" in group[n]}
        windows = BrainWindows(
            rows=file["clip_row"][()],
            levels={n: data_of(group[n]["data"], chosen.get(n)) for n in order},
            times=file["times"][()],
            valid=file["valid"][()],
            unit_labels=labels
            | {
                n: [label for label, k in zip(labels[n], keep, strict=True) if k]
                for n, keep in chosen.items()
            },
            aligned=bool(file.attrs["aligned"]),
        )
    return windows, lags


def _columns(data: h5py.Dataset, keep: np.ndarray | None) -> np.ndarray:
    """All columns of a dataset, or some; part by part, so that units left out are never all in memory."""
    if keep is None:
        return data[()]
    rows = max(1, _PART_BYTES // (data[:1].nbytes or 1))
    parts = [data[i : i + rows][..., keep] for i in range(0, len(data), rows)]
    return np.concatenate(parts) if parts else data[()][..., keep]


def read_video(path: Path) -> VideoWindows:
    """The shard of video windows."""
    with open_hdf5(path) as file:
        group = file["levels"]
        return VideoWindows(
            clip_ids=read_strings(file["clip_id"]),
            levels={str(n): group[str(n)]["data"][()] for n in group.attrs["order"]},
            step_times=file["step_times"][()],
            low_level=file["low_level"][()] if "low_level" in file else None,
            text=file["text/data"][()] if "text" in file else None,
            has_text=file["text/has_text"][()] if "text" in file else None,
            surround={str(n): file[f"surround/levels/{n}"][()] for n in group.attrs["order"]}
            if "surround" in file
            else None,
            surround_share=file["surround/share"][()] if "surround" in file else None,
        )
