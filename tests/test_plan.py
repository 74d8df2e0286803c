"""What the plan refuses when the workflow is parsed, every problem at once."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroalign.errors import Problems, UserError
from neuroalign.plan import make_plan

FILMS = ("one", "two")


@pytest.fixture
def values(tmp_path: Path) -> dict:
    """A raw dataset of empty images, with its configuration."""
    root = tmp_path / "bids"
    for folder in ("sub-01/func", "sub-01/anat", "stimuli"):
        (root / folder).mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "task-film_bold.json").write_text('{"RepetitionTime": 2.0}')
    (root / "sub-01/anat/sub-01_T1w.nii.gz").touch()
    (root / "sub-01/func/sub-01_task-film_bold.nii.gz").touch()
    rows = [f"{10 * i}\t8\t{name}.mp4" for i, name in enumerate(FILMS)]
    events = "\n".join(["onset\tduration\tstim_file", *rows])
    (root / "sub-01/func/sub-01_task-film_events.tsv").write_text(events + "\n")
    for name in FILMS:
        (root / f"stimuli/{name}.mp4").touch()
    return {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"bids_dir": str(root)},
        "fmri": {"atlas": {"image": "atlas-X_space-MNI152NLin2009cAsym_dseg.nii.gz"}},
    }


def features(folder: Path, name: str, rows: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["times"], file["features"] = np.arange(8.0), np.zeros((rows, 3), np.float32)


def test_a_complete_dataset_is_planned(values):
    plan = make_plan(values)
    assert plan.run_ids == ["sub-01_task-film"]
    assert plan.stimuli == list(FILMS)


def test_an_atlas_in_another_space_and_a_missing_stimulus_are_told_together(values, tmp_path):
    values["fmri"]["space"] = "MNI152NLin6Asym"
    (tmp_path / "bids/stimuli/one.mp4").unlink()
    with pytest.raises(Problems) as error:
        make_plan(values)
    atlas, stimulus = error.value.problems
    assert "is in another space ('MNI152NLin2009cAsym') than fmri.space ('MNI152NLin6Asym')" in atlas
    assert "stimuli/one.mp4 is missing" in stimulus


def test_a_dangling_stimulus_is_left_to_the_job_that_reads_it(values, tmp_path):
    (tmp_path / "bids/stimuli/one.mp4").unlink()
    (tmp_path / "bids/stimuli/one.mp4").symlink_to("nowhere")
    assert make_plan(values).stimuli == list(FILMS)


def test_all_unusable_features_are_told_together(values, tmp_path):
    values["video"] = {"backbone": "precomputed", "precomputed_dir": str(tmp_path / "features")}
    with pytest.raises(UserError, match="is not a folder") as error:
        make_plan(values)
    assert "\n" not in str(error.value)
    features(tmp_path / "features", "one", rows=5)
    features(tmp_path / "features", "tow")
    with pytest.raises(Problems) as problems:
        make_plan(values)
    short, absent = problems.value.problems
    assert "/features has shape (5, 3) but there are 8 times" in short
    assert absent.endswith("has no features 'two.h5' for that stimulus; did you mean 'tow'?")
    features(tmp_path / "features", "one")
    features(tmp_path / "features", "two")
    assert [Path(p).stem for p in make_plan(values).embedding_files] == list(FILMS)
