"""A known response to the events comes out at the right time, well below the repetition time, through every source.

The truth is a sum of smooth bumps centred on known moments of the events' clock, sampled when a scanner would sample it.
What is tested is where the bumps are found in the ROI series, and in the windows that are cut from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from neuroalign.bids.derivatives import run_paths
from neuroalign.config.fmri import Fmri, Hrf
from neuroalign.errors import UserError
from neuroalign.fmri.extract import extract_run
from neuroalign.fmri.preprocess.slice_timing import correct_slice_timing, reference_time, slice_times
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.io import write_json, write_tsv
from neuroalign.pairs.windows import brain_window, step_times

VOLUMES, SLICES = 90, 12
LABELS = ["Vis_1", "Vis_2", "Default_1"]
RUN = "sub-1_task-film"
PLENTY = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Scan:
    """How a run was acquired; seconds."""

    tr: float
    slices: np.ndarray
    offset: float
    dummies: int
    seed: int

    @property
    def moments(self) -> np.ndarray:
        """The centres of the bumps on the clock of the events."""
        rng = np.random.default_rng(self.seed)
        return self.offset + self.tr * (np.arange(12, VOLUMES - 8, 13) + rng.uniform(-3, 3, 6))

    def response(self, seconds: np.ndarray, late: float = 0.0) -> np.ndarray:
        """The signal on the clock of the events."""
        width = 2.5 * self.tr
        return np.exp(-0.5 * ((np.asarray(seconds)[..., None] - self.moments - late) / width) ** 2).sum(-1)

    def sampled(self, times_of_scanner: np.ndarray) -> np.ndarray:
        """What is measured at these seconds after the start of the first stored volume."""
        return 1000 + 30 * self.response(np.asarray(times_of_scanner) + self.offset)

    def delay(self, series: np.ndarray, seconds: np.ndarray) -> float:
        """How late `series`, said to be measured at `seconds`, is, in repetition times."""

        # Cleaning takes a line out of the series; the fit takes one out of both.
        line = np.column_stack([np.ones_like(seconds), seconds])

        def without_line(values: np.ndarray) -> np.ndarray:
            return values - line @ np.linalg.lstsq(line, values, rcond=None)[0]

        found = without_line(np.asarray(series, float))

        def misfit(late: float) -> float:
            return -(np.corrcoef(without_line(self.response(seconds, late)), found)[0, 1] ** 2)

        return minimize_scalar(misfit, bounds=(-2 * self.tr, 2 * self.tr), method="bounded").x / self.tr


@st.composite
def scans(draw) -> Scan:
    tr = draw(st.floats(0.6, 3.0).map(lambda v: round(v, 3)))
    acquired = draw(st.sampled_from([1.0, 0.95, 0.6])) * tr
    shots = draw(st.sampled_from([SLICES, SLICES // 2, SLICES // 3]))
    times = np.round(np.tile(np.arange(shots) * acquired / shots, SLICES // shots), 4)
    order = draw(st.sampled_from(["ascending", "descending", "interleaved"]))
    if order == "descending":
        times = times[::-1].copy()
    elif order == "interleaved":
        times = np.concatenate([times[::2], times[1::2]])
    offset = draw(st.sampled_from([0.0, 0.0, -3.3, 7.25]))
    return Scan(tr, times, offset, draw(st.sampled_from([0, 0, 3])), draw(st.integers(0, 99)))


def atlas(folder) -> str:
    labels = np.zeros((4, 3, SLICES), np.int16)
    labels[:3] = np.arange(1, 4)[:, None, None]
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "atlas_dseg.nii.gz")
    write_tsv(folder / "atlas_dseg.tsv", pd.DataFrame({"index": [1, 2, 3], "label": LABELS}))
    return str(folder / "atlas_dseg.nii.gz")


def save(path, data, tr: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(data, np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr)[: data.ndim])
    nib.save(image, path)


def raw_run(folder, scan: Scan, **more) -> np.ndarray:
    """A raw dataset of one run, every slice measured at its own time; the dummies are bright."""
    clock = scan.tr * np.arange(VOLUMES)
    data = np.tile(scan.sampled(clock + scan.slices[:, None]), (4, 3, 1, 1))
    data[..., : scan.dummies] *= 1.5
    write_json(folder / "bids/dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    save(folder / f"bids/sub-1/func/{RUN}_bold.nii.gz", data, scan.tr)
    meta = {"RepetitionTime": scan.tr, "SliceTiming": scan.slices.tolist()}
    write_json(folder / f"bids/sub-1/func/{RUN}_bold.json", meta | more)
    return data


def images(folder, paths, data, scan: Scan, sidecar: dict) -> None:
    save(paths["bold"], data, scan.tr)
    save(paths["mask"], np.ones(data.shape[:3]), scan.tr)
    write_json(str(paths["bold"]).replace(".nii.gz", ".json"), sidecar)
    table = pd.DataFrame({"framewise_displacement": np.full(VOLUMES, 0.1)})
    for n in range(scan.dummies):
        table[f"non_steady_state_outlier{n:02d}"] = (np.arange(VOLUMES) == n).astype(float)
    write_tsv(paths["confounds"], table)


def extracted(folder, scan: Scan, source: str, row: dict, **fmri) -> RoiSeries:
    timing = {"onset_shift_s": scan.offset} | fmri.pop("timing", {})
    config = Fmri(
        source=source, space="S", levels={"early": "^Vis", "high": "^Default"}, timing=timing,
        clean={"strategy": "none", "high_pass_hz": None}, **fmri,
    )  # fmt: skip
    row = {"run_id": RUN, "subject": "1", "task": "film"} | row
    extract_run(
        row, config, folder / "o.h5", folder / "q.h5", bids_dir=folder / "bids", preproc_dir=folder / "native"
    )
    return read_series(folder / "o.h5")


def check(series: RoiSeries, scan: Scan, tolerance: float = 0.02) -> None:
    """The bumps are where they were, in the series and in every kind of window."""
    for data in series.levels.values():
        assert abs(scan.delay(data[series.keep, 0], series.times[series.keep])) < tolerance
    onsets = np.arange(series.times[0] + 4 * scan.tr, series.times[-1] - 20 * scan.tr, 4 * scan.tr)
    window = Hrf(method="adaptive", window_s=(-2 * scan.tr, 4 * scan.tr))
    cut = brain_window(series, onsets, 4 * scan.tr, scan.tr, window)
    seconds, values = (onsets[:, None] + cut.times)[cut.valid], cut.levels["early"][..., 0][cut.valid]
    assert abs(scan.delay(values, seconds)) < tolerance
    lag = 2.6 * scan.tr
    for method, shift in (("shift", lag), ("none", 0.0)):
        cut = brain_window(series, onsets, 4 * scan.tr, scan.tr / 2, Hrf(method=method, shift_s=shift))
        steps = step_times(4 * scan.tr, scan.tr / 2) + shift
        values, seconds = cut.levels["high"][cut.usable][..., 0], (onsets[:, None] + steps)[cut.usable]
        assert cut.usable.mean() > 0.7
        assert abs(scan.delay(values.ravel(), seconds.ravel())) < tolerance


@pytest.fixture
def folder(tmp_path_factory):
    """A fresh folder per example."""
    return lambda: tmp_path_factory.mktemp("run")


@PLENTY
@given(scan=scans(), correct=st.booleans())
def test_raw_source(folder, scan, correct):
    root = folder()
    data = raw_run(root, scan)
    paths = run_paths(RUN, root / "native", space="S")
    write_json(root / "native/dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    sidecar = {"RepetitionTime": scan.tr, "SliceTimingCorrected": correct}
    if correct:
        # As `preprocess.native` does it: corrected to the reference, which is written as StartTime.
        times, axis = slice_times({"SliceTiming": scan.slices.tolist()}, data.shape, scan.tr, "x")
        sidecar["StartTime"] = reference_time(times)
        data = correct_slice_timing(data, times, scan.tr, axis, sidecar["StartTime"])
    images(root, paths, data, scan, sidecar)
    series = extracted(root, scan, "raw", {"bold": "x"}, atlas={"image": atlas(root)})
    assert series.keep.tolist() == [i >= scan.dummies for i in range(VOLUMES)]
    # Without correction a volume is said to be half a slice later than the mean of its slices' moments.
    half_slice = 0 if correct else 0.5 / len(np.unique(scan.slices))
    check(series, scan, 0.02 + half_slice)


@PLENTY
@given(
    scan=scans(),
    fraction=st.sampled_from([0.0, 0.5, 1.0]),
    version=st.sampled_from(["20.2.0", "23.2.0"]),
    dropped=st.sampled_from([0, 4]),
)
def test_fmriprep_source(folder, scan, fraction, version, dropped):
    root = folder()
    raw_run(root, scan)
    first, last = scan.slices.min(), scan.slices.max()
    sidecar = {"RepetitionTime": scan.tr}
    if version == "20.2.0":
        start = (first + last) / 2
    else:
        start = float(np.round(first + fraction * (last - first), 3))
        sidecar |= {"SliceTimingCorrected": True, "StartTime": start}
        # Of multiband slices the first two times are equal, and DelayTime one slice too long.
        ordered = np.sort(scan.slices)
        delay = scan.tr - (ordered[-1] + ordered[1] - ordered[0])
        if delay > 1e-6:
            sidecar["DelayTime"] = float(delay)
    if dropped and version != "20.2.0":
        # A lab that crops runs and says so.
        sidecar["StartTime"] = start + dropped * scan.tr
    else:
        dropped = 0
    clock = start + scan.tr * np.arange(dropped, VOLUMES)
    data = np.tile(scan.sampled(clock), (4, 3, SLICES, 1))
    data[..., : max(0, scan.dummies - dropped)] *= 1.5
    stem = root / f"prep/sub-1/func/{RUN}"
    paths = {
        "bold": stem.with_name(f"{RUN}_space-S_desc-preproc_bold.nii.gz"),
        "mask": stem.with_name(f"{RUN}_space-S_desc-brain_mask.nii.gz"),
        "confounds": stem.with_name(f"{RUN}_desc-confounds_timeseries.tsv"),
    }
    images(root, paths, data, scan, sidecar)
    table = pd.read_csv(paths["confounds"], sep="\t").iloc[dropped:]
    write_tsv(paths["confounds"], table)
    row = {name: str(path) for name, path in paths.items()}
    series = extracted(root, scan, "fmriprep", row, atlas={"image": atlas(root)})
    assert (~series.keep).sum() == max(0, scan.dummies - dropped)
    check(series, scan)


@PLENTY
@given(
    scan=scans(),
    removed=st.sampled_from(["no", "rows", "n/a"]),
    dropped=st.sampled_from([0, 5]),
    says=st.sampled_from(["StartTime", "nothing", "SamplingFrequency"]),
)
def test_tables(folder, scan, removed, dropped, says):
    root = folder()
    raw_run(root, scan)
    start = round(float(scan.slices.min() + scan.slices.max()) / 2, 3)
    values = scan.sampled(start + scan.tr * np.arange(dropped, VOLUMES))
    moved = np.zeros(len(values), bool)
    moved[[7, 20, 21, 50]] = removed != "no"
    table = pd.DataFrame({label: np.where(moved, 1e6, values) for label in LABELS})
    path = root / f"xcp/sub-1/func/{RUN}_space-S_seg-Tiny_stat-mean_timeseries.tsv"
    sidecar = (
        {"SamplingFrequency": 1 / scan.tr} if says == "SamplingFrequency" else {"RepetitionTime": scan.tr}
    )
    if says == "StartTime":
        sidecar |= {"SliceTimingCorrected": True, "StartTime": start}
    write_json(path.with_suffix(".json"), sidecar)
    if removed == "rows":
        table = table[~moved]
        write_tsv(
            path.with_name(f"{RUN}_outliers.tsv"), pd.DataFrame({"framewise_displacement": moved.astype(int)})
        )
    elif removed == "n/a":
        table[moved] = np.nan
    write_tsv(path, table)
    write_json(root / "xcp/dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    timing = {"dummy_scans": scan.dummies}
    if dropped and removed != "rows":
        # Without a table of outliers nothing tells a volume dropped at the start from one censored in the middle.
        with pytest.raises(UserError, match="nothing tells which are missing"):
            extracted(root, scan, "timeseries", {"timeseries": str(path)}, timing=timing)
        timing["discarded_volumes"] = dropped
    series = extracted(root, scan, "timeseries", {"timeseries": str(path)}, timing=timing)
    wanted = ~moved
    wanted[: max(0, scan.dummies - dropped)] = False
    assert series.keep.tolist() == wanted.tolist()
    check(series, scan)


@PLENTY
@given(scan=scans(), own_times=st.booleans(), gaps=st.booleans())
def test_plain_hdf5(folder, scan, own_times, gaps):
    root = folder()
    write_json(root / "bids/dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    times = scan.tr * (np.arange(VOLUMES) + (0.31 if own_times else 0.5))
    keep = np.ones(VOLUMES, bool)
    keep[: scan.dummies] = False
    values = np.where(keep, scan.sampled(times), 1e6)
    there = np.ones(VOLUMES, bool)
    if own_times and gaps:
        there[[30, 31, 60]] = False
    path = root / f"lab/sub-1/func/{RUN}_timeseries.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["data"] = np.repeat(values[there, None], 3, axis=1)
        file["labels"] = LABELS
        file["keep"] = keep[there]
        if own_times:
            file["times"] = times[there]
        file.attrs["tr"] = scan.tr
    series = extracted(root, scan, "timeseries", {"timeseries": str(path)})
    np.testing.assert_allclose(series.times, times[there] + scan.offset)
    assert (~series.keep).sum() == scan.dummies
    check(series, scan)
