"""Motion estimation: ours against ANTsPy's rigid registration, on the same volumes with known motion.

Run by hand, with one thread for a fair comparison::

    OMP_NUM_THREADS=1 python benchmarks/realign.py

A simulated head (`neuroalign.simulate`: scalp, skull, fluid, signal loss, bias) is put in known positions and acquired with
noise of realistic size. Ours realigns the whole run; ANTsPy, which takes most of a second a volume, aligns some of its volumes
(`--compared`, the spoiled ones among them) to the reference that our own second pass ended with, which spares it the noise and
the outliers of a single volume. Both are judged on those volumes. The error is the distance, averaged over the voxels of the brain, between where
the estimate and the truth put a point; the offset that all volumes of a run share (estimates are relative to *some* reference)
is removed from both methods in the same way, by the median over volumes, which outlier volumes do not move. Time is CPU time of
one thread per volume aligned, for ours with everything: rough mask, both passes, mean.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from neuroalign.config.dataset import Simulate
from neuroalign.fmri.images import grid_points
from neuroalign.fmri.preprocess import register
from neuroalign.fmri.preprocess.mask import bold_mask
from neuroalign.fmri.preprocess.realign import realign, rigid_matrix
from neuroalign.simulate.anatomy import HEAD_CENTRE_MM, build_head, rotation
from neuroalign.simulate.atlas import demo_atlas, load_template
from neuroalign.simulate.noise import add_noise

HEAD_MM = 2.0
GRIDS = {"46x55x46, 4 mm": ((46, 55, 46), 4.0), "64x64x36, 3.3 mm": ((64, 64, 36), 3.3)}
SCENARIOS = ("noise", "jumps", "drift", "outliers", "all")
TR_S = 2.0


def make_head():
    """A simulated head, once for all scenarios."""
    template = load_template()
    labels, affine, _ = demo_atlas(template)
    return build_head(Simulate(), "01", template, labels, affine, HEAD_MM)


def grid_of(shape: tuple[int, int, int], voxel_mm: float) -> np.ndarray:
    """The affine of a slightly oblique grid about the middle of the head."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.deg2rad([6.0, 0.5, -1.0])) * voxel_mm
    affine[:3, 3] = HEAD_CENTRE_MM - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def make_run(head, shape, voxel_mm: float, volumes: int, scenario: str, seed: int):
    """One run with known motion.

    Returns
    -------
    data : float32 array of shape (x, y, z, volumes)
    affine : array of shape (4, 4)
    matrices : array of shape (volumes, 4, 4)
        Where the head is: first position → position in the volume, world mm.
    outliers : bool array of shape (volumes,)
    """
    rng = np.random.default_rng(seed)
    affine = grid_of(shape, voxel_mm)
    unit = np.array([1.0, 1, 1, *([np.pi / 180] * 3)])
    walk = np.cumsum(rng.normal(0, 0.12, (volumes, 6)) * unit, axis=0)
    walk += rng.normal(0, 0.05, (volumes, 6)) * unit
    if scenario in ("jumps", "all"):
        for at in (volumes // 3, 2 * volumes // 3):
            walk[at:] += rng.choice([-1, 1], 6) * rng.uniform(2, 4, 6) * unit
    matrices = np.array([rigid_matrix(p, HEAD_CENTRE_MM) for p in walk])
    epi = spline_filter(gaussian_filter(head.epi, voxel_mm / np.sqrt(12) / HEAD_MM), 3, output=np.float32)
    points = np.c_[grid_points(shape, affine), np.ones(int(np.prod(shape)))].T
    # Volumes first and reversed axes, as the noise model has them.
    data = np.empty((volumes, *shape[::-1]), np.float32)
    for volume, matrix in enumerate(matrices):
        where = (np.linalg.inv(head.affine) @ np.linalg.inv(matrix) @ points)[:3]
        data[volume] = map_coordinates(epi, where, order=3, prefilter=False).reshape(shape).T
    np.maximum(data, 0, out=data)
    fluid = map_coordinates(head.csf, (np.linalg.inv(head.affine) @ points)[:3], order=1).reshape(shape).T
    slices = np.argsort(np.r_[0 : shape[2] : 2, 1 : shape[2] : 2]) * TR_S / shape[2]
    add_noise(rng, data, data[0].copy(), fluid, slices, TR_S, voxel_mm, 1.0)
    if scenario in ("drift", "all"):
        bend = gaussian_filter(rng.normal(size=shape[::-1]), 40 / voxel_mm, mode="wrap")
        bend *= 0.03 / bend.std()
        ramp = np.linspace(-1, 1, volumes)[:, None, None, None]
        data *= 1 + 0.05 * ramp + bend * ramp
    outliers = np.zeros(volumes, bool)
    if scenario in ("outliers", "all"):
        # Single volumes, the middle one among them, and a pair: one in twenty, as in a bad run.
        for volume in (1, volumes // 4, volumes // 2, 3 * volumes // 4, volumes - 4, volumes - 3):
            outliers[volume] = True
            spoil(rng, data[volume])
    return data.T, affine, matrices, outliers


def spoil(rng: np.random.Generator, volume: np.ndarray) -> None:
    """An outlier volume, in place: slices that lost their signal (movement during excitation) and a spike's stripes."""
    slices = len(volume)
    lost = rng.choice(slices, slices // 5, replace=False)
    volume[lost] *= rng.uniform(0.2, 0.6, len(lost))[:, None, None]
    _, y, x = np.indices(volume.shape)
    hit = rng.choice(slices, slices // 4, replace=False)
    stripes = 200 * np.cos(0.9 * x + 0.7 * y)
    volume[hit] = np.abs(volume[hit] + stripes[hit])
    volume *= 1.08


def errors(estimated: np.ndarray, true: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Mean displacement over the brain per volume, mm, after the run's shared offset is removed."""
    offsets = np.linalg.inv(estimated) @ true
    shared = np.median(offsets, axis=0)
    left, _, right = np.linalg.svd(shared[:3, :3])
    shared[:3, :3] = left @ right
    home = np.c_[points, np.ones(len(points))].T
    return np.array(
        [
            np.linalg.norm(((e @ shared - t) @ home)[:3], axis=0).mean()
            for e, t in zip(estimated, true, strict=True)
        ]
    )


def by_ants(reference: np.ndarray, data: np.ndarray, affine: np.ndarray, kind: str) -> np.ndarray:
    """World matrices reference → volume by ``ants.registration``."""
    import ants

    fixed = register._to_ants(reference, affine)
    found = []
    for volume in range(data.shape[-1]):
        moving = register._to_ants(data[..., volume], affine)
        result = ants.registration(fixed, moving, type_of_transform=kind, random_seed=1)
        found.append(register._read_matrix(result["fwdtransforms"][0]))
    return np.array(found)


def main() -> None:
    """Print one line per grid and scenario."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=120, help="of the run that ours realigns")
    parser.add_argument("--compared", type=int, default=14, help="volumes that ANTsPy aligns, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ants", default="Rigid", help="type_of_transform, or none; BOLDRigid is motion_correction's"
    )
    parser.add_argument("--grids", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS))
    options = parser.parse_args()

    head = make_head()
    inside = np.argwhere(head.brain)[::37]
    points = inside @ head.affine[:3, :3].T + head.affine[:3, 3]
    # Both once, so that imports are not timed.
    realign(np.random.default_rng(0).random((40, 40, 40, 4)), np.eye(4), np.ones((40, 40, 40), bool))
    by_ants(np.eye(8)[..., None] + np.zeros((8, 8, 8)), np.ones((8, 8, 8, 0)), np.eye(4), "Rigid")
    print(
        f"{'grid':18}{'scenario':10}{'ours mm':>9}{'worst':>7}{'ANTs mm':>9}{'worst':>7}{'ours s':>9}{'ANTs s':>9}"
        f"{'faster':>8}   ({options.volumes} volumes, {options.compared} compared, CPU seconds per volume)"
    )
    for name, (shape, voxel_mm) in [list(GRIDS.items())[i] for i in options.grids]:
        for scenario in options.scenarios:
            data, affine, true, outliers = make_run(
                head, shape, voxel_mm, options.volumes, scenario, options.seed
            )
            began = time.process_time()
            mask = bold_mask(np.median(data, axis=-1), affine, scenario)
            found = realign(data, affine, mask)
            ours_s = (time.process_time() - began) / options.volumes
            spread = np.linspace(0, options.volumes - 1, options.compared - outliers.sum()).astype(int)
            compared = np.union1d(spread, np.flatnonzero(outliers))
            ours = errors(found.matrices[compared], true[compared], points)
            line = f"{name:18}{scenario:10}{ours.mean():9.4f}{ours.max():7.3f}"
            if options.ants != "none":
                began = time.process_time()
                theirs = by_ants(found.reference, data[..., compared], affine, options.ants)
                ants_s = (time.process_time() - began) / len(compared)
                other = errors(theirs, true[compared], points)
                line += (
                    f"{other.mean():9.4f}{other.max():7.3f}{ours_s:9.4f}{ants_s:9.3f}{ants_s / ours_s:8.1f}"
                )
            else:
                line += f"{'':16}{ours_s:9.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
