"""The repetition time: one answer for the index and for the clock, from sidecars, attributes and headers."""

from __future__ import annotations

import h5py
import nibabel as nib
import numpy as np
import pytest

from neuroalign.bids.index import build_index
from neuroalign.bids.repetition import agreed_tr, header_timing, path_timing
from neuroalign.config.fmri import Fmri, Timing
from neuroalign.errors import UserError
from neuroalign.fmri.timeseries import extract_timeseries
from neuroalign.fmri.timing import image_clock

RUN = "sub-01_task-film"
FUNC = "sub-01/func"
BOLD = f"{FUNC}/{RUN}_bold.nii.gz"
LEVELS = {"early": "Vis"}


def image(path, zoom: float, unit: str = "sec", volumes: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nib.Nifti1Image(np.zeros((2, 2, 2, volumes), np.int16), np.eye(4))
    made.header.set_zooms((1, 1, 1, zoom))
    made.header.set_xyzt_units("mm", unit)
    made.header["toffset"] = zoom / 2
    nib.save(made, path)


def test_sidecar_then_raw_run_then_header():
    notes: list[str] = []
    assert agreed_tr({"RepetitionTime": 1.5}, {}, 1.5, "a", notes) == 1.5
    assert notes == []
    assert agreed_tr({"RepetitionTime": 1.5}, {"RepetitionTime": 2.5}, 2.0, "a", notes) == 1.5
    assert "2.5 s in the raw run" in notes[0]
    assert "the sidecar is used" in notes[1]
    assert agreed_tr({}, {"VolumeTiming": [0, 3, 6]}, 1.0, "a") == 3.0
    assert agreed_tr({"SamplingFrequency": 0.5}, {}, None, "a") == 2.0
    assert agreed_tr({}, {}, 2.0, "a") == 2.0


@pytest.mark.parametrize(
    ("metadata", "header", "sentence"),
    [
        ({}, None, "has no RepetitionTime; add the seconds"),
        ({}, 0.0, "has no RepetitionTime; add the seconds"),
        ({"RepetitionTime": 0}, 2.0, "is 0; it must be positive"),
        ({"RepetitionTime": "two"}, 2.0, "is 'two'; it must be positive"),
        ({"RepetitionTime": True}, 2.0, "is True; it must be positive"),
        ({"RepetitionTime": [2.0]}, 2.0, "it must be positive"),
        ({"RepetitionTime": 2000}, 2.0, "BIDS counts in seconds"),
        ({"VolumeTiming": [0, 1, 5]}, 2.0, "irregular"),
        ({"VolumeTiming": 5}, 2.0, "must be a list of seconds"),
    ],
)
def test_a_wrong_repetition_time_is_a_sentence(metadata, header, sentence):
    with pytest.raises(UserError, match=sentence):
        agreed_tr(metadata, {}, header, "a")


@pytest.mark.parametrize(
    ("unit", "zoom", "seconds"),
    [("sec", 1.35, 1.35), ("msec", 800.0, 0.8), ("unknown", 2.0, 2.0), ("sec", 1500.0, 1.5), ("unknown", 2000.0, 2.0)],
)  # fmt: skip
def test_units_of_headers(bids, unit, zoom, seconds):
    path = bids.root / BOLD
    image(path, zoom, unit)
    assert header_timing(nib.load(path)) == (seconds, pytest.approx(seconds / 2))
    assert path_timing(path) == (20, seconds)
    image(path, 0.0)
    assert path_timing(path) == (20, None)
    path.write_text("no image")
    assert path_timing(path) == (None, None)


# Where the repetition time is told: sidecars, and the header of image and raw image.
TOLD = {
    "derivative": ({"RepetitionTime": 2.0}, {}, 1.0, 2.0),
    "raw run": ({}, {"RepetitionTime": 2.0}, 1.0, 2.0),
    "times of volumes": ({}, {"VolumeTiming": [3.0 * n for n in range(20)]}, 1.0, 3.0),
    "header in milliseconds": ({}, {}, 2000.0, 2.0),
}


@pytest.mark.parametrize("case", TOLD)
def test_index_and_clock_of_images_agree(bids, derived, case):
    own, raw, zoom, seconds = TOLD[case]
    bids.run(RUN, meta=raw, image=None)
    derived.preprocessed(RUN, meta=own)
    preprocessed = derived.root / FUNC / f"{RUN}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    image(preprocessed, zoom, "unknown")
    image(bids.root / BOLD, zoom, "unknown", 22)
    index = build_index(bids.config("fmriprep", derived.root))
    assert index.problems == []
    row = index.runs.iloc[0].to_dict()
    assert (row["tr"], row["raw_volumes"]) == (seconds, "22")
    clock = image_clock(row, Timing(), bids.root)
    assert (clock.tr, clock.discarded) == (seconds, 2)
    (bids.root / BOLD).unlink()
    assert build_index(bids.config("fmriprep", derived.root)).runs["raw_volumes"].tolist() == [""]


@pytest.mark.parametrize("case", ["echoes", "times of volumes", "text in HDF5", "times in HDF5"])
def test_index_and_clock_of_series_agree(bids, derived, case):
    events = "onset\tduration\tstim_file\n0\t4\tfilm.mp4\n"
    bids.file(f"{FUNC}/{RUN}_events.tsv", events)
    values = np.random.default_rng(0).normal(size=(20, 2))
    path = derived.root / FUNC / f"{RUN}_timeseries.{'h5' if 'HDF5' in case else 'tsv'}"
    path.parent.mkdir(parents=True)
    if "HDF5" in case:
        with h5py.File(path, "w") as file:
            file["data"], file["labels"] = values, ["Vis_1", "Vis_2"]
            if "text" in case:
                file.attrs["tr"] = "2.0"
            else:
                file["times"] = 0.5 + 2.0 * np.arange(20)
    else:
        np.savetxt(path, values, delimiter="\t", header="Vis_1\tVis_2", comments="")
    if case == "echoes":
        for echo in (1, 2):
            bids.file(f"{FUNC}/{RUN}_echo-{echo}_bold.json", {"RepetitionTime": 2.0})
    elif case == "times of volumes":
        bids.file(f"{FUNC}/{RUN}_bold.json", {"VolumeTiming": [2.0 * n for n in range(20)]})
    index = build_index(bids.config("timeseries", derived.root))
    assert index.problems == []
    assert index.runs["tr"].tolist() == [2.0]
    fmri = Fmri(source="timeseries", levels=LEVELS)
    series, _, _ = extract_timeseries(index.runs.iloc[0].to_dict(), fmri, bids.root)
    assert series.attributes["tr"] == 2.0


def test_times_in_milliseconds_are_refused_by_index_and_clock(bids, derived):
    bids.file(f"{FUNC}/{RUN}_events.tsv", "onset\tduration\tstim_file\n0\t4\tfilm.mp4\n")
    path = derived.root / FUNC / f"{RUN}_timeseries.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["data"], file["labels"] = np.ones((20, 2)), ["Vis_1", "Vis_2"]
        file["times"] = 1000.0 + 2000.0 * np.arange(20)
        file.attrs["tr"] = 2.0
    (problem,) = build_index(bids.config("timeseries", derived.root)).problems
    assert "/times are 2000 apart; they are seconds" in problem
    row = {"run_id": RUN, "timeseries": str(path)}
    with pytest.raises(UserError, match="/times are 2000 apart"):
        extract_timeseries(row, Fmri(source="timeseries", levels=LEVELS), bids.root)
