"""Motion energy: the spatio-temporal Gabor pyramid of Nishimoto et al. (2011), with pymoten's filters.

The filters, their tiling and their numbers are pymoten's; the projection is our own. Filters that differ in temporal
frequency, or in opposite directions of motion, share one spatial Gabor pair, so 1380 filters need only 300 pairs, and a
batch of frames meets them all in one matrix product. Time is convolved afterwards, with the few frames of context that
the filters need carried from batch to batch.

References
----------
Adelson & Bergen (1985), Spatiotemporal energy models for the perception of motion, JOSA A 2.
Nishimoto, Vu, Naselaris, Benjamini, Yu & Gallant (2011), Reconstructing visual experiences from brain activity
evoked by natural movies, Current Biology 21.
Smith, Singh, Williams & Greenlee (2001), Estimating receptive field size from fMRI data in human striate and
extrastriate visual cortex, Cerebral Cortex 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version

import numpy as np
from threadpoolctl import ThreadpoolController

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones.base import Batches
from neuroalign.video.luminance import lightness
from neuroalign.video.windows import WindowGrid, mean_over_windows

# Upper bounds of the Gaussian envelope (standard deviation, in image heights) of each level: receptive fields grow
# from V1 to V4 and MT by about these steps (Smith et al., 2001), and their preferred spatial frequency falls.
LEVELS = {"fine": 0.05, "medium": 0.1, "coarse": np.inf}

_TEMPORAL_FREQUENCIES = (0.0, 2.0, 4.0)
# pymoten leaves out the pixels of a filter below this amplitude; the same numbers need the same mask.
_MASK = 0.001
_OFFSET = 1e-5


class MotionEnergy:
    """The filters for films of one size and rate.

    Parameters
    ----------
    size : int
        Frames have this many pixels on each side.
    fps : float
        Frames per second. Temporal frequencies that it cannot carry (above half of it) are left out.

    Attributes
    ----------
    filters : list of dict
        pymoten's parameters of each filter.
    past, future : int
        Frames before and after each that its energy depends on.

    Raises
    ------
    UserError
        If the rate is too low for any filter.
    """

    def __init__(self, size: int, fps: float):
        # pymoten: the span of a filter in frames is two thirds of a second.
        width = int(fps * (2 / 3.0))
        if width < 1:
            raise UserError(
                f"video.fps {fps:g} is too low for motion energy; set it to 2 or more (8 is usual)."
            )
        import moten

        self.size, self.fps = size, float(fps)
        pyramid = moten.pyramids.MotionEnergyPyramid(
            stimulus_vhsize=(size, size),
            stimulus_fps=max(1, round(fps)),
            filter_temporal_width=width,
            temporal_frequencies=[f for f in _TEMPORAL_FREQUENCIES if f <= fps / 2],
        )
        # The pyramid takes whole rates only; the filters themselves take any.
        self.filters = [{**f, "stimulus_fps": float(fps)} for f in pyramid.filters]
        self._blas = ThreadpoolController()
        self._build(moten.core.mk_3d_gabor)

    def _build(self, gabor) -> None:
        """Spatial pairs shared by filters, and the temporal pair of each filter."""
        pairs: dict[tuple, int] = {}
        temporal: dict[tuple, tuple] = {}
        spatial, sines, cosines = [], [], []
        owner, sign = np.empty(len(self.filters), int), np.ones(len(self.filters))
        for f, parameters in enumerate(self.filters):
            # Opposite directions: the same grating with the sine turned round.
            opposite = parameters["direction"] >= 180
            place = [float(parameters[k]) for k in ("centerh", "centerv", "spatial_freq", "spatial_env")]
            pair = (*place, float(parameters["direction"]) % 180)
            pace = (float(parameters["temporal_freq"]), float(parameters["temporal_env"]))
            if pair not in pairs or pace not in temporal:
                even = {**parameters, "direction": parameters["direction"] - 180.0 * opposite}
                sine, cosine, *time = gabor((self.size, self.size), **even)
                temporal[pace] = tuple(time)
                if pair not in pairs:
                    pairs[pair] = len(pairs)
                    mask = np.abs(sine) + np.abs(cosine) > _MASK
                    spatial.append(((sine * mask).ravel(), (cosine * mask).ravel()))
            owner[f], sign[f] = pairs[pair], -1.0 if opposite else 1.0
            sines.append(temporal[pace][0])
            cosines.append(temporal[pace][1])
        self._spatial = np.concatenate([[s for s, _ in spatial], [c for _, c in spatial]]).T.copy()
        self._owner, self._sign = owner, sign
        self._time_sin, self._time_cos = np.array(sines).T.copy(), np.array(cosines).T.copy()
        span = len(self._time_sin)
        self.future = -(-span // 2) - 1
        self.past = span - 1 - self.future

    def levels(self) -> dict[str, np.ndarray]:
        """Filters of each level, as indices, from small receptive fields to large."""
        envelope = np.array([float(f["spatial_env"]) for f in self.filters])
        found, low = {}, 0.0
        for name, high in LEVELS.items():
            found[name] = np.flatnonzero((envelope >= low) & (envelope < high))
            low = high
        return found

    def project(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Log-compressed motion energy of a film.

        Equal to ``moten.core.project_stimulus`` on the whole film, however it is cut into batches. Of a part of a film,
        the first `past` and the last `future` frames lack what lies beyond it, and the others are as in the whole.

        Parameters
        ----------
        batches : iterable of array of shape (n, size, size)
            Lightness of successive frames.

        Yields
        ------
        array of shape (m, filters)
            ``log(sqrt(sin² + cos²) + 1e-5)`` of the next `m` frames; a batch may yield fewer frames than went in, because
            filters look ahead, and the last yields the rest.
        """
        width = self._spatial.shape[1]
        # Before and after the film there is nothing: zeros, as in pymoten.
        context = np.zeros((self.past, width))
        for frames in batches:
            flat = np.asarray(frames, np.float64).reshape(len(frames), -1)
            # The threads of such a product, in turns with a decoder, wait longer for each other than they compute.
            with self._blas.limit(limits=1, user_api="blas"):
                projected = flat @ self._spatial
            context = np.concatenate([context, projected])
            if len(context) > self.past + self.future:
                yield self._energy(context)
                context = context[len(context) - self.past - self.future :]
        if self.future:
            context = np.concatenate([context, np.zeros((self.future, width))])
            if len(context) > self.past + self.future:
                yield self._energy(context)

    def _energy(self, context: np.ndarray) -> np.ndarray:
        """Convolve in time; `context` has the past and future frames that the first and last results need."""
        half = context.shape[1] // 2
        sine = context[:, self._owner] * self._sign
        cosine = context[:, self._owner + half]
        span = len(self._time_sin)
        n = len(context) - span + 1
        odd, even = np.zeros((n, len(self.filters))), np.zeros((n, len(self.filters)))
        for d in range(span):
            rows = slice(span - 1 - d, span - 1 - d + n)
            odd += sine[rows] * self._time_cos[d] + cosine[rows] * self._time_sin[d]
            even += cosine[rows] * self._time_cos[d] - sine[rows] * self._time_sin[d]
        return np.log(np.sqrt(odd**2 + even**2) + _OFFSET)


class MotionEnergyBackbone:
    """`MotionEnergy` behind the interface of `base.Backbone`; features are means over each window.

    Levels are ordered by the size of the receptive field: ``fine`` (standard deviation 1/27 of the image height,
    16 cycles per image), ``medium`` (1/13, 8 cycles) and ``coarse`` (1/7 and above, 2 and 4 cycles); each also has
    the filters of that size without a spatial frequency, which see local luminance and flicker.

    Parameters
    ----------
    size : int
        Frames are scaled to this many pixels on each side.
    fps : float
        Frames per second.
    """

    name = "motion_energy"
    device = "cpu"
    dtype = np.dtype(np.float32)
    by_window = False

    def __init__(self, size: int, fps: float):
        self._energy = MotionEnergy(size, fps)
        self.past, self.future = self._energy.past, self._energy.future
        members = {name: found for name, found in self._energy.levels().items() if len(found)}
        self.levels = {name: len(found) for name, found in members.items()}
        self._order = np.concatenate(list(members.values()))
        self.revision = f"pymoten {version('pymoten')}"

    @classmethod
    def from_config(cls, config: Video, fps: float) -> MotionEnergyBackbone:
        """Build from ``video.motion_energy``."""
        return cls(config.motion_energy.size, fps)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Square, whatever the film's shape: the pyramid tiles the whole picture."""
        return self._energy.size, self._energy.size

    def features(self, batches: Batches, grid: WindowGrid) -> Iterator[np.ndarray]:
        """Mean log motion energy of each window; see `base.Backbone.features`."""
        energy = self._energy.project(lightness(frames) for _, frames in batches)
        for means in mean_over_windows(energy, grid, len(self._energy.filters), self.past):
            yield means[:, self._order]
