"""Where the shots of a film begin: hard cuts, dissolves and fades, found in one pass over small frames.

Two frames differ by the product of two numbers from 0 to 1: how different the colours of the blocks of a 4 x 4 grid are
(histograms, as in Nagasaka & Tanaka 1992; their intersection, Swain & Ballard 1991), which things that move change
little, and one minus the correlation of the pictures, which a change of light leaves at zero. What is told:

cut
    No frame just before resembles any frame just after (so a flash, after which the picture is as before, is none), and
    the change stands out from those around it, as in the sliding window of Yeo & Liu (1995) and the adaptive detector of
    PySceneDetect: a camera that moves fast changes every frame. Where part of the picture is always the same (bars, a
    frame around it) the difference is small; such a change has to stand out more.
dissolve
    Between two pictures that differ, all frames are mixtures of the two whose share grows from 0 to 1 (the production
    model of Hampapur, Jain & Weymouth 1995). A pan, which also leads from one picture to another, is no mixture.
fade
    The picture loses its contrast step by step down to one colour, or gains it from there (Lienhart 1999).

What comes and goes within `SHORTEST_S` counts as a flash; a dissolve between pictures that move much is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Frames are looked at in this height; the width follows. Details smaller than a block do not matter.
HEIGHT = 36
SHORTEST_S = 0.35
# A cut is a difference of at least so much, and so many times the usual one around it; or, of the colours alone, so much
# and so many times, where the layout changes by a tenth at least: not by a change of light alone.
LEAST, TIMES = 0.15, 3.5
_LEAST_COLOURS, _TIMES_COLOURS, _NO_LIGHT = 0.15, 4.5, 0.1
# What a still picture may differ by from frame to frame: twice nothing is still nothing.
_FLOOR = 0.01
_AROUND_S = 0.5
_SIDE = 4
_BINS_VALUE, _BINS_HUE = 8, 6
_CODES = 32  # levels of a channel that histograms tell apart
# Lengths of stretches that are tried for a dissolve, which must begin and end inside; mixtures fit so well (share of the
# squared difference between both ends that is left), and the ends differ so much (root mean square, of 1).
_DISSOLVES_S = (0.75, 1.5, 3.0)
_MISFIT = 0.06
_DIFFERENT = 0.06
# The standard deviation over a frame of one colour, compressed, of 1.
_BLANK = 0.02
_LONGEST_FADE_S = 3.0


@dataclass(frozen=True)
class Transition:
    """From one shot to the next.

    Attributes
    ----------
    kind : str
        ``cut``, ``dissolve`` or ``fade``.
    start : int
        The first frame that is not wholly of the shot before.
    stop : int
        The first frame that is wholly of the shot after; equal to `start` for a cut.
    """

    kind: str
    start: int
    stop: int

    @property
    def frame(self) -> int:
        """Where one shot is said to end and the next to begin: the middle."""
        return (self.start + self.stop) // 2


def frame_size(width: int, height: int) -> tuple[int, int]:
    """Width and height, multiples of the grid, at which frames of a film are looked at."""
    wide = max(1, round(HEIGHT * width / height / _SIDE))
    return _SIDE * min(wide, 64), HEIGHT


class ShotDetector:
    """Finds transitions while the frames of a film pass; keeps a few numbers per frame, not the frames.

    Parameters
    ----------
    fps : float
        Frames per second.
    """

    def __init__(self, fps: float):
        self._fps = fps
        self._reach = max(1, round(SHORTEST_S * fps))
        # A dissolve of fewer frames than this cannot be told from a cut.
        self._spans = sorted({n for n in (round(s * fps) for s in _DISSOLVES_S) if n >= 4})
        self._keep = max([2 * self._reach - 1, *self._spans])
        self._prints: np.ndarray | None = None
        self._small: np.ndarray | None = None
        # By distance in frames, from 1 on: the differences of all frames that lie so far apart, batch by batch.
        self._colours: list[list[np.ndarray]] = [[] for _ in range(2 * self._reach - 1)]
        self._both: list[list[np.ndarray]] = [[] for _ in range(2 * self._reach - 1)]
        self._contrast: list[float] = []
        self._mixtures: list[tuple[float, int, int]] = []
        self._count = 0

    def add(self, frames: np.ndarray) -> None:
        """Take in the next frames: uint8 of shape (n, height, width, 3), RGB, in the size of `frame_size`."""
        if not len(frames):
            return
        prints, small, old = _block_histograms(frames), _shrink(frames), 0
        self._contrast += small.reshape(len(frames), -1, 3).std(axis=1).mean(axis=1).tolist()
        if self._prints is not None:
            old = len(self._prints)
            prints, small = np.concatenate([self._prints, prints]), np.concatenate([self._small, small])
        layout = _standardised(small)
        for lag, (colours, both) in enumerate(zip(self._colours, self._both, strict=True), 1):
            now = slice(max(old, lag), None)
            then = slice(now.start - lag, max(0, len(prints) - lag))
            different = _distance(prints[then], prints[now])
            alike = np.maximum(0, (layout[then] * layout[now]).sum(axis=1))
            colours.append(different)
            both.append(different * (1 - alike))
        for span in self._spans:
            ends = np.arange(max(old, span), len(prints))
            changed = ((small[ends] - small[ends - span]) ** 2).mean(axis=1) >= _DIFFERENT**2
            for end in ends[changed].tolist():
                begin = end - span
                found = _mixture(small[begin : end + 1], self._count - old + begin)
                # Else it is the light that changed slowly, as when a camera adapts.
                if found and _difference(prints, layout, begin, end) >= LEAST:
                    self._mixtures.append(found)
        self._count += len(frames)
        self._prints, self._small = prints[-self._keep :], small[-self._keep :]

    def result(self) -> list[Transition]:
        """All transitions in order, once all frames have passed."""
        fades = self._fades()
        dissolves = [d for d in self._dissolves() if not _touching(d, fades)]
        gradual = fades + dissolves
        cuts = [Transition("cut", b, b) for b in self._cuts()]
        cuts = [c for c in cuts if not _touching(c, gradual)]
        return sorted([*cuts, *gradual], key=lambda t: t.start)

    def change(self) -> np.ndarray:
        """Difference (0 to 1) of every frame from the one before; 0 for the first."""
        return self._steps(self._both)

    def _steps(self, lags: list[list[np.ndarray]]) -> np.ndarray:
        return np.concatenate([[0.0], *lags[0]])

    def _across(self, lags: list[list[np.ndarray]]) -> np.ndarray:
        """The least difference of any frame in reach before each frame from any in reach after it (itself included)."""
        n, differences = self._count, [np.concatenate(batches) for batches in lags]
        across = np.full(n, np.inf)
        for before in range(1, self._reach + 1):
            for after in range(min(self._reach, n - before)):
                lag = before + after
                # Of `differences[lag - 1]`, entry k is that of frames k and k + lag.
                part = slice(before, n - after)
                across[part] = np.minimum(across[part], differences[lag - 1])
        return across

    def _cuts(self) -> list[int]:
        n = self._count
        around = max(2, round(_AROUND_S * self._fps))
        colours, both = self._across(self._colours), self._across(self._both)
        usual_colours, usual = self._steps(self._colours), self._steps(self._both)
        # A shot at either end of the film need not be as long: there is nothing to mistake it for a flash in.
        edge = (self._reach + 1) // 2
        cuts = []
        for b in np.flatnonzero(colours[edge : n - edge + 1] >= _LEAST_COLOURS) + edge:
            near = np.r_[max(1, b - around) : b, b + 1 : min(n, b + 1 + around)]
            if not len(near):
                continue
            large = both[b] >= LEAST and both[b] >= TIMES * (np.median(usual[near]) + _FLOOR)
            alone = both[b] >= _NO_LIGHT * colours[b] and colours[b] >= _TIMES_COLOURS * (
                np.median(usual_colours[near]) + _FLOOR
            )
            if large or alone:
                cuts.append(int(b))
        return cuts

    def _dissolves(self) -> list[Transition]:
        """Of stretches that overlap the one that fits best."""
        taken: list[Transition] = []
        for _, start, stop in sorted(self._mixtures):
            found = Transition("dissolve", start, stop)
            if not _touching(found, taken):
                taken.append(found)
        return taken

    def _fades(self) -> list[Transition]:
        contrast = np.asarray(self._contrast)
        blank = np.concatenate([[0], (contrast < _BLANK).astype(int), [0]])
        starts, stops = np.flatnonzero(np.diff(blank) == 1), np.flatnonzero(np.diff(blank) == -1)
        longest = round(_LONGEST_FADE_S * self._fps)
        found = []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if start == 0 or stop == self._count:
                continue
            first, last = start, stop
            while first > max(1, start - longest) and contrast[first - 2] > 1.02 * contrast[first - 1]:
                first -= 1
            while last < min(self._count - 1, stop + longest) and contrast[last + 1] > 1.02 * contrast[last]:
                last += 1
            if start - first >= 2 or last - stop >= 2:
                found.append(Transition("fade", first, last))
        return found


def shot_edges(transitions: Sequence[Transition], n_frames: int) -> np.ndarray:
    """First frames of all shots, and the number of frames: int array of shape (shots + 1,)."""
    return np.array([0, *(t.frame for t in transitions), n_frames])


def _touching(one: Transition, others: Sequence[Transition]) -> bool:
    return any(one.start <= other.stop and other.start <= one.stop for other in others)


def _mixture(frames: np.ndarray, first: int) -> tuple[float, int, int] | None:
    """Misfit, first mixed frame and first frame after it, if there is a dissolve inside this stretch of small frames.

    Parameters
    ----------
    frames : array of shape (n, values)
    first : int
        Number of the first of them in the film.
    """
    difference = frames[-1] - frames[0]
    size = float(difference @ difference)
    share = (frames - frames[0]) @ difference / size
    steps = np.diff(share)
    # It begins and ends inside, nowhere in one step, and never turns back.
    if max(abs(steps[0]), abs(steps[-1])) > 0.03 or steps.max() > 0.55 or steps.min() < -0.05:
        return None
    left = frames - frames[0] - share[:, None] * difference
    misfit = float((left**2).sum(axis=1).max()) / size
    mixed = np.flatnonzero((share > 0.04) & (share < 0.96))
    if misfit > _MISFIT or len(mixed) < 2:
        return None
    return misfit, first + int(mixed[0]), first + int(mixed[-1]) + 1


def _weights() -> np.ndarray:
    """Share of each histogram bin in a colour, (colours, bins): colours in 5 bits per channel, bins of HSV.

    A colour counts for the two nearest of the bins of value, and within each for the two nearest of hue, as far as it is
    colourful (chroma of the HSV cone), and for grey: a slow change of light or a little noise moves it gradually, not by
    a whole bin.
    """
    level = (np.arange(_CODES) + 0.5) / _CODES
    red, green, blue = (c.ravel() for c in np.meshgrid(level, level, level, indexing="ij"))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * np.pi) % 1.0
    rows = np.arange(len(value))
    values = np.zeros((len(value), _BINS_VALUE), np.float32)
    place = value * (_BINS_VALUE - 1)
    low = np.minimum(place.astype(int), _BINS_VALUE - 2)
    values[rows, low] = low + 1 - place
    values[rows, low + 1] = place - low
    hues = np.zeros((len(value), _BINS_HUE + 1), np.float32)
    colourful = np.minimum(1, 1.5 * chroma)
    place = hue * _BINS_HUE
    low = place.astype(int)
    hues[rows, low % _BINS_HUE] = colourful * (low + 1 - place)
    hues[rows, (low + 1) % _BINS_HUE] = colourful * (place - low)
    hues[:, -1] = 1 - colourful
    return (values[:, :, None] * hues[:, None, :]).reshape(len(value), -1)


_WEIGHTS = _weights()


def _block_histograms(frames: np.ndarray) -> np.ndarray:
    """Histograms of all blocks of each frame, side by side: (n, blocks * bins); those of a frame sum to 1."""
    codes = (frames // (256 // _CODES)).astype(np.int32)
    codes = (codes[..., 0] * _CODES + codes[..., 1]) * _CODES + codes[..., 2]
    n, high, wide = codes.shape
    blocks = codes.reshape(n, _SIDE, high // _SIDE, _SIDE, wide // _SIDE).swapaxes(2, 3)
    blocks = blocks.reshape(n, _SIDE**2, -1)
    return (_WEIGHTS[blocks].mean(axis=2) / _SIDE**2).reshape(n, -1)


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One minus the intersection of histograms, block by block: 0 for equal pictures, 1 for nothing in common."""
    return np.abs(one - other).sum(axis=-1) / 2


def _shrink(frames: np.ndarray) -> np.ndarray:
    """Means of blocks of 4 x 4 pixels, from 0 to 1: (n, values)."""
    sums = np.zeros_like(frames[:, ::_SIDE, ::_SIDE], np.float32)
    for row in range(_SIDE):
        for column in range(_SIDE):
            sums += frames[:, row::_SIDE, column::_SIDE]
    return sums.reshape(len(frames), -1) / (255 * _SIDE**2)


def _standardised(small: np.ndarray) -> np.ndarray:
    """Pictures with channels of mean 0, and of length 1, so that products are correlations; one colour all over has none."""
    pixels = small.reshape(len(small), -1, 3)
    centred = (pixels - pixels.mean(axis=1, keepdims=True)).reshape(len(small), -1)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > _BLANK * np.sqrt(small.shape[1]), length, np.inf)


def _difference(prints: np.ndarray, layout: np.ndarray, one: int, other: int) -> float:
    """Difference of two frames, by their numbers."""
    return float(_distance(prints[one], prints[other]) * (1 - max(0.0, layout[one] @ layout[other])))
