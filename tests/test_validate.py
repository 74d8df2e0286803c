"""`validate` finds every problem at once, each as a sentence with what to do, and no other."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from neuroalign.config import parse_config
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.validate import validate

EVENTS = "onset\tduration\tstim_file\n2.0\t6.0\tfilm.mp4\n10.0\t4.0\tn/a\n"


def image(path: Path, shape: tuple[int, ...], tr: float = 2.0, below: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti = nibabel.Nifti1Image(
        np.random.default_rng(0).integers(0, below, shape).astype(np.int16), np.eye(4)
    )
    if len(shape) == 4:
        nifti.header.set_zooms((1, 1, 1, tr))
    nibabel.save(nifti, path)


def film(path: Path, seconds: float = 8.0) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for number in range(int(seconds * 4)):
            pixels = np.full((64, 64, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def features(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["times"] = np.arange(0.5, seconds)
        file["features"] = np.zeros((len(file["times"]), 3), np.float32)


class Project:
    """A complete, tiny, valid raw dataset with its configuration."""

    def __init__(self, folder: Path):
        self.root = folder / "bids"
        self.func = self.root / "sub-01/func"
        self.bold = self.func / "sub-01_task-film_bold.nii.gz"
        self.t1w = self.root / "sub-01/anat/sub-01_T1w.nii.gz"
        self.film = self.root / "stimuli/film.mp4"
        self.atlas = folder / "atlas/atlas-X_space-MNI152NLin2009cAsym_res-02_dseg.nii.gz"
        self.labels = folder / "atlas/atlas-X_dseg.tsv"
        image(self.bold, (8, 8, 8, 10))
        image(self.t1w, (8, 8, 8))
        image(self.atlas, (8, 8, 8), below=4)
        film(self.film)
        self.labels.write_text("index\tlabel\n1\tLH_Vis_1\n2\tLH_DorsAttn_1\n3\tLH_Default_1\n")
        (self.root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
        (self.root / "task-film_bold.json").write_text('{"RepetitionTime": 2.0}')
        (self.func / "sub-01_task-film_events.tsv").write_text(EVENTS)
        self.values = {
            "output_dir": str(folder / "out"),
            "dataset": {"bids_dir": str(self.root)},
            "fmri": {"atlas": {"image": str(self.atlas)}},
            "clips": {"strategy": "fixed", "duration_s": 1, "stride_s": 1},
            "split": {"by": "time", "guard_s": 0},
        }

    def derivatives(self, source: str) -> Path:
        folder = self.root.parent / "derived/sub-01/func"
        folder.mkdir(parents=True, exist_ok=True)
        self.values["dataset"]["derivatives"] = str(folder.parents[1])
        self.values["fmri"]["source"] = source
        return folder

    def validate(self, **options) -> list[str]:
        return validate(parse_config(json.loads(json.dumps(self.values))), **options)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_complete_dataset_has_no_problem_and_stays_as_it_is(project, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert project.validate() == []
    assert project.validate(deep=True) == []
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "out").mkdir()
    assert project.validate() == []


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def remove_header(path: Path) -> None:
    path.write_bytes(gzip.compress(b"no image at all"))


def write_events(project: Project, text: str) -> None:
    (project.func / "sub-01_task-film_events.tsv").write_text(text)


def disorient(path: Path) -> None:
    nifti = nibabel.load(path)
    nifti.set_sform(np.eye(4), code=0)
    nifti.set_qform(np.eye(4), code=0)
    nibabel.save(nibabel.Nifti1Image(np.asarray(nifti.dataobj), None, nifti.header), path)


def move_out(path: Path) -> None:
    """Leave a link in place of a file, which is moved out of the dataset and spoilt: it must not be read there."""
    elsewhere = path.parents[2] / "elsewhere.mp4"
    path.rename(elsewhere)
    elsewhere.write_bytes(b"private")
    path.symlink_to(elsewhere)


def set_(project: Project, section: str, **values) -> None:
    project.values[section] = project.values.get(section, {}) | values


CASES = {
    "dataset absent": (lambda p: set_(p, "dataset", bids_dir="none/there"), "BIDS folder none/there does not exist"),
    "filter": (lambda p: set_(p, "dataset", filters={"task": "flim"}), "did you mean 'film'"),
    "dangling image": (lambda p: dangle(p.bold), "is a link to content that is not here"),
    "no image": (lambda p: remove_header(p.bold), "no readable NIfTI"),
    "broken anatomy": (lambda p: remove_header(p.t1w), r"T1w.nii.gz is truncated or no readable NIfTI"),
    "no orientation": (lambda p: disorient(p.bold), "bold.nii.gz does not say how it is oriented"),
    "no orientation of the anatomy": (lambda p: disorient(p.t1w), "T1w.nii.gz does not say how it is oriented"),
    "one volume": (lambda p: image(p.bold, (8, 8, 8)), "needs four dimensions"),
    "late onset": (lambda p: write_events(p, EVENTS.replace("2.0", "2000.0")), "begins at 2000 s, but .* ends at 20 s"),
    "no stim_file": (lambda p: write_events(p, "onset\tduration\n0\t3\n"), "no column 'stim_file'"),
    "stimulus absent": (lambda p: p.film.rename(p.film.with_name("fim.mp4")), "film.mp4 is missing: .*did you mean 'fim.mp4'"),
    "stimulus dangling": (lambda p: dangle(p.film), "film.mp4 is a link"),
    "stimulus elsewhere": (lambda p: move_out(p.film), "film.mp4 leads to .*outside of the stimuli folder and the dataset"),
    "stimulus damaged": (lambda p: p.film.write_bytes(b"no film"), "film.mp4 is not a video"),
    "atlas absent": (lambda p: set_(p, "fmri", atlas={"image": "none.nii"}), "fmri.atlas.image: none.nii does not exist"),
    "atlas in another space": (
        lambda p: set_(p, "fmri", space="MNI152NLin6Asym"),
        r"another space \('MNI152NLin2009cAsym'\) than fmri.space \('MNI152NLin6Asym'\)",
    ),
    "level without region": (lambda p: set_(p, "fmri", levels={"early": "V1"}), "matches 'V1' of level 'early'; .*LH_Vis_1"),
    "labels absent": (lambda p: p.labels.unlink(), "No label table was found beside"),
    "labels without label": (lambda p: p.labels.write_text("index\tregion\n1\tx\n"), "needs the columns 'index' and 'label'"),
    "template": (lambda p: set_(p, "fmri", preprocess={"template": "t.nii"}), "fmri.preprocess.template: t.nii does not exist"),
    "held out in vain": (
        lambda p: set_(p, "split", hold_out={"stimulus": ["flim"]}),
        "no clip has stimulus 'flim' .*did you mean 'film'",
    ),
    "guard too wide": (lambda p: set_(p, "split", guard_s=60), "leaves no train clip .*lower split.guard_s"),
    "output is a file": (lambda p: p.values.update(output_dir=str(p.labels)), "is a file; set output_dir"),
    "weights": (
        lambda p: set_(p, "video", backbone="resnet101", weights="./weights"),
        "video.weights ./weights is not a folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_problem_is_found_alone(project, case):
    spoil, sentence = CASES[case]
    spoil(project)
    problems = project.validate()
    assert len(problems) == 1, problems
    assert re.search(sentence, problems[0]), problems[0]


def test_all_problems_are_found_together(project):
    for case in (
        "broken anatomy",
        "late onset",
        "stimulus dangling",
        "template",
        "weights",
        "level without region",
    ):
        CASES[case][0](project)
    assert len(project.validate()) == 6


def test_an_output_folder_inside_the_dataset_is_refused(project):
    project.values["output_dir"] = str(project.root / "derivatives/neuroalign")
    (problem,) = project.validate()
    assert "lies inside dataset.bids_dir" in problem


def test_a_read_only_output_folder_is_named(project, tmp_path, monkeypatch):
    # Permissions do not bind the administrator, who may well run the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    (problem,) = project.validate()
    assert "cannot be written" in problem


def test_truncation_is_found_when_asked_to_read_everything(project):
    truncate(project.bold)
    assert project.validate() == []
    (problem,) = project.validate(deep=True)
    assert "sub-01_task-film_bold.nii.gz is truncated" in problem


def test_many_missing_stimuli_share_a_sentence(project):
    rows = "".join(f"{2 * i}\t1\ttrain/{i:04d}.mp4\n" for i in range(8))
    write_events(project, EVENTS + rows)
    (problem,) = project.validate()
    assert "8 of 9 stimuli are missing, among them" in problem


def test_many_missing_features_share_a_sentence(project, tmp_path):
    set_(project, "video", backbone="precomputed", precomputed_dir=str(tmp_path / "features"))
    rows = "".join(f"{2 * i}\t1\ttrain/{i:04d}.mp4\n" for i in range(8))
    write_events(project, "onset\tduration\tstim_file\n" + rows)
    features(tmp_path / "features/train__0003.h5", 8)
    (tmp_path / "features/train__0005.h5").write_text("x")

    def told() -> list[str]:
        return [problem for problem in project.validate() if "features" in problem]

    many, damaged = told()
    assert many.startswith(
        f"6 of 8 stimuli have no features in {tmp_path / 'features'}, among them train__0000.h5, "
    )
    assert "train__0005.h5 is not a readable HDF5 file" in damaged
    for number in (0, 1):
        features(tmp_path / f"features/train__000{number}.h5", 8)
    assert sum("has no features 'train__" in problem for problem in told()) == 4


def test_preprocessed_runs_need_confounds_only_if_they_are_used(project):
    folder = project.derivatives("fmriprep")
    stem = "sub-01_task-film_space-MNI152NLin2009cAsym"
    image(folder / f"{stem}_desc-preproc_bold.nii.gz", (8, 8, 8, 10))
    image(folder / f"{stem}_desc-brain_mask.nii.gz", (8, 8, 8))
    (problem,) = project.validate()
    assert "has no *_desc-confounds_timeseries.tsv" in problem
    set_(project, "fmri", clean={"strategy": "none"})
    assert project.validate() == []
    sidecar = folder / f"{stem}_desc-preproc_bold.json"
    sidecar.write_text('{"RepetitionTime": 2.0, "SliceTimingCorrected": true, "StartTime": 900}')
    (problem,) = project.validate()
    assert "divide it by 1000" in problem
    sidecar.unlink()
    remove_header(folder / f"{stem}_desc-brain_mask.nii.gz")
    assert "mask.nii.gz is truncated or no readable" in project.validate()[0]


def test_time_series_need_rows_and_regions_of_every_level(project):
    folder = project.derivatives("timeseries")
    project.bold.unlink()
    path = folder / "sub-01_task-film_atlas-X_timeseries.tsv"
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\tLH_Default_1\n0\t1\t2\n1\t1\t3\n")
    assert project.validate() == []
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\n0\t1\n2\t3\n")
    (problem,) = project.validate()
    assert "of level 'high'" in problem
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\tLH_Default_1\n0\tx\t2\n1\t1\t3\n")
    assert "holds text among its series ('x'" in project.validate()[0]
    # Without names, the label table names them: the atlas of the project has three regions.
    path.write_text("0.1\t1\t2\n1\t1\t3\n")
    assert project.validate() == []
    path.write_text("0.1\t1\n1\t1\n")
    assert "has 2 columns, but" in project.validate()[0]
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\tLH_Default_1\n")
    assert "has 0 rows; a time series needs one row per volume" in project.validate()[0]
    image(project.bold, (8, 8, 8, 10))
    rows = "".join(f"{i % 3}\t{i % 5}\t{i % 7}\n" for i in range(8))
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\tLH_Default_1\n" + rows)
    (folder / "sub-01_task-film_outliers.tsv").write_text("framewise_displacement\n" + "0\n" * 8 + "1\n1\n")
    assert project.validate() == project.validate(deep=True) == []
    write_events(project, EVENTS.replace("2.0", "20.5"))
    assert "ends at 20 s" in project.validate()[0]
    (folder / "sub-01_task-film_outliers.tsv").write_text("framewise_displacement\n0\n1\n0\n")
    assert "8 rows, but sub-01_task-film_outliers.tsv lists 3" in project.validate()[0]
    (folder / "sub-01_task-film_outliers.tsv").unlink()
    assert "8 of the 10 volumes of its raw run, and nothing tells" in project.validate()[0]
    path.rename(path.with_suffix(".h5"))
    assert "is not a readable HDF5 file" in project.validate()[0]


def test_time_series_begin_where_their_sidecar_says(project):
    path = project.derivatives("timeseries") / "sub-01_task-film_atlas-X_timeseries.tsv"
    path.write_text("LH_Vis_1\tLH_DorsAttn_1\tLH_Default_1\n" + "0\t1\t2\n" * 10)
    path.with_suffix(".json").write_text('{"RepetitionTime": 2.0, "StartTime": 950}')
    (problem,) = project.validate()
    assert "divide it by 1000 if it is in milliseconds" in problem


def test_series_in_hdf5_need_regions_of_every_level(project):
    path = project.derivatives("timeseries") / "sub-01_task-film_timeseries.h5"
    values, names = (
        np.random.default_rng(0).normal(size=(10, 3)),
        ["LH_Vis_1", "LH_DorsAttn_1", "LH_Default_1"],
    )
    for labels, sentence in (
        (names, ""),
        (["a", *names[1:]], "of level 'early'"),
        (names[:2], "/labels 2 entries"),
    ):
        with h5py.File(path, "w") as file:
            file["data"], file["labels"] = values, labels
        problems = project.validate()
        assert len(problems) == bool(sentence), problems
        assert sentence in "".join(problems)
    data = {
        level: values[:, [column]].astype(np.float32)
        for column, level in enumerate(("early", "intermediate", "high"))
    }
    units = {level: ["anything"] for level in data}
    write_series(path, RoiSeries(data, units, 1.0 + 2.0 * np.arange(10), np.ones(10, bool), {"tr": 2.0}))
    assert project.validate() == []


def confounds(path: Path, rows: int, *more: str) -> None:
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    names = [n + s for n in names for s in ("", "_derivative1", "_power2", "_derivative1_power2")] + [*more]
    table = np.random.default_rng(0).normal(size=(rows, len(names)))
    np.savetxt(path, table, delimiter="\t", header="\t".join(names), comments="")
    path.with_suffix(".json").write_text("{}")


def test_confounds_need_a_row_per_volume_and_the_columns_of_the_strategy(project):
    folder = project.derivatives("fmriprep")
    stem = "sub-01_task-film_space-MNI152NLin2009cAsym"
    image(project.bold, (8, 8, 8, 60))
    image(folder / f"{stem}_desc-preproc_bold.nii.gz", (8, 8, 8, 60))
    image(folder / f"{stem}_desc-brain_mask.nii.gz", (8, 8, 8))
    table = folder / "sub-01_task-film_desc-confounds_timeseries.tsv"
    confounds(table, 60, "csf", "white_matter")
    set_(project, "fmri", clean={"strategy": "simple"})
    assert project.validate() == []
    confounds(table, 59, "csf", "white_matter")
    (problem,) = project.validate()
    assert "has 59 rows for 60 volumes" in problem
    confounds(table, 60, "csf")
    (problem,) = project.validate()
    assert "does not serve fmri.clean.strategy 'simple'" in problem


def test_a_cropped_run_ends_where_its_volumes_do(project):
    """50 of 60 volumes of 2 s, the first ten cut off: the run ends at 120 s."""
    folder = project.derivatives("fmriprep")
    stem = "sub-01_task-film_space-MNI152NLin2009cAsym"
    image(project.bold, (8, 8, 8, 60))
    image(folder / f"{stem}_desc-preproc_bold.nii.gz", (8, 8, 8, 50))
    image(folder / f"{stem}_desc-brain_mask.nii.gz", (8, 8, 8))
    set_(project, "fmri", clean={"strategy": "none"})
    write_events(project, EVENTS.replace("2.0", "110.0"))
    assert project.validate() == []
    write_events(project, EVENTS.replace("2.0", "120.5"))
    (problem,) = project.validate()
    assert "ends at 120 s (50 volumes of 2 s)" in problem


def test_precomputed_features_take_the_place_of_the_film(project, tmp_path):
    project.film.unlink()
    set_(project, "video", backbone="precomputed", precomputed_dir=str(tmp_path / "features"))
    assert "is not a folder" in project.validate()[0]
    features(tmp_path / "features/flm.h5", 8)
    assert "did you mean 'flm'" in project.validate()[0]
    features(tmp_path / "features/film.h5", 8)
    assert project.validate() == []
    features(tmp_path / "features/film.h5", 3)
    (problem,) = project.validate()
    assert "ends at 2.5 s, but 'film' is shown up to its second 6" in problem
    features(tmp_path / "features/film.h5", 8)
    with h5py.File(tmp_path / "features/film.h5", "a") as file:
        file.attrs["hrf_convolved"] = True
    (problem,) = project.validate()
    assert "set hrf.method to none" in problem


def test_weights_are_a_complete_folder_or_a_hub_id(project, tmp_path):
    set_(project, "video", backbone="resnet101", weights="microsoft/resnet-101")
    assert project.validate() == []
    weights = tmp_path / "weights"
    weights.mkdir()
    set_(project, "video", backbone="resnet101", weights=str(weights))
    assert len(project.validate()) == 3
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (weights / name).touch()
    (weights / "config.json").write_text('{"model_type": "resnet"}')
    assert project.validate() == []


def test_a_dataset_to_be_simulated_needs_nothing_yet(tmp_path):
    values = {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"simulate": {}, "bids_dir": str(tmp_path / "none")},
    }
    assert validate(parse_config(values)) == []
    values["split"] = {"by": "stimulus", "hold_out": {"stimulus": ["film-99"]}}
    (problem,) = validate(parse_config(values))
    assert "no clip has stimulus 'film-99'" in problem


def test_the_real_time_series_are_ready(shared_data, tmp_path):
    root = shared_data / "movie_fmri"
    values = {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"bids_dir": str(root), "derivatives": str(root / "derivatives/xcp_d")},
        "fmri": {"source": "timeseries", "atlas": {"name": "Schaefer200"}},
        "video": {"backbone": "precomputed", "precomputed_dir": str(root / "features")},
        "hrf": {"method": "none"},
        "clips": {"strategy": "fixed", "duration_s": 10, "stride_s": 10},
        "split": {"hold_out": {"task": ["sitcomep1"]}},
    }
    assert validate(parse_config(values)) == []


def test_the_real_atlas_agrees_with_its_labels(project, shared_data):
    set_(
        project,
        "fmri",
        atlas={
            "image": str(
                shared_data
                / "atlas/atlas-Schaefer2018N200n7Tian2020S1_space-MNI152NLin2009cAsym_res-01_dseg.nii.gz"
            )
        },
    )
    assert project.validate() == []
