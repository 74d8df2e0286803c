"""Confounds are read under the names of every version of fMRIPrep, and under those that nilearn refuses."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.fmri import Clean
from neuroalign.errors import UserError
from neuroalign.fmri import confound_names
from neuroalign.fmri.clean import load_run_confounds

RUN = "sub-01_ses-1_task-film_run-1"
VOLUMES = 30


@pytest.fixture
def table() -> pd.DataFrame:
    """Confounds of fMRIPrep's columns, with one component of each mask for anatomical CompCor."""
    random = np.random.default_rng(0)
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    kinds = ("", "_derivative1", "_power2", "_derivative1_power2")
    names = [f"{name}{kind}" for name in motion for kind in kinds]
    names += ["csf", "white_matter", "cosine00", "a_comp_cor_00", "a_comp_cor_01"]
    values = pd.DataFrame(random.standard_normal((VOLUMES, len(names))), columns=names)
    values.loc[0, [n for n in names if "derivative1" in n]] = np.nan
    return values.assign(framewise_displacement=0.1)


NAMINGS = {
    "20.0": ("space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz", ["desc-confounds_regressors"]),
    "20.2 to 25": ("space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz", ["desc-confounds_timeseries"]),
    "a resolution": ("space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz", ["desc-confounds_timeseries"]),
    "a cohort": (
        "space-MNIInfant_cohort-1_res-native_desc-preproc_bold.nii.gz",
        ["desc-confounds_timeseries"],
    ),
    "both names": (
        "space-T1w_desc-preproc_bold.nii.gz",
        ["desc-confounds_regressors", "desc-confounds_timeseries"],
    ),
    "uncompressed": ("space-T1w_desc-preproc_bold.nii", ["desc-confounds_timeseries"]),
    "combined by tedana": ("space-T1w_desc-optcom_bold.nii.gz", ["desc-confounds_timeseries"]),
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("strategy", ["simple", "compcor"])
def test_confounds_of_every_naming_are_read(tmp_path, table, naming, strategy):
    image, tables = NAMINGS[naming]
    # A folder whose name nilearn would rewrite.
    folder = tmp_path / "tsv files"
    folder.mkdir()
    for name in tables:
        table.to_csv(folder / f"{RUN}_{name}.tsv", sep="\t", index=False, na_rep="n/a")
        masks = {
            f"a_comp_cor_0{i}": {"Method": "aCompCor", "Mask": "combined", "Retained": True} for i in (0, 1)
        }
        (folder / f"{RUN}_{name}.json").write_text(json.dumps(masks))
    columns, keep = load_run_confounds(
        folder / f"{RUN}_{image}", folder / f"{RUN}_{tables[-1]}.tsv", Clean(strategy=strategy), VOLUMES
    )
    assert keep.all()
    expected = {"simple": {"csf", "white_matter"}, "compcor": {"a_comp_cor_00", "a_comp_cor_01"}}[strategy]
    assert expected < set(columns)
    assert sum(name.startswith(("trans", "rot")) for name in columns) == 24
    # Demeaned, and otherwise what the table holds.
    for name in expected:
        np.testing.assert_allclose(columns[name], table[name] - table[name].mean(), atol=1e-12)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{RUN}_{name}{ending}" for name in tables for ending in (".tsv", ".json")
    )


@pytest.mark.parametrize("strategy", ["simple", "compcor"])
def test_a_folder_for_temporary_files_that_nilearn_would_rewrite(tmp_path, table, monkeypatch, strategy):
    path = tmp_path / f"{RUN}_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    masks = {f"a_comp_cor_0{i}": {"Method": "aCompCor", "Mask": "combined", "Retained": True} for i in (0, 1)}
    path.with_suffix(".json").write_text(json.dumps(masks))
    usual = tmp_path / "my.tsvs" / "tmp"
    usual.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    config = Clean(strategy=strategy)
    columns, _ = load_run_confounds(tmp_path / "bold.nii.gz", path, config, VOLUMES)
    assert columns.shape[1] == 26
    monkeypatch.setattr(confound_names, "_ELSEWHERE", (str(tmp_path / "none"), str(usual)))
    with pytest.raises(UserError, match="set the environment variable TMPDIR"):
        load_run_confounds(tmp_path / "bold.nii.gz", path, config, VOLUMES)
