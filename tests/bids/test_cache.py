"""The cached index is quick, complete, outside the dataset, and never stale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroalign.bids import cache, records, sources
from neuroalign.bids.cache import load_index
from neuroalign.bids.fmriprep import Fmriprep
from neuroalign.bids.index import build_index
from neuroalign.bids.raw import Raw
from neuroalign.bids.scan import find_files
from neuroalign.errors import UserError

FILM = "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n"
OTHER = "onset\tduration\tstim_file\n0\t10\tfast.mp4\n"


@pytest.fixture
def walks(monkeypatch):
    """Subjects that pybids walked, one list for each time that a cached index was asked for."""
    calls = []
    find = sources.find_files

    def counted(root, subjects, scope):
        calls.append(list(subjects))
        return find(root, subjects, scope)

    monkeypatch.setattr(sources, "find_files", counted)
    return calls


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.runs, other.runs)
    pd.testing.assert_frame_equal(one.presentations, other.presentations)
    assert one.problems == other.problems


def test_a_second_call_reads_what_the_first_one_built(bids, tmp_path, walks):
    bids.run("sub-01_ses-01_task-film_run-01").run(
        "sub-02_task-film", meta={}, events=FILM.replace("10", "n/a")
    )
    config = bids.config()
    first = load_index(config, tmp_path / "cache")
    assert_same(first, load_index(config, tmp_path / "cache"))
    assert walks == [["sub-01", "sub-02"], []]
    assert_same(first, build_index(config))
    assert len(first.problems) == 1


def test_nothing_is_written_in_the_dataset_or_left_half_written(bids, tmp_path):
    bids.run("sub-01_task-film")
    before = sorted(p for p in bids.root.rglob("*"))
    load_index(bids.config(), tmp_path / "cache")
    assert sorted(p for p in bids.root.rglob("*")) == before
    assert [p.name.split("-")[0] for p in (tmp_path / "cache").iterdir()] == ["index"]
    with pytest.raises(UserError, match="inside the BIDS dataset"):
        load_index(bids.config(), bids.root / "cache")


# What is done, and which subjects are walked again.
CHANGES = {
    "a subject more": (lambda t: t.run("sub-03_task-film"), ["sub-03"]),
    "a run more": (lambda t: t.run("sub-01_task-film_run-2"), ["sub-01"]),
    "a run less": (lambda t: (t.root / "sub-02/func/sub-02_task-film_bold.nii.gz").unlink(), ["sub-02"]),
    "a subject less": (lambda t: shutil.rmtree(t.root / "sub-02"), []),
    "events edited, equal length": (
        lambda t: t.file("sub-01/func/sub-01_task-film_events.tsv", OTHER),
        ["sub-01"],
    ),
    "a sidecar edited": (
        lambda t: t.file("sub-01/func/sub-01_task-film_bold.json", {"RepetitionTime": 1.0}),
        ["sub-01"],
    ),
    "a sidecar of a subject": (
        lambda t: t.file("sub-02/sub-02_bold.json", {"RepetitionTime": 1.0}),
        ["sub-02"],
    ),
    "a sidecar at the root": (lambda t: t.file("task-film_bold.json", {"RepetitionTime": 1}), []),
    "the plainest sidecar at the root": (lambda t: t.file("bold.json", {"RepetitionTime": 1}), []),
    "an anatomy less": (lambda t: (t.root / "sub-02/anat/sub-02_T1w.nii.gz").unlink(), ["sub-02"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_and_only_what_changed_is_walked(bids, tmp_path, walks, change):
    act, walked = CHANGES[change]
    bids.run("sub-01_task-film", events=FILM).run("sub-02_task-film", events=FILM, meta={})
    before = load_index(bids.config(), tmp_path / "cache")
    act(bids)
    after = load_index(bids.config(), tmp_path / "cache")
    assert walks == [["sub-01", "sub-02"], walked]
    assert_same(after, build_index(bids.config()))
    with pytest.raises(AssertionError):
        assert_same(before, after)


def test_events_at_the_root_are_read_again_without_a_walk(bids, tmp_path, walks):
    bids.run("sub-01_task-film", events=None).run("sub-02_task-film", events=FILM)
    bids.file("task-film_events.tsv", FILM)
    load_index(bids.config(), tmp_path / "cache")
    bids.file("task-film_events.tsv", OTHER)
    shown = load_index(bids.config(), tmp_path / "cache").presentations
    assert shown["stimulus"].tolist() == ["fast", "film"]
    assert walks[1] == []


def test_edits_in_quick_succession_are_all_seen(bids, tmp_path):
    bids.run("sub-01_task-film", events=FILM)
    for round_ in range(10):
        text = FILM if round_ % 2 else OTHER
        bids.file("sub-01/func/sub-01_task-film_events.tsv", text)
        shown = load_index(bids.config(), tmp_path / "cache").presentations
        assert shown["stimulus"].tolist() == ["film" if round_ % 2 else "fast"]


def test_an_edit_that_restores_the_old_time_is_seen(bids, tmp_path):
    bids.run("sub-01_task-film", events=FILM)
    path = bids.root / "sub-01/func/sub-01_task-film_events.tsv"
    load_index(bids.config(), tmp_path / "cache")
    status = path.stat()
    time.sleep(0.05)
    path.write_text(OTHER)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_index(bids.config(), tmp_path / "cache").presentations["stimulus"].tolist() == ["fast"]


def test_content_that_arrives_behind_a_dangling_link_is_seen(bids, tmp_path):
    bids.run("sub-01_task-film", image=None).link(
        "sub-01/func/sub-01_task-film_bold.nii.gz", tmp_path / "object"
    )
    assert "link to content" in load_index(bids.config(), tmp_path / "cache").problems[0]
    (tmp_path / "object").touch()
    assert load_index(bids.config(), tmp_path / "cache").problems == []


def test_irrelevant_changes_rebuild_nothing(bids, tmp_path, walks):
    bids.run("sub-01_task-film")
    load_index(bids.config(), tmp_path / "cache")
    bids.file("README", "x").file("derivatives/x/sub-01/func/sub-01_task-film_bold.nii.gz").file(
        "stimuli/film.mp4"
    )
    written = [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()]
    load_index(bids.config(), tmp_path / "cache")
    assert walks[1:] == [[]]
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()] == written


def test_changes_of_the_derivatives_are_seen(bids, derived, tmp_path):
    bids.run("sub-01_task-film").run("sub-02_task-film")
    derived.preprocessed("sub-01_task-film")
    config = bids.config("fmriprep", derived.root)
    assert len(load_index(config, tmp_path / "cache").runs) == 1
    derived.preprocessed("sub-02_task-film")
    assert len(load_index(config, tmp_path / "cache").runs) == 2


def test_a_new_atlas_of_one_subject_changes_what_all_share(bids, derived, tmp_path, walks):
    for subject in ("01", "02"):
        bids.run(f"sub-{subject}_task-film")
        derived.series(f"sub-{subject}_task-film_atlas-Glasser")
    config = bids.config("timeseries", derived.root, atlas={"name": "Tian"})
    assert len(load_index(config, tmp_path / "cache").runs) == 2
    derived.series("sub-02_task-film_atlas-Tian")
    assert load_index(config, tmp_path / "cache").runs["subject"].tolist() == ["02"]
    assert walks == [["sub-01", "sub-02"], ["sub-02"]]


def test_configurations_do_not_share_an_index_and_going_back_rebuilds_nothing(bids, derived, tmp_path, walks):
    for subject in ("01", "02"):
        bids.run(f"sub-{subject}_task-film")
        derived.preprocessed(f"sub-{subject}_task-film").preprocessed(f"sub-{subject}_task-film", "T1w")
    for _ in range(2):
        for space in ("MNI152NLin2009cAsym", "T1w"):
            index = load_index(bids.config("fmriprep", derived.root, space=space), tmp_path / "cache")
            assert index.runs["bold"].str.contains(f"space-{space}").tolist() == [True, True]
    assert [len(walk) for walk in walks] == [2, 2, 0, 0]


def test_filters_and_declared_films_walk_nothing_again(bids, tmp_path, walks):
    bids.run("sub-01_task-film").run("sub-02_task-film", events=None)
    for config, runs in (
        (bids.config(), 2),
        (bids.config(subject="01"), 1),
        (bids.config(presentations=[{"stimulus": "a.mp4"}]), 2),
    ):
        index = load_index(config, tmp_path / "cache")
        assert_same(index, build_index(config))
        assert len(index.runs) == runs
    assert [len(walk) for walk in walks[::2]] == [2, 0, 0]


def test_two_datasets_with_equal_content_do_not_share_an_index(bids, tmp_path):
    bids.run("sub-01_task-film")
    copy = tmp_path / "copy"
    shutil.copytree(bids.root, copy)
    load_index(bids.config(), tmp_path / "cache")
    config = bids.config()
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"bids_dir": str(copy)})})
    assert load_index(config, tmp_path / "cache").runs["bold"][0].startswith(str(copy))


def test_a_damaged_cache_is_built_again(bids, tmp_path):
    bids.run("sub-01_task-film")
    first = load_index(bids.config(), tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        content = path.read_bytes()
        for damage in (b"", b"{", content[: len(content) // 2]):
            path.write_bytes(damage)
            assert_same(load_index(bids.config(), tmp_path / "cache"), first)


def test_old_indices_are_removed(bids, tmp_path):
    bids.run("sub-01_task-film")
    for atlas in range(cache._KEPT + 3):
        load_index(bids.config(atlas={"name": f"atlas{atlas}"}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == cache._KEPT


def test_a_dataset_that_vanished_is_named(bids, tmp_path):
    bids.run("sub-01_task-film")
    config = bids.config()
    load_index(config, tmp_path / "cache")
    shutil.rmtree(bids.root)
    with pytest.raises(UserError, match="does not exist"):
        load_index(config, tmp_path / "cache")


def test_reading_a_cached_index_imports_no_pybids():
    script = (
        "import sys, neuroalign.bids.cache; "
        "heavy = {'bids', 'nilearn', 'torch', 'nibabel', 'ants', 'matplotlib'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


SPACED = "_space-MNI152NLin2009cAsym_desc-preproc_bold"


def _edits(bids, derived):
    """Edits of a dataset with derivatives: each takes a subject, a run and a content, and may be repeated.

    Contents of one kind have one length, so that only times tell of an edit.
    """
    tables = (FILM, OTHER, FILM.replace("mp4", "avi"), FILM.replace("film", "Film"))

    def stem(s, r):
        return f"sub-{s}/func/sub-{s}_task-film_run-{r}"

    def run(s, r, c):
        # Odd contents have nothing of their own: they inherit.
        own = {"events": FILM} if c % 2 == 0 else {"events": None, "meta": {}}
        bids.run(f"sub-{s}_task-film_run-{r}", **own)
        derived.preprocessed(f"sub-{s}_task-film_run-{r}", meta=None if c < 2 else {})

    def dangle(s, r, c):
        for path in (bids.root / f"{stem(s, r)}_bold.nii.gz", derived.root / f"{stem(s, r)}{SPACED}.nii.gz"):
            if path.exists():
                path.unlink()
                path.symlink_to("nowhere")

    def remove(tree, name):
        path = tree.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def meta(c):
        return {"RepetitionTime": 1.0 + c}

    return {
        "run": run,
        "dangle": dangle,
        "no subject": lambda s, r, c: remove(bids, f"sub-{s}"),
        "no derivative": lambda s, r, c: remove(derived, f"sub-{s}"),
        "no run": lambda s, r, c: remove(bids, f"{stem(s, r)}_bold.nii.gz"),
        "no sidecar": lambda s, r, c: remove(bids, f"{stem(s, r)}_bold.json"),
        "no events": lambda s, r, c: remove(bids, f"{stem(s, r)}_events.tsv"),
        "session": lambda s, r, c: bids.run(f"sub-{s}_ses-{r}_task-clips", events=tables[c]),
        "events": lambda s, r, c: bids.file(f"{stem(s, r)}_events.tsv", tables[c]),
        "sidecar": lambda s, r, c: bids.file(f"{stem(s, r)}_bold.json", meta(c)),
        "derived sidecar": lambda s, r, c: derived.file(f"{stem(s, r)}{SPACED}.json", meta(c)),
        "sidecar of a subject": lambda s, r, c: bids.file(f"sub-{s}/sub-{s}_bold.json", meta(c)),
        "sidecar at the root": lambda s, r, c: bids.file("task-film_bold.json", meta(c)),
        "sidecar at the derived root": lambda s, r, c: derived.file("task-film_bold.json", meta(c)),
        "events at the root": lambda s, r, c: bids.file("task-film_events.tsv", tables[c]),
        "anatomy": lambda s, r, c: bids.file(f"sub-{s}/anat/sub-{s}_run-{c}_T1w.nii.gz"),
    }


EDIT = st.tuples(
    st.sampled_from(sorted(_edits(None, None))),
    st.sampled_from(["01", "02"]),
    st.integers(1, 2),
    st.integers(0, 3),
)


def naive_find(root, subjects, scope):
    """What `scan.find_files` does, by walking with the standard library."""
    found = {}
    for subject in sorted(subjects):
        names = []
        for folder, _, files in os.walk(root / subject):
            below = os.path.relpath(folder, root / subject).split(os.sep)
            if below[-1] not in scope.folders or (len(below) > 1 and not below[0].startswith("ses-")):
                continue
            for name in files:
                stem, dot, extension = name.partition(".")
                if dot + extension in scope.extensions and stem.rpartition("_")[2] in scope.suffixes:
                    names.append(os.path.relpath(os.path.join(folder, name), root))
        found[subject] = sorted(names)
    return found


# pybids takes 70 ms a time: the standard library stands in for it here, and the next test compares the two.
@pytest.mark.slow
@pytest.mark.parametrize("source", ["raw", "fmriprep"])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=st.lists(st.lists(EDIT, min_size=1, max_size=3), min_size=2, max_size=5))
def test_after_any_edits_the_index_is_what_it_would_be_from_scratch(
    tmp_path_factory, new_tree, monkeypatch, source, rounds
):
    monkeypatch.setattr(sources, "find_files", naive_find)
    folder = tmp_path_factory.mktemp("edits")
    bids = new_tree(folder / "bids")
    derived = new_tree(folder / "fmriprep")
    edits = _edits(bids, derived)
    edits["run"]("01", 1, 1)
    edits["run"]("02", 1, 3)
    edits["run"]("09", 1, 0)
    config = bids.config(source, derived.root if source == "fmriprep" else None)
    for edited in [[], *rounds]:
        for edit, subject, run, content in edited:
            edits[edit](subject, run, content)
        assert_same(load_index(config, folder / "cache"), build_index(config))


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(EDIT, min_size=5, max_size=15), subjects=st.sets(st.sampled_from(["01", "02", "09"])))
def test_pybids_finds_what_a_naive_walk_finds_of_any_subjects(tmp_path_factory, new_tree, edits, subjects):
    folder = tmp_path_factory.mktemp("edits")
    trees = new_tree(folder / "bids"), new_tree(folder / "fmriprep")
    for edit, *where in [("run", "01", 1, 0), ("run", "02", 1, 0), ("run", "09", 1, 0), *edits]:
        _edits(*trees)[edit](*where)
    for tree, scope in zip(trees, (Raw.scope, Fmriprep.scope), strict=True):
        chosen = {f"sub-{s}" for s in subjects if (tree.root / f"sub-{s}").is_dir()}
        assert find_files(tree.root, chosen, scope) == naive_find(tree.root, chosen, scope)


def test_processes_that_index_at_once_agree_and_leave_a_whole_cache(bids, tmp_path):
    for subject in range(4):
        bids.run(f"sub-{subject}_task-film")
    config = tmp_path / "config.json"
    config.write_text(bids.config().model_dump_json())
    script = (
        "import json, sys; from neuroalign.bids.cache import load_index; from neuroalign.config import parse_config; "
        "index = load_index(parse_config(json.load(open(sys.argv[1]))), sys.argv[2]); print(index.runs.to_csv())"
    )
    command = [sys.executable, "-c", script, str(config), str(tmp_path / "cache")]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {job.communicate()[0] for job in jobs}
    assert {job.returncode for job in jobs} == {0}
    assert outputs == {build_index(bids.config()).runs.to_csv() + "\n"}
    (path,) = (tmp_path / "cache").iterdir()
    assert len(cache._read(path)) == 4


@pytest.mark.slow
def test_many_runs_are_walked_and_read_once(bids, tmp_path, walks, monkeypatch):
    """What takes time is counted; benchmarks/indexing.py measures it on thousands of runs."""
    for subject in range(1, 61):
        folder = bids.root / f"sub-{subject:03d}/func"
        folder.mkdir(parents=True)
        for run in range(1, 4):
            stem = f"sub-{subject:03d}_task-film_run-{run}"
            (folder / f"{stem}_bold.nii.gz").touch()
            (folder / f"{stem}_events.tsv").write_text(FILM)
    bids.file("bold.json", {"RepetitionTime": 2.0})
    parsed = []
    read = records.read_events
    monkeypatch.setattr(records, "read_events", lambda path: parsed.append(path) or read(path))
    config = bids.config()
    assert len(load_index(config, tmp_path / "cache").runs) == 180
    assert [len(subjects) for subjects in walks] == [60]
    # All tables are equal, so that one is parsed for all.
    assert len(parsed) == 1
    assert len(load_index(config, tmp_path / "cache").runs) == 180
    assert walks[1] == []
    assert len(parsed) == 1
    bids.run("sub-061_task-film", events=OTHER)
    assert len(load_index(config, tmp_path / "cache").runs) == 181
    assert walks[2] == ["sub-061"]
    assert len(parsed) == 2


def test_a_raw_image_that_comes_or_changes_is_seen(bids, derived, tmp_path):
    """The clock of a run depends on it, so that its number of volumes is a parameter of extraction."""
    bids.run("sub-01_task-film", image=None)
    derived.preprocessed("sub-01_task-film")
    config = bids.config("fmriprep", derived.root)
    seen = [load_index(config, tmp_path / "cache").runs["raw_volumes"].tolist()]
    for volumes in (12, 14):
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2, volumes), np.int16), np.eye(4))
        nibabel.save(image, bids.root / "sub-01/func/sub-01_task-film_bold.nii.gz")
        seen.append(load_index(config, tmp_path / "cache").runs["raw_volumes"].tolist())
    assert seen == [[""], ["12"], ["14"]]
