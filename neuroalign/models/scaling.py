"""Scaling of raw inputs: z-scores and whitening, fitted on training data and kept with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

_SMALL = 1e-6


@dataclass
class Scaler:
    r"""Affine map :math:`y = ((x - \mu) / s)\, W` of one level's inputs.

    Attributes
    ----------
    mean, std : float32 array of shape (inputs,)
    matrix : float32 array of shape (inputs, outputs), optional
        Whitening; None is z-scores alone.
    """

    mean: np.ndarray
    std: np.ndarray
    matrix: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scale an array (..., inputs)."""
        scaled = (x - self.mean) / self.std
        return (scaled if self.matrix is None else scaled @ self.matrix).astype(np.float32)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.mean) if self.matrix is None else self.matrix.shape[1]


def z_score(x: np.ndarray) -> Scaler:
    """Mean and standard deviation of samples (n, inputs); constant inputs are left at 0."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return Scaler(mean.astype(np.float32), np.where(std > _SMALL, std, 1.0).astype(np.float32))


class Moments:
    """Second moments of centred samples (n, inputs) that come in parts, in float64.

    Their sum needs inputs² numbers; with fewer samples than inputs (voxels) the samples themselves are kept instead.

    Parameters
    ----------
    samples : int
        How many there will be.
    inputs : int
    """

    def __init__(self, samples: int, inputs: int):
        self.samples, self.inputs = samples, inputs
        self._sum = np.zeros((inputs, inputs)) if inputs <= samples else None
        self._parts: list[np.ndarray] = []

    def add(self, x: np.ndarray) -> None:
        """Add samples (n, inputs)."""
        x = np.asarray(x, np.float64)
        if self._sum is None:
            self._parts.append(x)
        else:
            self._sum += x.T @ x

    def spectrum(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Eigenvalues of the covariance (ascending), its eigenvectors in columns, and its mean eigenvalue.

        Only those that are not zero for want of samples.
        """
        if self._sum is not None:
            covariance = self._sum / self.samples
            return *np.linalg.eigh(covariance), float(np.trace(covariance)) / self.inputs
        # The small Gram matrix has the same leading eigenvalues.
        x = np.concatenate(self._parts)
        values, left = np.linalg.eigh(x @ x.T / self.samples)
        vectors = x.T @ left / np.sqrt(np.maximum(values, _SMALL) * self.samples)
        return values, vectors, float(np.square(x).sum() / self.samples / self.inputs)

    def whitening(self, components: int, shrinkage: float) -> np.ndarray:
        """`whitening` of all samples."""
        kept = max(1, min(components, self.inputs, self.samples - 1))
        values, vectors, mean = self.spectrum()
        values, vectors, mean = values[::-1][:kept], vectors[:, ::-1][:, :kept], max(mean, _SMALL)
        # Signs of eigenvectors are arbitrary; fixing them keeps results equal across linear-algebra libraries.
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)])
        shrunk = np.maximum((1 - shrinkage) * np.maximum(values, 0) + shrinkage * mean, _SMALL * mean)
        return (vectors / np.sqrt(shrunk)).astype(np.float32)


def whitening(x: np.ndarray, components: int, shrinkage: float) -> np.ndarray:
    r"""Shrunk whitening by principal components.

    .. math:: W = V \Lambda_s^{-1/2}, \qquad \Lambda_s = (1 - s) \Lambda + s \bar\lambda

    with V and :math:`\Lambda` the leading eigenvectors and eigenvalues of the covariance of `x` and :math:`\bar\lambda`
    its mean eigenvalue (linear shrinkage towards the identity, Ledoit & Wolf 2004).

    Parameters
    ----------
    x : array of shape (n, inputs)
        Centred samples.
    components : int
        Most components kept; never more than samples or inputs.
    shrinkage : float
        s in [0, 1].

    Returns
    -------
    array of shape (inputs, outputs)
    """
    moments = Moments(*x.shape)
    moments.add(x)
    return moments.whitening(components, shrinkage)


@dataclass
class Scalers:
    """All scalers of a model.

    Attributes
    ----------
    brain : dict of (subject, level) to Scaler
        Subject "" is the fallback for unknown subjects (shared units only): the mean over the known ones.
    video : dict of level to Scaler
    text : dict of level to Scaler
        One level, or empty for a model without text.
    surround : float
        How much of the film's surround is taken from the features of a clip: 0 to 1.
    """

    brain: dict[tuple[str, str], Scaler]
    video: dict[str, Scaler]
    text: dict[str, Scaler] = field(default_factory=dict)
    surround: float = 0.0

    def brain_width(self, level: str) -> int:
        """Inputs of the brain encoder at a level; subjects with fewer are padded with zeros."""
        return max(s.outputs for (_, name), s in self.brain.items() if name == level)

    def scale_brain(self, subject: str, level: str, x: np.ndarray) -> np.ndarray:
        """Scale windows (n, volumes, units) to (n, volumes, width)."""
        scaler = self.brain.get((subject, level)) or self.brain[("", level)]
        y = scaler(x)
        return np.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, self.brain_width(level) - y.shape[-1])])

    def scale_video(
        self,
        level: str,
        x: np.ndarray,
        surround: np.ndarray | None = None,
        share: np.ndarray | None = None,
    ) -> np.ndarray:
        r"""Scale video windows (n, steps, dim), relative to their surround where the model looks at it.

        .. math:: y_t = \big( (x_t - \mu) - \lambda c\, (m - \mu) \big) / s \; W

        with m the mean features of the film around the clip, c the share of that time which the film covers (the rest counts as
        the mean :math:`\mu` of the training clips) and :math:`\lambda` = `surround`.

        Parameters
        ----------
        level : str
        x : array of shape (n, steps, dim)
        surround : array of shape (n, dim), optional
        share : array of shape (n,), optional
        """
        y = self.video[level](x)
        if surround is None or not self.surround:
            return y
        return y - np.float32(self.surround) * self.scaled_surround(level, surround, share)[:, None]

    def scaled_surround(self, level: str, surround: np.ndarray, share: np.ndarray) -> np.ndarray:
        """What `scale_video` takes away at `surround` 1: array (n, outputs)."""
        return share[:, None].astype(np.float32) * self.video[level](surround)

    def scale_text(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Scale text windows (clips, steps, dim); where there is no text they stay zero."""
        scaled = next(iter(self.text.values()))(x)
        return np.where(present[..., None], scaled, np.float32(0))

    def arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for storage."""
        named = {f"scaler.video/{level}": s for level, s in self.video.items()}
        named |= {f"scaler.text/{level}": s for level, s in self.text.items()}
        named |= {f"scaler.brain/{subject}/{level}": s for (subject, level), s in self.brain.items()}
        out = {"scaler.surround": np.array([self.surround], np.float32)}
        for name, scaler in named.items():
            for part in ("mean", "std", "matrix"):
                value = getattr(scaler, part)
                if value is not None:
                    out[f"{name}/{part}"] = np.ascontiguousarray(value)
        return out

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Scalers:
        """The inverse of `arrays`; other names are ignored."""
        parts: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
        for name, value in arrays.items():
            if name.startswith("scaler.") and name != "scaler.surround":
                *key, part = name.removeprefix("scaler.").split("/")
                parts.setdefault(tuple(key), {})[part] = value
        brain = {(k[1], k[2]): Scaler(**v) for k, v in parts.items() if k[0] == "brain"}
        video = {k[1]: Scaler(**v) for k, v in parts.items() if k[0] == "video"}
        text = {k[1]: Scaler(**v) for k, v in parts.items() if k[0] == "text"}
        surround = arrays.get("scaler.surround")
        return cls(brain, video, text, 0.0 if surround is None else float(surround[0]))
