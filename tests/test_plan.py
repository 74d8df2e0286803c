"""What the plan refuses when the workflow is parsed, every problem at once."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.errors import Problems, UserError
from neuroalign.plan import make_plan
from neuroalign.video.normalise import normalise

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


def test_a_stimulus_that_links_out_of_the_dataset_is_refused(values, tmp_path):
    (tmp_path / "private.mp4").write_text("private")
    (tmp_path / "bids/stimuli/one.mp4").unlink()
    (tmp_path / "bids/stimuli/one.mp4").symlink_to(tmp_path / "private.mp4")
    with pytest.raises(UserError, match=r"stimuli/one\.mp4 leads to .*private\.mp4, outside"):
        make_plan(values)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {film}\n",
    ],
)
def test_what_a_stimulus_of_the_events_names_is_not_read(values, tmp_path, text):
    film = tmp_path / "private.mp4"
    film.write_bytes(b"private")
    (tmp_path / "bids/stimuli/one.mp4").write_text(text.format(film=film))
    source = make_plan(values).stimulus_file("one")
    with pytest.raises(UserError, match=r"one\.mp4 is not a video that can be read"):
        normalise(source, tmp_path / "out.mp4", tmp_path / "out.json", Video())


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


def test_a_declared_film_is_planned_and_cut_into_clips_on_the_clock_of_the_run(values, tmp_path):
    from neuroalign.config.pairs import Clips
    from neuroalign.pairs.clips import clip_table

    (tmp_path / "bids/sub-01/func/sub-01_task-film_events.tsv").unlink()
    values["dataset"]["presentations"] = [{"stimulus": "two.mp4", "onset": 7.5, "offset": 4.0}]
    plan = make_plan(values)
    assert plan.stimuli == ["two"]
    assert plan.events_files == []
    clips = clip_table(plan.presentations, {"two": 20.0}, Clips(strategy="fixed", duration_s=4, stride_s=4))
    assert clips["start_s"].tolist() == [4.0, 8.0, 12.0, 16.0]
    # The film's second 4 came 7.5 s after the first volume.
    assert clips["onset_s"].tolist() == [7.5, 11.5, 15.5, 19.5]


def test_a_changed_filter_file_changes_the_plan(values, tmp_path):
    func = tmp_path / "bids/sub-01/func"
    (func / "sub-01_task-film_acq-b_bold.nii.gz").touch()
    file = tmp_path / "filter.json"
    values["dataset"]["filters"] = {"bids_filter_file": str(file)}
    digests = set()
    for acquisition, run in (("null", "sub-01_task-film"), ('"b"', "sub-01_task-film_acq-b")):
        file.write_text(f'{{"bold": {{"acquisition": {acquisition}}}}}')
        plan = make_plan(values)
        assert plan.run_ids == [run]
        digests.add(plan.digest)
    assert len(digests) == 2


def test_the_demo_takes_filters_by_label_and_refuses_what_is_for_real_data(tmp_path):
    dataset = {"simulate": {}, "bids_dir": str(tmp_path / "bids"), "filters": {"subject": "02"}}
    plan = make_plan({"dataset": dataset})
    assert set(plan.runs["subject"]) == set(plan.presentations["subject"]) == {"02"}
    # The dataset is made whole.
    assert any("sub-01" in str(path) for path in plan.dataset_files)
    for key, value in (("filters", {"bids_filter_file": "x"}), ("presentations", [{"stimulus": "a"}])):
        with pytest.raises(UserError, match="are for real data"):
            make_plan({"dataset": dataset | {key: value}})


@pytest.mark.parametrize(
    ("train", "gpus"),
    [({}, 1), ({"processes": 4}, 4), ({"device": "cpu", "processes": 4}, 0), ({"device": "cpu"}, 0)],
)
def test_a_training_job_asks_for_a_gpu_for_each_of_its_processes(values, train, gpus):
    assert make_plan(values | {"train": train}).train_gpus == gpus
