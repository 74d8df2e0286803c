"""Odd layouts, made of empty and tiny files: each gives the right plan or the right sentence."""

from __future__ import annotations

import re
from pathlib import Path

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


def the_same_fault_in_many_tables(tree):
    for subject in range(1, 5):
        row = f"0\t3\t../{subject}.mp4" if subject < 4 else "soon\t3\ta.mp4"
        tree.run(f"sub-0{subject}_task-film", events=f"onset\tduration\tstim_file\n{row}\n")
    return tree


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
            r"no column 'stim_file' \(found: onset, duration\).*same holds for sub-01_task-loc_run-2\. Or declare"
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
    (
        the_same_fault_in_many_tables,
        [
            r"/sub-01_task-film_events.tsv: stim_file '../1.mp4' points .* are read; the same holds for "
            r"\S*/sub-02_task-film_events.tsv, \S*/sub-03_task-film_events.tsv\.$",
            r"sub-04_task-film_events.tsv: onset is 'soon' in line 2",
        ],
    ),
    (broken_sidecar, [r"task-film_bold.json is not valid JSON"]),
]


def test_a_run_whose_events_show_nothing_is_left_out_and_told(bids, caplog):
    caplog.set_level("INFO")
    events_without_stimuli(bids).run("sub-02_task-film")
    index = build_index(bids.config())
    assert index.problems == []
    assert index.runs["run_id"].tolist() == ["sub-02_task-film"]
    assert "left out, because their events name no stimulus: sub-01_task-film" in caplog.text


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
