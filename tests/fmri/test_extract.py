"""Extraction, against nilearn's masker and the tables it reads; QC files."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker

from neuroalign.config.fmri import Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.extract import check_inputs, extract_run
from neuroalign.fmri.qc import RunQc, read_qc, write_qc
from neuroalign.fmri.series import read_series
from neuroalign.io import write_json, write_tsv

LEVELS = {"early": "^Vis", "high": "^Default"}


@pytest.fixture
def fmriprep(save, grid, tmp_path):
    """One preprocessed run, as fMRIPrep names it; its atlas; its config."""
    rng = np.random.default_rng(0)
    shape, affine = grid
    labels = np.zeros(shape, np.int16)
    labels[10:16, 10:16, 10:16], labels[16:22, 10:16, 10:16], labels[30:36, 30:36, 30:36] = 1, 2, 3
    data = (1000 + rng.normal(scale=20, size=(*shape, 40))).astype(np.float32)
    name = "der/sub-1/func/sub-1_task-a"
    bold = save(f"{name}_space-S_desc-preproc_bold.nii.gz", data, affine, 2.0)
    mask = np.ones(shape, np.uint8)
    mask[:12] = 0
    atlas = save("atlas_space-S_dseg.nii.gz", labels, affine)
    write_tsv(
        tmp_path / "atlas_space-S_dseg.tsv",
        pd.DataFrame({"index": [1, 2, 3], "label": ["Vis_1", "Vis_2", "Default_1"]}),
    )
    sidecar = {"RepetitionTime": 2.0, "StartTime": 0.9, "SliceTimingCorrected": True}
    write_json(tmp_path / f"{name}_space-S_desc-preproc_bold.json", sidecar)
    fd = np.full(40, 0.1)
    fd[[0, 20]] = np.nan, 1.0
    confounds = tmp_path / f"{name}_desc-confounds_timeseries.tsv"
    write_tsv(confounds, pd.DataFrame({"framewise_displacement": fd}))
    row = {
        "run_id": "sub-1_task-a", "subject": "1", "session": "", "task": "a", "run": "", "tr": 2.0, "timeseries": "",
        "bold": str(bold), "mask": str(save("mask.nii.gz", mask, affine)), "confounds": str(confounds),
    }  # fmt: skip
    config = Fmri(
        source="fmriprep",
        space="S",
        atlas={"image": str(atlas)},
        levels=LEVELS,
        clean={"strategy": "none", "high_pass_hz": None},
    )
    return row, config, data, labels, mask


def test_parcels_equal_nilearns_masker(fmriprep, tmp_path, grid):
    row, config, data, labels, mask = fmriprep
    extract_run(row, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path)
    found = read_series(tmp_path / "o.h5")
    assert list(found.levels) == ["early", "high"]
    assert found.unit_labels["early"] == ["Vis_1", "Vis_2"]
    np.testing.assert_allclose(found.times[:2], [0.9, 2.9])
    assert np.flatnonzero(~found.keep).tolist() == [20]
    assert found.attributes["source"] == "fmriprep"
    affine = grid[1]
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels.astype(np.int32), affine), mask_img=nib.Nifti1Image(mask, affine),
        standardize="zscore_sample", detrend=True,
    )  # fmt: skip
    wanted = masker.fit_transform(nib.Nifti1Image(data, affine), sample_mask=np.flatnonzero(found.keep))
    got = np.concatenate(list(found.levels.values()), axis=1)
    np.testing.assert_allclose(got[found.keep], wanted, atol=1e-4)
    # What was taken out: the linear trend, over the volumes that are kept.
    trend = np.arange(39) - 19.0
    np.testing.assert_allclose(found.nuisance[found.keep, 0], trend / np.linalg.norm(trend), atol=1e-6)
    assert found.nuisance.shape == (40, 1)
    assert found.band_hz is None

    qc = read_qc(tmp_path / "q.h5")
    assert qc.carpet.shape == (400, 40)
    assert qc.tsnr_median == pytest.approx(50, rel=0.05)
    assert qc.fd[20] == 1.0
    assert qc.attributes["timing"] == ""
    assert qc.motion is None


def test_voxels_are_those_of_the_levels_regions(fmriprep, tmp_path):
    row, config, _, labels, _ = fmriprep
    found = extract_run(
        row,
        config.model_copy(update={"units": "voxels"}),
        tmp_path / "o.h5",
        tmp_path / "q.h5",
        bids_dir=tmp_path,
    )
    assert found.levels["early"].shape == (40, (labels == 1).sum() + (labels == 2).sum())
    assert found.unit_labels["high"][0] == "Default_1@30,30,30"


def test_bold_without_orientation_is_refused(fmriprep, tmp_path):
    row, config, *_ = fmriprep
    image = nib.load(row["bold"])
    data, header = np.asarray(image.dataobj), image.header
    header.set_sform(None, code=0)
    header.set_qform(None, code=0)
    nib.save(nib.Nifti1Image(data, None, header), row["bold"])
    with pytest.raises(UserError, match="left and right are unknown"):
        extract_run(row, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path)


def test_truncated_bold_leaves_no_output(fmriprep, tmp_path):
    row, config, *_ = fmriprep
    bold = Path(row["bold"])
    bold.write_bytes(bold.read_bytes()[: bold.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        extract_run(row, config, tmp_path / "out" / "o.h5", tmp_path / "out" / "q.h5", bids_dir=tmp_path)
    assert not (tmp_path / "out").exists()
    assert check_inputs({"bold": str(tmp_path / "gone.nii.gz")}, "fmriprep")


def test_region_without_signal_is_zero_and_named(fmriprep, tmp_path, caplog, grid, save):
    row, config, data, labels, _ = fmriprep
    data[labels == 1] = 0
    save("der/sub-1/func/sub-1_task-a_space-S_desc-preproc_bold.nii.gz", data, grid[1], 2.0)
    with caplog.at_level(logging.WARNING):
        found = extract_run(row, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path)
    assert (found.levels["early"][:, 0] == 0).all()
    assert "Vis_1" in caplog.text
    data[labels == 2] = 0
    save("der/sub-1/func/sub-1_task-a_space-S_desc-preproc_bold.nii.gz", data, grid[1], 2.0)
    with pytest.raises(UserError, match="level 'early'"):
        extract_run(row, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path)


@pytest.mark.parametrize("units", ["parcels", "voxels"])
def test_region_outside_this_runs_mask_is_reported(fmriprep, tmp_path, caplog, grid, save, units):
    row, config, _, labels, mask = fmriprep
    mask[labels == 1] = 0
    row["mask"] = str(save("mask.nii.gz", mask, grid[1]))
    with caplog.at_level(logging.WARNING):
        found = extract_run(
            row,
            config.model_copy(update={"units": units}),
            tmp_path / "o.h5",
            tmp_path / "q.h5",
            bids_dir=tmp_path,
        )
    assert "1 of 3 regions lie wholly outside this run's brain mask (Vis_1)" in caplog.text
    if units == "parcels":
        assert (found.levels["early"][:, 0] == 0).all()
        assert (found.levels["early"][:, 1] != 0).any()
    else:  # voxels are those of the atlas, whatever the mask
        assert (found.levels["early"] != 0).any(axis=0).all()


@pytest.mark.parametrize("units", ["parcels", "voxels"])
def test_a_lost_volume_is_censored_by_name(fmriprep, tmp_path, caplog, grid, save, units):
    row, config, data, *_ = fmriprep
    config = config.model_copy(update={"units": units})
    bold = "der/sub-1/func/sub-1_task-a_space-S_desc-preproc_bold.nii.gz"

    def extracted():
        return extract_run(row, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path)

    # The same run with these volumes censored by head movement is the reference.
    table = pd.DataFrame({"framewise_displacement": np.where(np.isin(np.arange(40), [9, 20, 39]), 1.0, 0.1)})
    original = Path(row["confounds"]).read_bytes()
    write_tsv(row["confounds"], table)
    wanted, wanted_snr = extracted(), read_qc(tmp_path / "q.h5").tsnr_median
    Path(row["confounds"]).write_bytes(original)
    data[..., 9], data[..., 39] = np.nan, 0
    save(bold, data, grid[1], 2.0)
    with caplog.at_level(logging.WARNING):
        found = extracted()
    assert "2 of 40 volumes are blank all over the brain and are censored (9, 39, from 0)" in caplog.text
    assert np.flatnonzero(~found.keep).tolist() == [9, 20, 39]
    qc = read_qc(tmp_path / "q.h5")
    assert qc.keep.tolist() == found.keep.tolist()
    assert qc.tsnr_median == pytest.approx(wanted_snr, rel=1e-6)
    for level in wanted.levels:
        np.testing.assert_allclose(found.levels[level], wanted.levels[level], atol=1e-5)
    data[..., 5:] = 0
    save(bold, data, grid[1], 2.0)
    with pytest.raises(UserError, match="volumes remain"):
        extracted()


def test_without_a_mask_what_varies_is_the_brain(fmriprep, tmp_path, caplog, grid, save):
    row, config, data, labels, _ = fmriprep
    data[labels == 0] = 7.0
    save("der/sub-1/func/sub-1_task-a_space-S_desc-preproc_bold.nii.gz", data, grid[1], 2.0)
    with caplog.at_level(logging.WARNING):
        found = extract_run(
            {**row, "mask": ""}, config, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=tmp_path
        )
    assert "no brain mask" in caplog.text
    qc = read_qc(tmp_path / "q.h5")
    shown = qc.tsnr["axial"] > 0
    z = np.round(np.argwhere(labels > 0).mean(axis=0)).astype(int)[2]
    np.testing.assert_array_equal(shown, labels[:, :, z] > 0)
    assert found.levels["early"].shape == (40, 2)


def test_a_stream_cut_in_the_middle_leaves_no_output(fmriprep, tmp_path):
    row, config, *_ = fmriprep
    bold = Path(row["bold"])
    bold.write_bytes(bold.read_bytes()[:-200])  # the header, and nearly every volume, are whole
    for units in ("parcels", "voxels"):
        with pytest.raises(UserError, match=r"bold\.nii\.gz is truncated or no readable NIfTI image"):
            extract_run(
                row,
                config.model_copy(update={"units": units}),
                tmp_path / "out" / "o.h5",
                tmp_path / "out" / "q.h5",
                bids_dir=tmp_path,
            )
    assert not (tmp_path / "out").exists()


def test_table_of_series(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(loc=5, size=(30, 4)), columns=["Vis_1", "Vis_2", "Vis_3", "Default_1"])
    table.loc[7] = np.nan
    table["Vis_2"] = np.nan
    folder = tmp_path / "xcp" / "sub-1" / "func"
    path = folder / "sub-1_task-a_space-S_atlas-Tiny_stat-mean_timeseries.tsv"
    write_tsv(path, table)
    write_json(path.with_suffix(".json"), {"RepetitionTime": 1.0, "StartTime": 0.0})
    row = {
        "run_id": "sub-1_task-a",
        "subject": "1",
        "task": "a",
        "session": None,
        "run": np.nan,
        "timeseries": str(path),
    }
    found = extract_run(
        row,
        Fmri(source="timeseries", space="S", levels=LEVELS),
        tmp_path / "o.h5",
        tmp_path / "q.h5",
        bids_dir=tmp_path,
    )
    assert np.flatnonzero(~found.keep).tolist() == [7]
    assert np.isfinite(found.levels["early"]).all()
    assert (found.levels["early"][:, 1] == 0).all()
    column = table["Vis_1"].drop(index=7)
    np.testing.assert_allclose(
        found.levels["early"][found.keep, 0], (column - column.mean()) / column.std(), atol=1e-5
    )
    assert found.attributes["atlas"] == "Tiny"
    # Whoever made the table knows what was taken out of it.
    assert found.nuisance is None
    assert read_series(tmp_path / "o.h5").nuisance is None
    assert read_qc(tmp_path / "q.h5").fd is None


def test_real_series(shared_data, tmp_path):
    root = shared_data / "movie_fmri"
    path = sorted(root.glob("derivatives/xcp_d/sub-*/func/*sitcomep1*_timeseries.tsv"))[0]
    row = {"run_id": "sub-x_task-sitcomep1", "subject": "x", "task": "sitcomep1", "timeseries": str(path)}
    found = extract_run(row, Fmri(source="timeseries"), tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=root)
    assert sum(data.shape[1] for data in found.levels.values()) == 200
    np.testing.assert_allclose(np.diff(found.times), 1.0)
    np.testing.assert_allclose(found.levels["early"].std(axis=0, ddof=1), 1, atol=1e-3)


def test_real_fmriprep_confounds(shared_data, tmp_path):
    from neuroalign.config.fmri import Clean
    from neuroalign.fmri.clean import load_run_confounds

    folder = shared_data / "boldmoments/derivatives/fmriprep/sub-01/ses-02/func"
    confounds = folder / "sub-01_ses-02_task-test_run-1_desc-confounds_timeseries.tsv"
    bold = folder / "sub-01_ses-02_task-test_run-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    volumes = len(pd.read_csv(confounds, sep="\t"))
    for strategy in ("simple", "scrubbing", "compcor", "motion"):
        columns, keep = load_run_confounds(bold, confounds, Clean(strategy=strategy), volumes)
        assert np.isfinite(columns.to_numpy()).all()
        assert keep.mean() > 0.5


def test_qc_without_images(tmp_path):
    write_qc(
        tmp_path / "q.h5",
        RunQc(np.zeros((2, 3)), np.arange(3.0), np.ones(3, bool), attributes={"run_id": "a"}),
    )
    again = read_qc(tmp_path / "q.h5")
    assert again.tsnr == {}
    assert again.attributes["run_id"] == "a"
