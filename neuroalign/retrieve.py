"""Retrieval with a trained model: new fMRI in, ranked clips out, and the reverse.

Of the gallery only embeddings stay in memory (a few kB per clip): the score of a clip depends on what the whole
gallery shares, so that all of it must be known before any of it is ranked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import neuroalign
from neuroalign.config.fmri import Timing
from neuroalign.errors import UserError, nearest
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.fmri.timing import run_clock
from neuroalign.io import read_json, read_tsv
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel
from neuroalign.text.captions import read_captions
from neuroalign.video import shards

log = logging.getLogger(__name__)
# Brain windows scored together: bounds the memory of the score matrices.
_CHUNK = 64


def retrieve(
    model: Path,
    gallery: Path,
    *,
    fmri: Path | None = None,
    video: Path | None = None,
    subject: str | None = None,
    onsets: Sequence[float] | None = None,
    captions: Path | None = None,
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
    captions : path, optional
        Folder of embedded captions ``<film>.h5``, for a model that learned from captions. Films without a file there are
        ranked by their video alone.
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
    subject = _label(subject, trained)
    files = _gallery_files(gallery)
    films = files if fmri is not None else [video]
    words = _caption_files(trained, films, captions)
    if fmri is not None:
        starts, query = _embed_run(trained, fmri, subject, onsets)
        candidates = [_embed_film(trained, path, captions=words.get(path)) for path in files]
        embedded = _joined([item for _, item in candidates])
        # All candidates at once: the score removes what the whole gallery shares, not what one film does.
        scores = np.concatenate([trained.score(query.take(rows), embedded) for rows in _chunks(len(starts))])
    else:
        starts, query = _embed_film(trained, video, onsets, words.get(video))
        candidates = [_embed_run(trained, path, subject) for path in files]
        embedded = _joined([item for _, item in candidates])
        # One clip at a time: its score must not depend on which other clips are asked for.
        single = [trained.score(embedded, query.take(np.array([row])))[:, 0] for row in range(len(starts))]
        scores = np.stack(single)
    names = np.repeat([path.stem for path in files], [len(begin) for begin, _ in candidates])
    return _best(starts, scores, names, np.concatenate([begin for begin, _ in candidates]), top)


def _best(
    starts: np.ndarray, scores: np.ndarray, names: np.ndarray, begins: np.ndarray, top: int
) -> pd.DataFrame:
    """The best candidates of every query; equal scores stay in the order of the gallery."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return pd.DataFrame(
        {
            "query_s": np.repeat(starts, order.shape[1]),
            "rank": np.tile(np.arange(order.shape[1]) + 1, len(starts)),
            "file": names[order].ravel(),
            "start_s": begins[order].ravel(),
            "score": np.take_along_axis(scores, order, axis=1).ravel(),
        }
    )


def _joined(parts: Sequence[Embedding]) -> Embedding:
    names = ("pooled", "steps", "codes", "index")
    arrays = [[getattr(part, name) for part in parts] for name in names]
    joined = Embedding(*(None if values[0] is None else np.concatenate(values) for values in arrays))
    if all(part.text is None for part in parts):
        return joined
    # Films without captions stand beside films with: theirs are missing.
    text = [_no_text(part) if part.text is None else part.text for part in parts]
    present = np.concatenate([t.present for t in text])
    return replace(joined, text=replace(_joined(text), present=present))


def _no_text(clips: Embedding) -> Embedding:
    """The captions of clips that have none."""
    arrays = (clips.pooled, clips.steps, clips.codes)
    empty = (None if x is None else np.zeros_like(x) for x in arrays)
    # As in `models.embed`: no code, rather than the first.
    index = None if clips.index is None else np.full_like(clips.index, -1)
    return Embedding(*empty, index, present=np.zeros(clips.steps.shape[:2], bool))


def _caption_files(model: TrainedModel, films: Sequence[Path], folder: Path | None) -> dict[Path, Path]:
    """The captions of films; says when the model would have used more than there are."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"The captions folder {folder} does not exist.")
    if folder is not None and not model.network.reads_text:
        log.warning("The model did not learn from captions: those in %s are not used.", folder)
        return {}
    found = {
        film: folder / film.name for film in films if folder is not None and (folder / film.name).exists()
    }
    if model.weights.text and len(found) < len(films):
        log.warning(
            "%d of %d films have no captions%s: their clips are ranked by video alone.",
            *(len(films) - len(found), len(films), "" if folder else " (none were given, see --captions)"),
        )
    return found


def _chunks(count: int) -> list[np.ndarray]:
    return [np.arange(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]


def _label(subject: str | None, model: TrainedModel) -> str | None:
    """A subject's label without prefix; one that the model does not know is told."""
    if not subject:
        return None
    label, known = subject.removeprefix("sub-"), model.network.architecture.subjects
    if label not in known:
        log.warning(
            "The model was not trained on subject '%s' (but on %s): shared parameters are used%s",
            *(label, ", ".join(known), nearest(label, known) or "."),
        )
    return label


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the file in what is wrong with it."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


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


def _embed_film(
    model: TrainedModel,
    path: Path,
    onsets: Sequence[float] | None = None,
    captions: Path | None = None,
) -> tuple[np.ndarray, Embedding]:
    """Starts and embeddings of the clips of a film."""
    from neuroalign.pairs.windows import video_steps

    with _about(path):
        film, duration = shards.read_embedding(path), model.geometry["duration_s"]
        if onsets:
            starts = np.asarray(onsets, float)
        else:
            starts = np.arange(0.0, film.times[-1], duration)
            starts = starts[video_steps(film, starts, duration, model.geometry["step_s"])[2]]
        if not len(starts):
            raise UserError(f"The film is shorter than a clip of {duration:g} s; leave it out.")
        if captions is None:
            return starts, model.embed_video(film, starts)
    with _about(captions):
        return starts, model.embed_video(film, starts, read_captions(captions))


def _embed_run(
    model: TrainedModel, path: Path, subject: str | None, onsets: Sequence[float] | None = None
) -> tuple[np.ndarray, Embedding]:
    """Onsets and embeddings of the brain windows of a run."""
    from neuroalign.config.fmri import Hrf
    from neuroalign.pairs.windows import brain_window

    with _about(path):
        series = _read_brain(path, model, subject)
        if onsets:
            starts = np.asarray(onsets, float)
        else:
            duration, step = model.geometry["duration_s"], model.geometry["step_s"]
            starts = np.arange(0.0, max(series.times[-1] - duration, 0.0) + 0.01, duration)
            hrf = Hrf(**model.geometry["hrf"])
            starts = starts[brain_window(series, starts, duration, step, hrf).usable]
            if not len(starts):
                raise UserError(
                    f"The run has no {duration:g}-s clip with enough usable volumes; leave it out."
                )
        return starts, model.embed_fmri(series, subject or series.attributes.get("subject") or None, starts)


def _read_brain(path: Path, model: TrainedModel, subject: str | None) -> RoiSeries:
    if path.suffix == ".h5":
        return read_series(path)
    if path.suffix != ".tsv" or path.is_dir():
        raise UserError(
            f"{path} is no brain series: give ROI series (.h5) or regional series (.tsv) of one run."
        )
    table = read_tsv(path)
    beside = path.with_suffix(".json")
    metadata = read_json(beside) if beside.exists() else {}
    if not isinstance(metadata, dict) or not {"RepetitionTime", "SamplingFrequency"} & set(metadata):
        raise UserError(f"{path} needs a sidecar {beside.name} with RepetitionTime (seconds).")
    clock = run_clock(len(table), metadata, None, Timing(), str(path))
    levels, units = {}, model.units_of(subject)
    for level, labels in units.items():
        missing = [label for label in labels if label not in table]
        if missing:
            raise UserError(f"{path} lacks region '{missing[0]}' of level '{level}': use the model's atlas.")
        try:
            data = table[labels].to_numpy(np.float32)
        except ValueError as error:
            raise UserError(f"{path} holds values that are not numbers ({error}); mend the table.") from error
        levels[level] = (data - np.nanmean(data, 0)) / np.maximum(np.nanstd(data, 0), 1e-12)
    keep = np.all([np.isfinite(data).all(1) for data in levels.values()], axis=0)
    levels = {level: np.nan_to_num(data) for level, data in levels.items()}
    return RoiSeries(levels, dict(units), clock.times, keep, {"tr": clock.tr, "source": "timeseries"})
