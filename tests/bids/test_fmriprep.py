"""Outputs of fMRIPrep 20 to 25 under all their names: each gives the right plan or the right sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuroalign.bids.index import build_index
from neuroalign.errors import UserError

MNI = "MNI152NLin2009cAsym"
RUN = "sub-01_task-film_run-1"
FUNC = "sub-01/func"


def volumes(tree, stem: str, *, confounds: str = "timeseries", space: str = f"_space-{MNI}", sidecar=True):
    """One preprocessed run as all versions write it; `stem` is the path without what they add."""
    tree.file(f"{stem}{space}_desc-preproc_bold.nii.gz").file(f"{stem}{space}_desc-brain_mask.nii.gz")
    tree.file(f"{stem}{space}_boldref.nii.gz").file(f"{stem}_desc-confounds_{confounds}.tsv", "trans_x\n0\n")
    if sidecar:
        tree.file(f"{stem}{space}_desc-preproc_bold.json", {"RepetitionTime": 2.0, "SkullStripped": False})
    return tree


def v20_0(tree):
    volumes(tree, f"{FUNC}/{RUN}", confounds="regressors")
    tree.file(f"{FUNC}/{RUN}_desc-confounds_regressors.json", {}).file(f"{FUNC}/{RUN}_AROMAnoiseICs.csv")
    tree.file(f"{FUNC}/{RUN}_space-MNI152NLin6Asym_desc-smoothAROMAnonaggr_bold.nii.gz")
    return tree.file(f"{FUNC}/{RUN}_space-fsaverage5_hemi-L.func.gii").file(
        f"{FUNC}/{RUN}_desc-MELODIC_mixing.tsv"
    )


def v20_2(tree):
    volumes(tree, f"{FUNC}/{RUN}").file(f"{FUNC}/{RUN}_from-scanner_to-T1w_mode-image_xfm.txt")
    tree.file(f"{FUNC}/{RUN}_space-fsaverage_hemi-L_bold.func.gii")
    return tree.file(f"{FUNC}/{RUN}_space-fsLR_den-91k_bold.dtseries.nii")


def v21(tree):
    volumes(tree, f"{FUNC}/{RUN}").file(f"{FUNC}/{RUN}_hemi-R_space-fsnative_bold.func.gii")
    return tree.file("sub-01/figures/sub-01_task-film_run-1_desc-carpetplot_bold.svg").file(
        "logs/CITATION.md"
    )


def v23_2(tree):
    volumes(tree, f"{FUNC}/{RUN}")
    for desc in ("hmc", "coreg"):
        tree.file(f"{FUNC}/{RUN}_desc-{desc}_boldref.nii.gz").file(
            f"{FUNC}/{RUN}_desc-{desc}_boldref.json", {}
        )
    tree.file(f"{FUNC}/{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")
    tree.file(f"{FUNC}/{RUN}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.json", {})
    return tree.file(f"{FUNC}/{RUN}_hemi-L_space-fsaverage_bold.json", {})


def v25(tree):
    v23_2(tree)
    volumes(tree, f"{FUNC}/{RUN}", space="").file(f"{FUNC}/{RUN}_desc-coreg_boldref.nii.gz")
    return tree.file("sub-01/fmap/sub-01_fmapid-auto00000_desc-preproc_fieldmap.nii.gz").file(
        "dataset_description.json", {}
    )


def several_spaces(tree):
    for space in ("T1w", "MNI152NLin6Asym", "boldref"):
        volumes(tree, f"{FUNC}/{RUN}", space=f"_space-{space}")
    return v20_2(tree)


def without_sidecars(tree):
    return volumes(tree, f"{FUNC}/{RUN}", sidecar=False)


def several_reconstructions(tree):
    for reconstruction in ("_rec-b", "_rec-a", ""):
        volumes(tree, f"{FUNC}/sub-01_task-film{reconstruction}_run-1")
    return tree


def other_padding(tree):
    return volumes(tree, f"{FUNC}/sub-01_task-film_run-01")


def a_cohort(tree):
    return volumes(tree, f"{FUNC}/{RUN}", space=f"_space-{MNI}_cohort-2")


def native_resolution(tree):
    volumes(tree, f"{FUNC}/{RUN}", space=f"_space-{MNI}_res-native")
    return volumes(tree, f"{FUNC}/{RUN}", space=f"_space-{MNI}_res-2")


def combined_and_single_echoes(tree):
    volumes(tree, f"{FUNC}/{RUN}")
    for echo in (1, 2, 3):
        tree.file(f"{FUNC}/{RUN}_echo-{echo}_desc-preproc_bold.nii.gz")
        tree.file(f"{FUNC}/{RUN}_echo-{echo}_space-{MNI}_desc-preproc_bold.nii.gz")
    return tree


def combined_by_tedana(tree):
    stem = f"{FUNC}/{RUN}_space-{MNI}"
    tree.file(f"{stem}_desc-optcom_bold.nii.gz").file(f"{stem}_desc-optcomDenoised_bold.nii.gz")
    return tree.file(f"{stem}_desc-brain_mask.nii.gz").file(f"{FUNC}/{RUN}_desc-confounds_timeseries.tsv")


def both_confounds(tree):
    return volumes(volumes(tree, f"{FUNC}/{RUN}", confounds="regressors"), f"{FUNC}/{RUN}")


# builder -> what the names of image and confounds hold
PLANS = [
    (v20_0, f"{RUN}_space-{MNI}_desc-preproc", "regressors"),
    (v20_2, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (v21, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (v23_2, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (v25, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (several_spaces, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (without_sidecars, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (other_padding, f"run-01_space-{MNI}_desc-preproc", "timeseries"),
    (a_cohort, f"{RUN}_space-{MNI}_cohort-2_desc-preproc", "timeseries"),
    (native_resolution, f"{RUN}_space-{MNI}_res-native_desc-preproc", "timeseries"),
    (combined_and_single_echoes, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (combined_by_tedana, f"{RUN}_space-{MNI}_desc-optcom", "timeseries"),
    (several_reconstructions, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
    (both_confounds, f"{RUN}_space-{MNI}_desc-preproc", "timeseries"),
]
# Nested in the raw dataset or beside it: every layout lies in one of these places, every place holds several.
PLACES = (
    "derivatives/fmriprep",
    "derivatives/fmriprep-24.1.1",
    "../fmriprep",
    "../été 2024/out put/fmriprep",
)
CASES = [(*plan, PLACES[number % len(PLACES)]) for number, plan in enumerate(PLANS)]


@pytest.mark.parametrize(
    ("layout", "image", "confounds", "place"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_version_gives_its_plan_wherever_it_lies(bids, new_tree, layout, image, confounds, place):
    bids.run(RUN, meta={"RepetitionTime": 2.0})
    tree = layout(new_tree(bids.root / place))
    index = build_index(bids.config("fmriprep", tree.root))
    assert index.problems == []
    (row,) = index.runs.to_dict("records")
    assert row["run_id"] in (RUN, "sub-01_task-film_run-01")
    assert image in row["bold"]
    assert Path(row["bold"]).is_file()
    assert Path(row["mask"]).is_file()
    assert row["mask"] == re.sub(r"desc-[a-z]+_bold", "desc-brain_mask", row["bold"])
    assert Path(row["confounds"]).name == f"{row['run_id']}_desc-confounds_{confounds}.tsv"
    assert row["events"] == str(bids.root / f"{FUNC}/{RUN}_events.tsv")
    assert row["tr"] == 2.0
    assert len(index.presentations) == 1


def test_sessions_are_optional_and_only_what_was_preprocessed_is_used(bids, derived):
    for name in ("sub-01_ses-a_task-film", "sub-01_ses-b_task-film", "sub-02_task-film", "sub-03_task-film"):
        bids.run(name)
    bids.run("sub-02_task-rest", events=None)
    volumes(derived, "sub-01/ses-b/func/sub-01_ses-b_task-film").file(
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.json", {}
    )
    volumes(derived, "sub-02/func/sub-02_task-film")
    volumes(derived, "sub-02/func/sub-02_task-rest")
    index = build_index(bids.config("fmriprep", derived.root))
    assert index.problems == []
    assert index.runs["run_id"].tolist() == ["sub-01_ses-b_task-film", "sub-02_task-film"]


def test_two_reconstructions_are_one_run_with_the_files_of_one(bids, derived):
    for reconstruction in ("dis2d", "dis3d"):
        name = f"sub-01_task-film_rec-{reconstruction}_run-1"
        bids.run(name)
        volumes(derived, f"{FUNC}/{name}")
    config = bids.config("fmriprep", derived.root)
    (row,) = build_index(config).runs.to_dict("records")
    assert row["run_id"] == build_index(bids.config()).runs["run_id"].item()
    for column in ("bold", "mask", "confounds", "events"):
        assert "_rec-dis2d_" in row[column]


@pytest.mark.parametrize(
    ("resolution", "found"),
    [(None, "_res-native_"), (2, "_res-02_"), ("02", "_res-02_"), ("res-1", "_res-1_"), ("native", "native")],
)
def test_the_resolution_asked_for_is_used(bids, derived, resolution, found):
    bids.run(RUN)
    for label in ("02", "1", "native"):
        volumes(derived, f"{FUNC}/{RUN}", space=f"_space-{MNI}_res-{label}")
    (row,) = build_index(bids.config("fmriprep", derived.root, resolution=resolution)).runs.to_dict("records")
    assert found in row["bold"]
    assert found in row["mask"]


def test_a_resolution_that_one_subject_lacks_leaves_that_subject_out_and_says_so(bids, derived, caplog):
    for subject, label in (("01", "_res-2"), ("02", "")):
        bids.run(f"sub-{subject}_task-film")
        volumes(derived, f"sub-{subject}/func/sub-{subject}_task-film", space=f"_space-{MNI}{label}")
    index = build_index(bids.config("fmriprep", derived.root, resolution="2"))
    assert index.runs["subject"].tolist() == ["01"]
    assert index.problems == []
    assert (
        f"left out, because nothing of them is in space '{MNI}' (fmri.space) with resolution 'res-2' "
        "(fmri.resolution): sub-02"
    ) in caplog.text
    caplog.clear()
    build_index(bids.config("fmriprep", derived.root, resolution="2", subject="01"))
    assert "left out" not in caplog.text


def test_subjects_and_runs_in_other_spaces_only_are_named(bids, derived, caplog):
    for subject in ("01", "02", "03", "04"):
        bids.run(f"sub-{subject}_task-film")
    bids.run("sub-01_task-clips")
    volumes(derived, f"{FUNC}/sub-01_task-film").file(
        f"{FUNC}/sub-01_task-film_echo-1_desc-preproc_bold.nii.gz"
    )
    volumes(derived, f"{FUNC}/sub-01_task-clips", space="_space-T1w")
    volumes(derived, "sub-02/func/sub-02_task-film", space="")
    derived.file("sub-03/func/sub-03_task-film_hemi-L_space-fsaverage_bold.func.gii")
    build_index(bids.config("fmriprep", derived.root))
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.endswith(f"is in space '{MNI}' (fmri.space): sub-01_task-clips, sub-02, sub-03")


def test_single_echoes_alone_are_a_choice_that_is_made_by_the_first(bids, derived):
    bids.run(RUN)
    for echo in (2, 1):
        volumes(derived, f"{FUNC}/{RUN}_echo-{echo}")
    (row,) = build_index(bids.config("fmriprep", derived.root)).runs.to_dict("records")
    assert row["run_id"] == RUN
    assert "_echo-1_" in row["bold"]


# --- sentences ------------------------------------------------------------------------------------------------


def surfaces_only(tree):
    for hemi in ("L", "R"):
        tree.file(f"{FUNC}/{RUN}_hemi-{hemi}_space-fsaverage_bold.func.gii")
    return tree.file(f"{FUNC}/{RUN}_space-fsLR_den-91k_bold.dtseries.nii")


def surface_sidecars_only(tree):
    return tree.file(f"{FUNC}/{RUN}_hemi-L_space-fsnative_bold.json", {})


def minimal_outputs(tree):
    tree.file(f"{FUNC}/{RUN}_desc-hmc_boldref.nii.gz").file(f"{FUNC}/{RUN}_desc-coreg_boldref.nii.gz")
    return tree.file(f"{FUNC}/{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt")


def in_native_space_only(tree):
    return volumes(tree, f"{FUNC}/{RUN}", space="")


def anatomies_only(tree):
    return tree.file("sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")


ERRORS = [
    (
        surfaces_only,
        {},
        r"has surfaces only \(fsLR, fsaverage\), and NeuroAlign reads volumes: run fMRIPrep with",
    ),
    (surface_sidecars_only, {}, r"has surfaces only \(fsnative\)"),
    (minimal_outputs, {}, r"only fMRIPrep's minimal outputs; run it with --level full"),
    (in_native_space_only, {}, rf"in space '{MNI}'; found spaces: none"),
    (anatomies_only, {}, rf"has no preprocessed run .* in space '{MNI}'"),
    (v20_2, {"space": "MNI152NLin2009aSym"}, rf"found spaces: {MNI}; did you mean '{MNI}'\? \(fmri.space\)"),
    (
        native_resolution,
        {"resolution": "1"},
        r"of resolution 'res-1' in space .*; found resolutions: 2, native.*\(fmri.resolution\)",
    ),
]


@pytest.mark.parametrize(("layout", "options", "sentence"), ERRORS, ids=lambda v: getattr(v, "__name__", ""))
def test_outputs_that_cannot_be_used_are_one_sentence(bids, derived, layout, options, sentence):
    bids.run(RUN)
    layout(derived)
    with pytest.raises(UserError, match=sentence) as error:
        build_index(bids.config("fmriprep", derived.root, **options))
    assert "\n" not in str(error.value)


def test_the_raw_root_in_place_of_the_outputs_is_told(bids, derived):
    bids.run(RUN)
    v20_2(derived)
    with pytest.raises(UserError, match=f"did you mean {re.escape(str(derived.root))}"):
        build_index(bids.config("fmriprep", bids.root))


def test_two_cohorts_of_one_run_are_told_and_a_query_chooses(bids, derived):
    bids.run(RUN)
    for cohort in (1, 2):
        volumes(derived, f"{FUNC}/{RUN}", space=f"_space-{MNI}_cohort-{cohort}")
    (problem,) = build_index(bids.config("fmriprep", derived.root)).problems
    assert (
        "are the preprocessed image of one run: keep one of them, or choose with dataset.filters" in problem
    )
    file = bids.root.parent / "filter.json"
    file.write_text('{"bold": {"cohort": "2"}}')
    index = build_index(bids.config("fmriprep", derived.root, bids_filter_file=file))
    assert index.problems == []
    assert "cohort-2" in index.runs["bold"][0]


def test_every_file_whose_content_is_not_here_is_told_once(bids, derived):
    bids.run(RUN)
    volumes(derived, f"{FUNC}/{RUN}")
    stem = f"{FUNC}/{RUN}_space-{MNI}"
    for name in (f"{stem}_desc-preproc_bold.nii.gz", f"{stem}_desc-brain_mask.nii.gz"):
        (derived.root / name).unlink()
        derived.link(name, "../../.git/annex/objects/none")
    derived.file(f"{FUNC}/{RUN}_desc-confounds_timeseries.tsv", "/annex/objects/MD5E-s1--0.tsv\n")
    problems = build_index(bids.config("fmriprep", derived.root)).problems
    assert len(problems) == 3
    for problem, what in zip(problems, ("preproc_bold", "brain_mask", "confounds_timeseries"), strict=True):
        assert what in problem
        assert "datalad get" in problem


def test_a_run_without_events_in_the_raw_tree_is_told(bids, derived):
    bids.run("sub-02_task-film")
    volumes(derived, f"{FUNC}/{RUN}")
    (problem,) = build_index(bids.config("fmriprep", derived.root)).problems
    assert problem.startswith(f"{RUN} has no events.tsv")
