"""Outputs of other pipelines: found in their layouts, joined with the events of the raw tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuroalign.bids.derivatives import run_paths
from neuroalign.bids.index import build_index
from neuroalign.errors import UserError


def test_fmriprep_outputs_are_joined_with_the_events_of_the_raw_tree(bids, derived):
    for name in ("sub-01_ses-1_task-film_run-01", "sub-02_task-film"):
        bids.run(name)
        derived.preprocessed(name).preprocessed(name, "T1w").preprocessed(name, "MNI152NLin6Asym", "2")
        derived.file(f"sub-{name[4:6]}/figures/{name}_desc-preproc_bold.svg")
    index = build_index(bids.config("fmriprep", derived.root))
    assert index.problems == []
    assert index.runs["run_id"].tolist() == ["sub-01_ses-1_task-film_run-01", "sub-02_task-film"]
    for run in index.runs.to_dict("records"):
        assert run["t1w"] == run["timeseries"] == ""
        assert Path(run["events"]).is_relative_to(bids.root / f"sub-{run['subject']}")
        for column in ("bold", "mask", "confounds"):
            assert Path(run[column]).is_relative_to(derived.root), column
        assert run["bold"].endswith(f"{run['run_id']}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
        assert run["mask"] == run["bold"].replace("desc-preproc_bold", "desc-brain_mask")


def test_folders_keep_labels_with_a_plus():
    files = run_paths("sub-a+b_ses-1+2_task-x", "out", space="T1w")
    assert {path.parent.as_posix() for path in files.values()} == {"out/sub-a+b/ses-1+2/func"}


def test_a_resolution_label_is_found_and_the_native_one_preferred(bids, derived):
    bids.run("sub-01_task-film")
    derived.preprocessed("sub-01_task-film", res="2")
    assert "_res-2_desc-preproc" in build_index(bids.config("fmriprep", derived.root)).runs["bold"][0]
    derived.preprocessed("sub-01_task-film", res="native")
    row = build_index(bids.config("fmriprep", derived.root)).runs.iloc[0]
    assert "_res-native_desc-preproc" in row["bold"]
    assert "_res-native_desc-brain" in row["mask"]


def test_old_confounds_other_padding_and_single_echoes(bids, derived):
    bids.run("sub-01_task-film_run-01")
    derived.preprocessed("sub-01_task-film_run-1").preprocessed("sub-01_task-film_run-1", extra="_echo-1")
    folder = derived.root / "sub-01/func"
    (folder / "sub-01_task-film_run-1_desc-confounds_timeseries.tsv").rename(
        folder / "sub-01_task-film_run-1_desc-confounds_regressors.tsv"
    )
    index = build_index(bids.config("fmriprep", derived.root))
    assert index.problems == []
    row = index.runs.iloc[0]
    assert len(index.runs) == 1
    assert row["run_id"] == "sub-01_task-film_run-1"
    assert "echo" not in row["bold"]
    assert row["confounds"].endswith("_desc-confounds_regressors.tsv")
    assert row["events"].endswith("run-01_events.tsv")


def test_the_repetition_time_of_the_raw_run_serves_where_the_derivative_has_none(bids, derived):
    bids.run("sub-01_task-film", meta={"RepetitionTime": 1.25})
    derived.preprocessed("sub-01_task-film", meta={})
    assert build_index(bids.config("fmriprep", derived.root)).runs["tr"].tolist() == [1.25]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("MNI152NLin6Asym", "did you mean 'MNI152NLin2009cAsym'"),
        ("fsaverage", "found spaces: MNI152NLin2009cAsym, T1w"),
    ],
)
def test_another_space_is_named(bids, derived, space, sentence):
    bids.run("sub-01_task-film")
    derived.preprocessed("sub-01_task-film").preprocessed("sub-01_task-film", "T1w")
    with pytest.raises(UserError, match=sentence):
        build_index(bids.config("fmriprep", derived.root, space=space))


def test_the_folder_above_the_outputs_is_named(bids, derived):
    bids.run("sub-01_task-film")
    derived.preprocessed("sub-01_task-film")
    with pytest.raises(
        UserError, match=f"has no sub-\\* folders.*did you mean {re.escape(str(derived.root))}"
    ):
        build_index(bids.config("fmriprep", derived.root.parent))
    with pytest.raises(UserError, match=r"does not exist; set dataset\.derivatives"):
        build_index(bids.config("fmriprep", derived.root / "none"))


XCPD = "_space-MNI152NLin2009cAsym_atlas-Schaefer200_stat-mean"


@pytest.mark.parametrize(
    ("suffix", "extension"),
    [
        (XCPD, ".tsv"),
        ("_space-MNI152NLin2009cAsym_seg-4S156Parcels_stat-mean", ".tsv"),
        ("_space-fsLR_den-91k_atlas-Glasser", ".tsv"),
        ("_seg-Schaefer2018100Parcels7Networks_desc-Simple", ".tsv"),
        ("", ".h5"),
    ],
)
def test_time_series_of_several_pipelines_are_found(bids, derived, suffix, extension):
    bids.run("sub-01_ses-1_task-film_run-1", image=None)
    derived.series(f"sub-01_ses-1_task-film_run-1{suffix}", extension)
    derived.file("sub-01/ses-1/func/sub-01_ses-1_task-film_run-1_desc-confounds_timeseries.tsv")
    derived.file("sub-01/ses-1/func/sub-01_ses-1_task-film_run-1_motion.tsv")
    index = build_index(bids.config("timeseries", derived.root))
    assert index.problems == []
    row = index.runs.iloc[0]
    assert row["run_id"] == "sub-01_ses-1_task-film_run-1"
    assert row["timeseries"].endswith(f"{suffix}_timeseries{extension}")
    assert row["tr"] == 1.0
    assert row["bold"] == row["t1w"] == ""
    assert row["events"] != ""


def test_of_several_atlases_the_configured_one_is_taken(bids, derived):
    bids.run("sub-01_task-film")
    derived.series("sub-01_task-film" + XCPD).series(
        "sub-01_task-film" + XCPD.replace("Schaefer200", "Glasser")
    )
    with pytest.raises(UserError, match=r"several atlases \(Glasser, Schaefer200\); set fmri.atlas.name"):
        build_index(bids.config("timeseries", derived.root, atlas={}))
    with pytest.raises(UserError, match=r"no time series of atlas 'Glaser'.*did you mean 'Glasser'"):
        build_index(bids.config("timeseries", derived.root, atlas={"name": "Glaser"}))
    for name in ("Glasser", "glasser", "schaefer-200"):
        (path,) = build_index(bids.config("timeseries", derived.root, atlas={"name": name})).runs[
            "timeseries"
        ]
        assert name[:6].lower() in path.lower()


def test_of_several_spaces_the_configured_one_is_taken(bids, derived):
    bids.run("sub-01_task-film")
    derived.series("sub-01_task-film" + XCPD).series(
        "sub-01_task-film" + XCPD.replace("MNI152NLin2009cAsym", "fsLR")
    )
    (path,) = build_index(bids.config("timeseries", derived.root)).runs["timeseries"]
    assert "MNI152" in path
    with pytest.raises(UserError, match="several spaces"):
        build_index(bids.config("timeseries", derived.root, space="MNI152NLin6Asym"))


def test_two_series_of_one_run_are_named(bids, derived):
    bids.run("sub-01_task-film")
    derived.series("sub-01_task-film_desc-a").series("sub-01_task-film_desc-b")
    (problem,) = build_index(bids.config("timeseries", derived.root)).problems
    assert "are the time series of one run" in problem


def test_no_series_at_all_is_a_sentence(bids, derived):
    bids.run("sub-01_task-film")
    derived.preprocessed("sub-01_task-film")
    with pytest.raises(UserError, match="has no time series"):
        build_index(bids.config("timeseries", derived.root))
