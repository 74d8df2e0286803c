"""One BOLD run: geometry, slice timing, motion, signal and noise put together as the scanner would."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from neuroalign.config.dataset import Simulate
from neuroalign.simulate import noise as noise_model
from neuroalign.simulate.anatomy import FIELD_OF_VIEW_MM, HEAD_CENTRE_MM, Head, rotation
from neuroalign.simulate.hrf import STEP_S
from neuroalign.simulate.motion import head_motion, rigid, run_position
from neuroalign.simulate.plan import RunPlan, generator

_SLICE_S = 0.06
_OBLIQUE_DEG = np.array([6.0, 0.5, -1.0])


@dataclass
class Geometry:
    """The functional field of view: grid shape (x, y, z) and affine, voxel to scanner millimetres."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Middle of the grid in scanner millimetres: the centre about which the head rotates."""
        return self.affine[:3, :3] @ ((np.array(self.shape) - 1) / 2) + self.affine[:3, 3]


def slice_timing(simulate: Simulate) -> tuple[np.ndarray, int]:
    """Acquisition time of each slice, and how many are excited together.

    Slices are interleaved (odd ones first). As many are excited at once as it takes to fit them into the TR at
    60 ms each.

    Returns
    -------
    times : array of shape (slices,)
        Seconds from the start of the volume.
    multiband : int
    """
    wanted = round(FIELD_OF_VIEW_MM[2] / simulate.voxel_mm)
    multiband = next(m for m in (1, 2, 3, 4, 6, 8, 16, 32) if np.ceil(wanted / m) * _SLICE_S <= simulate.tr_s)
    shots = int(np.ceil(wanted / multiband))
    order = np.concatenate([np.arange(0, shots, 2), np.arange(1, shots, 2)])
    times = np.empty(shots)
    times[order] = np.arange(shots) * simulate.tr_s / shots
    return np.round(np.tile(times, multiband), 4), multiband


def geometry(simulate: Simulate) -> Geometry:
    """The grid of the BOLD images: the whole head, tilted a little as slices usually are."""
    slices = len(slice_timing(simulate)[0])
    plane = np.round(FIELD_OF_VIEW_MM[:2] / simulate.voxel_mm).astype(int)
    shape = (int(plane[0]), int(plane[1]), slices)
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.deg2rad(_OBLIQUE_DEG)) * simulate.voxel_mm
    affine[:3, 3] = HEAD_CENTRE_MM - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


@dataclass
class Run:
    """A simulated run.

    Attributes
    ----------
    data : int16 array of shape (volumes, z, y, x)
        C-ordered; its transpose is the NIfTI array.
    affine : array of shape (4, 4)
    motion : array of shape (volumes, 6)
        See `motion.CONVENTION`.
    regional : array of shape (volumes, units)
        Mean of the noisy data over the true voxels of each parcel, percent of its mean over time.
    """

    data: np.ndarray
    affine: np.ndarray
    motion: np.ndarray
    regional: np.ndarray


def simulate_run(
    simulate: Simulate,
    run: RunPlan,
    head: Head,
    signal: np.ndarray,
    intrinsic: np.ndarray,
    columns: np.ndarray,
) -> Run:
    """Acquire one run.

    Parameters
    ----------
    simulate : Simulate
    run : RunPlan
    head : Head
    signal : array of shape (samples, units)
        Stimulus-driven activity in percent on the run's fine clock.
    intrinsic : array of shape (samples, units)
        Ongoing activity in percent at noise = 1.
    columns : int array of shape (parcels,)
        Column of `signal` for each label of the atlas (label k is at position k - 1).

    Returns
    -------
    Run
    """
    grid = geometry(simulate)
    times, _ = slice_timing(simulate)
    rng = generator(simulate, "bold", run.run_id)
    motion = head_motion(simulate, run)
    to_head = np.linalg.inv(head.affine) @ np.linalg.inv(rigid(run_position(simulate, run), grid.centre))
    weights = _activity_weights(simulate, head, grid, to_head, rng)
    activity = (signal + simulate.noise * intrinsic)[:, columns]
    data = _baseline(simulate, head, grid, to_head, motion)
    still = data[0].copy()
    _add_activity(data, weights, activity, times, simulate.tr_s)
    if simulate.noise > 0:
        csf = _sample(ndimage.gaussian_filter(head.csf, 0.7), grid, to_head).reshape(still.shape)
        noise_model.add_noise(rng, data, still, csf, times, simulate.tr_s, simulate.voxel_mm, simulate.noise)
    np.clip(np.rint(data, out=data), 0, 32767, out=data)
    return Run(data.astype(np.int16), grid.affine, motion, _regional(data, weights, len(columns)))


def _grid_points(grid: Geometry, offset: np.ndarray | float = 0.0) -> np.ndarray:
    """Homogeneous voxel coordinates of the grid in (z, y, x) order, shifted by `offset` voxels; (4, voxels)."""
    z, y, x = np.indices(grid.shape[::-1], dtype=np.float32).reshape(3, -1)
    points = np.stack([x, y, z, np.ones_like(x)])
    points[:3] += np.broadcast_to(offset, (3,)).astype(np.float32)[:, None]
    return points


def _sample(image: np.ndarray, grid: Geometry, to_head: np.ndarray, order: int = 1) -> np.ndarray:
    matrix = (to_head @ grid.affine).astype(np.float32)
    return ndimage.map_coordinates(image, (matrix @ _grid_points(grid))[:3], order=order, mode="constant")


def _baseline(
    simulate: Simulate, head: Head, grid: Geometry, to_head: np.ndarray, motion: np.ndarray
) -> np.ndarray:
    """The static contrast in every position that the head takes; (volumes, z, y, x)."""
    spacing = float(head.affine[0, 0])
    # A voxel averages over its extent; a Gaussian of the same variance stands for the box.
    epi = ndimage.gaussian_filter(head.epi, simulate.voxel_mm / np.sqrt(12) / spacing)
    points = _grid_points(grid)
    first = (to_head @ grid.affine @ points)[:3]
    inside = ndimage.map_coordinates(ndimage.maximum_filter(epi, 5), first, order=0, mode="constant") > 1.0
    data = np.zeros((len(motion), *grid.shape[::-1]), np.float32)
    flat = data.reshape(len(motion), -1)
    points = points[:, inside]
    for volume, parameters in enumerate(motion):
        back = np.linalg.inv(rigid(parameters, grid.centre))
        voxels = ((to_head @ back @ grid.affine).astype(np.float32) @ points)[:3]
        flat[volume, inside] = ndimage.map_coordinates(epi, voxels, order=1, mode="constant")
    return data


def _activity_weights(
    simulate: Simulate, head: Head, grid: Geometry, to_head: np.ndarray, rng: np.random.Generator
) -> sparse.csr_matrix:
    """How much each voxel's intensity rises per percent of each parcel's activity; (voxels, parcels).

    A voxel averages points on a lattice inside it, each with its tissue's grey matter share and responsiveness.
    Within-run motion moves the image by fractions of a voxel and the activity by the same; its effect on the
    activity (hundredths of a percent of the baseline) is left out, that on the baseline is not.
    """
    across = max(1, int(np.ceil(simulate.voxel_mm / float(head.affine[0, 0]))))
    lattice = (np.arange(across) + 0.5) / across - 0.5
    matrix = (to_head @ grid.affine).astype(np.float32)
    # Vessels make neighbouring voxels respond unequally; the parcel's mean stays what the truth says.
    spread = ndimage.gaussian_filter(rng.standard_normal(head.gm.shape).astype(np.float32), 1.0)
    gain = head.gm * head.epi * np.exp(0.5 * spread / spread.std()) / np.exp(0.125)
    voxels, parcels, values = [], [], []
    for offset in np.stack(np.meshgrid(lattice, lattice, lattice), axis=-1).reshape(-1, 3):
        where = np.rint((matrix @ _grid_points(grid, offset))[:3]).astype(int)
        valid = np.all((where >= 0) & (where < np.array(head.gm.shape)[:, None]), axis=0)
        index = tuple(where[:, valid])
        label = head.labels[index]
        hit = label > 0
        voxels.append(np.flatnonzero(valid)[hit])
        parcels.append(label[hit] - 1)
        values.append(gain[index][hit] / (100 * across**3))
    shape = (int(np.prod(grid.shape)), int(head.labels.max()))
    return sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(voxels), np.concatenate(parcels))), shape=shape
    )


def _add_activity(
    data: np.ndarray, weights: sparse.csr_matrix, activity: np.ndarray, times: np.ndarray, tr_s: float
) -> None:
    """Add activity in place, each slice sampled at its own acquisition times."""
    volumes, slices, rows, columns = data.shape
    clock = np.arange(len(activity)) * STEP_S
    starts = np.arange(volumes) * tr_s
    plane = rows * columns
    sampled: dict[float, np.ndarray] = {}
    for z in range(slices):
        if times[z] not in sampled:
            sampled[times[z]] = _interpolate(clock, activity, starts + times[z])
        part = weights[z * plane : (z + 1) * plane]
        data[:, z] += (part @ sampled[times[z]].T).T.reshape(volumes, rows, columns)


def _interpolate(clock: np.ndarray, series: np.ndarray, at: np.ndarray) -> np.ndarray:
    position = np.clip(at / STEP_S, 0, len(clock) - 1.001)
    low = position.astype(int)
    share = (position - low)[:, None]
    return series[low] * (1 - share) + series[low + 1] * share


def at_volumes(simulate: Simulate, run: RunPlan, series: np.ndarray) -> np.ndarray:
    """Series on the fine clock at the middle of every volume; (volumes, units)."""
    middle = (np.arange(run.volumes) + 0.5) * simulate.tr_s
    return _interpolate(np.arange(len(series)) * STEP_S, series, middle)


def _regional(data: np.ndarray, weights: sparse.csr_matrix, parcels: int) -> np.ndarray:
    strongest = np.asarray(weights.argmax(axis=1)).ravel()
    strength = np.asarray(weights.max(axis=1).todense()).ravel()
    # Voxels mostly inside grey matter of the parcel; those on its edge belong to it only in part.
    member = strength > 0.4 * np.median(strength[strength > 0])
    chosen = sparse.csr_matrix(
        (np.ones(member.sum(), np.float32), (strongest[member], np.flatnonzero(member))),
        shape=(parcels, weights.shape[0]),
    )
    mean = (chosen @ data.reshape(len(data), -1).T).T
    return 100 * (mean / np.maximum(mean.mean(0), 1e-6) - 1)
