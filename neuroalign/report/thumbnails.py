"""Thumbnails of clips from the normalised videos, or labelled time tiles where there is no video."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pandas as pd

from neuroalign.errors import UserError
from neuroalign.report.results import Results
from neuroalign.report.style import Clip, data_uri
from neuroalign.video.thumbnails import thumbnails

logger = logging.getLogger(__name__)


class ClipPictures:
    """What clips look like: decodes each stimulus once for all clips asked for.

    Parameters
    ----------
    results : Results
    """

    def __init__(self, results: Results):
        self._root = results.root / "stimuli"
        clips = results.table("pairs/clips.tsv")
        self._clips: dict[str, tuple[str, float, float]] = {}
        if clips is not None:
            contents = clips.drop_duplicates("clip_id")[["clip_id", "stimulus", "start_s", "duration_s"]]
            self._clips = {c: (s, float(a), float(d)) for c, s, a, d in contents.itertuples(index=False)}
        order = list(dict.fromkeys(s for s, _, _ in self._clips.values()))
        # Golden-angle steps keep the hues of neighbouring stimuli apart.
        self._hue = {stimulus: int(210 + 137.5 * k) % 360 for k, stimulus in enumerate(order)}
        self._sources: dict[str, str] = {}

    def load(self, clip_ids: Iterable[str]) -> None:
        """Decode the middle frame of every clip whose stimulus has a video."""
        wanted = pd.DataFrame(
            [
                (c, *self._clips[c])
                for c in dict.fromkeys(clip_ids)
                if c in self._clips and c not in self._sources
            ],
            columns=["clip", "stimulus", "start", "duration"],
        )
        for stimulus, part in wanted.groupby("stimulus"):
            video = self._root / f"{stimulus}.mp4"
            if not video.is_file():
                continue
            try:
                images = thumbnails(video, list(part["start"] + part["duration"] / 2))
            except UserError as error:
                logger.warning("no thumbnails of %s: %s", stimulus, error)
                continue
            for clip, image in zip(part["clip"], images, strict=True):
                self._sources[clip] = data_uri(image, "image/jpeg")

    def clip(self, clip_id: str, *, note: str = "", correct: bool = False) -> Clip:
        """A clip for a strip; without video a tile that names the stimulus and the time."""
        stimulus, start, duration = self._clips.get(clip_id, (clip_id, float("nan"), float("nan")))
        when = "" if start != start else f"{clock(start)}–{clock(start + duration)}"
        label = f"{stimulus} {when}".strip()
        alt = f"{'Frame of' if clip_id in self._sources else 'Time tile of'} {label}{', the true clip' if correct else ''}"
        return Clip(label, alt, self._sources.get(clip_id), correct, note, self._hue.get(stimulus, 210))

    @property
    def any_video(self) -> bool:
        """Whether any thumbnail could be made."""
        return bool(self._sources)


def clock(seconds: float) -> str:
    """``75.5`` as ``1:15.5``; whole seconds without a fraction."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:02.0f}" if rest == int(rest) else f"{int(minutes)}:{rest:04.1f}"
