"""Cutting windows: which volumes and which embeddings belong to a clip, and at which lag.

Everything here is arithmetic on arrays already in memory, so that another clip length or lag never opens a
NIfTI or a video again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neuroalign.config.fmri import Hrf
from neuroalign.fmri.series import RoiSeries
from neuroalign.pairs.betas import separate_betas
from neuroalign.video.shards import Embedding

if TYPE_CHECKING:
    from neuroalign.pairs.store import BrainWindows

# A window is used only if at least this share of the volumes it should have is there and not censored.
MINIMUM_VALID = 0.5
# One censored volume may be bridged by interpolation; a longer gap may not. In repetition times.
_BRIDGE = 2.1


@dataclass
class Cut:
    """Windows cut out of one run, one per onset.

    Attributes
    ----------
    levels : dict of str to float32 array of shape (n, volumes, units)
    times : float32 array of shape (n, volumes)
        Seconds after the onset; 0 where padded.
    valid : bool array of shape (n, volumes)
    usable : bool array of shape (n,)
        False where too little of the window is left by censoring or the end of the run.
    """

    levels: dict[str, np.ndarray]
    times: np.ndarray
    valid: np.ndarray
    usable: np.ndarray


def step_times(duration_s: float, step_s: float) -> np.ndarray:
    """Centres of the steps of a clip, in seconds after its start; shape (steps,)."""
    steps = max(1, round(duration_s / step_s))
    return ((np.arange(steps) + 0.5) * (duration_s / steps)).astype(np.float32)


def brain_window(
    series: RoiSeries, onset_s: np.ndarray | float, duration_s: float, step_s: float, hrf: Hrf
) -> Cut:
    """Cut the fMRI windows of clips out of a run.

    Parameters
    ----------
    series : RoiSeries
    onset_s : array of shape (n,) or float
        Clip onsets on the clock of the run, in seconds.
    duration_s, step_s : float
        Length of a clip and of its steps.
    hrf : Hrf
        ``adaptive`` keeps every volume from ``window_s[0]`` after clip start to ``window_s[1]`` after clip end,
        with its own time; ``shift`` and ``none`` interpolate the series at the clip steps, ``shift_s`` later or
        at once; ``glm`` estimates one beta per clip (least squares, separate; Mumford et al. 2012). A lag that is
        still to be swept (``shift_s: sweep``) keeps the volumes that any lag needs, with their own times, for `at_lags`;
        a clip is usable if it can be read at every lag, so that lags are compared on the same clips.

    Returns
    -------
    Cut
    """
    onsets = np.atleast_1d(np.asarray(onset_s, float))
    if hrf.method == "adaptive":
        return _volumes_around(series, onsets, duration_s, hrf.window_s)
    if hrf.method == "glm":
        betas, usable = separate_betas(series, onsets, duration_s)
        shape = (len(onsets), 1)
        return Cut(betas, np.full(shape, duration_s / 2, np.float32), np.ones(shape, bool), usable)
    steps = step_times(duration_s, step_s)
    if hrf.sweeps:
        margin = _BRIDGE * series.repetition_time
        reach = (hrf.lags_s[0] - margin, hrf.lags_s[-1] + margin)
        cut = _volumes_around(series, onsets, duration_s, reach)
        targets = onsets[:, None, None] + steps + np.array(hrf.lags_s)[:, None]
        return replace(cut, usable=_covered(series, targets.reshape(len(onsets), -1)).all(1))
    return _interpolated(series, onsets, steps, hrf.shift_s if hrf.method == "shift" else 0.0)


def _volumes_around(
    series: RoiSeries, onsets: np.ndarray, duration_s: float, window_s: tuple[float, float]
) -> Cut:
    first, last = onsets + window_s[0], onsets + duration_s + window_s[1]
    # Half-open on the right, so that windows of equal length hold equal numbers of regular volumes.
    begin, end = np.searchsorted(series.times, first), np.searchsorted(series.times, last)
    tr = series.repetition_time
    width = int(np.ceil((duration_s + window_s[1] - window_s[0]) / tr))
    index = begin[:, None] + np.arange(width)
    inside = index < end[:, None]
    index = np.where(inside, index, 0)
    valid = inside & series.keep[index]
    times = np.where(inside, series.times[index] - onsets[:, None], 0.0).astype(np.float32)
    levels = {level: np.where(valid[..., None], data[index], 0.0) for level, data in series.levels.items()}
    expected = (duration_s + window_s[1] - window_s[0]) / tr
    return Cut(levels, times, valid, valid.sum(1) >= MINIMUM_VALID * expected)


def _interpolated(series: RoiSeries, onsets: np.ndarray, steps: np.ndarray, lag: float) -> Cut:
    targets = onsets[:, None] + steps + lag
    times = series.times[series.keep]
    shape = (len(onsets), len(steps))
    if len(times) == 0:
        empty = {name: np.zeros((*shape, data.shape[1]), np.float32) for name, data in series.levels.items()}
        return Cut(
            empty, np.tile(steps, (len(onsets), 1)), np.zeros(shape, bool), np.zeros(len(onsets), bool)
        )
    left, right, weight = bracket(times, targets)
    levels = {}
    for level, data in series.levels.items():
        kept = data[series.keep]
        levels[level] = (kept[left] * (1 - weight)[..., None] + kept[right] * weight[..., None]).astype(
            np.float32
        )
    relative = np.tile(steps, (len(onsets), 1)).astype(np.float32)
    return Cut(levels, relative, np.ones(shape, bool), _covered(series, targets).all(1))


def _covered(series: RoiSeries, targets: np.ndarray) -> np.ndarray:
    """Whether a time lies inside the run and not in a gap of censored volumes; bool array like `targets`."""
    times, tr = series.times[series.keep], series.repetition_time
    if len(times) == 0:
        return np.zeros(targets.shape, bool)
    left, right, _ = bracket(times, targets)
    bridged = times[right] - times[left] <= _BRIDGE * tr
    return bridged & (targets >= times[0] - 0.51 * tr) & (targets <= times[-1] + 0.51 * tr)


def bracket(times: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours of each target and the weight of the right one (ends are held, not extrapolated)."""
    right = np.clip(np.searchsorted(times, targets), 1, max(1, len(times) - 1))
    right = np.minimum(right, len(times) - 1)
    left = np.maximum(right - 1, 0)
    gap = np.where(right > left, times[right] - times[left], 1.0)
    weight = np.clip((targets - times[left]) / gap, 0.0, 1.0)
    return left, right, weight.astype(np.float32)


def video_steps(embedding: Embedding, start_s: np.ndarray | float, duration_s: float, step_s: float):
    """Cut the video windows of clips out of the embedding of a stimulus.

    A step is the mean of the embeddings centred inside it; where none is (a coarse grid), the linear
    interpolation at its centre.

    Parameters
    ----------
    embedding : Embedding
    start_s : array of shape (n,) or float
        Clip starts in seconds from stimulus start.
    duration_s, step_s : float

    Returns
    -------
    levels : dict of str to float32 array of shape (n, steps, dim)
    low_level : float32 array of shape (n, steps, 3) or None
    covered : bool array of shape (n,)
        False where the embedding ends before the clip does.
    """
    starts = np.atleast_1d(np.asarray(start_s, float))
    centres = step_times(duration_s, step_s)
    half = duration_s / len(centres) / 2
    targets = starts[:, None] + centres
    times = embedding.times
    stride = float(np.median(np.diff(times))) if len(times) > 1 else duration_s
    # A tolerance keeps a window centred exactly on a border on one side whatever the rounding.
    begin = np.searchsorted(times, targets - half - 1e-6)
    end = np.searchsorted(times, targets + half - 1e-6)
    left, right, weight = bracket(times, targets)
    covered = (targets >= times[0] - stride) & (targets <= times[-1] + stride)

    def cut(data: np.ndarray) -> np.ndarray:
        total = np.concatenate([np.zeros((1, data.shape[1])), np.cumsum(data, 0, dtype=np.float64)])
        mean = (total[end] - total[begin]) / np.maximum(end - begin, 1)[..., None]
        between = data[left] * (1 - weight)[..., None] + data[right] * weight[..., None]
        return np.where((end > begin)[..., None], mean, between).astype(np.float32)

    levels = {level: cut(data) for level, data in embedding.levels.items()}
    low_level = cut(embedding.low_level) if embedding.low_level is not None else None
    return levels, low_level, covered.all(1)


def video_surround(
    embedding: Embedding, start_s: np.ndarray | float, duration_s: float, reach_s: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mean features of the film around clips: from `reach_s` before a clip to `reach_s` after it, the clip included.

    Parameters
    ----------
    embedding : Embedding
    start_s : array of shape (n,) or float
        Clip starts in seconds from stimulus start.
    duration_s, reach_s : float

    Returns
    -------
    levels : dict of str to float32 array of shape (n, dim)
        Means over what the film has there.
    share : float32 array of shape (n,)
        How much of that time the film covers: small for a clip that is a film of its own.
    """
    starts = np.atleast_1d(np.asarray(start_s, float))
    times = embedding.times
    stride = float(np.median(np.diff(times))) if len(times) > 1 else duration_s
    begin = np.searchsorted(times, starts - reach_s - 1e-6)
    end = np.searchsorted(times, starts + duration_s + reach_s - 1e-6)
    count = end - begin

    def mean(data: np.ndarray) -> np.ndarray:
        total = np.concatenate([np.zeros((1, data.shape[1])), np.cumsum(data, 0, dtype=np.float64)])
        return ((total[end] - total[begin]) / np.maximum(count, 1)[:, None]).astype(np.float32)

    share = np.minimum(1.0, count * stride / (duration_s + 2 * reach_s)).astype(np.float32)
    return {level: mean(data) for level, data in embedding.levels.items()}, share


def on_steps(windows: BrainWindows, steps: np.ndarray, shift_s: float) -> np.ndarray:
    """Brain windows on the steps of their clips, all levels side by side.

    Parameters
    ----------
    windows : BrainWindows with n windows
    steps : array of shape (T,)
        Step centres in seconds after clip start.
    shift_s : float
        Lag at which the brain is read; of no effect where `windows.aligned`.

    Returns
    -------
    array of shape (n, T, units)
        Linear interpolation over the valid volumes, ends held; aligned windows are returned as they are.
    """
    if windows.aligned:
        return np.concatenate(list(windows.levels.values()), axis=2)
    read = lag_reader(windows, steps, shift_s)
    return np.concatenate([read(data) for data in windows.levels.values()], axis=2)


def at_lags(windows: BrainWindows, steps: np.ndarray, lags_s: Mapping[str, float]) -> BrainWindows:
    """Windows aligned by reading each level at a lag of its own, on the steps of the clips.

    Parameters
    ----------
    windows : BrainWindows with n windows
        Not aligned.
    steps : array of shape (T,)
        Step centres in seconds after clip start.
    lags_s : mapping of str to float
        Seconds, for every level.

    Returns
    -------
    BrainWindows
        Aligned, with T steps per window and `lags_s` kept.
    """
    shape = (len(windows.rows), len(steps))
    return replace(
        windows,
        levels={
            name: lag_reader(windows, steps, lags_s[name])(data) for name, data in windows.levels.items()
        },
        times=np.tile(np.asarray(steps, np.float32), (shape[0], 1)),
        valid=np.ones(shape, bool),
        aligned=True,
        lags_s=dict(lags_s),
    )


def lag_reader(
    windows: BrainWindows, steps: np.ndarray, shift_s: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Linear interpolation of levels (n, volumes, units) over the valid volumes, ends held; every window by itself."""
    times = np.where(windows.valid, windows.times, np.inf)
    order = np.argsort(times, axis=1, kind="stable")
    times = np.take_along_axis(times, order, 1)
    last = np.maximum(windows.valid.sum(1) - 1, 0)[:, None]
    targets = np.asarray(steps, float)[None, :] + shift_s
    right = np.minimum((times[:, None, :] < targets[..., None]).sum(2), last)
    left = np.maximum(right - 1, 0)
    t_left, t_right = np.take_along_axis(times, left, 1), np.take_along_axis(times, right, 1)
    gap = np.where(t_right > t_left, t_right - t_left, 1.0)
    weight = np.clip(np.where(t_right > t_left, (targets - t_left) / gap, 1.0), 0.0, 1.0)[..., None]
    rows = np.arange(len(times))[:, None]
    before, after = np.take_along_axis(order, left, 1), np.take_along_axis(order, right, 1)
    return lambda data: (data[rows, before] * (1 - weight) + data[rows, after] * weight).astype(np.float32)
