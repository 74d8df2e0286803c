"""Simulated heads: the MNI template, deformed for each person, inside skull and scalp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from neuroalign.config.dataset import Simulate
from neuroalign.simulate.atlas import Template
from neuroalign.simulate.fields import smooth_field
from neuroalign.simulate.plan import generator

HEAD_CENTRE_MM = np.array([0.0, -14.0, 8.0])
"""Middle of the head in a subject's own space (close to template space) in millimetres."""

FIELD_OF_VIEW_MM = np.array([184.0, 220.0, 184.0])
"""Field of view of both anatomical and functional images."""

_SULCUS_MM = 8.0
_SKIN_MM = (("csf", -np.inf, 2.0), ("skull", 2.0, 7.0), ("scalp", 7.0, 12.5))


@dataclass
class Head:
    """One person's anatomy on a grid in their own space.

    Attributes
    ----------
    affine : array of shape (4, 4)
        Voxel to subject millimetres (RAS).
    t1 : float32 array
        Noise-free T1-weighted intensity with skull and scalp (white matter near 800).
    epi : float32 array
        Noise-free T2*-weighted intensity at echo time (grey matter near 2000).
    gm : float32 array
        Grey matter probability.
    brain : bool array
    csf : float32 array
        Probability of cerebrospinal fluid, inside the brain and around it.
    labels : int16 array
        The demo parcellation carried into the subject's space; 0 is background.
    """

    affine: np.ndarray
    t1: np.ndarray
    epi: np.ndarray
    gm: np.ndarray
    brain: np.ndarray
    csf: np.ndarray
    labels: np.ndarray


def build_head(
    simulate: Simulate,
    subject: str,
    template: Template,
    atlas: np.ndarray,
    atlas_affine: np.ndarray,
    spacing_mm: float,
) -> Head:
    """Make one person's head by deforming the template: an affine, a smooth warp, then skull and scalp.

    Parameters
    ----------
    simulate : Simulate
    subject : str
        Label; it selects the random stream.
    template : Template
    atlas : int array
        Parcellation in template space.
    atlas_affine : array of shape (4, 4)
    spacing_mm : float
        Voxel size of the head.

    Returns
    -------
    Head
    """
    rng = generator(simulate, "anatomy", subject)
    shape = tuple(np.round(FIELD_OF_VIEW_MM / spacing_mm).astype(int))
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = HEAD_CENTRE_MM - spacing_mm * (np.array(shape) - 1) / 2
    xyz = np.stack(
        np.meshgrid(*(affine[i, 3] + spacing_mm * np.arange(n) for i, n in enumerate(shape)), indexing="ij")
    ).astype(np.float32)
    in_template = _deform(rng, xyz, shape)

    voxels = _voxels(template.affine, in_template)
    sample = [
        ndimage.map_coordinates(source, voxels, order=1, mode="constant")
        for source in (
            _soft(template.t1, spacing_mm),
            _soft(template.gm, spacing_mm),
            _soft(template.wm, spacing_mm),
        )
    ]
    t1_brain, gm, wm = (values.reshape(shape) for values in sample)
    labels = ndimage.map_coordinates(atlas, _voxels(atlas_affine, in_template), order=0, mode="constant")
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(t1_brain > 0.12, iterations=2))
    csf = np.where(brain, np.clip(1 - gm - wm, 0, 1), 0).astype(np.float32)

    distance = _from_meninges(brain, spacing_mm) + 1.2 * _smooth_field(rng, shape, spacing_mm, 18.0)
    layers = {name: (distance > low) & (distance <= high) & ~brain for name, low, high in _SKIN_MM}
    face = _face(rng, xyz, distance, shape, spacing_mm)

    bias = np.exp(0.16 * _smooth_field(rng, shape, spacing_mm, 60.0))
    texture = _smooth_field(rng, shape, spacing_mm, 2.5 * spacing_mm)
    tissue = np.clip(1 + 0.05 * texture, 0.5, 1.5)
    # Below the skull base lies muscle, not the bright fat of the scalp.
    fat = np.where(xyz[2] > -38, 900, 420)
    t1 = 1200 * t1_brain * brain
    t1 += 180 * layers["csf"] + 60 * layers["skull"] + fat * layers["scalp"] * tissue
    t1 += face * 420 * np.clip(1 + 0.35 * texture, 0, 2)
    epi = 2000 * gm + 1650 * wm + 3000 * csf
    epi = np.where(brain, epi, 2600 * layers["csf"] + 80 * layers["skull"] + 500 * layers["scalp"] * tissue)
    epi += face * 260 * np.clip(1 + 0.35 * texture, 0, 2)
    blur = 0.5
    return Head(
        affine=affine,
        t1=(ndimage.gaussian_filter(t1, blur) * bias).astype(np.float32),
        epi=(ndimage.gaussian_filter(epi * _dropout(in_template, shape), blur) * bias**0.5).astype(
            np.float32
        ),
        gm=(gm * brain).astype(np.float32),
        brain=brain,
        csf=np.maximum(csf, layers["csf"]).astype(np.float32),
        labels=(labels.reshape(shape) * brain).astype(np.int16),
    )


def _from_meninges(brain: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Distance in mm outside the envelope of the brain, which bridges sulci and fissures; 0 inside."""
    near = ndimage.distance_transform_edt(~brain, sampling=spacing_mm) <= _SULCUS_MM
    envelope = ndimage.distance_transform_edt(near, sampling=spacing_mm) > _SULCUS_MM
    return ndimage.distance_transform_edt(~(envelope | brain), sampling=spacing_mm).astype(np.float32)


def _deform(rng: np.random.Generator, xyz: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Template coordinates of every voxel of the subject, (3, voxels)."""
    size = rng.uniform(0.97, 1.03) * (1 + rng.normal(0, 0.012, 3))
    angles = np.deg2rad(rng.normal(0, [3.5, 2.0, 2.0]))
    matrix = rotation(angles) @ np.diag(1 / size)
    moved = np.tensordot(matrix, xyz - HEAD_CENTRE_MM[:, None, None, None], 1)
    moved += HEAD_CENTRE_MM[:, None, None, None] + rng.normal(0, 1.5, 3)[:, None, None, None]
    spacing = float(xyz[0, 1, 0, 0] - xyz[0, 0, 0, 0])
    for axis in range(3):
        moved[axis] += 1.8 * _smooth_field(rng, shape, spacing, 22.0)
    return moved.reshape(3, -1).astype(np.float32)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix ``Rz @ Ry @ Rx`` for angles (radians) about the x, y and z axes."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def _smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: float, scale_mm: float
) -> np.ndarray:
    """A smooth random field of unit variance with features of about `scale_mm`."""
    knots = tuple(max(4, int(np.ceil(n * spacing_mm / scale_mm)) + 3) for n in shape)
    field = smooth_field(rng, shape, knots)
    return field / field.std()


def _face(
    rng: np.random.Generator, xyz: np.ndarray, distance: np.ndarray, shape: tuple[int, ...], spacing_mm: float
) -> np.ndarray:
    """Soft tissue of face and neck as a weight from 0 to 1: a rounded mass in front of and below the brain."""
    x, y, z = xyz
    jaw = ((x / 58) ** 2 + ((y - 45) / 45) ** 2 + ((z + 55) / 48) ** 2) < 1
    neck = ((x / 55) ** 2 + ((y + 25) / 55) ** 2 < 1) & (z < -45)
    mass = (jaw | neck) & (distance > _SKIN_MM[-1][1])
    airway = ((x / 9) ** 2 + ((y - 38) / 14) ** 2 < 1) & (z < -25)
    return ndimage.gaussian_filter((mass & ~airway).astype(np.float32), 1.0 / spacing_mm) * (distance > 0)


def _dropout(in_template: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Signal left where air near orbitofrontal and inferior temporal cortex dephases it."""
    x, y, z = in_template
    sinus = np.exp(-((x / 22) ** 2 + ((y - 42) / 22) ** 2 + ((z + 26) / 14) ** 2))
    ear = np.exp(-(((np.abs(x) - 52) / 14) ** 2 + ((y + 28) / 18) ** 2 + ((z + 30) / 12) ** 2))
    return (1 - 0.65 * sinus - 0.45 * ear).reshape(shape)


def _soft(image: np.ndarray, spacing_mm: float) -> np.ndarray:
    # Sampling the 1 mm template at coarser voxels needs its average over them.
    return ndimage.gaussian_filter(image, 0.35 * spacing_mm) if spacing_mm > 1.2 else image


def _voxels(affine: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(affine).astype(np.float32)
    return inverse[:3, :3] @ xyz + inverse[:3, 3:]


def t1w_image(simulate: Simulate, subject: str, head: Head) -> np.ndarray:
    """The T1w image as the scanner gives it: int16, with Rician noise of 2.5 % of white matter at noise = 1."""
    rng = generator(simulate, "t1w noise", subject)
    sd = 20.0 * simulate.noise
    real = head.t1 + sd * rng.standard_normal(head.t1.shape, dtype=np.float32)
    imaginary = sd * rng.standard_normal(head.t1.shape, dtype=np.float32)
    return np.clip(np.rint(np.hypot(real, imaginary)), 0, 32767).astype(np.int16)
