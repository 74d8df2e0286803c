"""More odd layouts of raw data: each gives the right plan or the right sentence."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuroalign.bids.cache import load_index
from neuroalign.bids.index import build_index
from neuroalign.errors import UserError

FILM = "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n"
RUN = "sub-01_task-film"
BOLD = f"sub-01/func/{RUN}_bold.nii.gz"
T1W = "sub-01/anat/sub-01_T1w.nii.gz"
POINTER = "/annex/objects/MD5E-s123--0123456789abcdef.nii.gz\n"


def plain(tree):
    return tree.run(RUN)


def subject_behind_a_link(tree):
    plain(tree)
    (tree.root / "sub-01").rename(tree.root.parent / "store")
    return tree.link("sub-01", tree.root.parent / "store")


def links_in_circles(tree):
    return plain(tree).link("sub-01/ses-1", "..").link("sub-01/func/again", "..").link("sub-02", "sub-01/..")


def folders_of_other_kinds(tree):
    plain(tree)
    for name in ("meg/sub-01_task-film_meg.fif", "eeg/sub-01_task-film_eeg.set", "dwi/sub-01_dwi.nii.gz"):
        tree.file(f"sub-01/{name}")
    tree.file("sub-01/perf/sub-01_asl.nii.gz").file("sub-01/fmap/sub-01_task-film_bold.nii.gz")
    return tree.file("sub-01/sub-01_scans.tsv", "filename\n").file("sub-01/micr/sub-01_sample-a_bold.nii.gz")


def folders_beside(tree):
    plain(tree)
    for folder in ("phenotype", "sourcedata", "code", ".git/annex", ".datalad", ".heudiconv", "tmp_dcm2bids"):
        tree.file(f"{folder}/sub-09/func/sub-09_task-film_bold.nii.gz")
    return tree.file("phenotype/measure.tsv", "participant_id\n")


def bidsignore(tree):
    # As for fMRIPrep and pybids: it silences the validator and hides nothing.
    return plain(tree).file(".bidsignore", "sub-01/**\n*_bold.nii.gz\n")


def physio_and_single_bands(tree):
    plain(tree).file(f"sub-01/func/{RUN}_sbref.nii.gz").file(f"sub-01/func/{RUN}_sbref.nii")
    tree.file(f"sub-01/func/{RUN}_recording-cardiac_physio.tsv.gz").file(f"sub-01/func/{RUN}_stim.tsv.gz")
    return tree.file(f"sub-01/func/{RUN}_physio.json", {}).file(f"sub-01/func/{RUN}_cbv.nii.gz")


def empty_subject(tree):
    plain(tree)
    (tree.root / "sub-02").mkdir()
    (tree.root / "sub-03/func").mkdir(parents=True)
    (tree.root / "sub-04").touch()
    return tree


def absent_participants(tree):
    return plain(tree).file("participants.tsv", "participant_id\nsub-01\nsub-02\nsub-77\n")


def derived_files_in_the_raw_tree(tree):
    plain(tree).file(f"sub-01/func/{RUN}_desc-smooth_bold.nii.gz").file(
        f"sub-01/func/{RUN}_space-T1w_bold.nii.gz"
    )
    return tree.file("sub-01/anat/sub-01_desc-defaced_T1w.nii.gz")


def compressions_mixed(tree):
    return tree.run(f"{RUN}_run-1", image=".nii").run(f"{RUN}_run-2", image=".nii.gz")


def sessions_optional(tree):
    return tree.run("sub-01_ses-pre_task-film").run("sub-01_task-film").run("sub-02_ses-01_task-film_run-3")


def labels_in_other_letters(tree):
    return tree.run("sub-A_task-film").run("sub-a_task-Film")


def events_of_a_subject_and_a_session(tree):
    tree.run("sub-01_ses-1_task-film", events=None).file("sub-01/sub-01_task-film_events.tsv", FILM)
    tree.run("sub-02_ses-1_task-film", events=None).file(
        "sub-02/ses-1/sub-02_ses-1_task-film_events.tsv", FILM
    )
    return tree.file("task-film_events.tsv", FILM.replace("film.mp4", "wrong.mp4"))


def complex_echoes(tree):
    for echo in (1, 2):
        for part in ("mag", "phase"):
            tree.run(f"{RUN}_echo-{echo}_part-{part}", events=None)
    return tree.file(f"sub-01/func/{RUN}_events.tsv", FILM)


def reversed_blips(tree):
    return (
        tree.run(f"{RUN}_dir-AP_run-1", events=None)
        .run(f"{RUN}_dir-PA_run-1", events=None)
        .file("task-film_events.tsv", FILM)
    )


PLANS = [
    (subject_behind_a_link, [RUN]),
    (links_in_circles, [RUN]),
    (folders_of_other_kinds, [RUN]),
    (folders_beside, [RUN]),
    (bidsignore, [RUN]),
    (physio_and_single_bands, [RUN]),
    (empty_subject, [RUN]),
    (absent_participants, [RUN]),
    (derived_files_in_the_raw_tree, [RUN]),
    (compressions_mixed, [f"{RUN}_run-1", f"{RUN}_run-2"]),
    (sessions_optional, ["sub-01_ses-pre_task-film", "sub-01_task-film", "sub-02_ses-01_task-film_run-3"]),
    (labels_in_other_letters, ["sub-A_task-film", "sub-a_task-Film"]),
    (events_of_a_subject_and_a_session, ["sub-01_ses-1_task-film", "sub-02_ses-1_task-film"]),
    (complex_echoes, [RUN]),
    (reversed_blips, [f"{RUN}_dir-AP_run-1", f"{RUN}_dir-PA_run-1"]),
]


# Every layout lies in one of these places, every place holds several.
PLACES = ("bids", "mes données/été 1", "脳", "link")
CASES = [(*plan, PLACES[number % len(PLACES)]) for number, plan in enumerate(PLANS)]


@pytest.mark.parametrize(("layout", "expected", "above"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_an_odd_raw_layout_gives_its_plan_wherever_it_lies(tmp_path, new_tree, layout, expected, above):
    root = tmp_path / ("bids" if above == "link" else above)
    tree = layout(new_tree(root))
    if above == "link":
        (tmp_path / "link").symlink_to(root)
        tree.root = tmp_path / "link"
    index = load_index(tree.config(), tmp_path / "cache")
    assert index.problems == []
    assert index.runs["run_id"].tolist() == expected
    assert set(index.presentations["stimulus"]) == {"film"}
    for run in index.runs.to_dict("records"):
        for column in ("bold", "t1w", "events"):
            assert Path(run[column]).is_file()
            # Paths are as the configuration gives them: links are not followed.
            assert Path(run[column]).is_relative_to(tree.root)
        assert "phase" not in run["bold"]


def test_anatomies_with_and_without_contrast_run_and_acquisition(bids):
    bids.run("sub-01_task-film").run("sub-02_ses-2_task-film")
    (bids.root / T1W).unlink()
    shutil.rmtree(bids.root / "sub-02/ses-2/anat")
    for name in ("ce-gad", "run-10", "run-2", "acq-mp2rage_run-1", "part-phase"):
        bids.file(f"sub-01/anat/sub-01_{name}_T1w.nii.gz")
    bids.file("sub-02/ses-1/anat/sub-02_ses-1_acq-x_T1w.nii").file("sub-02/ses-1/anat/sub-02_ses-1_T2w.nii")
    index = build_index(bids.config())
    assert index.problems == []
    assert [Path(p).name for p in index.runs["t1w"]] == [
        "sub-01_run-2_T1w.nii.gz",
        "sub-02_ses-1_acq-x_T1w.nii",
    ]


def test_the_nearest_sidecar_wins_key_by_key(bids):
    bids.run("sub-01_ses-1_task-film", meta={}).run("sub-01_ses-2_task-film", meta={"RepetitionTime": 0.5})
    bids.run("sub-02_ses-1_task-film", meta={}).run("sub-03_ses-1_task-film", meta={"TaskName": "x"})
    bids.file("bold.json", {"RepetitionTime": 4}).file("task-film_bold.json", {"RepetitionTime": 3})
    bids.file("sub-01/sub-01_bold.json", {"RepetitionTime": 2})
    bids.file("sub-01/ses-1/sub-01_ses-1_bold.json", {"RepetitionTime": 1})
    bids.file("sub-02/sub-02_task-film_bold.json", {"EchoTime": 0.03})
    assert build_index(bids.config()).runs["tr"].tolist() == [1, 0.5, 3, 3]


def test_events_of_all_kinds_in_one_dataset(bids):
    rows = {
        1: "0\t3\tclips/a.mp4\tn/a\ttrain\n4\t3\tstimuli/clips/b.mp4\tn/a\ttrain\n8\t3\tn/a\tn/a\toddball\n",
        2: "5\t1280\tfilms/long.mp4\tn/a\tn/a\n",
        3: "0\t60\tfilms/long.mp4\t60\tn/a\n70\tn/a\tfilms/long.mp4\t120\tn/a\n",
        4: "".join(f"{i * 0.04:.2f}\t0.04\tframes/x.mp4\t{i * 0.04:.2f}\tn/a\n" for i in range(100)),
    }
    for run, text in rows.items():
        bids.run(f"{RUN}_run-{run}", events=f"onset\tduration\tstim_file\tstim_offset\ttrial_type\n{text}")
    index = build_index(bids.config())
    assert index.problems == []
    table = index.presentations
    assert table.groupby("run").size().to_dict() == {"1": 2, "2": 1, "3": 2, "4": 1}
    assert table["stimulus"].tolist() == [
        *("clips__a", "clips__b", "films__long", "films__long", "films__long", "frames__x")
    ]
    np.testing.assert_allclose(table["duration"], [3, 3, 1280, 60, np.nan, 4.0], rtol=1e-6)
    np.testing.assert_allclose(table["offset"], [0, 0, 0, 60, 120, 0])


def test_compressed_events_are_read(bids):
    import gzip

    bids.run(RUN, events=None)
    (bids.root / f"sub-01/func/{RUN}_events.tsv.gz").write_bytes(gzip.compress(FILM.encode()))
    assert build_index(bids.config()).presentations["stimulus"].tolist() == ["film"]


# --- sentences ------------------------------------------------------------------------------------------------


def pointer(tree):
    return plain(tree).file(BOLD, POINTER)


def lfs_pointer(tree):
    return plain(tree).file(BOLD, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def dangling_anatomy_of_two_runs(tree):
    tree.run(f"{RUN}_run-1").run(f"{RUN}_run-2")
    (tree.root / T1W).unlink()
    return tree.link(T1W, "../../.git/annex/objects/none")


def anatomy_by_its_sidecar(tree):
    plain(tree).file("sub-01/anat/sub-01_T1w.json", {})
    (tree.root / T1W).unlink()
    return tree


def dangling_events(tree):
    return (
        tree.run(RUN, events=None)
        .run("sub-02_task-film")
        .link(f"sub-01/func/{RUN}_events.tsv", "../../.git/annex/objects/none")
    )


def suffix_in_capitals(tree):
    return plain(tree).file("sub-01/func/sub-01_task-clips_BOLD.nii.gz")


def extension_in_capitals(tree):
    return plain(tree).file("sub-01/func/sub-01_task-clips_bold.NII.GZ")


def anatomy_in_small_letters(tree):
    plain(tree).file("sub-01/anat/sub-01_t1w.nii.gz")
    (tree.root / T1W).unlink()
    return tree


def equal_broken_events(tree):
    broken = "onset\tduration\tstim_file\nsoon\t3\ta.mp4\n"
    return tree.run(RUN, events=broken).run("sub-02_task-film", events=broken)


def not_a_number(tree):
    return tree.run(RUN, meta={"RepetitionTime": "2 s"})


PROBLEMS = [
    (pointer, [rf"{RUN}: .*_bold.nii.gz is a pointer to content that is not here; fetch it .*`datalad get "]),
    (lfs_pointer, [r"_bold.nii.gz is a pointer to content"]),
    (dangling_anatomy_of_two_runs, [r"sub-01_T1w.nii.gz is a link to content that is not here"]),
    (anatomy_by_its_sidecar, [r"sub-01_T1w.nii.gz is absent, only its sidecar is there; download"]),
    (dangling_events, [r"_events.tsv is a link to content that is not here; fetch it"]),
    (suffix_in_capitals, [r"task-clips_BOLD.nii.gz is not named as BIDS has it.* end in '_bold.nii.gz'"]),
    (extension_in_capitals, [r"task-clips_bold.NII.GZ is not named .* end in '_bold.nii.gz'"]),
    (anatomy_in_small_letters, [r"sub-01 has no T1w image", r"sub-01_t1w.nii.gz .* end in '_T1w.nii.gz'"]),
    (
        equal_broken_events,
        [
            r"sub-01_.*_events.tsv: onset is 'soon' in line 2.*; the same holds for \S*/sub-02_.*_events.tsv\.$"
        ],
    ),
    (not_a_number, [r"RepetitionTime is '2 s'; it must be positive seconds"]),
]


@pytest.mark.parametrize(("layout", "expected"), PROBLEMS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_odd_is_said_once_in_a_sentence(bids, layout, expected):
    index = build_index(layout(bids).config())
    assert len(index.problems) == len(expected), index.problems
    for pattern in expected:
        (problem,) = (p for p in index.problems if re.search(pattern, p))
        assert "\n" not in problem


def test_only_misnamed_images_say_so(bids):
    bids.file("sub-01/func/sub-01_task-film_BOLD.nii.gz")
    with pytest.raises(UserError, match=r"has no BOLD run .*_BOLD\.nii\.gz is not named as BIDS has it"):
        build_index(bids.config())


def test_an_image_without_a_byte_is_planned_and_told_by_validate(bids):
    from neuroalign.validate import validate

    plain(bids)
    assert build_index(bids.config()).problems == []
    problems = [p for p in validate(bids.config()) if str(bids.root / BOLD) in p]
    assert len(problems) == 1
    assert "Empty file" in problems[0]
    assert problems[0].endswith("copy or download it again.")


def test_problems_of_filtered_out_runs_are_not_told(bids):
    bids.run("sub-01_task-film").run("sub-02_task-film").file("sub-02/func/sub-02_task-film_bold.nii")
    suffix_in_capitals(bids)
    assert len(build_index(bids.config()).problems) == 2
    assert build_index(bids.config(subject="02")).problems[0].startswith(str(bids.root / "sub-02"))
    assert len(build_index(bids.config(subject="01")).problems) == 1


def test_a_folder_that_may_not_be_read_is_one_sentence(bids, monkeypatch):
    plain(bids)
    listing = os.scandir

    def refused(folder):
        if str(folder).endswith("sub-01/func"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"sub-01/func may not be read by this user"):
        build_index(bids.config())


@pytest.mark.parametrize("name", ["sub-01/func/sub-01_task-film_events.tsv", "task-film_bold.json"])
@pytest.mark.parametrize("left", ["link", "pointer"])
def test_tables_and_sidecars_without_content_are_told_how_to_fetch(bids, name, left):
    """DataLad clones leave links; unlocked files and Git LFS leave pointers."""
    bids.run("sub-01_task-film", meta={"EchoTime": 0.03})
    bids.file("task-film_bold.json", {"RepetitionTime": 2.0})
    path = bids.root / name
    path.unlink()
    if left == "link":
        bids.link(name, "../.git/annex/objects/none")
    else:
        bids.file(name, "/annex/objects/MD5E-s1--0.tsv\n")
    (problem,) = build_index(bids.config()).problems
    assert f"{path} is a {left} to content that is not here; fetch it" in problem
    assert f"datalad get {path}" in problem
