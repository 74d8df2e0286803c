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
from neuroalign.fmri.preprocess import native
from neuroalign.fmri.preprocess.anatomy import from_zero, template_name
from neuroalign.fmri.preprocess.native import preprocess_anatomy, preprocess_run
from neuroalign.fmri.preprocess.realign import rigid_matrix
from neuroalign.fmri.preprocess.register import failures_name
from neuroalign.fmri.preprocess.resample import Displacement

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
    described, coded = 0, []
    for sidecar in folder.rglob("*.json"):
        content = json.loads(sidecar.read_text())
        named = [*content.get("Sources", []), *content.get("RawSources", [])]
        for uri in [*named, *([content["SpatialReference"]] if "SpatialReference" in content else [])]:
            _, dataset, relative = uri.split(":", 2)
            assert (roots[dataset] / relative).exists(), f"{sidecar.name}: {uri}"
            described += 1
        if (image := sidecar.with_suffix(".nii.gz")).exists():
            # What lies on the grid of the T1w or the BOLD is in the scanner's space, whatever its number of dimensions.
            header, entities = nib.load(image).header, sidecar.name
            code = 4 if f"_space-{SPACE}" in entities or f"_to-{SPACE}" in entities else 1
            assert [int(header[f"{form}form_code"]) for form in "qs"] == [code, code], sidecar.name
            coded.append(code)
    assert described > 20
    assert sorted(coded) == [1] * 5 + [4] * 6
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


def test_a_tissue_out_of_view_is_no_tissue(caplog):
    brain = np.zeros((8, 8, 8), bool)
    brain[1:-1, 1:-1, 1:-1] = True
    ventricle = np.zeros_like(brain)
    ventricle[3:5, 3:5, 3:5] = True
    rows = native._tissue(ventricle, brain, "csf", "run")
    assert rows.sum() == 8
    assert ventricle[brain][rows].all()
    assert caplog.text == ""
    brain[3:5] = False
    rows = native._tissue(ventricle, brain, "csf", "sub-1_bold.nii.gz")
    assert rows.shape == (brain.sum(),)
    assert not rows.any()
    assert "sub-1_bold.nii.gz: the field of view holds no csf" in caplog.text


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("offset", [-60.0, -1024.0])
def test_a_background_below_zero_becomes_zero(scale, offset):
    rng = np.random.default_rng(0)
    head = np.zeros((40, 40, 40), np.float32)
    head[8:32, 8:32, :30] = rng.uniform(50, 150, (24, 24, 30))  # a neck leaves through one face
    noise = rng.normal(scale=3, size=head.shape).astype(np.float32)
    assert from_zero(head) is head
    np.testing.assert_allclose(from_zero(scale * head + offset), scale * head, atol=1e-3)
    np.testing.assert_allclose(from_zero(scale * head + noise + offset), scale * head + noise, atol=0.5)
    # A few values below zero, as interpolation leaves them, over a background at zero or above: nothing is moved.
    np.testing.assert_array_equal(from_zero(head + 10 + 5 * noise), head + 10 + 5 * noise)
    cropped = head[9:31, 9:31, 1:25] + np.float32(offset)
    cropped[:3, :3, :3] = offset
    assert np.median(from_zero(cropped)[3:]) == pytest.approx(100, abs=60)


def test_a_run_of_few_volumes_that_show_the_head_is_refused(moved, save, tmp_path):
    still = moved(np.eye(4))
    rng = np.random.default_rng(0)
    data = still[..., None] + rng.normal(scale=10, size=(*still.shape, 16)).astype(np.float32)
    data[..., 9:] = 0.0
    cube = np.ones((3, 3, 3), np.float32)
    anatomy = {key: save(f"{key}.nii.gz", cube) for key in ("t1w", "mask", "dseg")}
    anatomy["to_template"] = tmp_path / "xfm.nii.gz"
    Displacement(np.zeros((3, 3, 3, 3), np.float32), np.eye(4)).write(anatomy["to_template"], code=4)
    bold = save("sub-1/func/sub-1_task-a_bold.nii.gz", data, tr=2.0)
    with pytest.raises(UserError, match="only 9 of 16 volumes show the head"):
        preprocess_run(
            bold, anatomy, tmp_path / "der", "sub-1_task-a", metadata={}, config=Preprocess(), space=SPACE
        )
    assert not (tmp_path / "der").exists()


def test_a_failure_of_ants_names_the_image():
    sentence = r"sub-1_T1w\.nii could not be registered \(ANTs: it went wrong\)"
    with pytest.raises(UserError, match=sentence), failures_name("sub-1_T1w.nii"):
        raise RuntimeError("it went\nwrong")


def test_what_stands_for_the_template_is_named():
    assert template_name("MNI152NLin2009aSym", None) == "nilearn's template of MNI152NLin2009aSym"
    assert "MNI152NLin2009aSym, which stands for MNI152NLin2009cAsym" in template_name(SPACE, None)
    assert template_name(SPACE, "a/tpl.nii.gz") == f"template tpl.nii.gz of {SPACE}"


@pytest.mark.slow
def test_from_raw_to_template(tmp_path, caplog):
    spec = importlib.util.spec_from_file_location("phantom", Path(__file__).with_name("conftest.py"))
    phantom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(phantom)
    head, affine, brain = phantom.head_phantom(3.0)
    t1w = tmp_path / "raw/sub-1/anat/sub-1_T1w.nii.gz"
    t1w.parent.mkdir(parents=True)
    # Some converters leave an offset in the image.
    nib.save(nib.Nifti1Image((2 * head - 1024).astype(np.int16), affine), t1w)
    anatomy = preprocess_anatomy(t1w, tmp_path / "der", space=SPACE)
    (warning,) = [r.getMessage() for r in caplog.records if "fmri.preprocess.template" in r.getMessage()]
    assert f"fmri.space is {SPACE}, but normalisation is to MNI152NLin2009aSym" in warning
    for key in ("t1w_template", "mask_template", "to_template", "from_template"):
        assert template_name(SPACE, None) in json.loads(anatomy[f"{key}_json"].read_text())["Description"]
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
    # The repetition time is in the header alone, and counts in milliseconds.
    image.header.set_zooms((5, 5, 5, 2000.0))
    image.header.set_xyzt_units("mm", "msec")
    bold = tmp_path / "raw/sub-1/func/sub-1_task-a_bold.nii.gz"
    bold.parent.mkdir()
    nib.save(image, bold)
    timing = (np.arange(48) % 24 / 12.5).tolist()
    paths = preprocess_run(
        bold, anatomy, tmp_path / "der", "sub-1_task-a",
        metadata={"SliceTiming": timing}, config=Preprocess(), space=SPACE,
    )  # fmt: skip
    assert all(path.exists() for path in paths.values())
    mask = nib.load(paths["mask"])
    assert dice(np.asarray(mask.dataobj) > 0, template_mask(mask)) > 0.94
    coreg = np.loadtxt(paths["coreg"])
    middle = np.array([[*affine[:3, 3] + 1.5 * np.array(head.shape), 1.0]])
    true = rigid_matrix(np.array([3.55, -2, 1, 0.02, 0.011, 0]), np.zeros(3))
    assert np.linalg.norm((middle @ (np.linalg.inv(coreg) - true).T)[0, :3]) < 1.5
    sidecar = json.loads(paths["bold_json"].read_text())
    assert template_name(SPACE, None) in sidecar["Description"]
    assert sidecar["SliceTimingCorrected"]
    assert sidecar["RepetitionTime"] == 2.0
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
