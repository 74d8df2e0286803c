"""Rigid fit of one image to a reference by Gauss–Newton least squares, robust to what is not motion.

References
----------
Friston et al. (1995) Spatial registration and normalization of images. Human Brain Mapping 3, 165–189.
Cox & Jesmanowicz (1999) Real-time 3D image registration for functional MRI. Magn. Reson. Med. 42, 1014–1018.
Baker & Matthews (2004) Lucas-Kanade 20 years on. IJCV 56, 221–255 (the inverse-compositional form used here).
Unser (1999) Splines: a perfect fit for signal and image processing. IEEE Signal Process. Mag. 16(6), 22–38.
Nestares & Heeger (2000) Robust multiresolution alignment of MRI brain volumes. Magn. Reson. Med. 43, 705–715 (weights).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import binary_dilation, correlate1d, map_coordinates, spline_filter1d
from scipy.spatial.transform import Rotation

from neuroalign.fmri.images import voxel_sizes

SMOOTHING_MM = 4.0  # FWHM. Narrower follows noise, wider is drawn away by slow changes of intensity.
RADIUS_MM = 50.0  # turns rotations into displacements at the cortex (Power et al. 2012)
_POINTS = 10_000  # smoothed neighbours say much the same: 12,000 and all 60,000 measured alike
_QUICK_POINTS = 3_000
_ITERATIONS = 24
_QUICK_CONVERGED_MM = 0.03
_CONVERGED_MM = 0.002
_REWEIGHTINGS = 4
_TUKEY = 3.0  # residuals beyond this many robust standard deviations have no weight
_GAIN = (0.2, 5.0)  # outside, the image shows something else than the reference


def rigid_matrix(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The 4×4 world matrix of six rigid parameters: x' = R(x − c) + c + t with R = Rz·Ry·Rx.

    Parameters
    ----------
    parameters : array of shape (6,)
        Translations x, y, z (mm), rotations about x, y, z (rad).
    centre : array of shape (3,)
        The fixed point c of the rotations, world mm.
    """
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


@dataclass(frozen=True)
class Estimate:
    """Where an image is relative to a reference.

    Attributes
    ----------
    matrix : array of shape (4, 4)
        Reference world → image world, mm.
    residual : float
        Robust standard deviation of what the fit leaves, relative to the spread of the reference; infinite where
        the image does not show the reference at all (blank, or of another brightness by far).
    """

    matrix: np.ndarray
    residual: float


class RigidFit:
    """A reference image with everything that depends on it alone: sample points, design, normal matrix.

    Parameters
    ----------
    image : array of shape (x, y, z)
    affine : array of shape (4, 4)
        Voxel to world, mm.
    mask : bool array of shape (x, y, z)
        Where the fit looks (dilated by 6 mm, so that the rim of the brain takes part).
    centre : array of shape (3,), optional
        Fixed point of rotations, world mm; the centre of the mask by default.
    smoothing_mm : float
        FWHM of the Gaussian applied to the reference and to every image.
    step : int
        Take every `step`-th voxel along each axis: for wide smoothing, which needs no more.
    precise : bool
        End with a step on a cubic spline with robust weights; without, linear least squares is all.

    Notes
    -----
    Minimises Σ ρ[v(W(x)) − (1 + s + g·x)·r(x) − o] over the rigid transform W, the scale s with its spatial
    gradient g, and the offset o, so that drift of the signal, alike or unlike over the head, is not taken for motion. r is the
    smoothed reference. In the inverse-compositional form the design (∂r/∂W, r, r·x, 1) depends on the reference
    alone and is computed once. Quick steps by linear interpolation on a part of the points come close; linear
    interpolation also blurs, most in the middle between voxels, which pulls estimates by hundredths of a
    millimetre: the last step reads a cubic spline. Its residuals are reweighted by Tukey's biweight, so that lost
    slices, spikes, pulsating fluid and eyes have no say.
    """

    def __init__(self, image, affine, mask, *, centre=None, smoothing_mm=SMOOTHING_MM, step=1, precise=True):
        self._every = (slice(None, None, step),) * 3
        affine = affine @ np.diag([step, step, step, 1.0])
        image, mask = np.asarray(image, np.float32)[self._every], mask[self._every]
        self.inverse = np.linalg.inv(affine)
        self.precise = precise
        sigma = smoothing_mm / voxel_sizes(affine) / np.sqrt(8 * np.log(2))
        self._kernels = [_spline_kernel(s) for s in sigma]
        reach = binary_dilation(mask, iterations=max(1, round(6.0 / voxel_sizes(affine).min())))
        # The outermost voxels have one-sided gradients and leave the field of view first.
        inner = np.zeros_like(reach)
        inner[1:-1, 1:-1, 1:-1] = True
        indices = np.argwhere(reach & inner)
        if len(indices) > _POINTS:
            chosen = np.random.default_rng(0).choice(len(indices), _POINTS, replace=False)
            indices = indices[np.sort(chosen)]
        world = indices @ affine[:3, :3].T + affine[:3, 3]
        if centre is None:
            brain = np.argwhere(mask)
            centre = brain.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        self.centre = np.asarray(centre, float)

        coefficients = self._coefficients(image)
        where = tuple(indices.T)
        values, design = self._model(coefficients, where, world, spline=True)
        self._spread = max(float(values.std()), 1e-12)
        self._norm = np.maximum(np.linalg.norm(design, axis=0), 1e-12)
        self._design = np.ascontiguousarray((design / self._norm).T, np.float32)  # long rows: fast products
        self._points = np.ascontiguousarray(world.T, np.float32)
        self._values = values.astype(np.float32)
        # Quick steps interpolate between coefficients linearly, so their model is that of the coefficients.
        part = slice(None, None, max(1, len(indices) // _QUICK_POINTS))
        values, design = self._model(coefficients, where, world, spline=False)
        quick = np.ascontiguousarray((design[part] / self._norm).T, np.float32)
        self._quick = (np.ascontiguousarray(self._points[:, part]), values[part].astype(np.float32), quick)
        self._factor = self._normal(quick, quick)

    def _model(
        self, coefficients: np.ndarray, where: tuple, world: np.ndarray, *, spline: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reference values and design (∂r/∂W, r, 1, r·x) at voxels, of the spline or of its coefficients."""
        values = (_at_knots(coefficients, None) if spline else coefficients)[where].astype(np.float64)
        slopes = [_at_knots(coefficients, axis, smooth=spline)[where] for axis in range(3)]
        gradient = np.stack(slopes, axis=1) @ self.inverse[:3, :3]  # d/dworld = d/dindex · dindex/dworld
        arm = world - self.centre
        # d r(x + t + ω × (x − c)) = ∇r · t + ((x − c) × ∇r) · ω
        turned = np.cross(arm, gradient)
        constant = np.ones_like(values)
        return values, np.column_stack(
            [gradient, turned, values, constant, values[:, None] * arm / RADIUS_MM]
        )

    @staticmethod
    def _normal(weighted: np.ndarray, design: np.ndarray):
        normal = (weighted @ design.T).astype(np.float64)
        # A flat or empty reference leaves directions undetermined: they stay where they are.
        scale = max(float(np.trace(normal)) / len(normal), 1e-12)
        return cho_factor(normal + 1e-7 * scale * np.eye(len(normal)))

    def estimate(self, volume: np.ndarray, *starts: np.ndarray) -> Estimate:
        """The rigid transform of an image on the reference's grid.

        Parameters
        ----------
        volume : array of shape (x, y, z)
        *starts : array of shape (4, 4)
            Matrices to start from (reference → image); where the quick steps fit best from, the last one is taken.
        """
        moving = self._coefficients(volume[self._every])
        matrix, left, gain = min((self._quick_fit(moving, start) for start in starts), key=lambda f: f[1])
        if self.precise:
            difference, seen = self._difference(moving, matrix, self._points, self._values, order=3)
            weights, left = self._robust(difference, seen)
            matrix, _, gain = self._apply(matrix, weights / self._norm)
        return Estimate(matrix, left / self._spread if _GAIN[0] < gain < _GAIN[1] else np.inf)

    def _quick_fit(self, moving: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Least squares by linear interpolation on some of the points: matrix, robust spread of the rest, gain."""
        points, values, design = self._quick
        matrix, enough = start.copy(), _QUICK_CONVERGED_MM if self.precise else _CONVERGED_MM
        for _ in range(_ITERATIONS):
            difference, _ = self._difference(moving, matrix, points, values, order=1)
            weights = cho_solve(self._factor, (design @ difference).astype(np.float64))
            matrix, moved, gain = self._apply(matrix, weights / self._norm)
            if moved < enough:
                break
        rest = np.abs(difference - weights.astype(np.float32) @ design)
        return matrix, 1.4826 * float(np.median(rest)), gain

    def _coefficients(self, image: np.ndarray) -> np.ndarray:
        """Cubic B-spline coefficients of the smoothed image: smoothing and spline filter are one short kernel."""
        out = np.ascontiguousarray(image, dtype=np.float32)
        for axis, kernel in enumerate(self._kernels):
            out = correlate1d(out, kernel, axis=axis, mode="mirror")
        return out

    def _difference(self, moving, matrix, points, values, *, order) -> tuple[np.ndarray, np.ndarray]:
        """Image minus reference where the reference's points are now (0 outside), and which are inside."""
        pull = (self.inverse @ matrix).astype(np.float32)
        where = pull[:3, :3] @ points + pull[:3, 3:]
        limits = np.array(moving.shape, np.float32)[:, None] - 0.5
        inside = ((where > -0.5) & (where < limits)).all(axis=0)
        found = map_coordinates(moving, where, order=order, mode="nearest", prefilter=False)
        return np.where(inside, found - values, np.float32(0)), inside

    def _apply(self, matrix: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The matrix after a step, how far it moved (mm at the cortex), and the gain it found."""
        gain = 1 + float(step[6])
        # v(W) is about (1 + s) r, so the slopes fitted to it are (1 + s) times too steep.
        motion = step[:6] / max(gain, _GAIN[0])
        moved = np.abs(motion[:3]).max() + RADIUS_MM * np.abs(motion[3:6]).max()
        return matrix @ np.linalg.inv(rigid_matrix(motion, self.centre)), float(moved), gain

    def _robust(self, difference: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights of the design by iterated reweighting; the robust spread of what is left."""
        share = seen.astype(np.float32)
        for _ in range(_REWEIGHTINGS):
            weighted = self._design * share
            factor = self._normal(weighted, self._design)
            weights = cho_solve(factor, (weighted @ difference).astype(np.float64))
            rest = difference - weights.astype(np.float32) @ self._design
            spread = 1.4826 * float(np.median(np.abs(rest[seen]))) if seen.any() else 0.0
            if spread <= 1e-6 * self._spread:
                break
            share = np.where(seen, np.clip(1 - (rest / (_TUKEY * spread)) ** 2, 0, None) ** 2, 0)
        return weights, spread


def _spline_kernel(sigma: float) -> np.ndarray:
    """A Gaussian followed by the cubic B-spline's direct filter (Unser 1999), as one symmetric kernel."""
    radius = int(np.ceil(3 * sigma)) + 6
    steps = np.arange(-radius, radius + 1)
    gauss = np.where(np.abs(steps) <= np.ceil(3 * sigma), np.exp(-0.5 * (steps / sigma) ** 2), 0)
    return spline_filter1d(gauss / gauss.sum(), 3, mode="mirror")


def _at_knots(coefficients: np.ndarray, slope_axis: int | None, *, smooth: bool = True) -> np.ndarray:
    """Values of a cubic B-spline at its knots, or its slope along one axis (per voxel).

    Without `smooth`, the slope of the coefficients themselves.
    """
    out = coefficients
    for axis in range(3):
        if axis == slope_axis:
            out = correlate1d(out, [-0.5, 0, 0.5], axis=axis, mode="mirror")
        elif smooth:
            out = correlate1d(out, [1 / 6, 4 / 6, 1 / 6], axis=axis, mode="mirror")
    return out
