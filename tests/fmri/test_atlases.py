"""Atlases by name, from a nilearn data folder filled beforehand, and label tables in the wild."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import requests

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import load_atlas
from neuroalign.fmri.fetched_atlas import ATLASES, fetch_atlas
from neuroalign.fmri.label_table import labels_beside, read_labels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def tiny(path, dtype=np.int16):
    """Two regions, left and right of the middle of the head."""
    data = np.zeros((12, 8, 8), dtype)
    data[1:4, 2:6, 2:6], data[8:11, 2:6, 2:6] = 1, 2
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = [-44, -28, -28]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A nilearn data folder with a tiny version of each atlas, as nilearn lays them out; no network."""
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    monkeypatch.setattr(requests.Session, "send", _no_network)
    tiny(tmp_path / "schaefer_2018/Schaefer2018_100Parcels_7Networks_order_FSLMNI152_1mm.nii.gz")
    write(
        tmp_path / "schaefer_2018/Schaefer2018_100Parcels_7Networks_order.txt",
        "1\t7Networks_LH_Vis_1\t120\t18\t131\t0\n2\t7Networks_RH_Vis_1\t120\t18\t132\t0\n",
    )
    yeo = tmp_path / "yeo_2011/Yeo_JNeurophysiol11_MNI152"
    for n in (7, 17):
        write(
            yeo / f"Yeo2011_{n}Networks_ColorLUT.txt",
            "  0 NONE 0 0 0 0\n  1 Vis 120 18 134 0\n  2 Som 70 130 180 0\n",
        )
        for end in ("", "_LiberalMask"):
            tiny(yeo / f"Yeo2011_{n}Networks_MNI152_FreeSurferConformed1mm{end}.nii.gz")
    tiny(yeo / "FSL_MNI152_FreeSurferConformed_1mm.nii.gz")
    tiny(tmp_path / "aal_3v2/AAL3/AAL3v1.nii")
    rows = "".join(
        f"<label><index>{i}</index><name>{n}</name></label>"
        for i, n in ((1, "Calcarine_L"), (2, "Calcarine_R"))
    )
    write(tmp_path / "aal_3v2/AAL3/AAL3v1.xml", f"<atlas><data>{rows}</data></atlas>")
    fsl = tmp_path / "fsl/data/atlases"
    for name, file, labels in (
        ("HarvardOxford-cort-maxprob-thr25-2mm", "HarvardOxford-Cortical", ("Frontal Pole", "Lingual Gyrus")),
        (
            "Juelich-maxprob-thr25-2mm",
            "Juelich",
            ("GM Visual cortex V1 BA17 L", "GM Visual cortex V1 BA17 R"),
        ),
    ):
        tiny(fsl / name.split("-")[0] / f"{name}.nii.gz")
        text = "".join(f'<label index="{i}">{label}</label>' for i, label in enumerate(labels))
        write(fsl / f"{file}.xml", f"<atlas><data>{text}</data></atlas>")
    tiny(tmp_path / "destrieux_2009/destrieux2009_rois_lateralized.nii.gz")
    write(tmp_path / "destrieux_2009/destrieux2009.rst", "about")
    write(
        tmp_path / "destrieux_2009/destrieux2009_rois_labels_lateralized.csv",
        "index,name\n0,Background\n1,L G_cuneus\n2,R G_cuneus\n",
    )
    basc = tmp_path / "basc_multiscale_2015/template_cambridge_basc_multiscale_nii_sym"
    tiny(basc / "template_cambridge_basc_multiscale_sym_scale007.nii.gz")
    tiny(tmp_path / "talairach_atlas/ba.nii.gz")
    write(
        tmp_path / "talairach_atlas/ba-labels.json", json.dumps(["*", "Brodmann area 17", "Brodmann area 18"])
    )
    return tmp_path


def _no_network(*_, **__):
    raise requests.ConnectionError("Name or service not known")


@pytest.mark.parametrize(
    ("name", "space", "first"),
    [
        ("schaefer_2018_100", "MNI152NLin6Asym", "7Networks_LH_Vis_1"),
        ("schaefer_2018_100_7networks", "MNI152NLin6Asym", "7Networks_LH_Vis_1"),
        ("yeo_2011_7", "MNI152NLin6Asym", "Vis"),
        ("yeo_2011_17_thin", "MNI152NLin6Asym", "Vis"),
        ("aal", "MNIColin27", "Calcarine_L"),
        ("harvard_oxford_cort-maxprob-thr25-2mm", "MNI152NLin6Asym", "Frontal Pole"),
        ("juelich_maxprob-thr25-2mm", "MNI152NLin6Asym", "GM Visual cortex V1 BA17"),
        ("juelich_maxprob-thr25-2mm_split", "MNI152NLin6Asym", "Left GM Visual cortex V1 BA17"),
        ("destrieux_2009", "fsaverage", "L G_cuneus"),
        ("basc_2015_7", "MNI152sym", "1"),
        ("talairach_ba", "Talairach", "Brodmann area 17"),
    ],
)
def test_atlases_by_name(cached, caplog, name, space, first):
    with caplog.at_level(logging.WARNING):
        atlas = load_atlas(AtlasConfig(name=name), "MNI152NLin2009cAsym")
    assert atlas.labels[1] == first
    assert atlas.data.shape == (12, 8, 8)
    assert set(np.unique(atlas.data)) - {0} == set(atlas.labels)
    assert f"is in {space} and fmri.space is MNI152NLin2009cAsym" in caplog.text


def test_atlas_in_the_right_space_is_not_warned_about(cached, caplog):
    with caplog.at_level(logging.WARNING):
        load_atlas(AtlasConfig(name="schaefer_2018_100"), "MNI152NLin6Asym")
    assert "fmri.space" not in caplog.text


def test_failed_download_is_one_sentence(cached):
    with pytest.raises(UserError, match="could not be fetched") as caught:
        fetch_atlas("schaefer_2018_200")
    assert "\n" not in str(caught.value)
    assert "fmri.atlas.image" in str(caught.value)


@pytest.mark.parametrize("name", ["harvard_oxford_cort-prob-2mm", "juelich_prob-1mm", "msdl", "difumo_64"])
def test_probabilistic_atlases_are_refused(name):
    with pytest.raises(UserError, match="probabilistic"):
        fetch_atlas(name)


def test_unknown_names_list_what_there_is():
    with pytest.raises(UserError, match="did you mean 'schaefer_2018'") as caught:
        fetch_atlas("schaefer2018_200")
    for atlas in ATLASES:
        assert atlas.names in str(caught.value)


def test_a_wrong_size_is_one_sentence(cached):
    with pytest.raises(UserError, match="could not be fetched"):
        fetch_atlas("schaefer_2018_150")


TABLES = {
    "bids_dseg.tsv": "index\tname\tabbreviation\tmapping\n0\tbackground\tBG\t0\n1\tV1 left\tV1l\t2\n12\tNA\tn\t3\n",
    "label.tsv": "index\tlabel\tname\n1\tV1 left\tx\n12\tNA\tx\n",
    "table.csv": 'index,name\n0,Background\n1,V1 left\n12,"NA"\n',
    "lut.txt": "#No. Label Name:  R G B A\n\n0   Unknown   0 0 0 0\n1   V1_left  70 130 180 0\n12  NA 245 245 245 0\n",
    "colours.ctab": "  0  Unknown   0   0   0   0\n  1  V1_left  70 130 180   0\n 12  NA  245 245 245 0\n",
    "rgb.lut": "1 V1_left 70 130 180\n12 NA 1 2 3\n",
    "columns.txt": "1 V1 left\n12 NA\n",
    "tabs.txt": "\ufeff1\tV1 left\n12\tNA\n",
    "commas.txt": "1,V1 left\n12,NA\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_label_tables(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert {i: n.replace("_", " ") for i, n in read_labels(tmp_path / name).items()} == {
        1: "V1 left",
        12: "NA",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("index\tlabel\n1.5\ta\n", "whole numbers"),
        ("index\tlabel\nx\ta\n", "whole numbers"),
        ("number\tlabel\n1\ta\n", "columns 'index'"),
        ("1 a\n1 b\n", "repeats"),
        ("1 a\n2 a\n", "repeats"),
        ("index\tname\n0\tbackground\n", "names no region"),
        ("", "columns 'index'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, reason):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_labels(tmp_path / "t.tsv")


def test_a_table_of_freesurfer_beside_a_float_image(tmp_path, caplog):
    image = tiny(tmp_path / "aparc_space-S_res-2.nii", np.float32)
    (tmp_path / "aparc.ctab").write_text(
        "1 ctx-lh-cuneus 1 2 3 0\n2 ctx-rh-cuneus 1 2 3 0\n77 hypointensities 1 2 3 0\n"
    )
    assert labels_beside(image).name == "aparc.ctab"
    with caplog.at_level(logging.WARNING):
        atlas = load_atlas(AtlasConfig(image=str(image)), "S")
    assert atlas.labels == {1: "ctx-lh-cuneus", 2: "ctx-rh-cuneus"}
    assert "hypointensities" in caplog.text


def test_images_that_hold_no_labels_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "prob.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.4, np.float32), np.eye(4)), tmp_path / "half.nii.gz")
    for stem, reason in (("prob", "probabilistic atlases"), ("half", "holds fractions")):
        (tmp_path / f"{stem}.txt").write_text("1 a\n")
        with pytest.raises(UserError, match=reason):
            load_atlas(AtlasConfig(image=str(tmp_path / f"{stem}.nii.gz")), "S")


def test_a_table_of_another_atlas_is_refused(tmp_path):
    image = tiny(tmp_path / "a.nii.gz")
    pd.DataFrame({"index": [11, 12], "label": ["a", "b"]}).to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="belong together"):
        load_atlas(AtlasConfig(image=str(image)), "S")
