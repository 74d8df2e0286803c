"""Odd layouts of regional time series: each gives the right plan or the right sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuroalign.bids.index import build_index
from neuroalign.errors import UserError

RUN = "sub-01_ses-1_task-film_run-1"
FUNC = "sub-01/ses-1/func"
SPACE = "_space-MNI152NLin2009cAsym"


def xcp_d_0_7(tree):
    for atlas in ("4S156Parcels", "Tian"):
        tree.series(f"{RUN}{SPACE}_seg-{atlas}_stat-mean")
        tree.file(f"{FUNC}/{RUN}{SPACE}_seg-{atlas}_stat-coverage_bold.tsv", "a\n1\n")
        tree.file(f"{FUNC}/{RUN}{SPACE}_seg-{atlas}_stat-pearsoncorrelation_relmat.tsv", "a\n1\n")
    return tree.file(f"{FUNC}/{RUN}_motion.tsv", "x\n").file(f"{FUNC}/{RUN}{SPACE}_stat-reho_boldmap.nii.gz")


def xcp_d_0_5(tree):
    for atlas in ("4S156Parcels", "Tian"):
        tree.series(f"{RUN}{SPACE}_atlas-{atlas}")
        tree.file(f"{FUNC}/{RUN}{SPACE}_atlas-{atlas}_coverage.tsv", "a\n1\n")
    return tree.file(f"{FUNC}/{RUN}{SPACE}_desc-denoised_bold.nii.gz").file(
        f"{FUNC}/{RUN}_outliers.tsv", "x\n"
    )


def giga_connectome(tree):
    for atlas in ("4S156Parcels", "MIST"):
        tree.series(f"{RUN}_seg-{atlas}_desc-simple")
        tree.file(f"{FUNC}/{RUN}_seg-{atlas}_meas-PearsonCorrelation_desc-simple_relmat.tsv", "a\n")
    return tree.file(f"atlases/sub-01/func/sub-01{SPACE}_seg-MIST_dseg.nii.gz")


def other_statistics(tree):
    tree.series(f"{RUN}{SPACE}_seg-4S156Parcels_stat-mean").series(f"{RUN}{SPACE}_seg-4S156Parcels_stat-alff")
    return tree.file(f"{FUNC}/{RUN}_recording-cardiac_desc-physio_timeseries.tsv", "x\n")


def plain_hdf5(tree):
    return tree.series(RUN, ".h5")


def with_confounds_beside(tree):
    tree.series(f"{RUN}_seg-4S156Parcels")
    return tree.file(f"{FUNC}/{RUN}_desc-confounds_timeseries.tsv", "x\n0\n")


def padded(tree):
    return tree.series(f"{RUN.replace('run-1', 'run-01')}_seg-4S156Parcels")


def surfaces_and_volumes(tree):
    tree.series(f"{RUN}{SPACE}_seg-4S156Parcels_stat-mean")
    return tree.series(f"{RUN}_space-fsLR_den-91k_seg-4S156Parcels_stat-mean")


def metadata_above(tree):
    tree.series(f"{RUN}_seg-4S156Parcels", meta={})
    return tree.file("seg-4S156Parcels_timeseries.json", {"RepetitionTime": 1.0})


def reconstructions(tree):
    name = "sub-01_ses-1_task-film{}_run-1_seg-4S156Parcels_stat-mean"
    return tree.series(name.format("_rec-norm")).series(name.format(""))


PLANS = [
    xcp_d_0_7,
    reconstructions,
    xcp_d_0_5,
    giga_connectome,
    other_statistics,
    plain_hdf5,
    with_confounds_beside,
    padded,
    surfaces_and_volumes,
    metadata_above,
]
PLACES = ("derivatives/xcp_d", "../out put/séries", "derivatives/giga_connectome-0.5")
CASES = [(plan, PLACES[number % len(PLACES)]) for number, plan in enumerate(PLANS)]


@pytest.mark.parametrize(("layout", "place"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_series_of_a_pipeline_give_their_plan(bids, new_tree, layout, place):
    """The raw tree holds events only, as where images may not be shared."""
    bids.file(f"{FUNC}/{RUN}_events.tsv", "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n")
    tree = layout(new_tree(bids.root / place))
    index = build_index(bids.config("timeseries", tree.root, atlas={"name": "4S156Parcels"}))
    assert index.problems == []
    (row,) = index.runs.to_dict("records")
    assert row["run_id"].replace("run-01", "run-1") == RUN
    assert Path(row["timeseries"]).is_file()
    assert "MIST" not in row["timeseries"]
    assert "Tian" not in row["timeseries"]
    assert "fsLR" not in row["timeseries"]
    assert row["events"] == str(bids.root / f"{FUNC}/{RUN}_events.tsv")
    assert row["tr"] == 1.0
    assert row["bold"] == row["t1w"] == row["mask"] == ""


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (["Schaefer100", "Schaefer200"], "Schaefer1000"),
        (["Schaefer1000", "Schaefer200"], "Schaefer100"),
        (["4S1156Parcels", "Tian"], "4S156Parcels"),
        (["14S156Parcels", "Tian"], "4S156Parcels"),
    ],
)
def test_an_atlas_of_another_size_is_not_taken(bids, derived, there, wanted):
    bids.run(RUN)
    for label in there:
        derived.series(f"{RUN}_seg-{label}")
    with pytest.raises(UserError, match=f"no time series of atlas '{wanted}'; found atlases"):
        build_index(bids.config("timeseries", derived.root, atlas={"name": wanted}))


def test_subjects_without_series_of_the_atlas_are_named(bids, derived, caplog):
    for subject, label in (("01", "Tian"), ("01", "Glasser"), ("02", "Glasser"), ("03", "Tian")):
        bids.run(f"sub-{subject}_task-film")
        derived.series(f"sub-{subject}_task-film_seg-{label}")
    index = build_index(bids.config("timeseries", derived.root, atlas={"name": "Tian"}))
    assert index.runs["subject"].tolist() == ["01", "03"]
    assert "left out, because nothing of them is of atlas 'Tian': sub-02" in caplog.text


def test_an_only_atlas_of_another_size_is_told(bids, derived, caplog):
    bids.run(RUN)
    derived.series(f"{RUN}_seg-Schaefer100")
    build_index(bids.config("timeseries", derived.root, atlas={"name": "Schaefer1000"}))
    assert "is 'Schaefer1000', but all time series are of atlas 'Schaefer100'" in caplog.text


def test_uneven_subjects_sessions_and_rest(bids, derived):
    names = [
        "sub-01_task-film",
        "sub-02_ses-a_task-film_run-1",
        "sub-02_ses-b_task-film_run-1",
        "sub-10_task-film",
    ]
    for name in names:
        bids.run(name)
        derived.series(name)
    bids.run("sub-03_task-film").run("sub-01_task-rest", events=None)
    derived.series("sub-01_task-rest")
    index = build_index(bids.config("timeseries", derived.root))
    assert index.problems == []
    assert index.runs["run_id"].tolist() == names


def dangling(tree):
    return tree.file(f"{FUNC}/{RUN}_timeseries.json", {"RepetitionTime": 1}).link(
        f"{FUNC}/{RUN}_timeseries.tsv", "../../.git/annex/objects/none"
    )


def pointer(tree):
    return tree.series(RUN).file(f"{FUNC}/{RUN}_timeseries.tsv", "/annex/objects/MD5E-s1--0.tsv\n")


def pointer_to_hdf5(tree):
    tree.series(RUN, ".h5", meta={})
    return tree.file(f"{FUNC}/{RUN}_timeseries.h5", "/annex/objects/MD5E-s1--0.h5\n")


def no_repetition_time(tree):
    return tree.series(RUN, meta={})


def two_strategies(tree):
    return tree.series(f"{RUN}_desc-simple").series(f"{RUN}_desc-scrubbing")


def table_and_hdf5(tree):
    return tree.series(RUN).series(RUN, ".h5")


def subject_without_raw(tree):
    return tree.series(RUN).series("sub-99_task-film")


PROBLEMS = [
    (dangling, r"_timeseries.tsv is a link to content that is not here; fetch it .*`datalad get "),
    (pointer, r"_timeseries.tsv is a pointer to content that is not here"),
    (pointer_to_hdf5, r"_timeseries.h5 is a pointer to content that is not here"),
    (no_repetition_time, r"_timeseries.tsv has no RepetitionTime; add the seconds"),
    (two_strategies, r"are the time series of one run: keep one of them, or choose with dataset.filters"),
    (table_and_hdf5, r"_timeseries.h5 and .*_timeseries.tsv are the time series of one run"),
    (subject_without_raw, r"sub-99_task-film has no events.tsv"),
]


@pytest.mark.parametrize(("layout", "sentence"), PROBLEMS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_odd_about_series_is_said_once(bids, derived, layout, sentence):
    bids.file(f"{FUNC}/{RUN}_events.tsv", "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n")
    (problem,) = build_index(bids.config("timeseries", layout(derived).root)).problems
    assert re.search(sentence, problem), problem
    assert "\n" not in problem


def test_images_in_place_of_series_are_told_with_the_folder_meant(bids, derived, new_tree):
    bids.run(RUN)
    derived.series(RUN)
    new_tree(bids.root / "derivatives/other")
    with pytest.raises(UserError, match=f"has no time series .* did you mean {re.escape(str(derived.root))}"):
        build_index(bids.config("timeseries", bids.root))
