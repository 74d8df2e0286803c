import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuroalign.config.dataset import Simulate
from neuroalign.errors import UserError
from neuroalign.fmri.series import read_series
from neuroalign.io import checksum
from neuroalign.simulate import dataset as dataset_module
from neuroalign.simulate import make_dataset, plan_dataset
from neuroalign.simulate.features import decode
from neuroalign.video.ffmpeg import ffmpeg_exe

MINIMAL = Simulate(subjects=1, sessions=1, films=2, film_s=20, films_per_run=2, repeats=1, voxel_mm=8, tr_s=2)


def _files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_the_plan_names_exactly_the_files_on_disk(tiny):
    assert _files(tiny.bids_dir) == set(tiny.files)
    assert _files(tiny.truth_dir) == set(tiny.truth_files)
    assert {path.name for path in tiny.bids_dir.parent.iterdir()} == {"bids", "truth"}
    for column in ("bold", "t1w", "events"):
        assert all(Path(path).exists() for path in tiny.runs[column])
    assert all(Path(path).exists() for path in tiny.presentations["stimulus_file"])


def test_the_official_validator_finds_no_error(tiny):
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run(
        [validator, "--json", str(tiny.bids_dir)], capture_output=True, check=False, text=True
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert not errors
    warnings = {issue["code"] for issue in issues if issue["severity"] == "warning"}
    assert warnings <= {"SIDECAR_KEY_RECOMMENDED", "JSON_KEY_RECOMMENDED", "TOO_FEW_AUTHORS"}
    assert done.returncode == 0


def test_events_agree_with_the_plan(tiny):
    for run in tiny.run_plans:
        events = pd.read_csv(tiny.bids_dir / f"{run.func}_events.tsv", sep="\t")
        films = events[events["trial_type"] == "film"]
        assert films["stim_file"].tolist() == [f"{film}.mp4" for film in run.films]
        np.testing.assert_allclose(films["onset"], run.onsets, atol=1e-3)
        np.testing.assert_allclose(
            events["onset"].iloc[1:], (events["onset"] + events["duration"])[:-1], atol=1e-3
        )
        assert events["stim_file"].isna().sum() == len(run.films) + 1


def test_films_decode_to_their_full_length(tiny):
    for film in tiny.films:
        path = tiny.bids_dir / "stimuli" / f"{film}.mp4"
        done = subprocess.run([ffmpeg_exe(), "-i", str(path)], capture_output=True, check=False, text=True)
        assert "h264" in done.stderr
        assert "yuv420p" in done.stderr
        assert "320x240" in done.stderr
        assert "24 fps" in done.stderr
        pixels = decode(path)
        assert len(pixels) == 12 * tiny.simulate.film_s
        assert pixels.std() > 0.1


def test_the_truth_is_complete_and_consistent(tiny):
    delays = pd.read_csv(tiny.truth_dir / "delays.tsv", sep="\t", dtype={"subject": str})
    assert set(delays["subject"]) == {"all", *tiny.subjects}
    by_level = delays.pivot(index="subject", columns="level", values="delay_s")
    assert (by_level["early"] < by_level["intermediate"]).all()
    assert (by_level["intermediate"] < by_level["high"]).all()
    scenes = pd.read_csv(tiny.truth_dir / "scenes.tsv", sep="\t")
    for _, film in scenes.groupby("film"):
        assert film["start_s"].iloc[0] == 0
        assert film["end_s"].iloc[-1] == tiny.simulate.film_s
    table = pd.read_csv(tiny.atlas_labels, sep="\t")
    labels = np.asarray(nib.load(tiny.atlas_image).dataobj)
    assert set(np.unique(labels)) == {0, *table["index"]}
    ceiling = pd.read_csv(tiny.truth_dir / "noise_ceiling.tsv", sep="\t", dtype={"subject": str})
    assert len(ceiling) == len(tiny.subjects) * (len(table) + 3)
    assert ceiling["truth_r"].between(-1, 1).all()
    with h5py.File(tiny.truth_dir / "weights.h5") as file:
        for level in ("early", "intermediate", "high"):
            features, units = len(file[f"features/{level}/name"]), len(file[f"units/{level}"])
            for who in ("all", "sub-01", "sub-02"):
                assert file[f"weights/{who}/{level}"].shape == (features, units)
    for run in tiny.run_plans:
        series = read_series(tiny.truth_dir / "signals" / f"{run.run_id}.h5")
        assert len(series.times) == run.volumes
        assert series.attributes["subject"] == run.subject
        motion = pd.read_csv(tiny.truth_dir / "motion" / f"{run.run_id}.tsv", sep="\t")
        assert len(motion) == run.volumes
        assert (motion.iloc[0, :6] == 0).all()


def test_parcels_run_from_the_back_of_the_head_to_the_front(tiny):
    image = nib.load(tiny.atlas_image)
    labels = np.asarray(image.dataobj)
    table = pd.read_csv(tiny.atlas_labels, sep="\t")
    centres = {}
    for index, label in zip(table["index"], table["label"], strict=True):
        voxels = np.argwhere(labels == index)
        assert len(voxels) > 100
        centres[label] = nib.affines.apply_affine(image.affine, voxels.mean(0))
    assert all((xyz[0] < 0) == label.startswith("LH") for label, xyz in centres.items())
    early, middle, high = (
        np.mean([xyz[1] for label, xyz in centres.items() if level in label])
        for level in ("early", "intermediate", "high")
    )
    assert early < middle < high


def test_the_same_settings_give_the_same_bytes_with_any_number_of_processes(tmp_path):
    one = make_dataset(MINIMAL, tmp_path / "one" / "bids", jobs=1)
    two = make_dataset(MINIMAL, tmp_path / "two" / "bids", jobs=2)
    for a, b in zip(one.files + one.truth_files, two.files + two.truth_files, strict=True):
        assert checksum(a) == checksum(b), a


def test_it_replaces_its_own_dataset_but_nobody_elses(tmp_path, monkeypatch):
    filled = []

    def fill(plan, scratch, jobs):
        filled.append(plan)
        for path in plan.files + plan.truth_files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        dataset_module._write_texts(plan)

    monkeypatch.setattr(dataset_module, "_fill", fill)
    (tmp_path / "bids" / "sub-01" / "func").mkdir(parents=True)  # empty folders, as Snakemake makes them
    make_dataset(MINIMAL, tmp_path / "bids")
    (tmp_path / "bids" / "stimuli" / "old.mp4").write_text("left over")
    plan = make_dataset(MINIMAL, tmp_path / "bids")
    assert _files(plan.bids_dir) == set(plan.files)
    assert len(filled) == 2

    foreign = tmp_path / "real"
    foreign.mkdir()
    (foreign / "dataset_description.json").write_text('{"Name": "precious"}')
    with pytest.raises(UserError, match="left untouched"):
        make_dataset(MINIMAL, foreign)
    assert len(filled) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        make_dataset(MINIMAL, tmp_path / "file")


def test_a_foreign_truth_folder_is_left_alone(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="truth"):
        make_dataset(MINIMAL, tmp_path / "bids")
    assert not (tmp_path / "bids").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    # Films are in place by then, and the first head is being built.
    monkeypatch.setattr(dataset_module, "build_head", fail)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(MINIMAL, tmp_path / "bids")
    assert not list(tmp_path.iterdir())


def test_fewer_subjects_do_not_change_the_films():
    few, many = (plan_dataset(Simulate(subjects=n), "bids") for n in (2, 5))
    assert few.films == many.films
    assert few.run_plans == many.run_plans[: len(few.run_plans)]
