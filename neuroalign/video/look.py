"""One look at a normalised film: its shots, how much moves, and a picture of each shot."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from neuroalign.video.cuts import ShotDetector, Transition, frame_size, shot_edges
from neuroalign.video.decode import Film, film, iterate_frames
from neuroalign.video.thumbnails import frames_at

# A contact sheet holds so many pictures at most: one for each shot of a short film, evenly spaced ones of a long film.
MOST_PICTURES = 36
PICTURE_HEIGHT = 100
# Width over height of the strip of frames above the time courses.
_STRIP_ASPECT = 17.0
_BATCH = 32
# Where no pixel of a small frame differs by more, of 255, it is the same picture, compressed twice.
_STILL = 3
# A frame is black when no pixel of it, small, is brighter in any channel, of 255.
_BLACK = 32


@dataclass
class Look:
    """What a look at a film found.

    Attributes
    ----------
    film : Film
    transitions : list of Transition
        From shot to shot, in frames.
    change : array of shape (frames,)
        Distance (0 to 1) of every frame from the one before.
    still_s, black_s : float
        Seconds of the longest stretch in which the picture stands still, or is black.
    times : list of float
        Seconds at which the pictures of the contact sheet are.
    pictures : list of uint8 arrays of shape (height, width, 3)
    strip : list of uint8 arrays of shape (height, width, 3)
        Evenly spaced pictures from the film's beginning to its end.
    by_shot : bool
        Whether there is one picture for each shot; otherwise they are evenly spaced.
    """

    film: Film
    transitions: list[Transition]
    change: np.ndarray
    still_s: float
    black_s: float
    times: list[float]
    pictures: list[np.ndarray]
    strip: list[np.ndarray]
    by_shot: bool

    @property
    def edges_s(self) -> np.ndarray:
        """Beginnings of the shots, and the end of the film: seconds, of shape (shots + 1,)."""
        return shot_edges(self.transitions, self.film.n_frames) / self.film.fps


def look_at(mezzanine: str | os.PathLike) -> Look:
    """Decode a film once, small, and then the few frames of its pictures.

    Parameters
    ----------
    mezzanine : path
        A film written by `normalise`.

    Raises
    ------
    UserError
        If it cannot be decoded.
    """
    source = film(mezzanine)
    shots = ShotDetector(source.fps)
    black, still, before = [], [], None
    for _, frames in iterate_frames(mezzanine, frame_size(source.width, source.height), _BATCH):
        shots.add(frames)
        black.append(frames.max(axis=(1, 2, 3)) <= _BLACK)
        signed = frames.astype(np.int16)
        step = np.diff(signed, axis=0, prepend=signed[:1] if before is None else before)
        still.append(np.abs(step).max(axis=(1, 2, 3)) <= _STILL)
        before = signed[-1:]
    transitions, change = shots.result(), shots.change()
    edges = shot_edges(transitions, source.n_frames)
    by_shot = len(edges) - 1 <= MOST_PICTURES
    times = picture_times(edges / source.fps, source.duration_s)
    count = int(np.clip(round(_STRIP_ASPECT * source.height / source.width), 1, min(24, source.n_frames)))
    even = (np.arange(count) + 0.5) * source.duration_s / count
    pictures = frames_at(mezzanine, [*times, *even], PICTURE_HEIGHT)
    return Look(
        film=source,
        transitions=transitions,
        change=change,
        # The first frame has none before it.
        still_s=longest(np.concatenate(still)[1:]) / source.fps,
        black_s=longest(np.concatenate(black)) / source.fps,
        times=times,
        pictures=pictures[: len(times)],
        strip=pictures[len(times) :],
        by_shot=by_shot,
    )


def picture_times(edges_s: np.ndarray, duration_s: float) -> list[float]:
    """Times of the contact sheet: the middles of the shots, or evenly spaced ones if there are too many, or but one shot.

    Parameters
    ----------
    edges_s : array of shape (shots + 1,)
    duration_s : float
    """
    shots = len(edges_s) - 1
    if 1 < shots <= MOST_PICTURES:
        return ((edges_s[:-1] + edges_s[1:]) / 2).tolist()
    # Of one shot a picture every two seconds or so shows what moves.
    count = MOST_PICTURES if shots > 1 else int(np.clip(duration_s // 2, 1, 12))
    return ((np.arange(count) + 0.5) * duration_s / count).tolist()


def longest(flags: np.ndarray) -> int:
    """Length of the longest run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
