"""Orientation that is unknown or contradicts itself is a sentence; a smaller disagreement a warning."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuroalign.fmri.extract import check_inputs
from neuroalign.fmri.orientation import orientation_problem

AFFINE = np.diag([-2.0, 2, 2, 1])
AFFINE[:3, 3] = 60, -50, -40


def moved(degrees: float = 0.0, mm: float = 0.0, axis: str = "z") -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    motion[2, 3] = mm
    return motion @ AFFINE


@pytest.fixture
def image(tmp_path):
    def write(sform, qform, sform_code=1, qform_code=1, kind=nib.Nifti1Image, shape=(5, 5, 5)):
        nifti = kind(np.zeros(shape, np.int16), None)
        nifti.header.set_zooms((2, 2, 2, 1)[: len(shape)])
        nifti.set_sform(sform, code=sform_code)
        nifti.set_qform(qform, code=qform_code)
        nib.save(nifti, tmp_path / "a.nii.gz")
        return tmp_path / "a.nii.gz"

    return write


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_without_either_code_left_and_right_are_unknown(image, kind):
    path = image(AFFINE, AFFINE, 0, 0, kind)
    assert "left and right are unknown; set" in orientation_problem(path)
    for codes in ((0, 1), (4, 0), (1, 1)):
        assert orientation_problem(image(AFFINE, AFFINE, *codes, kind)) is None


def test_mirror_images_are_a_problem_unless_one_does_not_count(image):
    mirrored = np.diag([-1.0, 1, 1, 1]) @ AFFINE
    assert "contradicts itself about left and right" in orientation_problem(image(AFFINE, mirrored))
    assert orientation_problem(image(AFFINE, mirrored, 1, 0)) is None
    assert orientation_problem(image(AFFINE, mirrored, 0, 1)) is None


@pytest.mark.parametrize(
    ("sform", "warned"),
    [
        (moved(mm=0.9), None),
        (moved(mm=1.2), "1.2 mm at the corners and 0.0 degrees"),
        (moved(degrees=0.2), None),
        (moved(degrees=-5), " 5.0 degrees"),
        (moved(degrees=180), "180.0 degrees"),
    ],
)
def test_a_smaller_disagreement_is_warned_about(image, caplog, sform, warned):
    with caplog.at_level(logging.WARNING):
        assert orientation_problem(image(sform, AFFINE, shape=(5, 5, 5, 3))) is None
    if warned is None:
        assert not caplog.records
    else:
        assert "the sform is used" in caplog.text
        assert warned in caplog.text


def test_a_turn_about_the_middle_is_noticed_in_a_small_image(image, caplog):
    middle = AFFINE @ [2, 2, 2, 1]
    turned = moved(degrees=2.0)
    turned[:3, 3] += (middle - turned @ [2, 2, 2, 1])[:3]  # corners move by 0.25 mm only
    with caplog.at_level(logging.WARNING):
        assert orientation_problem(image(turned, AFFINE)) is None
    assert "0.2 mm at the corners and 2.0 degrees" in caplog.text


@pytest.mark.parametrize(("source", "other"), [("raw", "t1w"), ("fmriprep", "mask")])
def test_the_check_of_inputs_reports_it(image, source, other):
    path = str(image(AFFINE, AFFINE, 0, 0))
    assert len(check_inputs({"bold": path, other: path}, source)) == 2
