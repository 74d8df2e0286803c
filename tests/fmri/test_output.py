"""The streamed image file, read back by nibabel."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from neuroalign.fmri.preprocess.output import write_series


@pytest.fixture
def run():
    """Series in a mask, with one empty corner of the grid."""
    rng = np.random.default_rng(0)
    mask = rng.random((7, 8, 9)) > 0.4
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2.5, -72], [0, 0, 0, 1]])
    return rng.normal(1000, 300, (int(mask.sum()), 23)).astype(np.float32), mask, affine


def test_nibabel_reads_what_was_given(run, tmp_path):
    series, mask, affine = run
    write_series(tmp_path / "bold.nii.gz", series, mask, affine, tr=1.5, start_s=0.7)
    image = nib.load(tmp_path / "bold.nii.gz")
    data = image.get_fdata()
    step = np.abs(series).max() / 32767
    assert np.abs(data[mask] - series).max() <= 0.51 * step
    assert (data[~mask] == 0).all()
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.affine, affine)
    assert image.header.get_zooms()[3] == pytest.approx(1.5)
    assert float(image.header["toffset"]) == pytest.approx(0.7)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert [int(image.header[key]) for key in ("qform_code", "sform_code")] == [4, 4]


def test_it_is_one_sound_gzip_stream_whatever_the_threads(run, tmp_path):
    series, mask, affine = run
    for threads in (1, 3):
        write_series(tmp_path / f"{threads}.nii.gz", series, mask, affine, tr=2.0, threads=threads)
    one, three = ((tmp_path / f"{n}.nii.gz").read_bytes() for n in (1, 3))
    assert one == three
    # gzip checks length and checksum at the end.
    assert len(gzip.decompress(one)) == 352 + 2 * mask.size * series.shape[1]


def test_a_spike_does_not_take_the_steps_from_the_brain(run, tmp_path, caplog):
    series, mask, affine = run
    write_series(tmp_path / "plain.nii.gz", series, mask, affine, tr=2.0)
    assert caplog.text == ""
    spiked = series.copy()
    spiked[3, 4], spiked[5, 6], spiked[:, 9] = 3e8, -3e8, 7e6  # two voxels, and one whole volume
    write_series(tmp_path / "bold.nii.gz", spiked, mask, affine, tr=2.0)
    found = nib.load(tmp_path / "bold.nii.gz").get_fdata()[mask]
    kept = np.abs(spiked) < 1e5
    assert np.abs(found - spiked)[kept].max() < 1.0
    limit = 20 * np.percentile(series, 99.9)
    np.testing.assert_allclose(np.abs(found[~kept]), limit, rtol=0.1)
    assert found[5, 6] < 0
    assert "bold.nii.gz: values up to 3e+08 are clipped" in caplog.text


def test_an_empty_series_is_zero(run, tmp_path):
    _, mask, affine = run
    write_series(tmp_path / "z.nii.gz", np.zeros((int(mask.sum()), 3), np.float32), mask, affine, tr=2.0)
    assert (nib.load(tmp_path / "z.nii.gz").get_fdata() == 0).all()
