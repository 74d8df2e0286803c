"""A real head (Colin27 with its skull, from Debian's mricron-data): brain mask, normalisation, coregistration, sides."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter

from neuroalign.fmri.images import grid_points
from neuroalign.fmri.preprocess import mask as masks
from neuroalign.fmri.preprocess.anatomy import load_template, preprocess_anatomy
from neuroalign.fmri.preprocess.native import coregister
from neuroalign.fmri.preprocess.realign import rigid_matrix
from neuroalign.fmri.preprocess.resample import Displacement

COLIN = Path("/usr/share/mricron/templates")
SPACE = "MNI152NLin2009cAsym"
MARKER_MM = np.array([45.0, -10, 45])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (COLIN / "ch2.nii.gz").exists(),
        reason="Colin27 is not here: install Debian's package mricron-data",
    ),
]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def turned(degrees, shift):
    return rigid_matrix(np.array([*shift, *np.deg2rad(degrees)]), np.zeros(3))


@pytest.fixture(scope="module")
def colin():
    """Head, published brain, affine."""
    head = nib.load(COLIN / "ch2.nii.gz")
    brain = np.asarray(nib.load(COLIN / "ch2bet.nii.gz").dataobj) > 0
    return np.asarray(head.dataobj, np.float32), brain, head.affine


def test_a_turned_biased_noisy_head_in_another_orientation(colin, tmp_path):
    data, brain, affine = colin
    # The neck cropped, a bias field, noise, a turned head far from the origin, voxels stored PSR, a qform only.
    data, brain, affine = data[:, :, 12:], brain[:, :, 12:], affine @ turned([0, 0, 0], [0, 0, 12])
    x, _, z = (np.indices(data.shape) / 180.0) - 0.5
    rng = np.random.default_rng(0)
    data = np.abs(data * np.exp(0.6 * x - 0.5 * z) + rng.normal(0, 5, data.shape))
    move = turned([14, -6, 8], [120, -60, 40])
    order = nib.orientations.axcodes2ornt("PSR")
    images = []
    for values in (np.rint(data).astype(np.int16), brain.astype(np.uint8)):
        image = nib.Nifti1Image(values, move @ affine)
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), order)
        images.append(image.as_reoriented(change))
    stored = nib.Nifti1Image(np.asarray(images[0].dataobj), None)
    stored.set_qform(images[0].affine, 1)
    assert stored.header["sform_code"] == 0
    t1w = tmp_path / "raw/sub-1/anat/sub-1_T1w.nii.gz"
    t1w.parent.mkdir(parents=True)
    nib.save(stored, t1w)

    paths = preprocess_anatomy(t1w, tmp_path / "der", space=SPACE)
    found = np.asarray(nib.load(paths["mask"]).dataobj) > 0
    assert dice(found, np.asarray(images[1].dataobj) > 0) > 0.93
    in_template = nib.load(paths["mask_template"])
    template = load_template(SPACE, None, 2.0)
    assert dice(np.asarray(in_template.dataobj) > 0, template.mask) > 0.95
    # Colin lies near MNI space already: a point of the template goes near its own place in Colin, on its own side.
    to_t1w = Displacement.read(paths["to_template"])
    points = np.array([MARKER_MM, MARKER_MM * [-1, 1, 1], [0, -80, 5]])
    home = np.linalg.inv(move)
    back = to_t1w(points) @ home[:3, :3].T + home[:3, 3]
    assert np.linalg.norm(back - points, axis=1).max() < 12


def test_an_image_with_values_below_zero_keeps_its_brain(colin, tmp_path):
    data, brain, affine = colin
    # As from a scanner with voxels of 2 mm, which are registered more coarsely than those of 1 mm above.
    data, brain = (gaussian_filter(v, 0.6)[::2, ::2, ::2] for v in (data, brain.astype(np.float32)))
    brain, affine = brain > 0.5, affine @ np.diag([2, 2, 2, 1])
    t1w = tmp_path / "raw/sub-1/anat/sub-1_T1w.nii.gz"
    t1w.parent.mkdir(parents=True)
    data = data - 60 + np.random.default_rng(0).normal(0, 3, data.shape)
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), t1w)
    paths = preprocess_anatomy(t1w, tmp_path / "der", space=SPACE)
    found = np.asarray(nib.load(paths["mask"]).dataobj) > 0
    assert dice(found, brain) > 0.94
    assert found.sum() > 0.9 * brain.sum()


def t2star(head, brain):
    """An EPI-like contrast from T1 intensities: fluid bright, white matter dark, signal lost near the sinuses."""
    white = np.percentile(head[brain], 90)
    inside = np.interp(head / white, [0, 0.25, 0.45, 0.75, 1, 1.3], [1900, 1800, 1500, 1150, 900, 850])
    outside = np.interp(head / white, [0, 0.15, 0.6, 1, 1.8], [20, 60, 300, 350, 450])
    return np.where(binary_dilation(brain, iterations=2), inside, outside)


@pytest.mark.parametrize(
    ("name", "shape", "centre", "pitch", "codes"),
    [("whole", (60, 70, 50), (0, -18, 8), 0, "LAS"), ("occipital slab", (80, 50, 24), (0, -60, 5), 20, None)],
)
def test_coregistration_and_sides(colin, name, shape, centre, pitch, codes):
    head, brain, affine = colin
    points = grid_points(head.shape, affine).reshape(*head.shape, 3)
    epi = t2star(head, brain)
    for at, width, share in (((0, 45, -28), (22, 20, 14), 0.8), ((52, -28, -30), (14, 18, 12), 0.5)):
        epi *= 1 - share * np.exp(-(((points - at) / width) ** 2).sum(axis=-1))
    marker = (((points - MARKER_MM) / 8) ** 2).sum(axis=-1) < 1
    move = turned([4, -3, 2], [4, -5, 3])
    grid = turned([pitch, 0, 0], [0, 0, 0]) @ np.diag([3.0, 3, 3, 1])
    grid[:3, 3] = np.array(centre) - grid[:3, :3] @ ((np.array(shape) - 1) / 2)
    pull = np.linalg.inv(affine) @ np.linalg.inv(move) @ grid
    bold, there = (
        affine_transform(gaussian_filter(v, 0.9), pull[:3, :3], pull[:3, 3], output_shape=shape, order=1)
        for v in (epi, marker.astype(np.float32))
    )
    bold = np.abs(bold + np.random.default_rng(0).normal(0, 20, shape)).astype(np.float32)
    if codes:
        change = nib.orientations.ornt_transform(
            nib.io_orientation(grid), nib.orientations.axcodes2ornt(codes)
        )
        images = [nib.Nifti1Image(v, grid).as_reoriented(change) for v in (bold, there)]
        bold, there, grid = images[0].get_fdata(), images[1].get_fdata(), images[0].affine
    found = coregister(bold, grid, masks.bold_mask(bold, grid, name), head, brain, affine)
    places = np.argwhere(brain)[::500] @ affine[:3, :3].T + affine[:3, 3]
    apart = (places @ (found - move)[:3, :3].T) + (found - move)[:3, 3]
    assert np.linalg.norm(apart, axis=1).mean() < 1.5
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1, abs=1e-3)
    if there.max() > 0.5:
        # What is marked in the BOLD is found at the marker's own place in the T1w, on the right.
        marked = (np.argwhere(there > 0.5) @ grid[:3, :3].T + grid[:3, 3]).mean(axis=0)
        back = np.linalg.inv(found)
        assert np.linalg.norm(back[:3, :3] @ marked + back[:3, 3] - MARKER_MM) < 2.5
