"""Backbones that see clips: several frames at once, around each window.

A video model was trained on clips of a certain number of frames at a certain rate, whatever `video.fps` and
`video.window_s` are. So every window gets a clip of that length and rate whose middle is the window's middle; the frame
at each of its instants is the one that a player would show. Where a clip reaches past the film's beginning or end, the
first or last frame stands still there. A clip longer than the window gives the model context, and the features are
those of the tokens inside the window (``video.clip_tokens: all`` averages over the whole clip instead). A window
longer than the clip is cut into equal parts with a clip each, whose features are averaged.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from neuroalign.config.video import Video
from neuroalign.devices import autocast
from neuroalign.errors import UserError
from neuroalign.video.backbones._levels import Taps, layer_numbers
from neuroalign.video.backbones._preprocessing import Preprocessing
from neuroalign.video.backbones._pretrained import to_host
from neuroalign.video.backbones.base import Batches
from neuroalign.video.windows import WindowGrid

logger = logging.getLogger(__name__)
# Instants are sums of decimal fractions; one this close to a frame's beginning is at it.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Sampling:
    """Which frames of a film form the clips of a window.

    Attributes
    ----------
    frames : int
        Frames of a clip.
    rate : float
        Frames per second of a clip.
    fps : float
        Frames per second of the film.
    window_s : float
        Length of a window in seconds.
    """

    frames: int
    rate: float
    fps: float
    window_s: float

    @property
    def parts(self) -> int:
        """Clips per window: as many as it takes to cover it, at least one."""
        return max(1, math.ceil(self.window_s * self.rate / self.frames - _EPSILON))

    @property
    def _reach(self) -> float:
        """Frames of the film by which a clip's first instant lies before its part of the window."""
        return ((self.frames - 1) / (2 * self.rate) - self.window_s / (2 * self.parts)) * self.fps

    @property
    def past(self) -> int:
        """Most frames before a window's first that its clips may hold; as many after its last."""
        return max(0, math.ceil(self._reach - _EPSILON) + 1)

    def index(self, grid: WindowGrid) -> np.ndarray:
        """Frame numbers of every clip, an int array of shape (windows * parts, frames), windows in order."""
        part = self.window_s / self.parts
        within = (np.arange(self.parts) + 0.5) * part - self.window_s / 2
        instants = (np.arange(self.frames) - (self.frames - 1) / 2) / self.rate
        seconds = grid.times[:, None, None] + within[:, None] + instants
        numbers = np.floor(seconds * self.fps + _EPSILON).astype(np.int64)
        return np.clip(numbers, 0, grid.n_frames - 1).reshape(-1, self.frames)

    def tubelets(self, length: int, tokens: str) -> np.ndarray:
        """Which groups of `length` frames, as the model sees them, are averaged: bool of shape (groups,).

        Parameters
        ----------
        length : int
            Frames that the model takes together.
        tokens : str
            ``all``, or ``window``: groups whose middle lies in the clip's part of the window; the middle ones if the
            window is so short that it holds none.
        """
        groups = self.frames // length
        middle = np.abs((np.arange(groups) - (groups - 1) / 2) * length / self.rate)
        if tokens == "all":
            return np.ones(groups, bool)
        return middle <= max(self.window_s / self.parts / 2, middle.min()) + _EPSILON


def clips(
    batches: Batches, index: np.ndarray, first: int, cut: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Put clips together from frames that come once, in order.

    Parameters
    ----------
    batches : iterable of (times, frames)
        Frames of the film from number `first` on.
    index : int array of shape (clips, frames)
        See `Sampling.index`.
    first : int
    cut : callable
        What is held of a batch of frames.

    Yields
    ------
    array of shape (frames, height, width, 3)
        The next clip. No more frames are held than from the first that is still needed to the last that has come.

    Raises
    ------
    ValueError
        If the frames end before the clips do.
    """
    if not len(index):
        return
    held: deque[np.ndarray] = deque()
    # Clips of windows that overlap begin out of order.
    needed = np.minimum.accumulate(index[::-1, 0])[::-1]
    if needed[0] < first:
        raise ValueError(f"frames from {first} on cannot fill a clip that begins at {needed[0]}")
    k = 0
    for _, frames in batches:
        held.extend(cut(frames))
        while k < len(index) and index[k, -1] < first + len(held):
            yield np.stack([held[i - first] for i in index[k]])
            k += 1
        while held and (k == len(index) or first < needed[k]):
            held.popleft()
            first += 1
    if k < len(index):
        raise ValueError(
            f"frames ended at {first + len(held)}, and {len(index) - k} clips lack some of theirs"
        )


class VideoBackbone(ABC):
    """The interface of `base.Backbone` for a transformer that sees clips.

    A subclass names itself (`name`) and says how its model is called (`run`). Features are means over tokens: such models
    have no class token.

    Parameters
    ----------
    model : Module
        With its layers in ``encoder.layer``, and ``hidden_size`` and ``tubelet_size`` in its configuration.
    preprocessing : Preprocessing
    device : torch.device
    batch_size : int
        Frames per forward pass; at least one clip goes through at a time.
    sampling : Sampling
    revision : str
        What fixes the weights.
    layers : list of int, optional
        See `_levels.layer_numbers`.
    tokens : str
        See `Sampling.tubelets`.
    """

    name: str
    # Residual streams of transformers have a few channels of very large values; single precision holds them all.
    dtype = np.dtype(np.float32)
    by_window = True

    def __init__(
        self,
        model: torch.nn.Module,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        sampling: Sampling,
        revision: str = "",
        *,
        layers: list[int] | None = None,
        tokens: str = "window",
    ):
        self._model = model.to(device).eval()
        self._preprocessing = preprocessing
        self._device, self.device = device, device.type
        self._sampling = sampling
        self._at_once = max(1, batch_size // sampling.frames)
        self.past = self.future = sampling.past
        self.revision = revision
        numbers = layer_numbers(layers, len(model.encoder.layer))
        chosen = sampling.tubelets(model.config.tubelet_size, tokens)
        self._taps = Taps(model.encoder.layer, numbers, pool_tubelets(chosen))
        self.levels = {f"layer{n}": model.config.hidden_size for n in numbers}

    @abstractmethod
    def run(self, pixels: torch.Tensor) -> None:
        """Put clips, (n, frames, 3, crop, crop), through the model."""

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The size that the model's preprocessing scales to."""
        return self._preprocessing.frame_size(width, height)

    def features(self, batches: Batches, grid: WindowGrid) -> Iterator[np.ndarray]:
        """Features of the clips around each window; see `base.Backbone.features`."""
        index, first = self._sampling.index(grid), grid.first_frame(self.past)
        single = clips(batches, index, first, self._preprocessing.cut)
        return _means(to_host(self._rows(single)), self._sampling.parts)

    def _rows(self, single: Iterator[np.ndarray]) -> Iterator[torch.Tensor]:
        while group := list(islice(single, self._at_once)):
            yield self._forward(np.stack(group))

    @torch.inference_mode()
    def _forward(self, group: np.ndarray) -> torch.Tensor:
        pixels = self._preprocessing(group.reshape(-1, *group.shape[2:]), self._device)
        with autocast(self._device):
            self.run(pixels.unflatten(0, group.shape[:2]))
        return torch.cat(self._taps.rows(), dim=1)


def _means(rows: Iterable[np.ndarray], parts: int) -> Iterator[np.ndarray]:
    """Means over every `parts` successive rows, a window's."""
    left: np.ndarray | None = None
    for block in rows:
        block = block if left is None or not len(left) else np.concatenate([left, block])
        whole = len(block) // parts * parts
        left = block[whole:]
        if whole:
            yield block[:whole].reshape(-1, parts, block.shape[1]).mean(axis=1, dtype=np.float64)


def sampling_of(config: Video, fps: float, frames: int, rate: float, tubelet: int) -> Sampling:
    """The sampling that the configuration asks for.

    Parameters
    ----------
    config : Video
    fps : float
        Frames per second of the film.
    frames, rate : int, float
        Frames and frames per second of the clips that the model was made for: used where the configuration says null.
    tubelet : int
        Frames that the model takes together.

    Raises
    ------
    UserError
        If the model cannot take so many frames.
    """
    count = config.clip_frames or frames
    if count % tubelet:
        raise UserError(
            f"video.clip_frames {count} is not a multiple of {tubelet}: the model takes its frames {tubelet} by {tubelet}."
        )
    sampling = Sampling(count, config.clip_fps or rate, fps, config.window_s)
    if fps < sampling.rate - _EPSILON:
        logger.warning(
            "clips are sampled at %g frames per second and the film has %g: frames are repeated; set video.fps to %d or "
            "more",
            *(sampling.rate, fps, math.ceil(sampling.rate)),
        )
    return sampling


def pool_tubelets(chosen: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns the tokens of a layer, (clips, tokens, dim), into rows: means over some groups of frames.

    Parameters
    ----------
    chosen : bool array of shape (groups,)
        See `Sampling.tubelets`; tokens are ordered by group, then by place.
    """
    (numbers,) = np.nonzero(chosen)
    first, last = int(numbers[0]), int(numbers[-1]) + 1

    def pool(state: torch.Tensor) -> torch.Tensor:
        places = state.unflatten(1, (len(chosen), -1))
        return places[:, first:last].float().mean(dim=(1, 2))

    return pool
