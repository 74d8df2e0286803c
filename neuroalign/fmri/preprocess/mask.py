"""Where the brain is: in a BOLD reference, and in a T1w image with skull."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    binary_opening,
    gaussian_filter,
    label,
)

from neuroalign.errors import UserError
from neuroalign.fmri.images import grid_points, voxel_sizes
from neuroalign.fmri.preprocess.resample import sample
from neuroalign.fmri.preprocess.rigid import RigidFit, rigid_matrix

_SCALP_MM = 12.0  # from the top of the brain to the top of the head, an adult's average


def ball(radius_mm: float, affine: np.ndarray) -> np.ndarray:
    """A spherical structuring element of at least one voxel, for a grid with this affine."""
    sizes = voxel_sizes(affine)
    reach = np.maximum(1, np.floor(radius_mm / sizes + 1e-6)).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"))
    scaled = offsets / np.maximum(radius_mm / sizes, 1)[:, None, None, None]
    return (scaled**2).sum(axis=0) <= 1 + 1e-9


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask, with holes filled."""
    parts, count = label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        mask = parts == sizes.argmax()
    return binary_fill_holes(mask)


def otsu(values: np.ndarray) -> float:
    """The threshold that best parts values in two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total, moment = below[-1], np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below - total * moment) ** 2 / (below * (total - below).astype(float))
    return float(centres[np.nanargmax(np.where(np.isfinite(between), between, -1))])


def bold_mask(reference: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    """A rough brain mask of a BOLD reference: bright, compact, one piece.

    Good enough for realignment and coregistration; the mask of the outputs comes from the anatomy.

    Parameters
    ----------
    reference : array of shape (x, y, z)
    affine : array of shape (4, 4)
    name : str
        The file, for messages.

    Raises
    ------
    UserError
        If the image holds nothing to find.
    """
    positive = reference[reference > 0]
    if positive.size < 100 or np.ptp(positive) <= 0:
        raise UserError(f"{name} is empty or constant: no brain is visible in it; check the image.")
    smooth = gaussian_filter(reference.astype(np.float32), 2.0 / voxel_sizes(affine))
    smooth = np.minimum(smooth, np.percentile(smooth[reference > 0], 98))
    bright = smooth > 0.8 * otsu(smooth)
    opened = binary_opening(bright, ball(4.0, affine))
    mask = largest_component(opened if opened.any() else bright)
    return binary_closing(np.pad(mask, 4), ball(6.0, affine), iterations=1)[4:-4, 4:-4, 4:-4] | mask


def initial_alignment(
    head: np.ndarray, head_affine: np.ndarray, brain: np.ndarray, brain_affine: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """A rigid start for template → T1w that survives any origin and a nod of the head.

    The top of the head gives positions to try, with several pitches; each is improved by least squares at low
    resolution, and the best correlation inside the template's brain wins.

    Parameters
    ----------
    head, head_affine
        T1w image with skull.
    brain, brain_affine, mask
        Brain-only template on a coarse grid (about 4 mm), and its brain mask.

    Returns
    -------
    array of shape (4, 4)
        World matrix, template → T1w.
    """
    inside = np.argwhere(mask)
    points = inside @ brain_affine[:3, :3].T + brain_affine[:3, 3]
    centre, top = points.mean(axis=0), points[:, 2].max()
    smooth = gaussian_filter(head.astype(np.float32), 3.0 / voxel_sizes(head_affine))
    foreground = largest_component(smooth > otsu(np.minimum(smooth, np.percentile(smooth, 99))))
    world = np.argwhere(foreground) @ head_affine[:3, :3].T + head_affine[:3, 3]
    crown = np.percentile(world[:, 2], 99.9)
    upper = world[world[:, 2] > crown - 110]
    middle = (np.percentile(upper, 1, axis=0) + np.percentile(upper, 99, axis=0)) / 2
    base = np.array([middle[0] - centre[0], middle[1] - centre[1], crown - top - _SCALP_MM])

    wide = binary_dilation(mask, iterations=2)
    around = np.argwhere(wide) @ brain_affine[:3, :3].T + brain_affine[:3, 3]
    wanted = gaussian_filter(brain.astype(np.float32), 1.0)[wide]
    starts = [np.eye(4)]
    for pitch in np.deg2rad([-15.0, 0.0, 15.0]):
        for forward in (-15.0, 0.0, 15.0):
            for up in (-12.0, 0.0, 12.0):
                shift = base + np.array([0.0, forward, up])
                starts.append(rigid_matrix(np.array([*shift, pitch, 0.0, 0.0]), centre))

    def agreement(matrix: np.ndarray) -> float:
        found = sample(smooth, head_affine, around @ matrix[:3, :3].T + matrix[:3, 3])
        return float(np.corrcoef(found, wanted)[0, 1]) if found.std() > 0 else -1.0

    best = sorted(starts, key=agreement, reverse=True)[:5]
    grid = grid_points(brain.shape, brain_affine)
    improved = []
    for start in best:
        moved = sample(smooth, head_affine, grid @ start[:3, :3].T + start[:3, 3]).reshape(brain.shape)
        matrix = np.eye(4)
        for smoothing in (14.0, 8.0):
            fit = RigidFit(brain, brain_affine, mask, smoothing_mm=smoothing, precise=False)
            matrix = fit.estimate(moved, matrix).matrix
        improved.append(start @ matrix)
    return max([*best, *improved], key=agreement)


def tissue_classes(t1w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey matter, white matter and CSF by three-class k-means of T1w intensity inside the brain.

    Parameters
    ----------
    t1w : array of shape (x, y, z)
        Bias-corrected.
    mask : bool array of shape (x, y, z)

    Returns
    -------
    uint8 array of shape (x, y, z)
        1 grey matter, 2 white matter, 3 CSF (fMRIPrep's ``dseg``), 0 outside the brain.
    """
    values = t1w[mask].astype(np.float64)
    low, high = np.percentile(values, [1, 99])
    values = np.clip(values, low, high)
    centres = np.percentile(values, [8, 45, 85])
    for _ in range(50):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        moved = np.array(
            [values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(3)]
        )
        if np.allclose(moved, centres, rtol=1e-5):
            break
        centres = moved
    classes = np.zeros(t1w.shape, np.uint8)
    classes[mask] = np.array([3, 1, 2], np.uint8)[nearest]
    return classes


def core(region: np.ndarray, minimum: int) -> np.ndarray:
    """A region eroded by one voxel, unless that leaves fewer than `minimum` voxels."""
    eroded = binary_erosion(region)
    return eroded if eroded.sum() >= minimum else region
