"""Head motion of a run: every volume fitted to a clean mean of the run, in two passes.

The fit of one volume is in `rigid`; here is which reference it is fitted to, where it starts, and what happens to
volumes that show something else than the head.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform

from neuroalign.fmri.images import voxel_sizes
from neuroalign.fmri.preprocess.lost import bridge
from neuroalign.fmri.preprocess.rigid import Estimate, RigidFit, rigid_matrix, rigid_parameters

__all__ = ["Realignment", "realign", "rigid_matrix", "rigid_parameters"]
logger = logging.getLogger(__name__)

_COARSE_MM = 14.0
_POOR_FIT = 1.5  # times the typical residual: tried again from other starts, and no model for others
# Times the typical residual: given up. Simulated (benchmarks/realign.py), volumes with lost slices or stripes are at 1.9 to 4.2, sound
# ones at up to 1.5 when the signal drifts by 10 % with a pattern of its own.
_LOST_FIT = 1.75
_REFERENCE_VOLUMES = 9


@dataclass(frozen=True)
class Realignment:
    """Head motion of one run.

    Attributes
    ----------
    parameters : array of shape (volumes, 6)
        Translations x, y, z (mm) and rotations about x, y, z (rad): x' = R(x − c) + c + t, with
        R = Rz·Ry·Rx, takes a point of the reference to where it is in the volume. World (RAS+) axes.
    matrices : array of shape (volumes, 4, 4)
        The same as matrices: reference world → volume world, mm.
    centre : array of shape (3,)
        The fixed point c of the rotations (centre of the brain), world mm.
    reference : array of shape (x, y, z)
        Mean of realigned volumes, unsmoothed, without outliers; on the grid of the run.
    residual : array of shape (volumes,)
        Robust standard deviation of what the fit leaves, relative to that of the reference.
    outlier : bool array of shape (volumes,)
        Volumes that show no head, or fit much worse than most even after another try.
    """

    parameters: np.ndarray
    matrices: np.ndarray
    centre: np.ndarray
    reference: np.ndarray
    residual: np.ndarray
    outlier: np.ndarray


def realign(
    data: np.ndarray, affine: np.ndarray, mask: np.ndarray, *, first: int = 0, threads: int = 1
) -> Realignment:
    """Estimate the head's rigid motion in a run.

    Parameters
    ----------
    data : array of shape (x, y, z, volumes)
        Any real type; volumes are converted one by one.
    affine : array of shape (4, 4)
        Voxel to world coordinates, mm.
    mask : bool array of shape (x, y, z)
        The brain, roughly; it is dilated, so that its rim takes part in the fit.
    first : int
        Volumes before this one (not at steady state) never serve as reference.
    threads : int
        Volumes fitted at the same time; results do not depend on it.

    Returns
    -------
    Realignment
        Position is relative to the mean position of the reference volume of the first pass.

    Notes
    -----
    First pass: nine volumes spread over the run are fitted to the one among them that is most like the others, so
    that a spoiled volume is never the reference, and the mean of those that fit is taken. Second pass: every
    volume is fitted to that mean, from where its nearest sound volume of the first pass is. Volumes that then fit
    poorly (a jump between, a spike) are tried again from a coarse fit and from the nearest sound volume. A volume that
    shows no head takes a position between those of its sound neighbours.
    """
    volumes = data.shape[-1]
    filled = [v for v in range(first, volumes) if np.ptp(data[..., v][mask]) > 0] or [first]
    spread = np.linspace(0, len(filled) - 1, min(len(filled), _REFERENCE_VOLUMES)).astype(int)
    sample = np.array(filled)[np.unique(spread)]
    middle = sample[_most_alike(data, mask, sample)]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        # Hundredths of a millimetre do not show in a mean: plain least squares is enough for it.
        fit = RigidFit(data[..., middle], affine, mask, precise=False)
        coarse = _coarse(data[..., middle], affine, mask, fit.centre)

        def from_afar(volume: int) -> Estimate:
            return fit.estimate(data[..., volume], coarse.estimate(data[..., volume], np.eye(4)).matrix)

        found = list(pool.map(from_afar, sample))
        sound = _sound(np.array([e.residual for e in found]), sample != middle)
        sample, found = sample[sound], [e for e, kept in zip(found, sound, strict=True) if kept]
        moved = pool.map(
            lambda i: _resampled(data[..., sample[i]], affine, found[i].matrix), range(len(sample))
        )
        reference = np.zeros(data.shape[:3], np.float32)
        for volume in moved:
            reference += volume / len(sample)

        fit = RigidFit(reference, affine, mask, centre=fit.centre)
        coarse = _coarse(reference, affine, mask, fit.centre)
        nearest = np.abs(np.arange(volumes)[:, None] - sample).argmin(axis=1)
        estimates = list(
            pool.map(lambda v: fit.estimate(data[..., v], found[nearest[v]].matrix), range(volumes))
        )
        poor = _poor(np.array([e.residual for e in estimates]))

        def again(volume: int) -> Estimate:
            return _again(fit, coarse, data[..., volume], volume, estimates, poor)

        # All retries see the same estimates, whatever their order.
        retried = list(pool.map(again, np.flatnonzero(poor)))
    for volume, estimate in zip(np.flatnonzero(poor), retried, strict=True):
        estimates[volume] = estimate
    residual = np.array([e.residual for e in estimates])
    outlier = _poor(residual, _LOST_FIT)
    parameters = np.array([rigid_parameters(e.matrix, fit.centre) for e in estimates])
    matrices = np.array([e.matrix for e in estimates])
    blank = ~np.isfinite(residual)
    if blank.any() and not outlier.all():
        logger.warning("%d volumes show no head; they take the position of their neighbours.", blank.sum())
        parameters[blank] = bridge(parameters, outlier)[blank]
        matrices[blank] = [rigid_matrix(row, fit.centre) for row in parameters[blank]]
    return Realignment(
        parameters=parameters,
        matrices=matrices,
        centre=fit.centre,
        reference=reference,
        residual=residual,
        outlier=outlier,
    )


def _most_alike(data: np.ndarray, mask: np.ndarray, sample: np.ndarray) -> int:
    """Which of the sample is most like the others (smallest median distance): never a spoiled volume."""
    values = np.stack([data[..., v][mask] for v in sample]).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    inner = values @ values.T
    squared = np.diag(inner)[:, None] + np.diag(inner) - 2 * inner
    return int(np.argmin(np.median(squared, axis=1)))


def _coarse(image: np.ndarray, affine: np.ndarray, mask: np.ndarray, centre: np.ndarray) -> RigidFit:
    """A fit for displacements of centimetres, on about 7 mm voxels."""
    step = max(1, int(_COARSE_MM / 2 / voxel_sizes(affine).max()))
    return RigidFit(image, affine, mask, centre=centre, smoothing_mm=_COARSE_MM, step=step, precise=False)


def _poor(residual: np.ndarray, times: float = _POOR_FIT) -> np.ndarray:
    """Volumes that fit much worse than most of those that show the head, and those that do not."""
    finite = np.isfinite(residual)
    limit = times * np.median(residual[finite]) if finite.any() else 0.0
    return ~(residual <= limit)


def _sound(residual: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Volumes of the first pass that may enter the mean; the reference itself fits perfectly, and does."""
    limit = _POOR_FIT * np.median(residual[other]) if other.any() else np.inf
    return residual <= limit if np.isfinite(limit) else ~other


def _again(
    fit: RigidFit,
    coarse: RigidFit,
    volume: np.ndarray,
    index: int,
    estimates: list[Estimate],
    poor: np.ndarray,
) -> Estimate:
    """The better of two fits of a volume: as it was, and from a coarse fit or its nearest sound neighbour."""
    starts = [coarse.estimate(volume, estimates[index].matrix).matrix]
    good = np.flatnonzero(~poor)
    if good.size:
        starts.append(estimates[good[np.abs(good - index).argmin()]].matrix)
    return min(estimates[index], fit.estimate(volume, *starts), key=lambda e: e.residual)


def _resampled(volume: np.ndarray, affine: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A volume on the grid of the reference, linear interpolation."""
    between = np.linalg.inv(affine) @ matrix @ affine
    return affine_transform(
        np.asarray(volume, np.float32), between[:3, :3], between[:3, 3], order=1, mode="nearest"
    )
