"""Rigid realignment of BOLD volumes by Gauss–Newton least squares.

References
----------
Friston et al. (1995) Spatial registration and normalization of images. Human Brain Mapping 3, 165–189.
Cox & Jesmanowicz (1999) Real-time 3D image registration for functional MRI. Magn. Reson. Med. 42, 1014–1018.
Baker & Matthews (2004) Lucas-Kanade 20 years on. IJCV 56, 221–255 (the inverse-compositional form used here).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from neuroalign.fmri.images import voxel_sizes

logger = logging.getLogger(__name__)

SMOOTHING_MM = 5.0  # FWHM; as in SPM
_COARSE_MM = 14.0
_MAX_POINTS = 60_000
_ITERATIONS = 24
_CONVERGED_MM = 0.002
_RADIUS_MM = 50.0  # turns rotations into displacements at the cortex (Power et al. 2012)
_POOR_FIT = 0.5  # residual variance, relative to the typical volume's, at which the coarse start is tried
_REFERENCE_VOLUMES = 24


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
        Mean of realigned volumes, unsmoothed; on the grid of the run.
    residual : array of shape (volumes,)
        Root mean square of what the fit leaves, relative to the standard deviation of the reference.
    """

    parameters: np.ndarray
    matrices: np.ndarray
    centre: np.ndarray
    reference: np.ndarray
    residual: np.ndarray


def rigid_matrix(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The 4×4 world matrix of six rigid parameters (see `Realignment`)."""
    parameters = np.asarray(parameters, float)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", parameters[3:]).as_matrix()
    matrix[:3, 3] = centre + parameters[:3] - matrix[:3, :3] @ centre
    return matrix


def rigid_parameters(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Six rigid parameters of a 4×4 world matrix: the inverse of `rigid_matrix`."""
    rotation = matrix[:3, :3]
    return np.concatenate(
        [matrix[:3, 3] - centre + rotation @ centre, Rotation.from_matrix(rotation).as_euler("xyz")]
    )


def realign(
    data: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    *,
    first: int = 0,
    refine_reference: bool = True,
) -> Realignment:
    """Estimate the head's rigid motion in a run.

    Parameters
    ----------
    data : array of shape (x, y, z, volumes)
    affine : array of shape (4, 4)
        Voxel to world coordinates, mm.
    mask : bool array of shape (x, y, z)
        The brain, roughly; it is dilated, so that its rim takes part in the fit.
    first : int
        Volumes before this one (not at steady state) never serve as reference.
    refine_reference : bool
        Fit to the mean of realigned volumes (two passes; the first over a sample of volumes) instead of one
        volume in the middle of the run.

    Returns
    -------
    Realignment
        Position is relative to the reference: the volume in the middle of the run, or the mean in its place.

    Notes
    -----
    Minimises Σ [v(W(x)) − (1 + s)·r(x) − o]² over the rigid transform W, the scale s and the offset o, so that
    slow drift of the signal is not taken for motion. r is the smoothed reference. In the inverse-compositional
    form the design (∂r/∂W, r, 1) and its normal matrix depend on the reference alone and are computed once per
    run; an iteration is one linear interpolation and one matrix product.
    """
    volumes = data.shape[-1]
    middle = first + (volumes - first) // 2
    fit = RigidFit(data[..., middle], affine, mask)
    if refine_reference:
        sample = _sample(first, volumes)
        matrices, _ = _chain(fit, data[..., sample], int(np.argmin(np.abs(sample - middle))))
        fit = RigidFit(_mean_realigned(data[..., sample], affine, matrices), affine, mask, centre=fit.centre)
    matrices, residual = _chain(fit, data, middle)
    _retry(fit, data, matrices, residual, mask)
    chosen = _sample(first, volumes)
    return Realignment(
        parameters=np.array([rigid_parameters(m, fit.centre) for m in matrices]),
        matrices=matrices,
        centre=fit.centre,
        reference=_mean_realigned(data[..., chosen], affine, matrices[chosen]),
        residual=residual,
    )


def _sample(first: int, volumes: int) -> np.ndarray:
    """Volumes spread over the run, enough for a clean mean."""
    count = min(volumes - first, _REFERENCE_VOLUMES)
    return np.unique(np.linspace(first, volumes - 1, count).astype(int))


def _chain(fit: RigidFit, data: np.ndarray, middle: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and residual of every volume; each starts where its neighbour towards the middle ended."""
    volumes = data.shape[-1]
    matrices, residual = np.empty((volumes, 4, 4)), np.empty(volumes)
    for volume in [*range(middle, volumes), *range(middle - 1, -1, -1)]:
        neighbour = volume - 1 if volume > middle else volume + 1
        start = np.eye(4) if volume == middle else matrices[neighbour]
        matrices[volume], residual[volume] = fit.estimate(data[..., volume], start)
    return matrices, residual


def _retry(
    fit: RigidFit, data: np.ndarray, matrices: np.ndarray, residual: np.ndarray, mask: np.ndarray
) -> None:
    """Volumes that fit badly (a jump beyond the reach of fine detail) start again from a coarse fit, in place."""
    poor = np.flatnonzero(residual > (1 + _POOR_FIT) * np.median(residual))
    if poor.size == 0:
        return
    coarse = RigidFit(fit.image, fit.affine, mask, centre=fit.centre, smoothing_mm=_COARSE_MM)
    for volume in poor:
        start, _ = coarse.estimate(data[..., volume], matrices[volume])
        matrix, left = fit.estimate(data[..., volume], start)
        if left < residual[volume]:
            matrices[volume], residual[volume] = matrix, left


def _mean_realigned(data: np.ndarray, affine: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    moved = [_resampled(data[..., i], affine, matrix) for i, matrix in enumerate(matrices)]
    return np.mean(moved, axis=0).astype(np.float32)


def _resampled(volume: np.ndarray, affine: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A volume on the grid of the reference, linear interpolation."""
    between = np.linalg.inv(affine) @ matrix @ affine
    return affine_transform(
        np.asarray(volume, np.float32), between[:3, :3], between[:3, 3], order=1, mode="nearest"
    )


class RigidFit:
    """A reference image with everything that depends on it alone: sample points, design, normal matrix.

    Parameters
    ----------
    image : array of shape (x, y, z)
    affine : array of shape (4, 4)
        Voxel to world, mm.
    mask : bool array of shape (x, y, z)
        Where the fit looks (dilated by 6 mm).
    centre : array of shape (3,), optional
        Fixed point of rotations, world mm; the centre of the mask by default.
    smoothing_mm : float
        FWHM of the Gaussian applied to the reference and to every volume.
    """

    def __init__(self, image, affine, mask, *, centre=None, smoothing_mm=SMOOTHING_MM):
        self.image = np.asarray(image, np.float32)
        self.affine = affine
        self.inverse = np.linalg.inv(affine)
        self._sigma = smoothing_mm / voxel_sizes(affine) / np.sqrt(8 * np.log(2))
        smooth = gaussian_filter(self.image, self._sigma, truncate=3.0)
        reach = binary_dilation(mask, iterations=max(1, round(6.0 / voxel_sizes(affine).min())))
        # The outermost voxels have one-sided gradients and leave the field of view first.
        inner = np.zeros_like(reach)
        inner[1:-1, 1:-1, 1:-1] = True
        indices = np.argwhere(reach & inner)
        indices = indices[:: max(1, -(-len(indices) // _MAX_POINTS))]
        world = indices @ affine[:3, :3].T + affine[:3, 3]
        if centre is None:
            brain = np.argwhere(mask)
            centre = brain.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        self.centre = np.asarray(centre, float)
        self._points = world.astype(np.float32)
        values = smooth[tuple(indices.T)].astype(np.float64)
        self._values, self._spread = values, max(values.std(), 1e-12)
        by_index = np.stack(
            [
                (smooth[tuple((indices + step).T)] - smooth[tuple((indices - step).T)]) / 2.0
                for step in np.eye(3, dtype=int)
            ],
            axis=1,
        )
        gradient = by_index @ self.inverse[:3, :3]  # d/dworld = d/dindex · dindex/dworld
        arm = world - self.centre
        # d r(x + t + ω × (x − c)) = ∇r · t + ((x − c) × ∇r) · ω
        design = np.column_stack([gradient, np.cross(arm, gradient), values, np.ones_like(values)])
        self._norm = np.maximum(np.linalg.norm(design, axis=0), 1e-12)
        self._design = design / self._norm
        normal = self._design.T @ self._design
        # A flat or empty reference leaves directions undetermined: they stay where they are.
        self._factor = cho_factor(normal + 1e-9 * np.eye(8))

    def estimate(self, volume: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
        """The rigid matrix (reference → volume, world) and the relative residual, from a starting matrix."""
        moving = gaussian_filter(np.asarray(volume, np.float32), self._sigma, truncate=3.0)
        limits = np.array(moving.shape, np.float32)[:, None] - 1
        matrix, left = start.copy(), 0.0
        for _ in range(_ITERATIONS):
            pull = (self.inverse @ matrix).astype(np.float32)
            where = pull[:3, :3] @ self._points.T + pull[:3, 3:]
            outside = ((where < -0.5) | (where > limits + 0.5)).any(axis=0)
            difference = (
                map_coordinates(moving, where, order=1, mode="nearest").astype(np.float64) - self._values
            )
            difference[outside] = 0.0
            weights = cho_solve(self._factor, self._design.T @ difference)
            left = float(np.sqrt(np.mean((difference - self._design @ weights) ** 2)))
            step = weights / self._norm
            # v(W) is about (1 + s) r, so the slopes fitted to it are (1 + s) times too steep.
            step[:6] /= max(1 + step[6], 0.2)
            update = rigid_matrix(step[:6], self.centre)
            matrix = matrix @ np.linalg.inv(update)
            if np.abs(step[:3]).max() + _RADIUS_MM * np.abs(step[3:6]).max() < _CONVERGED_MM:
                break
        return matrix, left / self._spread
