"""The rules of the clock, and that every disagreement is said."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.bids.metadata import sidecar
from neuroalign.bids.raw_run import RawRun, find_raw_run
from neuroalign.config.fmri import Clean, Timing
from neuroalign.errors import UserError
from neuroalign.fmri.clean import load_run_confounds
from neuroalign.fmri.timing import run_clock, unsteady
from neuroalign.io import write_json

SLICES = {"RepetitionTime": 2.0, "SliceTiming": [0.0, 0.9, 0.3, 1.2, 0.6, 1.5]}
CORRECTED = {"RepetitionTime": 2.0, "SliceTimingCorrected": True}


def clock(metadata, raw=None, volumes=None, rows=100, header=(None, 0.0), **timing):
    known = None if raw is None and volumes is None else RawRun(Path("x"), raw or {}, volumes)
    return run_clock(rows, metadata, known, Timing(**timing), "run.nii", header=header)


# sidecar, raw sidecar, time of the first volume, a word of every note
CASES = {
    "nothing but the repetition time": ({"RepetitionTime": 2.0}, {}, 1.0, []),
    "corrected, with its time": (CORRECTED | {"StartTime": 0.75}, SLICES, 0.75, []),
    "corrected to the first slice": (CORRECTED | {"StartTime": 0.0}, SLICES, 0.0, []),
    "fMRIPrep before 20.2.4": ({"RepetitionTime": 2.0}, SLICES, 0.75, []),
    "corrected, but to when?": (CORRECTED, SLICES, 0.75, ["half-way between the slices"]),
    "corrected, and nothing known": (CORRECTED, {}, 1.0, ["middle of the acquisition"]),
    "not corrected": ({"RepetitionTime": 2.0, "SliceTimingCorrected": False}, SLICES, 0.9, []),
    "not corrected, with a start": (
        {"RepetitionTime": 2.0, "SliceTimingCorrected": False, "StartTime": 0.5}, {}, 1.5, ["begins"],
    ),
    "start between volumes": (CORRECTED | {"StartTime": 1.8}, SLICES, 1.8, ["1.8 s into a repetition"]),
    "cropped": (CORRECTED | {"StartTime": 8.75}, SLICES, 8.75, ["4 volumes are missing at the start"]),
    "sparse, by the pause": ({"RepetitionTime": 3.0}, {"DelayTime": 1.0}, 1.0, []),
    "sparse, by the duration": ({"RepetitionTime": 3.0}, {"AcquisitionDuration": 1.2}, 0.6, []),
    "sparse, by its volumes": ({}, {"VolumeTiming": [0, 5, 10], "AcquisitionDuration": 2.0}, 1.0, ["3 entries"]),
    "sparse, by its slices": ({"RepetitionTime": 4.0, "SliceTimingCorrected": False}, SLICES | {"RepetitionTime": 4.0}, 0.9, []),
    "a pause as long as all": ({"RepetitionTime": 3.0, "DelayTime": 3.0}, {}, 1.5, ["DelayTime is 3 s"]),
    "two repetition times": ({"RepetitionTime": 2.0}, {"RepetitionTime": 2.5}, 1.0, ["2.5 s in the raw run"]),
    "a frequency": ({"SamplingFrequency": 0.5}, {}, 1.0, []),
    "slices in milliseconds": ({"RepetitionTime": 2.0}, {"SliceTiming": [0, 500, 1000]}, 1.0, ["outside the repetition"]),
    "dropped by XCP-D": ({"RepetitionTime": 2.0, "dummy vols": 3}, {}, 7.0, ["3 volumes were dropped"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_first_volume_and_what_is_said_of_it(case):
    metadata, raw, first, words = CASES[case]
    found = clock(metadata, raw)
    assert found.times[0] == pytest.approx(first)
    assert np.diff(found.times) == pytest.approx(found.tr)
    assert len(found.notes) == len(words), found.notes
    for note, word in zip(found.notes, words, strict=True):
        assert word in note.replace("*", "")


def test_header_is_compared(caplog):
    found = clock({"RepetitionTime": 2.0, "StartTime": 0.9}, header=(2.2, 1.1))
    assert found.times[0] == 0.9
    assert "2.2 s in the header" in found.notes[0]
    assert "toffset is 1.1 s" in found.notes[1]
    assert "toffset is 1.1 s" in caplog.text
    assert clock({"RepetitionTime": 2.0, "StartTime": 0.9}, header=(2.0, 0.9)).notes == ()


@pytest.mark.parametrize(
    ("metadata", "volumes", "timing", "words"),
    [
        (CORRECTED | {"StartTime": 900}, None, {}, "divide it by 1000"),
        (CORRECTED | {"StartTime": 900}, 100, {}, "divide it by 1000"),
        (CORRECTED | {"StartTime": "0.9"}, None, {}, "StartTime is '0.9'"),
        ({"RepetitionTime": 2000}, None, {}, "divide it by 1000"),
        ({"RepetitionTime": 2}, 90, {}, "100 volumes, but its raw run has 90"),
        ({"RepetitionTime": 2}, 160, {}, "say with fmri.timing.discarded_volumes"),
        ({"RepetitionTime": 2}, 102, {"discarded_volumes": 5}, "5 volumes should be missing at the start"),
        ({"VolumeTiming": [0, 2, 5]}, None, {}, "irregular"),
        ({"RepetitionTime": 2, "VolumeTiming": []}, None, {}, "VolumeTiming must be a list of seconds"),
        ({"RepetitionTime": 2, "VolumeTiming": 2.0}, None, {}, "VolumeTiming must be a list of seconds"),
        ({"SamplingFrequency": 0}, None, {}, "must be positive"),
    ],
)
def test_nonsense_is_one_sentence(metadata, volumes, timing, words):
    with pytest.raises(UserError, match=words):
        clock(metadata, volumes=volumes, **timing)


@settings(deadline=None)
@given(missing=st.integers(0, 20), told=st.none() | st.integers(0, 20), start=st.sampled_from([None, 0.7]))
def test_missing_volumes_are_counted_or_told(missing, told, start):
    metadata = {"RepetitionTime": 2.0} | ({} if start is None else {"StartTime": start})
    if told is not None and told > missing:
        with pytest.raises(UserError):
            clock(metadata, volumes=100 + missing, discarded_volumes=told)
        return
    found = clock(metadata, volumes=100 + missing, discarded_volumes=told)
    count = missing if told is None else told
    assert found.discarded == count
    assert found.times[0] == pytest.approx((1.0 if start is None else start) + 2.0 * count)
    assert bool(found.notes) == (told != missing and missing > 0)


def test_a_late_start_is_believed_if_it_is_confirmed():
    late = CORRECTED | {"StartTime": 60.5}
    assert clock(late, volumes=140).times[0] == 60.5
    assert clock(late, discarded_volumes=30).times[0] == 60.5
    moved = clock(late, discarded_volumes=28)
    assert moved.times[0] == 56.5
    assert "30 volumes" in moved.notes[0]


@settings(deadline=None)
@given(shift=st.floats(-20, 20), start=st.floats(0, 1.9))
def test_shift_moves_every_volume(shift, start):
    metadata = CORRECTED | {"StartTime": start}
    moved = clock(metadata, onset_shift_s=shift).times
    np.testing.assert_allclose(moved, clock(metadata).times + shift, atol=1e-9)


def test_volumes_discarded_before_the_first_stored_one_shift_nothing():
    raw = {"NumberOfVolumesDiscardedByUser": 4, "NumberOfVolumesDiscardedByScanner": 2}
    assert clock({"RepetitionTime": 2.0}, raw).times[0] == 1.0


def test_dummies_come_from_the_table_unless_they_are_told():
    table = pd.DataFrame(
        {"non_steady_state_outlier00": [1.0, 0, 0, 0], "non_steady_state_outlier01": [0, 1.0, 0, 0]}
    )
    assert unsteady(table, 4, Timing()).tolist() == [True, True, False, False]
    assert unsteady(table, 4, Timing(dummy_scans=0)).sum() == 0
    assert unsteady(None, 4, Timing(dummy_scans=3)).tolist() == [True, True, True, False]
    assert unsteady(None, 4, Timing(dummy_scans=3), discarded=2).tolist() == [True, False, False, False]
    assert unsteady(None, 4, Timing(dummy_scans=1), discarded=2).sum() == 0


def test_raw_run_is_found_by_its_name(tmp_path):
    folder = tmp_path / "sub-1/ses-2/func"
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 7), np.int16), np.eye(4))
    for name in (
        "task-film_run-01_echo-2",
        "task-film_run-01_echo-1",
        "task-film_run-02",
        "task-film_dir-AP_run-1",
    ):
        nib.save(image, folder / f"sub-1_ses-2_{name}_bold.nii.gz")
    write_json(tmp_path / "task-film_bold.json", {"RepetitionTime": 1.5})
    found = find_raw_run("sub-1_ses-2_task-film_run-1", tmp_path)
    assert found.path.name == "sub-1_ses-2_task-film_run-01_echo-1_bold.nii.gz"
    assert (found.volumes, found.metadata) == (7, {"RepetitionTime": 1.5})
    absent = find_raw_run("sub-1_ses-2_task-film_run-3", tmp_path)
    assert (absent.volumes, absent.metadata["RepetitionTime"]) == (None, 1.5)


def test_real_fmriprep_sidecars_need_no_note(shared_data):
    """Version 23.2 with ``--slice-time-ref 0``, multiband: StartTime 0, and a DelayTime of one slice too much."""
    root = shared_data / "boldmoments"
    files = sorted(root.glob("derivatives/fmriprep/sub-01/**/*space-MNI*desc-preproc_bold.json"))
    assert files
    for file in files:
        metadata = sidecar(file.with_suffix(".nii.gz"), root / "derivatives/fmriprep")
        name = file.name.split("_space")[0]
        found = run_clock(300, metadata, find_raw_run(name, root), Timing(), name)
        assert (found.times[0], found.tr, found.notes) == (0.0, 1.75, ())
        plain = metadata | {"SliceTimingCorrected": False}
        del plain["StartTime"]
        # The last slices are acquired from 1.665 s on, and a slice takes about 0.064 s.
        middle = run_clock(300, plain, find_raw_run(name, root), Timing(), name).times[0]
        assert middle == pytest.approx((1.6675 + 0.064) / 2, abs=0.003)


@pytest.mark.parametrize("strategy", ["none", "motion", "scrubbing"])
def test_dummies_of_a_confounds_table(tmp_path, strategy):
    """nilearn leaves out what the table calls non-steady; a told number has the last word."""
    rng = np.random.default_rng(0)
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    columns = {
        name + suffix: rng.normal(size=60) * 0.01
        for name in (*motion, "csf", "white_matter")
        for suffix in ("", "_derivative1", "_power2", "_derivative1_power2")
    }
    columns |= {"framewise_displacement": np.full(60, 0.1), "std_dvars": np.ones(60)}
    for n in range(2):
        columns[f"non_steady_state_outlier{n:02d}"] = (np.arange(60) == n).astype(float)
    path = tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv"
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False)
    write_json(path.with_suffix(".json"), {})
    bold = tmp_path / "sub-1_task-a_space-S_desc-preproc_bold.nii.gz"

    def unused(**timing) -> int:
        keep = load_run_confounds(bold, path, Clean(strategy=strategy), 60, timing=Timing(**timing))[1]
        assert keep[(~keep).sum() :].all()
        return int((~keep).sum())

    assert unused() == 2
    assert unused(dummy_scans=0) == 0
    assert unused(dummy_scans=1) == 1
    assert unused(dummy_scans=4) == 4
