"""From a mezzanine to its embedding file: one pass over the frames, part by part, able to go on after a stop.

A film is embedded in parts of some hundred frames, each from frames of its own, so that what a part holds does not
depend on where the job began: a film finished after any number of stops equals one done in a single go, bit for bit where
the machine's arithmetic is the same.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from importlib import metadata
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from neuroalign.config.backbones import keys_read
from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.io import provenance
from neuroalign.modules import source_files
from neuroalign.video.backbones import Backbone, load_backbone
from neuroalign.video.decode import FilmReader, film
from neuroalign.video.journal import Journal
from neuroalign.video.luminance import LowLevel, coarse_lightness
from neuroalign.video.prefetch import ahead
from neuroalign.video.shards import LOW_LEVEL, write_parts
from neuroalign.video.windows import WindowGrid, window_grid

logger = logging.getLogger(__name__)

# A part is so many batches long, and so many times what is computed twice where two parts meet.
_PART_BATCHES = 16
_PART_OVERLAPS = 32
# Models of clips take seconds for a window on a processor: this bounds what a job that is killed loses.
_PART_WINDOWS = 64
# Batches that wait between the decoder and the backbone.
_DEPTH = 2
_REPORT_S = 10.0
# Libraries that decide what comes out, where they are installed.
_LIBRARIES = ("decord", "numpy", "pymoten", "torch", "transformers")


def embed(
    mezzanine: str | os.PathLike,
    destination: str | os.PathLike,
    config: Video,
    *,
    threads: int = 1,
    weights: str | os.PathLike | None = None,
) -> None:
    """Compute the features of a film with the configured backbone and write them.

    A job that was stopped goes on where it was, if nothing that decides the result has changed: finished parts are kept
    in a hidden file beside `destination` (see `journal`).

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.
    destination : path
        An ``.h5`` file in the format of `shards`.
    config : Video
    threads : int
        Threads that decode; beside a GPU, films are read in so many places at once.
    weights : path, optional
        Record or folder of the backbone's weights (see `backbones.load_backbone`).

    Raises
    ------
    UserError
        If the film cannot be decoded, or the backbone's weights are missing.
    """
    backbone = load_backbone(config, film(mezzanine).fps, weights)
    embed_with(backbone, mezzanine, destination, config, threads=threads)


def embed_with(
    backbone: Backbone,
    mezzanine: str | os.PathLike,
    destination: str | os.PathLike,
    config: Video,
    *,
    threads: int = 1,
) -> None:
    """`embed` with a backbone at hand.

    Parameters
    ----------
    backbone : Backbone
    mezzanine, destination : path
    config : Video
        `window_s`, `stride_s` and `batch_size` are used, and what its backbone reads is recorded.
    threads : int
        Threads that decode.

    Raises
    ------
    UserError
        If the film cannot be decoded, or the backbone gives values that are not finite.
    """
    source = film(mezzanine)
    grid = window_grid(source.n_frames, source.fps, config.window_s, config.stride_s)
    parts = grid.parts(_windows_per_part(backbone, grid, config))
    made_by = provenance(
        config.model_dump(mode="json", include={*keys_read(config.backbone)} - {"device"}),
        {"mezzanine": mezzanine},
    )
    name = Path(mezzanine).name
    logger.info(
        "embedding %s with %s on %s: %d frames, %d windows",
        *(name, backbone.name, backbone.device, source.n_frames, len(grid)),
    )
    with Journal(destination, _identity(backbone, grid, len(parts[0]), made_by)) as journal:
        done = journal.count
        there = sum(map(len, parts[:done]))
        if done:
            logger.info("%d of %d windows are there, from a job that was stopped", there, len(grid))
        size = backbone.frame_size(source.width, source.height)
        tell = _Progress(grid, there).tell
        computed = _compute(backbone, mezzanine, size, parts[done:], config.batch_size, threads, tell)
        with closing(computed):
            for rows, low_level in computed:
                part = parts[journal.count]
                if not np.isfinite(rows).all():
                    bad = part.times[~np.isfinite(rows).all(axis=1)][0]
                    raise UserError(
                        f"{backbone.name} gives values that are not finite for {name} around second {bad:g}; "
                        "check its weights, or take another backbone (video.backbone)."
                    )
                journal.append(rows.tobytes() + low_level.tobytes())
        write_parts(
            destination,
            {level: (dim, backbone.dtype) for level, dim in backbone.levels.items()},
            grid.times,
            (_unpack(backbone, part, len(window)) for part, window in zip(journal, parts, strict=True)),
            {
                "backbone": backbone.name,
                "revision": backbone.revision,
                "window_s": config.window_s,
                "stride_s": config.stride_s,
                "hrf_convolved": False,
            },
            made_by,
        )
        journal.remove()


def _windows_per_part(backbone: Backbone, grid: WindowGrid, config: Video) -> int:
    """Enough for the frames that two parts share, and for the batch that is not full, to matter little."""
    if backbone.by_window:
        return _PART_WINDOWS
    stride = config.stride_s * grid.fps
    shared = backbone.past + backbone.future + max(0.0, config.window_s * grid.fps - stride)
    return math.ceil(max(_PART_BATCHES * config.batch_size, _PART_OVERLAPS * shared) / stride)


def _identity(backbone: Backbone, grid: WindowGrid, per_part: int, made_by: dict[str, Any]) -> str:
    """A checksum of all that decides what is in the parts: film, settings, backbone, windows, code and libraries.

    The number of threads and the kind of processor are left out: they change the last bits at most.
    """
    code = {
        Path(path).read_bytes() for path in source_files("neuroalign.video.embed", type(backbone).__module__)
    }
    facts = {
        "made_by": made_by,
        "backbone": [backbone.name, backbone.revision, backbone.device, str(backbone.dtype)],
        "levels": list(backbone.levels.items()),
        "windows": [len(grid), per_part, grid.n_frames, grid.fps],
        "code": sorted(blake2b(content, digest_size=8).hexdigest() for content in code),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _compute(
    backbone: Backbone,
    mezzanine: str | os.PathLike,
    size: tuple[int, int],
    parts: list[WindowGrid],
    batch: int,
    threads: int,
    tell: Callable[[int], None],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features of each part, of the backbone's type, and its low-level description; `tell` hears of windows as they come.

    Threads decode ahead, so that the backbone does not wait; what they hold is bounded, however long the film.
    """
    # The motion of a part's first frame needs the frame before, whatever the backbone needs.
    past = max(backbone.past, 1)
    low_levels = [LowLevel(part, past) for part in parts]
    # Beside a GPU, one reader is too slow, and the processor is free for more. Each begins every batch by itself.
    workers = threads if backbone.device == "cuda" else 1
    own = threading.local()

    def tasks() -> Iterator[tuple[int, int, int, int]]:
        for number, part in enumerate(parts):
            first, end = part.first_frame(backbone.past), part.end_frame(backbone.future)
            lead = first - part.first_frame(past)
            for begin in range(first, end, batch):
                yield number, begin - lead, min(begin + batch, end), lead
                lead = 0

    def decode(task: tuple[int, int, int, int]) -> tuple[int, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        number, begin, end, lead = task
        if not hasattr(own, "reader"):
            own.reader = FilmReader(mezzanine, size, max(1, threads // workers))
        index = np.arange(begin, end)
        frames = own.reader.read(index)
        return number, coarse_lightness(frames), (index[lead:] / own.reader.fps, frames[lead:])

    def seen(number: int, group: Iterable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _, light, frames in group:
            low_levels[number].add(light)
            yield frames

    def told(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            yield block
            tell(len(block))

    with closing(ahead(decode, tasks(), workers, _DEPTH)) as stream:
        for number, group in groupby(stream, key=itemgetter(0)):
            batches = seen(number, group)
            rows = np.concatenate(list(told(backbone.features(batches, parts[number]))))
            expected = (len(parts[number]), sum(backbone.levels.values()))
            if rows.shape != expected:
                raise ValueError(f"{backbone.name} gave rows of shape {rows.shape}, expected {expected}")
            # Frames that it left unread count for the low level all the same.
            for _ in batches:
                pass
            with np.errstate(over="ignore"):
                yield rows.astype(backbone.dtype), low_levels[number].result()


def _unpack(backbone: Backbone, part: bytes, windows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The levels and the low-level description of a part."""
    dims = list(backbone.levels.values())
    cut = windows * sum(dims) * backbone.dtype.itemsize
    rows = np.frombuffer(part[:cut], backbone.dtype).reshape(windows, sum(dims))
    levels = np.split(rows, np.cumsum(dims)[:-1], axis=1)
    low_level = np.frombuffer(part[cut:], np.float32).reshape(windows, len(LOW_LEVEL))
    return dict(zip(backbone.levels, levels, strict=True)), low_level


class _Progress:
    """Lines in the log: how far, how fast, how long still."""

    def __init__(self, grid: WindowGrid, done: int):
        self._stop = grid.stop
        self._done, self._all = done, len(grid)
        self._first = grid.start[min(done, len(grid) - 1)]
        self._began = self._told = time.monotonic()

    def tell(self, windows: int) -> None:
        """Note that so many more windows are computed, and say so from time to time, and at the end."""
        self._done += windows
        now = time.monotonic()
        if now - self._told < _REPORT_S and self._done < self._all:
            return
        self._told = now
        frame = self._stop[self._done - 1]
        rate = (frame - self._first) / max(now - self._began, 1e-9)
        logger.info(
            "%d of %d windows (%.0f %%), %.1f frames/s, %s left",
            *(self._done, self._all, 100 * self._done / self._all, rate),
            _duration((self._stop[-1] - frame) / rate),
        )


def _duration(seconds: float) -> str:
    """A duration as people say it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
