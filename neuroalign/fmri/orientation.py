"""Whether a NIfTI header says where left is: its two affines, the sform and the qform, and their codes."""

from __future__ import annotations

import logging
import os

import nibabel as nib
import numpy as np

logger = logging.getLogger(__name__)
_APART_MM = 1.0
_APART_DEGREES = 1.0


def orientation_problem(path: str | os.PathLike) -> str | None:
    """What is wrong with the orientation of a readable NIfTI image, as a sentence, or None.

    An image whose sform and qform differ, but agree on what is left and right, is warned about in the log: tools differ
    in which of the two they use. This one uses the sform where its code is set, as nibabel does.

    Parameters
    ----------
    path : path
        An image in which `images.image_problem` finds nothing.
    """
    image = nib.load(path)
    if not isinstance(image.header, nib.Nifti1Header):
        return None
    sform, qform = image.header.get_sform(coded=True)[0], image.header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        return (
            f"{path} does not say how it is oriented (sform_code and qform_code are 0), so left and right are unknown; set "
            "the sform or qform and its code from the original images."
        )
    if sform is None or qform is None:
        return None
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) <= 0:
        return (
            f"{path} contradicts itself about left and right (its sform and qform are mirror images); find out which is right, "
            "and set the other one like it or its code to 0."
        )
    distance, angle = _apart(sform, qform, image.shape)
    if distance > _APART_MM or angle > _APART_DEGREES:
        logger.warning(
            "%s: its sform and qform differ by %.1f mm at the corners and %.1f degrees; the sform is used.",
            path,
            distance,
            angle,
        )
    return None


def _apart(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]) -> tuple[float, float]:
    """Largest distance (mm) between the corners of the field of view by either affine, and the turn between them."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape[:3]], indexing="ij")).reshape(3, -1)
    between = sform - qform
    distance = np.linalg.norm(between[:3, :3] @ corners + between[:3, 3:], axis=0).max()
    turn = _axes(sform) @ _axes(qform).T
    # The cosine of a small angle is 1 to all digits; its sine is not.
    sine = np.linalg.norm(turn - turn.T) / np.sqrt(8)
    return float(distance), float(np.degrees(np.arctan2(sine, (np.trace(turn) - 1) / 2)))


def _axes(affine: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest to the directions of an affine's axes."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return left @ right
