"""Regional series and image quality of a run, gathered while its volumes stream by once.

Nothing here holds the image: each `Sink` keeps what it needs of every block of volumes, so memory grows with regions
(or the voxels asked for), not with the run. Sinks work on arrays and know nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neuroalign.fmri.images import VolumeReader
from neuroalign.fmri.qc import carpet, carpet_rows, drift_basis

# Voxels looked at first for whether a volume is all one value.
_GLANCE = 64
Blocks = Iterable[tuple[int, np.ndarray]]


class Sink(Protocol):
    """What takes part in a pass over the volumes."""

    def add(self, first: int, values: np.ndarray) -> None:
        """Take the volumes from number `first` on: float array of shape (volumes of the block, voxels)."""


def stream(blocks: Blocks, sinks: Sequence[Sink]) -> None:
    """Show every block to every sink, in order."""
    for first, values in blocks:
        for sink in sinks:
            sink.add(first, values)


class RegionMeans:
    """Mean of each region in every volume.

    Parameters
    ----------
    volumes : int
    region : int array of shape (voxels,)
        Position of the voxel's region in the result, negative for none.
    regions : int
        Number of regions.

    Attributes
    ----------
    means : float64 array of shape (volumes, regions)
        0 where a region has no voxel.
    sizes : int array of shape (regions,)
        Voxels of each region.
    """

    def __init__(self, volumes: int, region: np.ndarray, regions: int):
        self._region = np.where(region < 0, regions, region)  # the last bin takes what belongs to none
        self.sizes = np.bincount(self._region, minlength=regions + 1)[:regions]
        self.means = np.zeros((volumes, regions))

    def add(self, first: int, values: np.ndarray) -> None:
        """See `Sink`."""
        regions = len(self.sizes)
        for volume, row in enumerate(values, first):
            sums = np.bincount(self._region, weights=row, minlength=regions + 1)[:regions]
            self.means[volume] = sums / np.maximum(self.sizes, 1)


class Columns:
    """The series of chosen voxels as they are.

    Parameters
    ----------
    volumes : int
    columns : int array of shape (n,)
        Positions among the voxels of a block.

    Attributes
    ----------
    series : float32 array of shape (volumes, n)
    """

    def __init__(self, volumes: int, columns: np.ndarray):
        self._columns = columns
        self.series = np.zeros((volumes, len(columns)), np.float32)

    def add(self, first: int, values: np.ndarray) -> None:
        """See `Sink`."""
        self.series[first : first + len(values)] = values[:, self._columns]


class Lost:
    """Which volumes hold no image: 0 (which stands for what is not finite, too) all over the brain.

    Parameters
    ----------
    volumes : int
    columns : int array of shape (n,) or slice
        The brain among the voxels of a block.

    Attributes
    ----------
    flags : bool array of shape (volumes,)
        Filled as blocks come.
    """

    def __init__(self, volumes: int, columns: np.ndarray | slice):
        self._columns = columns
        self.flags = np.zeros(volumes, bool)

    def add(self, first: int, values: np.ndarray) -> None:
        """See `Sink`."""
        self.flags[first : first + len(values)] = blank_volumes(values, self._columns)


def blank_volumes(values: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Which rows of a block are 0 in all of `columns`, bool array of shape (volumes of the block,)."""
    chosen = np.arange(values.shape[1])[columns]
    # A few voxels tell nearly every volume that holds an image; only the others are looked at whole.
    few = values[:, chosen[:: max(1, len(chosen) // _GLANCE)]]
    blank = ~few.any(axis=1)
    for volume in np.flatnonzero(blank):
        blank[volume] = not values[volume, columns].any()
    return blank


class TemporalSnr:
    """Temporal signal-to-noise ratio from running sums: mean over deviation from a quadratic drift.

    Parameters
    ----------
    keep : bool array of shape (volumes,)
        Volumes that count.
    columns : int array of shape (n,) or slice
        Positions among the voxels of a block.
    lost : bool array of shape (volumes,), optional
        Volumes that do not count either, known (`Lost.flags`) when their block comes.

    Notes
    -----
    With the drift's basis Q over the volumes that count, the residual sum of squares is Σx² − (Qᵀx)ᵀ(QᵀQ)⁻¹Qᵀx: sums that
    need no second pass. Q is orthonormal over `keep`, so that QᵀQ is well conditioned however few are lost. The difference of large numbers loses no digits that matter, because x is taken relative to the
    voxel's first kept value and the sums are of doubles.
    """

    def __init__(self, keep: np.ndarray, columns: np.ndarray | slice, lost: np.ndarray | None = None):
        self._columns = columns
        self._lost = np.zeros(len(keep), bool) if lost is None else lost
        self._count = 0
        self._basis = np.zeros((len(keep), min(3, int(np.count_nonzero(keep)))))
        self._gram = np.zeros((self._basis.shape[1],) * 2)
        self._basis[keep] = drift_basis(np.flatnonzero(keep))
        self._keep = keep
        self._reference: np.ndarray | None = None

    def add(self, first: int, values: np.ndarray) -> None:
        """See `Sink`."""
        block = slice(first, first + len(values))
        kept = self._keep[block] & ~self._lost[block]
        if not kept.any():
            return
        part = (values if kept.all() else values[kept])[:, self._columns]
        if self._reference is None:
            self._reference = part[0].copy()
            self._sum = np.zeros(part.shape[1])
            self._squares = np.zeros(part.shape[1])
            self._drift = np.zeros((self._basis.shape[1], part.shape[1]))
        shifted = part - self._reference
        basis = self._basis[block][kept]
        self._count += len(part)
        self._sum += shifted.sum(axis=0)
        self._gram += basis.T @ basis
        self._drift += basis.T @ shifted
        self._squares += np.einsum("ij,ij->j", shifted, shifted)

    def ratio(self) -> np.ndarray:
        """The ratio of each voxel, float64 array of shape (n,); 0 for voxels without noise."""
        if self._reference is None:
            raise ValueError("no kept volume was seen")
        mean = self._reference + self._sum / self._count
        explained = np.linalg.pinv(self._gram, hermitian=True) @ self._drift
        left = np.maximum(self._squares - (self._drift * explained).sum(axis=0), 0)
        spread = np.sqrt(left / max(self._count - 1, 1))
        floor = 1e-6 * np.abs(mean).max(initial=1e-12)
        return np.divide(mean, spread, out=np.zeros_like(mean), where=spread > floor)


class Varying:
    """Which voxels change over the volumes that hold an image.

    Attributes
    ----------
    varies : bool array of shape (voxels,)
    """

    def __init__(self):
        self._first: np.ndarray | None = None
        self.varies = np.zeros(0, bool)

    def add(self, first: int, values: np.ndarray) -> None:
        """See `Sink`."""
        if not self.varies.size:
            self.varies = np.zeros(values.shape[1], bool)
        values = values[~blank_volumes(values)]
        if not len(values):
            return
        if self._first is None:
            self._first = values[0].copy()
        self.varies |= (values != self._first).any(axis=0)


def varying_voxels(volumes: VolumeReader) -> np.ndarray:
    """Mask of the voxels that change over the run: one pass, bool array of shape (x, y, z)."""
    sink = Varying()
    stream(volumes.read(), [sink])
    return sink.varies.reshape(volumes.shape[:3], order="F")


@dataclass(frozen=True)
class Extraction:
    """What one pass over a run gives.

    Attributes
    ----------
    series : array of shape (volumes, units)
        Uncleaned: region means (float64), or voxels (float32).
    snr : float32 array of shape (x, y, z)
        Temporal signal-to-noise ratio in the brain, 0 outside.
    carpet : float16 array of shape (rows, volumes)
        See `qc.carpet`.
    lost : bool array of shape (volumes,)
        Volumes that hold no image: not finite, 0 or constant all over the brain.
    """

    series: np.ndarray
    snr: np.ndarray
    carpet: np.ndarray
    lost: np.ndarray


def extract_means(
    volumes: VolumeReader, mask: np.ndarray, keep: np.ndarray, parcels: np.ndarray, regions: Sequence[int]
) -> Extraction:
    """Mean series of regions over their voxels in the brain.

    Parameters
    ----------
    volumes : VolumeReader
    mask : bool array of shape (x, y, z)
        The brain.
    keep : bool array of shape (volumes,)
        Volumes that count for the signal-to-noise ratio.
    parcels : int array of shape (x, y, z)
        Region number per voxel.
    regions : sequence of int
        Numbers of the regions wanted, in the order of the result.

    Returns
    -------
    Extraction
        A region outside the brain has a series of zeros.
    """
    position: Mapping[int, int] = {number: place for place, number in enumerate(regions)}
    voxels = _flat(mask)
    found, inverse = np.unique(parcels.ravel(order="F")[voxels], return_inverse=True)
    region = np.array([position.get(int(number), -1) for number in found])[inverse]
    means = RegionMeans(volumes.shape[3], region, len(regions))
    return Extraction(means.means, *_quality(volumes, mask, keep, voxels, slice(None), means))


def extract_voxels(
    volumes: VolumeReader, mask: np.ndarray, keep: np.ndarray, where: np.ndarray
) -> Extraction:
    """Series of single voxels.

    Parameters
    ----------
    volumes : VolumeReader
    mask : bool array of shape (x, y, z)
        The brain, for the signal-to-noise ratio and the carpet; `where` may leave it.
    keep : bool array of shape (volumes,)
    where : int array of shape (units, 3)
        Voxel coordinates, in the order of the result.
    """
    wanted = np.ravel_multi_index(tuple(where.T), mask.shape, order="F")
    brain = _flat(mask)
    voxels = np.union1d(brain, wanted)
    chosen = Columns(volumes.shape[3], np.searchsorted(voxels, wanted))
    found = _quality(volumes, mask, keep, voxels, np.searchsorted(voxels, brain), chosen)
    return Extraction(chosen.series, *found)


def _flat(mask: np.ndarray) -> np.ndarray:
    """Positions of the voxels of a mask in a volume, x running fastest, ascending: memory is read forward."""
    return np.flatnonzero(mask.ravel(order="F"))


def _quality(
    volumes: VolumeReader,
    mask: np.ndarray,
    keep: np.ndarray,
    voxels: np.ndarray,
    brain: np.ndarray | slice,
    series: Sink,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pass itself: fills `series`; returns the map of signal-to-noise, the carpet and the lost volumes."""
    lost = Lost(len(keep), brain)
    noise = TemporalSnr(keep, brain, lost.flags)
    columns = np.arange(len(voxels))[brain]
    rows = Columns(len(keep), columns[carpet_rows(len(columns))])
    stream(volumes.read(voxels), [lost, series, noise, rows])
    snr = np.zeros(mask.size, np.float32)
    if (keep & ~lost.flags).any():
        snr[voxels[brain]] = noise.ratio()
    return snr.reshape(mask.shape, order="F"), carpet(rows.series, lost.flags), lost.flags
