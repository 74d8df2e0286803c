"""Retrieval with a trained model: new fMRI in, ranked clips out, and the reverse.

The gallery is read file by file and only the best candidates of each query are kept, so that its size is bounded
by the disk and not by memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import neuroalign
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.io import read_json, read_tsv
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel
from neuroalign.video import shards

log = logging.getLogger(__name__)


def retrieve(
    model: Path,
    gallery: Path,
    *,
    fmri: Path | None = None,
    video: Path | None = None,
    subject: str | None = None,
    onsets: Sequence[float] | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """Rank clips for brain windows (`fmri`), or brain windows for clips (`video`).

    Parameters
    ----------
    model : path
        A trained model or its branch folder (see `neuroalign.load`).
    gallery : path
        Folder of embedding files for `fmri`, of ROI series for `video`; or one such file.
    fmri : path, optional
        ROI series (``.h5``), or a table of regional series (``.tsv``) with a sidecar that has RepetitionTime.
    video : path, optional
        Embedding of a stimulus (``.h5``).
    subject : str, optional
        Whose brain it is; the shared parameters are used for subjects the model was not trained on.
    onsets : sequence of float, optional
        Clip onsets of the query in seconds; by default the query is cut into clips end to end.
    top : int

    Returns
    -------
    DataFrame
        `query_s`, `rank`, `file`, `start_s`, `score`, best first within each query.

    Raises
    ------
    UserError
        If a file is missing or does not fit the model.
    """
    if (fmri is None) == (video is None):
        raise UserError("retrieve takes either fMRI or video as the query.")
    if top < 1:
        raise UserError(f"--top is {top}: ask for at least one result.")
    trained = neuroalign.load(model)
    files = _gallery_files(gallery)
    if fmri is not None:
        series = _read_brain(fmri, trained)
        starts, query = _embed_run(trained, series, subject, onsets, str(fmri))
        candidates = (
            (path, *_embed_film(trained, shards.read_embedding(path), None, str(path))) for path in files
        )
        score = trained.score
    else:
        starts, query = _embed_film(trained, shards.read_embedding(video), onsets, str(video))
        candidates = (
            (p, *_embed_run(trained, _read_brain(p, trained), subject, None, str(p))) for p in files
        )

        def score(clips: Embedding, brains: Embedding) -> np.ndarray:
            return trained.score(brains, clips).T

    return _best(starts, query, candidates, score, top)


def _best(starts: np.ndarray, query: Embedding, candidates: Iterator, score, top: int) -> pd.DataFrame:
    """The best candidates of every query, merged file by file."""
    best = np.full((len(starts), 0), 0.0)
    names = np.empty((len(starts), 0), object)
    times = np.full((len(starts), 0), 0.0)
    for path, begin, embedded in candidates:
        values = score(query, embedded)
        best = np.concatenate([best, values], axis=1)
        names = np.concatenate([names, np.full(values.shape, path.stem, object)], axis=1)
        times = np.concatenate([times, np.broadcast_to(begin, values.shape)], axis=1)
        keep = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, names, times = (np.take_along_axis(a, keep, 1) for a in (best, names, times))
    rows = np.arange(best.shape[1])
    return pd.DataFrame(
        {
            "query_s": np.repeat(starts, len(rows)),
            "rank": np.tile(rows + 1, len(starts)),
            "file": names.ravel(),
            "start_s": times.ravel(),
            "score": best.ravel(),
        }
    )


def _gallery_files(gallery: Path) -> list[Path]:
    if gallery.is_file():
        return [gallery]
    if not gallery.is_dir():
        raise UserError(f"The gallery {gallery} does not exist.")
    files = sorted(path for path in gallery.glob("*.h5") if not path.name.endswith("_qc.h5"))
    if not files:
        raise UserError(
            f"The gallery {gallery} holds no .h5 file: give the folder of embeddings (or of ROI series)."
        )
    return files


def _embed_film(model: TrainedModel, embedding: shards.Embedding, onsets: Sequence[float] | None, name: str):
    duration = model.geometry["duration_s"]
    starts = (
        np.asarray(onsets, float)
        if onsets
        else np.arange(0.0, embedding.times[-1] - duration + 0.51, duration)
    )
    if not len(starts):
        raise UserError(f"{name} is shorter than a clip of {duration:g} s.")
    return starts, model.embed_video(embedding, starts)


def _embed_run(
    model: TrainedModel, series: RoiSeries, subject: str | None, onsets: Sequence[float] | None, name: str
):
    from neuroalign.config.fmri import Hrf
    from neuroalign.pairs.windows import brain_window

    if onsets:
        starts = np.asarray(onsets, float)
    else:
        duration, step = model.geometry["duration_s"], model.geometry["step_s"]
        starts = np.arange(0.0, max(series.times[-1] - duration, 0.0) + 0.01, duration)
        starts = starts[brain_window(series, starts, duration, step, Hrf(**model.geometry["hrf"])).usable]
        if not len(starts):
            raise UserError(f"{name} has no {duration:g}-s clip with enough usable volumes.")
    return starts, model.embed_fmri(series, subject or series.attributes.get("subject") or None, starts)


def _read_brain(path: Path, model: TrainedModel) -> RoiSeries:
    if path.suffix == ".h5":
        return read_series(path)
    table = read_tsv(path)
    sidecar = path.with_suffix(".json")
    tr = read_json(sidecar).get("RepetitionTime") if sidecar.exists() else None
    if not tr:
        raise UserError(f"{path} needs a sidecar {sidecar.name} with RepetitionTime (seconds).")
    start = float(read_json(sidecar).get("StartTime") or 0.0)
    levels = {}
    for level, labels in model.unit_labels.items():
        missing = [label for label in labels if label not in table]
        if missing:
            raise UserError(f"{path} lacks region '{missing[0]}' of level '{level}': use the model's atlas.")
        data = table[labels].to_numpy(np.float32)
        levels[level] = (data - np.nanmean(data, 0)) / np.maximum(np.nanstd(data, 0), 1e-12)
    keep = np.all([np.isfinite(data).all(1) for data in levels.values()], axis=0)
    levels = {level: np.nan_to_num(data) for level, data in levels.items()}
    times = start + (np.arange(len(table)) + 0.5) * float(tr)
    return RoiSeries(levels, dict(model.unit_labels), times, keep, {"tr": float(tr), "source": "timeseries"})
