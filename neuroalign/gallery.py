"""A gallery of any size, part by part: what it shares, its embeddings put aside, and the best of it.

The score of a clip depends on what the whole gallery shares (its mean), so that a gallery is seen twice: once to embed it,
and once to rank it. Between the two, embeddings wait in a temporary file; nothing here grows with the gallery in memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from logging import Logger
from typing import TYPE_CHECKING

import numpy as np

from neuroalign.errors import UserError
from neuroalign.models.score import CENTRE_ON_GALLERY, Embedding

if TYPE_CHECKING:
    from neuroalign.models.trained import TrainedModel

# Embeddings up to this size stay in memory.
_IN_MEMORY = 128 * 2**20
# Clips that are put aside, and later scored, together.
_TOGETHER = 1024
_QUERIES = 256
_REPORT_S = 10.0


class Mean:
    """The mean of every part of the embeddings seen so far, in double precision; of captions, of those there are."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray | int] = {}
        self.clips = 0

    def add(self, items: Embedding) -> None:
        """Take in more items."""
        there = {name: len(x) for name, x in items.vectors().items()}
        if items.present is None:
            self.clips += len(items)
        else:
            self.clips += int(items.present.any(axis=1).sum())
            ones = replace(items, **{name: np.ones_like(x) for name, x in items.vectors().items()})
            there = {name: x.sum(axis=0, dtype=np.float64) for name, x in ones.without(None).items()}
        for name, x in items.without(None).items():
            self._sums[name] = self._sums.get(name, 0.0) + x.sum(axis=0, dtype=np.float64)
            self._counts[name] = self._counts.get(name, 0) + there[name]

    def centre(self, trained: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray] | None:
        """What the score removes: this mean, or that of training clips if fewer than 8 were seen."""
        if self.clips < CENTRE_ON_GALLERY and trained is not None:
            return trained
        found = {name: x / np.maximum(self._counts[name], 1) for name, x in self._sums.items()}
        return {name: x.astype(np.float32) for name, x in found.items()} or None


class Aside:
    """Embeddings put aside in the order they come, in memory while they are few and in a temporary file after that."""

    def __init__(self) -> None:
        # The temporary folder is the user's to choose (TMPDIR).
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._names: list[list[str]] = []

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def put(self, items: Embedding, files: np.ndarray, starts: np.ndarray) -> None:
        """Put items aside, with the number of the file and the second that each comes from."""
        arrays = {"files": files, "starts": starts, **items.vectors()}
        if items.text is not None:
            arrays |= {f"text.{name}": x for name, x in items.text.vectors().items()}
            arrays["text.present"] = items.text.present
        try:
            for x in arrays.values():
                np.lib.format.write_array(self._file, np.ascontiguousarray(x), allow_pickle=False)
        except OSError as error:
            raise UserError(
                f"The temporary folder {tempfile.gettempdir()} cannot hold the embeddings of the gallery ({error}); "
                "point TMPDIR to a larger one."
            ) from error
        self._names.append(list(arrays))

    def __iter__(self) -> Iterator[tuple[Embedding, np.ndarray, np.ndarray]]:
        self._file.seek(0)
        for names in self._names:
            found = {name: np.lib.format.read_array(self._file, allow_pickle=False) for name in names}
            text = {n.removeprefix("text."): found.pop(n) for n in names if n.startswith("text.")}
            files, starts = found.pop("files"), found.pop("starts")
            yield Embedding(**found, text=Embedding(**text) if text else None), files, starts


class Best:
    """The best candidates of every query so far; equal scores stay in the order they came.

    Parameters
    ----------
    queries, top : int
    """

    def __init__(self, queries: int, top: int):
        self.top = top
        self.score = np.empty((queries, 0), np.float32)
        self.file = np.empty((queries, 0), np.int64)
        self.start = np.empty((queries, 0))

    def add(self, scores: np.ndarray, files: np.ndarray, starts: np.ndarray) -> None:
        """Take in candidates: scores (queries, m), and the file and second of each."""
        if self.score.shape[1] == self.top:
            # A later candidate has to be better than the last one kept, not as good.
            hopeful = (scores > self.score[:, -1:]).any(axis=0)
            scores, files, starts = scores[:, hopeful], files[hopeful], starts[hopeful]
        if not len(files):
            return
        shape = scores.shape
        scores = np.concatenate([self.score, scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.top]

        def kept(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            both = np.concatenate([old, np.broadcast_to(new, shape)], axis=1)
            return np.take_along_axis(both, order, axis=1)

        self.file, self.start = kept(self.file, files), kept(self.start, starts)
        self.score = np.take_along_axis(scores, order, axis=1)


class Progress:
    """Says every ten seconds how far embedding has come."""

    def __init__(self, log: Logger, files: int, what: str):
        self._log, self._files, self._what = log, files, what
        self._began = self._told = time.monotonic()
        self._items = 0

    def add(self, items: int, file: int) -> None:
        """Count items of the file with this number (from 0)."""
        self._items += items
        now = time.monotonic()
        if now - self._told < _REPORT_S:
            return
        self._told = now
        rate = self._items / (now - self._began)
        self._log.info(
            "embedded %d %s, %.0f per second, from %d of %d files",
            *(self._items, self._what, rate, file + 1, self._files),
        )


Parts = Iterator[tuple[int, np.ndarray, Embedding]]


def gathered(parts: Parts) -> Iterator[tuple[Embedding, np.ndarray, np.ndarray]]:
    """Small parts (file number, starts, embeddings) joined until they are worth a matrix product."""
    held: list[tuple[int, np.ndarray, Embedding]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part[1])
        if count >= _TOGETHER:
            yield _together(held)
            held, count = [], 0
    if held:
        yield _together(held)


def _together(held: list[tuple[int, np.ndarray, Embedding]]) -> tuple[Embedding, np.ndarray, np.ndarray]:
    files = np.repeat([number for number, _, _ in held], [len(starts) for _, starts, _ in held])
    return joined([item for _, _, item in held]), files, np.concatenate([starts for _, starts, _ in held])


def best_clips(model: TrainedModel, brain: Embedding, parts: Parts, top: int) -> Best:
    """The best clips of a gallery for every brain window: the scores are those of the whole gallery at once.

    Parameters
    ----------
    model : TrainedModel
    brain : Embedding of n brain windows
    parts : iterator of (file number, starts in seconds, Embedding)
        Clips of the gallery in order.
    top : int
    """
    best, video, text = Best(len(brain), top), Mean(), Mean()
    with Aside() as aside:
        for clips, files, starts in gathered(parts):
            video.add(clips)
            if clips.text is not None:
                text.add(clips.text)
            aside.put(replace(clips, index=None), files, starts)
        centres = {side: m.centre(model.centres.get(side)) for side, m in (("video", video), ("text", text))}
        for clips, files, starts in aside:
            best.add(_scores(model, brain, clips, centres), files, starts)
    return best


def best_windows(model: TrainedModel, clips: Embedding, parts: Parts, top: int) -> Best:
    """The best brain windows for every clip, each as if it were asked for alone: centred on training clips."""
    best = Best(len(clips), top)
    for brain, files, starts in gathered(parts):
        best.add(_scores(model, brain, clips, {}).T, files, starts)
    return best


def _scores(model: TrainedModel, brain: Embedding, clips: Embedding, centres: Mapping) -> np.ndarray:
    rows = (np.arange(b, min(b + _QUERIES, len(brain))) for b in range(0, len(brain), _QUERIES))
    return np.concatenate([model.score(brain.take(r), clips, centres) for r in rows])


def joined(parts: list[Embedding]) -> Embedding:
    """Embeddings one after the other."""
    names = ("pooled", "steps", "codes", "index")
    arrays = [[getattr(part, name) for part in parts] for name in names]
    found = Embedding(*(None if values[0] is None else np.concatenate(values) for values in arrays))
    if all(part.text is None for part in parts):
        return found
    # Films without captions stand beside films with: theirs are missing.
    text = [_no_text(part) if part.text is None else part.text for part in parts]
    present = np.concatenate([t.present for t in text])
    return replace(found, text=replace(joined(text), present=present))


def _no_text(clips: Embedding) -> Embedding:
    """The captions of clips that have none."""
    arrays = (clips.pooled, clips.steps, clips.codes)
    empty = (None if x is None else np.zeros_like(x) for x in arrays)
    # As in `models.embed`: no code, rather than the first.
    index = None if clips.index is None else np.full_like(clips.index, -1)
    return Embedding(*empty, index, present=np.zeros(clips.steps.shape[:2], bool))
