"""Odd layouts, made of empty and tiny files: each gives the right plan or the right sentence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from neuroalign.bids.events import PRESENTATION_COLUMNS
from neuroalign.bids.index import RUN_COLUMNS, build_index
from neuroalign.errors import UserError

FILM = "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n"


def plain(tree):
    return tree.run("sub-01_task-film")


def sessions_and_runs(tree):
    return (
        tree.run("sub-01_ses-a_task-film_run-1").run("sub-01_ses-b_task-film_run-1").run("sub-02_task-film")
    )


def uneven_unpadded_runs(tree):
    for run in (1, 2, 10):
        tree.run(f"sub-01_task-film_run-{run}")
    return tree.run("sub-02_task-film_run-1")


def uncompressed(tree):
    return tree.run("sub-01_task-film", image=".nii")


def directions_and_acquisitions(tree):
    return tree.run("sub-01_task-film_acq-mb4_dir-AP_run-1").run("sub-01_task-film_acq-mb4_dir-PA_run-1")


def several_tasks(tree):
    return tree.run("sub-01_task-film").run("sub-01_task-clips").run("sub-02_task-clips")


def rest_without_events(tree):
    return (
        tree.run("sub-01_task-film")
        .run("sub-01_task-rest", events=None)
        .run("sub-01_task-restingstate", events=None)
    )


def events_at_the_root(tree):
    return (
        tree.run("sub-01_task-film_run-1", events=None)
        .run("sub-02_task-film_run-2", events=None)
        .file("task-film_events.tsv", FILM)
    )


def events_with_other_padding(tree):
    return tree.run("sub-01_task-film_run-01", events=None).file(
        "sub-01/func/sub-01_task-film_run-1_events.tsv", FILM
    )


def events_of_all_directions(tree):
    return tree.run("sub-01_task-film_dir-AP", events=None).file(
        "sub-01/func/sub-01_task-film_events.tsv", FILM
    )


def metadata_at_the_root_only(tree):
    return tree.run("sub-01_task-film", meta={}).file("bold.json", {"RepetitionTime": 2.0})


def nested_derivatives(tree):
    plain(tree)
    for where in (
        "derivatives/fmriprep/sub-01/func",
        "sourcedata/sub-09/func",
        "code/sub-09/func",
        "sub-01/func/old",
    ):
        tree.file(f"{where}/sub-09_task-film_desc-preproc_bold.nii.gz").file(
            f"{where}/sub-09_task-film_bold.nii.gz"
        )
    return tree.file("stimuli/sub-09/func/sub-09_task-film_bold.nii.gz")


def stray_files(tree):
    plain(tree).file("sub-01/func/notes.txt").file("sub-01/func/.sub-01_task-film_bold.nii.gz").file(
        "sub-01.zip"
    )
    tree.file("sub-01/func/sub-01_task-film_sbref.nii.gz").file("sub-01/func/sub-01_task-film_physio.tsv.gz")
    tree.file("sub-01/fmap/sub-01_dir-AP_epi.nii.gz").file("sub-01/func/bold.nii.gz").file("participants.tsv")
    return tree.file("sub-emptyroom/meg/sub-emptyroom_task-film_meg.fif").file(
        "sub-01/func/sub-01_bold.nii.gz"
    )


def magnitude_and_phase(tree):
    return (
        tree.run("sub-01_task-film_part-mag", events=FILM)
        .file("sub-01/func/sub-01_task-film_part-phase_bold.nii.gz")
        .file("sub-01/func/sub-01_task-film_events.tsv", FILM)
    )


def echoes(tree):
    for echo, time in ((1, 0.012), (2, 0.028), (3, 0.044)):
        tree.run(f"sub-01_task-film_echo-{echo}", events=None, meta={"RepetitionTime": 2.0, "EchoTime": time})
    return tree.file("sub-01/func/sub-01_task-film_events.tsv", FILM)


def reconstructions(tree):
    return tree.run("sub-01_task-film_rec-norm").run("sub-01_task-film")


def symlinked_images(tree):
    plain(tree)
    image = tree.root / "sub-01/func/sub-01_task-film_bold.nii.gz"
    image.rename(tree.root.parent / "store")
    tree.link("sub-01/func/sub-01_task-film_bold.nii.gz", tree.root.parent / "store")
    return tree


# builder -> run ids in order
PLANS = [
    (plain, ["sub-01_task-film"]),
    (sessions_and_runs, ["sub-01_ses-a_task-film_run-1", "sub-01_ses-b_task-film_run-1", "sub-02_task-film"]),
    (
        uneven_unpadded_runs,
        [
            "sub-01_task-film_run-1",
            "sub-01_task-film_run-2",
            "sub-01_task-film_run-10",
            "sub-02_task-film_run-1",
        ],
    ),
    (uncompressed, ["sub-01_task-film"]),
    (
        directions_and_acquisitions,
        ["sub-01_task-film_acq-mb4_dir-AP_run-1", "sub-01_task-film_acq-mb4_dir-PA_run-1"],
    ),
    (several_tasks, ["sub-01_task-clips", "sub-01_task-film", "sub-02_task-clips"]),
    (rest_without_events, ["sub-01_task-film"]),
    (events_at_the_root, ["sub-01_task-film_run-1", "sub-02_task-film_run-2"]),
    (events_with_other_padding, ["sub-01_task-film_run-01"]),
    (events_of_all_directions, ["sub-01_task-film_dir-AP"]),
    (metadata_at_the_root_only, ["sub-01_task-film"]),
    (nested_derivatives, ["sub-01_task-film"]),
    (stray_files, ["sub-01_task-film"]),
    (magnitude_and_phase, ["sub-01_task-film"]),
    (echoes, ["sub-01_task-film"]),
    (reconstructions, ["sub-01_task-film"]),
    (symlinked_images, ["sub-01_task-film"]),
]


@pytest.mark.parametrize(("layout", "expected"), PLANS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_raw_layout_gives_its_plan(bids, layout, expected):
    index = build_index(layout(bids).config())
    assert index.problems == []
    assert index.runs["run_id"].tolist() == expected
    assert list(index.runs.columns) == list(RUN_COLUMNS)
    assert list(index.presentations.columns) == list(PRESENTATION_COLUMNS)
    assert set(index.presentations["run_id"]) == set(expected)
    assert set(index.runs["tr"]) == {2.0}
    for run in index.runs.to_dict("records"):
        for column in ("bold", "t1w", "events"):
            assert Path(run[column]).exists(), column
            assert Path(run[column]).is_relative_to(bids.root)
        assert f"sub-{run['subject']}" in Path(run["t1w"]).name
    assert set(index.presentations["stimulus_file"]) == {str(bids.root / "stimuli" / "film.mp4")}


def test_the_echo_nearest_thirty_milliseconds_stands_for_the_run(bids):
    assert build_index(echoes(bids).config()).runs["bold"][0].endswith("task-film_echo-2_bold.nii.gz")


def test_only_magnitude_is_used(bids):
    assert build_index(magnitude_and_phase(bids).config()).runs["bold"][0].endswith("part-mag_bold.nii.gz")


def test_the_anatomy_is_of_the_same_session_else_of_any(bids):
    sessions_and_runs(bids)
    (bids.root / "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz").unlink()
    names = [Path(p).name for p in build_index(bids.config()).runs["t1w"]]
    assert names == ["sub-01_ses-a_T1w.nii.gz", "sub-01_ses-a_T1w.nii.gz", "sub-02_T1w.nii.gz"]


def test_the_plainest_anatomy_is_preferred(bids):
    plain(bids).file("sub-01/anat/sub-01_acq-a_T1w.nii.gz").file("sub-01/anat/sub-01_run-2_T1w.nii.gz")
    assert build_index(bids.config()).runs["t1w"][0].endswith("anat/sub-01_T1w.nii.gz")


def no_subjects(tree):
    return tree.file("participants.tsv", "participant_id\n")


def dangling(tree):
    plain(tree)
    (tree.root / "sub-01/func/sub-01_task-film_bold.nii.gz").unlink()
    return tree.link("sub-01/func/sub-01_task-film_bold.nii.gz", "../../.git/annex/objects/none")


def sidecar_only(tree):
    return tree.run("sub-01_task-film", image=None).run("sub-02_task-film")


def no_anatomy(tree):
    plain(tree)
    (tree.root / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    return tree


def no_events(tree):
    return tree.run("sub-01_task-film").run("sub-01_task-localizer", events=None)


def no_stim_file(tree):
    bare = "onset\tduration\n0\t3\n"
    return (
        tree.run("sub-01_task-film")
        .run("sub-01_task-loc_run-1", events=bare)
        .run("sub-01_task-loc_run-2", events=bare)
    )


def no_repetition_time(tree):
    return tree.run("sub-01_task-film", meta={})


def repetition_time_in_ms(tree):
    return tree.run("sub-01_task-film", meta={"RepetitionTime": 1350})


def both_compressions(tree):
    return plain(tree).file("sub-01/func/sub-01_task-film_bold.nii")


def both_paddings(tree):
    return tree.run("sub-01_task-film_run-1").run("sub-01_task-film_run-01")


def hyphen_in_label(tree):
    return tree.run("sub-01_task-my-film")


def empty_events(tree):
    return tree.run("sub-01_task-film").run("sub-02_task-film", events="")


def events_without_stimuli(tree):
    return tree.run("sub-01_task-film", events="onset\tduration\tstim_file\n0\t3\tn/a\n")


def escaping_stimulus(tree):
    return tree.run("sub-01_task-film").run(
        "sub-02_task-film", events="onset\tduration\tstim_file\n0\t3\t../x.mp4\n"
    )


def broken_sidecar(tree):
    return tree.run("sub-01_task-film").run("sub-02_task-film").file("task-film_bold.json", "{")


PROBLEMS = [
    (dangling, [r"bold.nii.gz is a link to content that is not here; fetch it .*`datalad get "]),
    (sidecar_only, [r"sub-01_task-film: .*_bold.nii.gz is absent, only its sidecar is there; download"]),
    (no_anatomy, [r"sub-01 has no T1w image .* dataset.filters.subject"]),
    (no_events, [r"sub-01_task-localizer has no events.tsv; .* leave task 'localizer' out"]),
    (
        no_stim_file,
        [
            r"no column 'stim_file' \(found: onset, duration\).*same holds for sub-01_task-loc_run-2\. Or leave"
        ],
    ),
    (no_repetition_time, [r"has no RepetitionTime; add the seconds"]),
    (repetition_time_in_ms, [r"is 1350: BIDS counts in seconds"]),
    (
        both_compressions,
        [r"bold.nii and .*bold.nii.gz are the BOLD image of one run|bold.nii.gz and .*bold.nii are"],
    ),
    (both_paddings, [r"run-01_bold.nii.gz and .*run-1_bold.nii.gz are the BOLD image of one run"]),
    (hyphen_in_label, [r"the label 'my-film' of 'task' may hold letters and digits only"]),
    (empty_events, [r"sub-02_task-film_events.tsv is not a readable TSV"]),
    (events_without_stimuli, [r"No run shows a stimulus"]),
    (escaping_stimulus, [r"stim_file '\.\./x.mp4' points outside"]),
    (broken_sidecar, [r"task-film_bold.json is not valid JSON"]),
]


@pytest.mark.parametrize(("layout", "expected"), PROBLEMS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_wrong_with_a_run_is_a_sentence_and_no_crash(bids, layout, expected):
    index = build_index(layout(bids).config())
    assert len(index.problems) == len(expected), index.problems
    for problem, pattern in zip(index.problems, expected, strict=True):
        assert re.search(pattern, problem), problem
        assert "\n" not in problem


def test_a_missing_or_empty_or_foreign_folder_is_one_sentence(tmp_path, bids):
    config = plain(bids).config()
    for name, sentence in {
        "absent": "does not exist; set dataset.bids_dir",
        "file": "is not a folder; set dataset.bids_dir",
        "empty": "is empty; set dataset.bids_dir",
        "foreign": "has no dataset_description.json",
    }.items():
        folder = tmp_path / name
        if name == "file":
            folder.touch()
        elif name != "absent":
            folder.mkdir()
        if name == "foreign":
            (folder / "x").touch()
        dataset = config.dataset.model_copy(update={"bids_dir": str(folder)})
        with pytest.raises(UserError, match=f"{re.escape(str(folder))} {sentence}"):
            build_index(config.model_copy(update={"dataset": dataset}))
    dataset = config.dataset.model_copy(update={"bids_dir": str(bids.root.parent)})
    with pytest.raises(UserError, match=f"did you mean {re.escape(str(bids.root))}"):
        build_index(config.model_copy(update={"dataset": dataset}))


def test_a_dataset_without_bold_is_one_sentence(bids):
    with pytest.raises(UserError, match="has no BOLD run"):
        build_index(no_subjects(bids).config())


# --- filters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 5),
        ({"subject": "01"}, 3),
        ({"subject": "sub-01"}, 3),
        ({"subject": 1}, 3),
        ({"session": ["ses-a", "b"]}, 3),
        ({"session": "a"}, 2),
        ({"task": "film"}, 4),
        ({"task": ["task-film", "rest"]}, 5),
        ({"run": 1}, 3),
        ({"run": ["01", "run-2"]}, 4),
        ({"subject": "02", "run": "1"}, 1),
    ],
)
def test_filters_take_labels_with_or_without_prefix(bids, filters, expected):
    bids.run("sub-01_ses-a_task-film_run-01").run("sub-01_ses-a_task-film_run-02").run(
        "sub-01_ses-b_task-film_run-1"
    )
    bids.run("sub-02_task-film_run-1").run("sub-02_task-rest")
    assert len(build_index(bids.config(**filters)).runs) == expected


def test_a_number_names_a_padded_label_only_if_no_label_is_that_number(bids):
    bids.run("sub-1_task-film").run("sub-01_task-film")
    assert build_index(bids.config(subject=1)).runs["subject"].tolist() == ["1"]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"task": "flim"}, "no run matches task 'flim'; found tasks: film, rest; did you mean 'film'?"),
        ({"task": ["film", "moive"]}, "no run matches task 'moive'; found tasks: film, rest"),
        ({"subject": "sub-03"}, "no run matches subject '03'; found subjects: 01, 02; did you mean '02'?"),
        ({"session": "1"}, "no run matches session '1'; found sessions: none"),
        ({"run": 3}, "no run matches run '3'; found runs: 1"),
        ({"subject": "02", "task": "rest"}, "no run matches the filters together (subject 02; task rest)"),
    ],
)
def test_a_filter_that_matches_nothing_names_what_there_is(bids, filters, sentence):
    bids.run("sub-01_task-film_run-1").run("sub-01_task-rest").run("sub-02_task-film_run-1")
    with pytest.raises(UserError, match=re.escape(sentence)):
        build_index(bids.config(**filters))


# --- derivatives ----------------------------------------------------------------------------------------------


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


# --- real data ------------------------------------------------------------------------------------------------


def _config(root: Path, source: str, derivatives: str):
    from neuroalign.config import parse_config

    return parse_config(
        {
            "dataset": {"bids_dir": str(root), "derivatives": str(root / derivatives)},
            "fmri": {"source": source, "atlas": {"image": "atlas.nii.gz"}},
        }
    )


def test_movie_fmri_indexes_as_it_is(shared_data):
    index = build_index(_config(shared_data / "movie_fmri", "timeseries", "derivatives/xcp_d"))
    assert index.problems == []
    assert len(index.runs) == 28
    assert index.runs.groupby("task")["subject"].nunique().to_dict() == {"documentary": 14, "sitcomep1": 14}
    lengths = index.presentations.groupby("stimulus")["duration"].agg(["min", "max"])
    assert lengths.to_dict("index") == {
        "documentary": {"min": 1281.0, "max": 1281.0},
        "sitcomep1": {"min": 1486.0, "max": 1486.0},
    }


@pytest.mark.parametrize(("source", "runs"), [("raw", 13), ("fmriprep", 3)])
def test_boldmoments_indexes_as_it_is_and_reports_every_absent_image_once(shared_data, source, runs):
    root = shared_data / "boldmoments"
    index = build_index(_config(root, source, "derivatives/fmriprep"))
    assert len(index.runs) == runs
    absent = [p for p in index.problems if "is absent" in p]
    assert len(absent) == len(set(absent)) == runs
    assert all("datalad get" in p for p in absent)
    assert index.problems[runs:] == (
        [] if source == "fmriprep" else [p for p in index.problems if "T1w" in p]
    )
    np.testing.assert_array_equal(index.runs["tr"], 1.75)
    # One row per video clip: the events tables hold the oddballs besides.
    rows = sum(
        line.split("\t")[2] != "n/a"
        for e in index.runs["events"]
        for line in Path(e).read_text().splitlines()[1:]
    )
    assert len(index.presentations) == rows
    assert index.presentations["stimulus"].str.match(r"^(train|test)__\d{4}$").all()
    assert (index.presentations["duration"] == 3.0).all()
