"""The fMRIPrep engine, with a stand-in for the command and for Apptainer: neither can be had in every test machine."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy.signal import detrend

from neuroalign.config import parse_config
from neuroalign.errors import Problems
from neuroalign.fmri import fmriprep
from neuroalign.fmri.series import read_series
from neuroalign.plan import make_plan
from neuroalign.validate import validate

SHAPE, VOLUMES, TR = (10, 12, 10), 60, 2.0
AFFINE = np.diag([4.0, 4, 4, 1])
# Writes what fMRIPrep would: for every raw BOLD of the person, by the names that BIDS derivatives have.
COMMAND = """#!{python}
import argparse, json, os, sys
from pathlib import Path
import nibabel as nib, numpy as np
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("bids_dir", "output_dir", "level"):
    parser.add_argument(name)
for name in ("--participant-label", "--output-spaces", "--task-id", "--bids-filter-file", "--nprocs", "--omp-nthreads",
             "--mem-mb", "--fs-license-file", "-w", "--dummy-scans"):
    parser.add_argument(name)
for name in ("--fs-no-reconall", "--skip-bids-validation", "--notrack", "--stop-on-first-crash"):
    parser.add_argument(name, action="store_true")
given = parser.parse_args()
out, person = Path(given.output_dir), "sub-" + given.participant_label
called = vars(given) | {{"bind": os.environ.get("APPTAINER_BIND", ""), "python_path": os.environ.get("PYTHONPATH")}}
if given.bids_filter_file:
    called["filter"] = json.loads(Path(given.bids_filter_file).read_text())
out.joinpath(person + ".called.json").write_text(json.dumps(called))
assert given.level == "participant" and Path(given.fs_license_file).is_file() and Path(given.w).is_dir()
if Path("crash").exists():
    sys.exit("RuntimeError: no brain")
space, _, resolution = given.output_spaces.partition(":res-")
label = f"_space-{{space}}" + (f"_res-{{resolution}}" if resolution else "")
time = np.arange({volumes})
series = np.stack([100 + 5 * np.sin(2 * np.pi * time / 20), 200 + 5 * np.cos(2 * np.pi * time / 15)])
data = np.zeros({shape} + ({volumes},), np.float32)
data[2:5, 2:10, 2:8], data[5:8, 2:10, 2:8] = series
affine = np.diag([4.0, 4, 4, 1])
for bold in sorted(Path(given.bids_dir, person).rglob("*_bold.nii.gz")):
    name = "_".join(p for p in bold.name.split("_")[:-1] if not p.startswith(("echo-", "part-")))
    base = out / bold.parent.relative_to(given.bids_dir) / name
    base.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((4, 4, 4, {tr}))
    nib.save(image, f"{{base}}{{label}}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(data.mean(-1), affine), f"{{base}}{{label}}_boldref.nii.gz")
    nib.save(nib.Nifti1Image((data[..., 0] > 0).astype("u1"), affine), f"{{base}}{{label}}_desc-brain_mask.nii.gz")
    Path(f"{{base}}{{label}}_desc-preproc_bold.json").write_text('{{"RepetitionTime": {tr}, "StartTime": 0.9}}')
    Path(f"{{base}}_desc-confounds_timeseries.json").write_text("{{}}")
    moved = [f"{{k}}_{{a}}" for k in ("trans", "rot") for a in "xyz"]
    columns = ["csf", "white_matter", "framewise_displacement", *moved]
    rows = ["\\t".join(["n/a" if i == 0 and c[0] == "f" else f"{{0.01 * np.sin(i * (k + 1)):.4f}}"
                        for k, c in enumerate(columns)]) for i in range({volumes})]
    Path(f"{{base}}_desc-confounds_timeseries.tsv").write_text("\\n".join(["\\t".join(columns), *rows]) + "\\n")
if Path("forget").exists():
    next(out.joinpath(person).rglob("*run-2*_desc-brain_mask.nii.gz")).unlink()
"""
# Runs the command of `exec` on this machine, as the container would.
APPTAINER = """#!/bin/bash
case "$1" in
    --version) echo "apptainer version 1.3.4" ;;
    pull) touch "$3" ;;
    *)
        echo "$@" > apptainer.called
        APPTAINER_CONTAINER=/image PATH="$INSIDE:$PATH" exec bash -c "${@: -1}" ;;
esac
"""


class Study:
    """A raw dataset of empty images, and commands in its folder."""

    def __init__(self, root: Path, folder: Path, command: Callable):
        self.root, self.folder, self.command = root, folder, command
        self.bids = folder / "bids"
        (folder / "license.txt").write_text("x")
        self._file("dataset_description.json", '{"Name": "x", "BIDSVersion": "1.10.0"}')
        self._file("stimuli/one.mp4")
        self.commands("bin", fmriprep=COMMAND)
        atlas = np.zeros(SHAPE, np.int16)
        atlas[2:5, 2:10, 2:8], atlas[5:8, 2:10, 2:8] = 1, 2
        nib.save(nib.Nifti1Image(atlas, AFFINE), folder / "atlas.nii.gz")
        (folder / "atlas.tsv").write_text("index\tlabel\n1\tearly_a\n2\thigh_a\n")
        self.resolution: str | int | None = None
        self.engine = {"fs_license": "license.txt", "options": "--dummy-scans 4"}
        self.filters: dict = {}

    def _file(self, relative: str, content: str = "") -> None:
        path = self.bids / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def run_of(self, name: str) -> Study:
        """Empty files of a raw run and of its person's T1w image."""
        parts = name.split("_")
        inner = "/".join(p for p in parts if p.startswith(("sub-", "ses-")))
        stem = f"{inner}/func/{name}"
        self._file(f"{stem}_bold.nii.gz")
        self._file(f"{stem}_bold.json", json.dumps({"RepetitionTime": TR}))
        events = re.sub(r"_(echo|part)-\w+?(?=_|$)", "", stem)
        self._file(f"{events}_events.tsv", "onset\tduration\tstim_file\n0\t60\tone.mp4\n")
        self._file(f"{parts[0]}/anat/{parts[0]}_T1w.nii.gz")
        return self

    def commands(self, folder: str, **scripts: str) -> Path:
        where = self.folder / folder
        where.mkdir(exist_ok=True)
        for name, text in scripts.items():
            if "{python}" in text:
                text = text.format(python=sys.executable, shape=SHAPE, volumes=VOLUMES, tr=TR)
            (where / name).write_text(text)
            (where / name).chmod(0o755)
        return where

    @property
    def config(self) -> dict:
        return {
            "output_dir": "out",
            "dataset": {"bids_dir": "bids", "filters": self.filters},
            "fmri": {
                "resolution": self.resolution,
                "preprocess": {"engine": "fmriprep", "fmriprep": self.engine},
                "atlas": {"image": "atlas.nii.gz"},
                "levels": {"early": "early", "high": "high"},
                "clean": {"strategy": "none", "high_pass_hz": None, "standardize": False},
            },
        }

    def call(self, *arguments: str, path: str | None = None, **environment: str):
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FS_", "FREESURFER", "PYTEST"))}
        path = path or f"{self.folder / 'bin'}:{os.environ['PATH']}"
        options = ["--snakefile", self.root / "Snakefile", "--configfile", "config.yaml", "--cores", "2"]
        environment = {**kept, "PATH": path, **environment}
        result = self.command("snakemake", *options, *arguments, cwd=self.folder, env=environment)
        return result.returncode, result.stdout + result.stderr

    def planned(self) -> Counter:
        code, text = self.call("-n")
        assert code == 0, text
        return Counter(re.findall(r"^(?:local)?rule (\w+):", text, flags=re.MULTILINE))

    def called(self, subject: str) -> dict:
        return json.loads((self.folder / f"out/fmriprep/sub-{subject}.called.json").read_text())


@pytest.fixture
def study(root, tmp_path, command) -> Study:
    return Study(root, tmp_path, command)


def series_file(run_id: str) -> str:
    return f"out/roi/{run_id}_timeseries.h5"


def test_a_dry_run_shows_one_job_a_person_whatever_their_runs(study):
    for run in (
        "sub-01_task-film_run-1",
        "sub-01_task-film_run-2",
        "sub-02_task-film_run-1",
        "sub-02_task-film_run-2",
    ):
        study.run_of(run)
    study.run_of("sub-03_ses-b_task-film_run-10")
    for echo in (1, 2, 3):
        study.run_of(f"sub-04_task-film_echo-{echo}")
    planned = study.planned()
    assert planned["fmriprep"] == 2
    assert planned["fmriprep_2"] == planned["fmriprep_3"] == 1
    assert planned["extract"] == planned["run_quality"] == 6
    assert not {"preprocess", "preprocess_anatomy"} & set(planned)


def test_names_of_outputs_are_known_before_fmriprep_runs():
    files = fmriprep.run_files(
        "sub-03_ses-b_task-film_acq-mb_run-10", "d", space="MNI152NLin6Asym", resolution="2"
    )
    base = "d/sub-03/ses-b/func/sub-03_ses-b_task-film_acq-mb_run-10"
    assert str(files["bold"]) == f"{base}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    assert str(files["mask"]) == f"{base}_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz"
    assert str(files["confounds"]) == f"{base}_desc-confounds_timeseries.tsv"
    plain = fmriprep.run_files("sub-03_task-film", "d", space="T1w")
    assert str(plain["bold_json"]) == "d/sub-03/func/sub-03_task-film_space-T1w_desc-preproc_bold.json"


@pytest.mark.parametrize("described", ["_desc-preproc", "_desc-optcom", ""])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_the_mean_image_of_a_run_is_never_the_run(described, extension):
    bold = f"d/sub-01/func/sub-01_task-film_space-T1w{described}_bold{extension}"
    assert fmriprep.reference_of(bold) == f"d/sub-01/func/sub-01_task-film_space-T1w_boldref{extension}"


@pytest.mark.slow
def test_the_command_is_run_and_its_outputs_are_extracted(study):
    """From two raw runs to series that are those the command painted; then edits, one by one."""
    study.run_of("sub-01_task-film_run-1").run_of("sub-01_task-film_run-2")
    study.resolution = 2
    study.engine |= {"threads": 12, "mem_mb": 10000}
    study.filters |= {"task": ["film"]}
    wanted = [series_file(f"sub-01_task-film_run-{run}") for run in (1, 2)]
    code, text = study.call(*wanted)
    assert code == 0, text
    called = study.called("01")
    here = study.folder
    assert called["bids_dir"] == str(here / "bids")
    assert called["output_dir"] == str(here / "out/fmriprep")
    assert called["output_spaces"] == "MNI152NLin2009cAsym:res-2"
    assert (called["task_id"], called["dummy_scans"], called["bids_filter_file"]) == ("film", "4", None)
    # Two cores are all there are; a tenth of the memory is left to the system.
    assert (called["nprocs"], called["omp_nthreads"], called["mem_mb"]) == ("2", "2", "9000")
    assert called["fs_license_file"] == str(here / "license.txt")
    assert called["w"] == str(here / "out/scratch/fmriprep/sub-01")
    assert all(called[k] for k in ("fs_no_reconall", "notrack", "stop_on_first_crash"))
    assert not called["skip_bids_validation"]
    assert not (here / "out/scratch/fmriprep/sub-01").exists()

    # The page of a run that fMRIPrep wrote no T1w image in template space for.
    code, text = study.call("out/quality/sub-01_task-film_run-1.html")
    assert code == 0, text
    assert (
        "There is no T1w image in template space"
        in (here / "out/quality/sub-01_task-film_run-1.html").read_text()
    )

    series = read_series(here / wanted[0])
    time = np.arange(VOLUMES)
    np.testing.assert_allclose(series.times, 0.9 + TR * time)
    early = series.levels["early"][:, 0]
    np.testing.assert_allclose(detrend(early), detrend(5 * np.sin(2 * np.pi * time / 20)), atol=1e-3)

    def reruns() -> set:
        code, text = study.call("-n", *wanted)
        assert code == 0, text
        return set(re.findall(r"^rule (\w+):", text, flags=re.MULTILINE))

    assert reruns() == set()
    # Where and with how much it runs changes nothing in what comes out.
    for key, value in {"threads": 4, "mem_mb": 32000, "work_dir": str(here)}.items():
        before = dict(study.engine)
        study.engine[key] = value
        assert reruns() == set(), key
        study.engine = before
    study.engine["options"] = "--dummy-scans 5"
    assert reruns() == {"fmriprep", "extract"}


def test_a_forgotten_output_is_named(study):
    study.run_of("sub-01_task-film_run-1").run_of("sub-01_task-film_run-2")
    (study.folder / "forget").touch()
    code, text = study.call(series_file("sub-01_task-film_run-2"))
    assert code != 0
    assert "neuroalign fmriprep: sub-01: fMRIPrep ended well but did not write" in text
    assert "run-2_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz; it wrote sub-01_task-film" in text
    assert "check fmri.space, fmri.resolution" in text
    assert "Traceback" not in text
    # What it did write goes, so that nothing half done is taken for whole; the work folder is kept for another try.
    assert not list((study.folder / "out/fmriprep").rglob("*.nii.gz"))
    assert (study.folder / "out/scratch/fmriprep/sub-01").is_dir()


def test_an_error_of_fmriprep_is_in_its_log(study):
    study.run_of("sub-01_task-film_run-1")
    (study.folder / "crash").touch()
    code, text = study.call(series_file("sub-01_task-film_run-1"))
    assert code != 0
    assert "fMRIPrep ended with an error; the end of out/logs/fmriprep/sub-01.log says which" in text
    assert "no brain" in (study.folder / "out/logs/fmriprep/sub-01.log").read_text()


@pytest.mark.parametrize("absent", ["command", "license"])
def test_without_the_command_or_license_the_job_says_so_at_once(study, absent):
    study.run_of("sub-01_task-film_run-1")
    if absent == "command":
        (study.folder / "bin/fmriprep").unlink()
        words = [
            "there is no command 'fmriprep'; run the workflow with --sdm apptainer",
            "or install fMRIPrep.",
        ]
    else:
        (study.folder / "license.txt").unlink()
        words = [
            f"the FreeSurfer license '{study.folder}/license.txt' is not there",
            "fs_license to the file.",
        ]
    # Nothing but the system's programs, in case fMRIPrep is installed here.
    path = f"{study.folder / 'bin'}:/usr/bin:/bin"
    code, text = study.call(series_file("sub-01_task-film_run-1"), path=path)
    assert code != 0
    assert f"neuroalign fmriprep: sub-01: {words[0]}" in text
    assert words[1] in text


def test_the_container_sees_the_dataset_read_only(study):
    study.run_of("sub-01_task-film_run-1").run_of("sub-01_task-other_run-1")
    study.commands("bin", apptainer=APPTAINER)
    (study.folder / "bin/fmriprep").rename(study.commands("inside") / "fmriprep")
    study.filters |= {"task": ["film", "other"]}
    code, text = study.call(
        series_file("sub-01_task-film_run-1"), "--sdm", "apptainer",
        INSIDE=str(study.folder / "inside"), APPTAINER_BIND="/mine", PYTHONPATH=str(study.root),
    )  # fmt: skip
    assert code == 0, text
    called = study.called("01")
    binds = called["bind"].split(",")
    bids = study.folder / "bids"
    assert binds[0] == "/mine"
    assert f"{bids}:{bids}:ro" in binds
    assert str(study.folder / "out") in binds
    assert any(bind.endswith("license.txt:ro") for bind in binds)
    assert len(binds) == len(set(binds))
    assert called["python_path"] is None
    assert called["task_id"] is None
    assert called["filter"] == {"bold": {"task": ["film", "other"]}}
    assert "exec --home" in (study.folder / "apptainer.called").read_text()
    assert read_series(study.folder / series_file("sub-01_task-film_run-1")).levels["high"].shape == (
        VOLUMES,
        1,
    )


def test_fmriprep_is_told_labels_as_the_files_have_them(study, monkeypatch):
    for session in ("01", "02"):
        for task in ("1", "02", "x"):
            study.run_of(f"sub-01_ses-{session}_task-{task}")
    study.run_of("sub-01_ses-01_task-x_acq-b")
    study.filters |= {"session": ["ses-1"], "task": [2]}
    monkeypatch.chdir(study.folder)
    plan = make_plan(study.config)
    assert "--task-id 02 " in plan.fmriprep_arguments
    assert json.loads(plan.fmriprep_filter) == {"bold": {"session": ["01"]}}
    study.filters |= {"session": None, "task": [1, "2"]}
    plan = make_plan(study.config)
    assert "--task-id" not in plan.fmriprep_arguments
    assert json.loads(plan.fmriprep_filter) == {"bold": {"task": ["02", "1"]}}


def test_labels_with_a_plus_are_planned_to_the_end(study):
    study.run_of("sub-a+b_ses-1+2_task-part1+2_run-1").run_of("sub-c_task-part1+2")
    planned = study.planned()
    assert planned["fmriprep"] == planned["fmriprep_2"] == 1
    assert planned["extract"] == 2


def test_a_filter_of_sessions_joins_the_users_own_file(study, tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"t1w": {"acquisition": "mprage"}, "bold": {"suffix": "bold", "echo": "2"}}')
    study.filters["session"] = ["ses-b"]
    runs = [{"task": "film", "session": "b"}]
    assert json.loads(fmriprep.bids_filter(parse_config(study.config), runs)) == {"bold": {"session": ["b"]}}
    study.filters["bids_filter_file"] = str(own)
    made = json.loads(fmriprep.bids_filter(parse_config(study.config), runs))
    assert made["t1w"] == {"acquisition": "mprage"}
    assert made["bold"] == {"suffix": "bold", "echo": "2", "session": ["b"]}


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"options": "--output-spaces T1w"}, "--output-spaces is set by NeuroAlign: set fmri.space"),
        ({"options": "-w /tmp"}, "-w is set by NeuroAlign"),
        ({"options": "--mem=3"}, "set fmri.preprocess.fmriprep.mem_mb"),
        ({"options": "--echo-idx 2"}, "--echo-idx is set by NeuroAlign: all echoes are combined"),
        ({"options": "'open"}, "the quotes do not match"),
        ({"container": "an image"}, "without spaces"),
    ],
)
def test_options_that_cannot_be_are_refused(study, engine, words):
    study.engine |= engine
    with pytest.raises(Problems, match=re.escape(words)):
        parse_config(study.config)


@pytest.mark.parametrize(
    ("label", "words"),
    [("2 mm", "letters and digits, such as 2"), ("native", "null keeps the resolution of the BOLD")],
)
def test_resolutions_that_cannot_be_made_are_refused(study, label, words):
    study.resolution = label
    with pytest.raises(Problems, match=re.escape(words)):
        parse_config(study.config)


def test_validate_says_what_a_job_would_find_hours_later(study, monkeypatch):
    study.run_of("sub-01_task-film_run-1")
    monkeypatch.chdir(study.folder)
    for variable in ("FS_LICENSE", "FREESURFER_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def told() -> str:
        return "\n".join(validate(parse_config(study.config)))

    assert "License" not in told().title().replace("FreeSurfer", "")
    study.engine |= {"fs_license": None, "container": "image.sif", "work_dir": "nowhere"}
    sentences = told()
    assert "fMRIPrep needs a FreeSurfer license even without surfaces" in sentences
    assert "container image.sif is no file" in sentences
    assert "work_dir nowhere is not a folder" in sentences
    study.engine["fs_license"] = "lost.txt"
    assert "lost.txt does not exist" in told()
    monkeypatch.setenv("FS_LICENSE", str(study.folder / "license.txt"))
    study.engine["fs_license"] = None
    assert "license" not in told().lower()


def test_a_surface_is_no_space_for_an_atlas(study, monkeypatch):
    study.run_of("sub-01_task-film_run-1")
    monkeypatch.chdir(study.folder)
    values = study.config
    values["fmri"]["space"] = "fsaverage5"
    with pytest.raises(Problems, match="is a surface"):
        make_plan(values)
    assert sum("fsaverage5' is a surface" in sentence for sentence in validate(parse_config(values))) == 1
