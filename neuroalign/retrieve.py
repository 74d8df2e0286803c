"""Retrieval with a trained model: new fMRI in, ranked clips out, and the reverse.

The gallery is read file by file and its clips are embedded in batches, so that memory does not grow with it; how it is ranked
all the same as if it were known at once is in `neuroalign.gallery`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

import neuroalign
from neuroalign.config.fmri import Timing
from neuroalign.errors import UserError, nearest
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.fmri.timing import run_clock
from neuroalign.gallery import Parts, Progress, best_clips, best_windows, joined
from neuroalign.io import read_json, read_tsv
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel
from neuroalign.text.captions import read_captions
from neuroalign.video import shards

log = logging.getLogger(__name__)
# Clips, and brain windows, that are cut and embedded together.
_CLIPS, _WINDOWS = 512, 128


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
    progress = Progress(log, len(files), "clips" if fmri is not None else "brain windows")

    def parts() -> Parts:
        for number, path in enumerate(files):
            if fmri is not None:
                found = _embed_film(trained, path, captions=words.get(path))
            else:
                found = _embed_run(trained, path, subject)
            for starts, item in found:
                progress.add(len(starts), number)
                yield number, starts, item

    own = _embed_run(trained, fmri, subject, onsets) if fmri is not None else None
    if own is None:
        own = _embed_film(trained, video, onsets, words.get(video))
    pieces = list(own)
    starts, query = np.concatenate([s for s, _ in pieces]), joined([item for _, item in pieces])
    best = (best_clips if fmri is not None else best_windows)(trained, query, parts(), top)
    return pd.DataFrame(
        {
            "query_s": np.repeat(starts, best.score.shape[1]),
            "rank": np.tile(np.arange(best.score.shape[1]) + 1, len(starts)),
            "file": [files[number].stem for number in best.file.ravel()],
            "start_s": best.start.ravel(),
            "score": best.score.ravel(),
        }
    )


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
) -> Iterator[tuple[np.ndarray, Embedding]]:
    """Starts and embeddings of the clips of a film, batch by batch; only the windows that a batch needs are read."""
    from neuroalign.pairs.windows import video_steps

    duration, step = model.geometry["duration_s"], model.geometry["step_s"]
    with _about(path):
        times = shards.read_times(path)
        if onsets:
            starts = np.asarray(onsets, float)
        else:
            starts = np.arange(0.0, times[-1] if len(times) else 0.0, duration)
            if len(starts):
                starts = starts[video_steps(shards.Embedding({}, times), starts, duration, step)[2]]
        if not len(starts):
            raise UserError(f"The film is shorter than a clip of {duration:g} s; leave it out.")
    words = None
    if captions is not None:
        with _about(captions):
            words = read_captions(captions)
    # What surrounds a clip may count too, and a step without a window of its own lies between two.
    margin = duration + model.geometry.get("surround_s", 0.0)
    for begin in range(0, len(starts), _CLIPS):
        batch = starts[begin : begin + _CLIPS]
        low = np.searchsorted(times, batch.min() - margin) - 2
        high = np.searchsorted(times, batch.max() + duration + margin) + 2
        with _about(path):
            film = shards.read_embedding(path, slice(max(int(low), 0), int(high)))
            if words is None:
                found = model.embed_video(film, batch)
        if words is not None:
            with _about(captions or path):
                found = model.embed_video(film, batch, words)
        yield batch, found


def _embed_run(
    model: TrainedModel, path: Path, subject: str | None, onsets: Sequence[float] | None = None
) -> Iterator[tuple[np.ndarray, Embedding]]:
    """Onsets and embeddings of the brain windows of a run, batch by batch."""
    from neuroalign.config.fmri import Hrf
    from neuroalign.pairs.windows import brain_window

    with _about(path):
        series = _read_brain(path, model, subject)
        duration, step = model.geometry["duration_s"], model.geometry["step_s"]
        hrf = Hrf(**model.geometry["hrf"])
        starts = np.asarray(onsets or np.arange(0.0, max(series.times[-1] - duration, 0.0) + 0.01, duration))
        # A beta depends on all other clips of its run; they are small beside windows of many volumes.
        size = len(starts) if hrf.method == "glm" else _WINDOWS
        batches = [starts[begin : begin + size] for begin in range(0, len(starts), size)]
        if not onsets:
            usable = [b[brain_window(series, b, duration, step, hrf).usable] for b in batches]
            batches = [b for b in usable if len(b)]
            if not batches:
                raise UserError(
                    f"The run has no {duration:g}-s clip with enough usable volumes; leave it out."
                )
        whose = subject or series.attributes.get("subject") or None
    for batch in batches:
        with _about(path):
            found = model.embed_fmri(series, whose, batch)
        yield batch, found


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
    if model.geometry["hrf"]["method"] == "glm":
        log.warning(
            "%s: a table does not say what was regressed out of it, so its betas are fitted without; if the model was "
            "trained on cleaned series (fmri.source other than timeseries), give ROI series (.h5), which know.",
            path,
        )
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
