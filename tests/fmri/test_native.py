"""The native engine on a phantom head: brain extraction, normalisation, one whole run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_mni152_brain_mask
from nilearn.image import resample_to_img
from scipy.ndimage import affine_transform

from neuroalign.bids.derivatives import anatomy_paths, run_paths, source_uri, stem
from neuroalign.config.fmri import Preprocess
from neuroalign.errors import UserError
from neuroalign.fmri.preprocess.native import preprocess_anatomy, preprocess_run
from neuroalign.fmri.preprocess.realign import rigid_matrix

SPACE = "MNI152NLin2009cAsym"


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def template_mask(like):
    mask = load_mni152_brain_mask(resolution=1)
    moved = resample_to_img(mask, like, interpolation="nearest", force_resample=True, copy_header=True)
    return np.asarray(moved.dataobj) > 0


def test_names():
    assert stem("x/sub-01_ses-a_run-1_T1w.nii.gz") == "sub-01_ses-a_run-1"
    paths = run_paths("sub-01_ses-a_task-f_run-1", "d", space="S")
    assert (
        str(paths["bold"]) == "d/sub-01/ses-a/func/sub-01_ses-a_task-f_run-1_space-S_desc-preproc_bold.nii.gz"
    )
    assert anatomy_paths("r/sub-01/anat/sub-01_T1w.nii", "d", space="S")["mask"].parent == Path(
        "d/sub-01/anat"
    )
    assert source_uri("/data/sub-01/anat/sub-01_T1w.nii") == "bids:raw:sub-01/anat/sub-01_T1w.nii"
    with pytest.raises(UserError, match="sub-<label>"):
        anatomy_paths("T1w.nii", "d", space="S")


def check_derivatives(folder, raw):
    """The official validator finds no error, and every source that a sidecar names is there."""
    roots = {"": folder, "raw": raw}
    described = 0
    for sidecar in folder.rglob("*.json"):
        content = json.loads(sidecar.read_text())
        named = [*content.get("Sources", []), *content.get("RawSources", [])]
        for uri in [*named, *([content["SpatialReference"]] if "SpatialReference" in content else [])]:
            _, dataset, relative = uri.split(":", 2)
            assert (roots[dataset] / relative).exists(), f"{sidecar.name}: {uri}"
            described += 1
    assert described > 20
    links = json.loads((folder / "dataset_description.json").read_text())["DatasetLinks"]
    assert (folder / links["raw"]).resolve() == raw.resolve()
    for image in folder.rglob("*.nii.gz"):
        assert Path(str(image).replace(".nii.gz", ".json")).exists(), image.name
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, "--json", str(folder)], capture_output=True, check=False, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert not [issue for issue in issues if issue["severity"] == "error"]
    assert {issue["code"] for issue in issues} <= {"TOO_FEW_AUTHORS"}
    assert done.returncode == 0


@pytest.mark.slow
def test_from_raw_to_template(tmp_path):
    spec = importlib.util.spec_from_file_location("phantom", Path(__file__).with_name("conftest.py"))
    phantom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(phantom)
    head, affine, brain = phantom.head_phantom(3.0)
    t1w = tmp_path / "raw/sub-1/anat/sub-1_T1w.nii.gz"
    t1w.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(head, affine), t1w)
    anatomy = preprocess_anatomy(t1w, tmp_path / "der", space=SPACE)
    assert dice(np.asarray(nib.load(anatomy["mask"]).dataobj) > 0, brain) > 0.95
    in_template = nib.load(anatomy["mask_template"])
    assert dice(np.asarray(in_template.dataobj) > 0, template_mask(in_template)) > 0.96

    rng = np.random.default_rng(0)
    bold_affine = affine.copy()
    bold_affine[:3, :3] = np.diag([5.0, 5, 5])
    shape = (48, 48, 48)
    volumes = []
    for volume in range(12):
        motion = rigid_matrix(np.array([3 + 0.1 * volume, -2, 1, 0.02, 0.002 * volume, 0]), np.zeros(3))
        pull = np.linalg.inv(affine) @ np.linalg.inv(motion) @ bold_affine
        still = affine_transform(
            np.where(brain, head, 0.1 * head), pull[:3, :3], pull[:3, 3], output_shape=shape, order=1
        )
        volumes.append(still + rng.normal(scale=5, size=shape))
    volumes[6] = np.full(shape, np.nan)  # lost by the scanner
    image = nib.Nifti1Image(np.stack(volumes, axis=-1).astype(np.float32), bold_affine)
    image.header.set_zooms((5, 5, 5, 2.0))
    bold = tmp_path / "raw/sub-1/func/sub-1_task-a_bold.nii.gz"
    bold.parent.mkdir()
    nib.save(image, bold)
    timing = (np.arange(48) % 24 / 12.5).tolist()
    paths = preprocess_run(
        bold, anatomy, tmp_path / "der", "sub-1_task-a",
        metadata={"RepetitionTime": 2.0, "SliceTiming": timing}, config=Preprocess(), space=SPACE,
    )  # fmt: skip
    assert all(path.exists() for path in paths.values())
    mask = nib.load(paths["mask"])
    assert dice(np.asarray(mask.dataobj) > 0, template_mask(mask)) > 0.94
    coreg = np.loadtxt(paths["coreg"])
    middle = np.array([[*affine[:3, 3] + 1.5 * np.array(head.shape), 1.0]])
    true = rigid_matrix(np.array([3.55, -2, 1, 0.02, 0.011, 0]), np.zeros(3))
    assert np.linalg.norm((middle @ (np.linalg.inv(coreg) - true).T)[0, :3]) < 1.5
    sidecar = json.loads(paths["bold_json"].read_text())
    assert sidecar["SliceTimingCorrected"]
    assert sidecar["StartTime"] == pytest.approx(0.92)
    table = pd.read_csv(paths["confounds"], sep="\t", na_values="n/a")
    assert [c for c in table if "outlier" in c] == ["motion_outlier00"]
    assert np.flatnonzero(table["motion_outlier00"]).tolist() == [6]
    assert json.loads(paths["confounds_json"].read_text())["motion_outlier00"]["Censored"] is True
    assert np.flatnonzero(table["framewise_displacement"].isna()).tolist() == [0, 6]
    series, mean = nib.load(paths["bold"]).get_fdata(), nib.load(paths["boldref"]).get_fdata()
    assert np.abs(np.delete(series, 6, axis=3).mean(axis=3) - mean).max() < 0.01 * mean.max()
    assert np.polyfit(np.arange(12), table["rot_y"], 1)[0] == pytest.approx(0.002, abs=0.0004)
    description = json.loads((tmp_path / "der/dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "NeuroAlign"

    bold.write_bytes(bold.read_bytes()[:50000])
    with pytest.raises(UserError, match="truncated"):
        preprocess_run(
            bold, anatomy, tmp_path / "new", "sub-1_task-a", metadata={}, config=Preprocess(), space=SPACE
        )
    assert not (tmp_path / "new").exists()
    check_derivatives(tmp_path / "der", tmp_path / "raw")
