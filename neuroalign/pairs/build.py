"""The pair stage: presentations, regional series and embeddings become the paired dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroalign.config.fmri import Hrf, Selection
from neuroalign.config.pairs import Clips, Split
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.io import write_json, write_tsv
from neuroalign.pairs.clips import clip_table
from neuroalign.pairs.lags import ALL, sweep
from neuroalign.pairs.missing import (
    leave_out,
    read_breaks,
    shorter_than_shown,
    wanted_lengths,
    whole_windows,
    without_clips,
)
from neuroalign.pairs.reliability import select_units, unit_reliability
from neuroalign.pairs.splits import assign_splits
from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows, write_brain, write_video
from neuroalign.pairs.text import add_text, captioned_share
from neuroalign.pairs.windows import Cut, brain_window, step_times, video_steps, video_surround
from neuroalign.video.shards import Embedding, read_embedding

log = logging.getLogger(__name__)
COLUMNS = [
    *("clip_id", "stimulus", "start_s", "duration_s", "subject", "session", "task", "run", "onset_s"),
    *("split", "group", "repeat"),
]


def build_pairs(
    presentations: pd.DataFrame,
    series_files: Mapping[str, Path],
    embedding_files: Mapping[str, Path],
    out: Path,
    *,
    clips: Clips,
    hrf: Hrf,
    split: Split,
    selection: Selection | None = None,
    caption_files: Mapping[str, Path] | None = None,
    records: Mapping[str, Path] | None = None,
    on_damage: str = "error",
    made_by: Mapping[str, Any],
) -> pd.DataFrame:
    """Write ``clips.tsv``, ``sub-<label>.h5``, ``video.h5`` and ``summary.json`` into a folder.

    With ``hrf.shift_s: sweep`` also ``lag_sweep.tsv``: how the lag of each fold was found.

    Parameters
    ----------
    presentations : DataFrame
        Rows of ``presentations.tsv``.
    series_files : mapping of run_id to path
        ROI series of every run.
    embedding_files : mapping of stimulus to path
    out : path
    clips, hrf, split, selection : configuration sections
    caption_files : mapping of stimulus to path, optional
        Embedded captions; without, the dataset has no text.
    records : mapping of stimulus to path, optional
        What the normalise stage found; a film that breaks gives no clips that need what is missing.
    on_damage : {'error', 'truncate'}
        Whether films that break are used at all (``video.on_damage``).
    made_by : mapping
        Provenance record.

    Returns
    -------
    DataFrame
        The clip table as written, with `run_id`.

    Raises
    ------
    UserError
        If nothing can be paired, a film breaks that must not, subjects' levels disagree, features and `hrf.method` contradict each other, or a fold
        has too little to choose its lag or its units by.
    """
    embeddings = {stimulus: read_embedding(path) for stimulus, path in embedding_files.items()}
    convolved = _check_convolution(embeddings, hrf)
    breaks = read_breaks(records or {}, on_damage)
    for stimulus, found in breaks.items():
        embeddings[stimulus] = whole_windows(embeddings[stimulus], found.kept_s)
    lengths = {stimulus: _length(embedding) for stimulus, embedding in embeddings.items()}
    wanted = wanted_lengths(presentations, lengths, breaks)
    shorter = shorter_than_shown(presentations, wanted)
    table = clip_table(presentations, wanted, clips)
    table, missing = leave_out(table, lengths, breaks)
    duration = float(table["duration_s"].iloc[0])
    # Wider than the guard, the surround of a training clip would hold seconds of a test clip.
    surround_s = min(clips.surround_s, split.guard_s)
    geometry = {
        "duration_s": duration,
        "step_s": clips.step_s,
        "surround_s": surround_s,
        "hrf": hrf.model_dump(mode="json"),
    }

    contents, video, covered = _cut_videos(table, embeddings, geometry)
    no_video = ~table["clip_id"].isin([c for c, ok in zip(contents, covered, strict=True) if ok]).to_numpy()
    cuts, no_brain = _cut_runs(table, series_files, duration, clips.step_s, hrf)
    usable = ~(no_video | no_brain)
    beyond = sum(found["clips"] for found in missing.values())
    if not usable.any():
        raise UserError(
            "No clip has both brain volumes and video: check that events and runs share a clock, and hrf.window_s."
        )
    log.info(
        "%d of %d clips are usable (%d without enough uncensored volumes, %d without video, %d beyond the damage of a film)",
        *(usable.sum(), len(table) + beyond, no_brain.sum(), no_video.sum(), beyond),
    )

    lost = sorted(set(presentations["subject"]) - set(table["subject"][usable]))
    if lost:
        raise UserError(
            f"No usable clip is left of subject {', '.join(lost)} (censoring, a recording that ends too early, or damaged "
            "films): leave them out with dataset.filters.subject, or raise fmri.clean.fd_threshold_mm."
        )
    table = table[usable].reset_index(drop=True)
    clipless = without_clips(presentations, table)
    table["repeat"] = table.groupby(["subject", "clip_id"]).cumcount()
    table = assign_splits(table, split)
    folds = [f"split_{fold}" for fold in range(split.folds)] if split.folds > 1 else []
    used = set(table["clip_id"])
    keep = np.array([c in used for c in contents])
    video = video.select(keep)
    if caption_files:
        video = add_text(video, table, caption_files, duration, clips.step_s, hrf, convolved)
    new_row = np.cumsum(usable) - 1
    brain = {s: _join(cuts.pop(s), usable, new_row, hrf) for s in table["subject"].unique()}
    pairs = PairedDataset(table, brain, video)
    curves, per_fold = _choices(pairs, folds or ["split"], hrf, selection or Selection())

    stamp = {**made_by, "geometry": geometry}
    write_video(out / "video.h5", video, stamp)
    for subject, windows in brain.items():
        write_brain(out / f"sub-{subject}.h5", windows, stamp, per_fold[subject])
    if curves is not None:
        write_tsv(out / "lag_sweep.tsv", curves)
    summary = {
        "usable": int(usable.sum()),
        "dropped_brain": int(no_brain.sum()),
        "dropped_video": int(no_video.sum()),
        "missing_video": missing,
        "shorter_than_shown": shorter,
        "without_clips": clipless,
        "geometry": geometry,
        "splits": table["split"].value_counts().to_dict(),
        "made_by": made_by,
    }
    if video.has_text is not None:
        summary["captioned_steps"] = float(video.has_text.mean())
        summary["captioned_by_split"] = captioned_share(video, table, folds or ["split"])
    write_json(out / "summary.json", summary)
    # The table comes last: it is what the next stages wait for.
    write_tsv(out / "clips.tsv", table[[*COLUMNS, *folds]])
    return table


def _choices(
    pairs: PairedDataset, splits: list[str], hrf: Hrf, selection: Selection
) -> tuple[pd.DataFrame | None, dict[str, dict[str, dict[str, np.ndarray]]]]:
    """What every fold chooses for itself: the lag on its validation clips, then units on its training clips.

    Returns
    -------
    curves : DataFrame, optional
        Of the sweep.
    per_fold : dict of subject to what `write_brain` takes
    """
    per_fold: dict[str, dict[str, dict[str, np.ndarray]]] = {subject: {} for subject in pairs.subjects}
    levels = list(next(iter(pairs.brain.values())).levels)
    curves, lags = None, [dict[str, float]() for _ in splits]
    if hrf.sweeps:
        curves = sweep(pairs, splits, hrf.lags_s)
        chosen = curves[curves["chosen"] & (curves["level"] != ALL)]
        lags = [dict(zip(rows["level"], rows["lag_s"], strict=True)) for _, rows in chosen.groupby("fold")]
        for found in per_fold.values():
            found["lag_s"] = {level: np.array([fold[level] for fold in lags]) for level in levels}
    if selection.method == "reliability":
        reliable, selected = [], []
        for fold, (column, lag) in enumerate(zip(splits, lags, strict=True)):
            part = replace(pairs, clips=pairs.clips.assign(split=pairs.clips[column]))
            reliable.append(unit_reliability(part, lag))
            selected.append(select_units(reliable[-1], selection, pairs.same_units, fold))
        for subject, found in per_fold.items():
            for name, folds in (("reliability", reliable), ("selected", selected)):
                found[name] = {level: np.stack([fold[subject][level] for fold in folds]) for level in levels}
    return curves, per_fold


def read_geometry(folder: Path) -> dict[str, Any]:
    """How the clips of a paired dataset were cut: `duration_s`, `step_s`, `surround_s` and the `hrf` section."""
    return json.loads((Path(folder) / "summary.json").read_text())["geometry"]


def _length(embedding: Embedding) -> float:
    """Seconds of a stimulus that its embedding covers."""
    if not len(embedding.times):
        return 0.0
    stride = float(np.median(np.diff(embedding.times))) if len(embedding.times) > 1 else 0.0
    width = float(embedding.attributes.get("window_s") or stride)
    return float(embedding.times[-1]) + max(width, stride) / 2


def convolved_twice(stimulus: str, method: str) -> str:
    """What to say of convolved features that would be delayed again."""
    return (
        f"The features of '{stimulus}' are already HRF-convolved, but hrf.method is '{method}': "
        "the delay would count twice; set hrf.method to none."
    )


def _check_convolution(embeddings: Mapping[str, Embedding], hrf: Hrf) -> set[str]:
    """The stimuli whose features are convolved."""
    convolved = {
        name for name, item in embeddings.items() if bool(item.attributes.get("hrf_convolved", False))
    }
    if convolved and hrf.method != "none":
        raise UserError(convolved_twice(min(convolved), hrf.method))
    if hrf.method == "none" and not convolved:
        log.warning("hrf.method is none, but no feature file says hrf_convolved: the delay is ignored")
    return convolved


def _cut_videos(table: pd.DataFrame, embeddings: Mapping[str, Embedding], geometry: Mapping[str, Any]):
    duration, step_s, reach_s = (geometry[name] for name in ("duration_s", "step_s", "surround_s"))
    contents: list[str] = []
    parts: dict[str, list[np.ndarray]] = {}
    low: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    around: dict[str, list[np.ndarray]] = {}
    shares: list[np.ndarray] = []
    unique = table.drop_duplicates("clip_id")
    for stimulus, rows in unique.groupby("stimulus", sort=True):
        rows = rows.sort_values("start_s")
        embedding = embeddings[stimulus]
        levels, low_level, ok = video_steps(embedding, rows["start_s"].to_numpy(), duration, step_s)
        if parts and {k: v[0].shape[1:] for k, v in parts.items()} != {
            k: v.shape[1:] for k, v in levels.items()
        }:
            raise UserError(f"The features of '{stimulus}' have other levels or widths than those before it.")
        contents += rows["clip_id"].tolist()
        covered.append(ok)
        for level, data in levels.items():
            parts.setdefault(level, []).append(data)
        if low_level is not None:
            low.append(low_level)
        if reach_s:
            surround, share = video_surround(embedding, rows["start_s"].to_numpy(), duration, reach_s)
            shares.append(share)
            for level, data in surround.items():
                around.setdefault(level, []).append(data)
    low_level = np.concatenate(low) if len(low) == len(covered) else None
    windows = VideoWindows(
        contents,
        {level: np.concatenate(data) for level, data in parts.items()},
        step_times(duration, step_s),
        low_level,
        surround={level: np.concatenate(data) for level, data in around.items()} if around else None,
        surround_share=np.concatenate(shares) if shares else None,
    )
    return contents, windows, np.concatenate(covered)


def _cut_runs(
    table: pd.DataFrame, series_files: Mapping[str, Path], duration: float, step_s: float, hrf: Hrf
):
    """Cut every run; give the pieces by subject and which clips have too little brain."""
    cuts: dict[str, list[tuple[np.ndarray, Cut, RoiSeries]]] = {}
    dropped = np.zeros(len(table), bool)
    for run_id, rows in table.groupby("run_id", sort=False):
        series = read_series(series_files[run_id])
        cut = brain_window(series, rows["onset_s"].to_numpy(), duration, step_s, hrf)
        dropped[rows.index] = ~cut.usable
        pieces = cuts.setdefault(rows["subject"].iloc[0], [])
        if pieces and series.unit_labels != pieces[0][2].unit_labels:
            raise UserError(
                f"{run_id} has other regions than the first run of its subject: extract them alike."
            )
        series.levels = {level: data[:0] for level, data in series.levels.items()}
        pieces.append((rows.index.to_numpy(), cut, series))
    return cuts, dropped


def _join(pieces: list[tuple[np.ndarray, Cut, RoiSeries]], usable: np.ndarray, new_row: np.ndarray, hrf: Hrf):
    """The runs of a subject as one set of windows, padded to the longest (runs may differ in TR)."""
    width = max(cut.times.shape[1] for _, cut, _ in pieces)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    rows = np.concatenate([index for index, _, _ in pieces])
    order = np.argsort(rows)
    order = order[usable[rows[order]]]
    levels = {
        level: np.concatenate([padded(cut.levels[level]) for _, cut, _ in pieces])[order]
        for level in pieces[0][1].levels
    }
    return BrainWindows(
        rows=new_row[rows[order]],
        levels=levels,
        times=np.concatenate([padded(cut.times) for _, cut, _ in pieces])[order],
        valid=np.concatenate([padded(cut.valid) for _, cut, _ in pieces])[order],
        unit_labels=pieces[0][2].unit_labels,
        aligned=hrf.aligned,
    )
