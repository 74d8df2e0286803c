"""Series made by others: what XCP-D, giga_connectome and laboratories write becomes the same ROI series."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from neuroalign.bids.index import build_index
from neuroalign.bids.series_files import companions, same_atlas
from neuroalign.config import parse_config
from neuroalign.config.fmri import Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.extract import extract_run
from neuroalign.fmri.qc import read_qc
from neuroalign.fmri.series import RoiSeries, read_series, write_series
from neuroalign.io import write_json, write_tsv

LABELS = ["Vis_1", "Vis_2", "Default_1", "Default_2"]
RUN = "sub-1_task-film_run-01"


class Lab:
    """A dataset with one run of 40 volumes, and derivatives of somebody."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "derived"
        rng = np.random.default_rng(0)
        self.values = rng.normal(loc=5, size=(40, 4))
        write_json(root / "bids/dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
        write_json(root / "bids/task-film_bold.json", {"RepetitionTime": 2.0})
        self.labels = root / "labels.tsv"
        write_tsv(self.labels, pd.DataFrame({"index": [0, 1, 2, 5, 7], "label": ["Background", *LABELS]}))

    def image(self, volumes: int = 40) -> Lab:
        path = self.root / f"bids/sub-1/func/{RUN}_bold.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, volumes), np.int16), np.eye(4)), path)
        return self

    def path(self, name: str) -> Path:
        path = self.out / "sub-1/func" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def table(self, name: str = f"{RUN}_space-S_atlas-Tiny_timeseries.tsv", values=None, **options) -> Path:
        frame = pd.DataFrame(
            self.values if values is None else values, columns=options.pop("columns", LABELS)
        )
        path = self.path(name)
        frame.to_csv(path, **{"sep": "\t", "index": False, "na_rep": "n/a"} | options)
        return path

    def read(self, path: Path, **fmri) -> RoiSeries:
        config = Fmri(
            **{"source": "timeseries", "space": "S", "levels": {"early": "^Vis", "high": "^Default"}} | fmri
        )
        row = {"run_id": RUN, "subject": "1", "task": "film", "timeseries": str(path)}
        extract_run(row, config, self.root / "o.h5", self.root / "q.h5", bids_dir=self.root / "bids")
        return read_series(self.root / "o.h5")

    def expected(self, keep=slice(None)) -> np.ndarray:
        kept = self.values[keep]
        return (kept - kept.mean(0)) / kept.std(0, ddof=1)

    def check(self, series: RoiSeries, keep=slice(None)) -> None:
        found = np.concatenate([series.levels["early"], series.levels["high"]], axis=1)
        assert series.unit_labels == {"early": LABELS[:2], "high": LABELS[2:]}
        np.testing.assert_allclose(found[series.keep], self.expected(keep), atol=1e-5)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


# --- tables ---------------------------------------------------------------------------------------------------

WRITTEN = {
    "tabs": {},
    "commas": {"sep": ","},
    "row numbers": {"index": True},
    "named row numbers": {"index": True, "index_label": "volume"},
}


@pytest.mark.parametrize("case", WRITTEN)
def test_tables_with_a_header(lab, case):
    series = lab.read(lab.table(**WRITTEN[case]))
    lab.check(series)
    np.testing.assert_allclose(series.times, 1.0 + 2.0 * np.arange(40))
    assert (series.attributes["atlas"], series.attributes["space"]) == ("Tiny", "S")


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"header": False}, None),
        ({"header": False, "sep": ","}, None),
        ({"header": False, "sep": " "}, None),
        ({"header": False, "index": True}, None),
        ({"columns": range(4)}, None),  # giga_connectome
        ({"columns": range(1, 5)}, None),
        ({"columns": [1, 2, 5, 7]}, None),  # region numbers
    ],
)
def test_regions_without_names_are_named_by_the_label_table(lab, options, values):
    path = lab.table(values=values, **options)
    lab.check(lab.read(path, atlas={"labels": str(lab.labels)}))
    with pytest.raises(UserError, match=r"set fmri\.atlas\.labels"):
        lab.read(path)


def test_tables_that_cannot_be_right_are_one_sentence(lab):
    atlas = {"labels": str(lab.labels)}
    wrong = {
        "3 columns, but .* lists 4 regions": {"values": lab.values[:, :3], "columns": range(3)},
        "one region per row; transpose": {"values": lab.values.T, "columns": range(40)},
        "region number 9": {"columns": [1, 2, 5, 9]},
        "'Vis_1' more than once": {"columns": ["Vis_1", "Vis_1", "Default_1", "Default_2"]},
        r"text among its series \('bad' in column 'Vis_2', row 3\)": {
            "values": pd.DataFrame(lab.values).astype(object).mask(
                pd.DataFrame(np.arange(160).reshape(40, 4) == 9), "bad"
            ).to_numpy()
        },
        "1 rows": {"values": lab.values[:1]},
        "no region matches": {"columns": ["a", "b", "c", "d"]},
    }  # fmt: skip
    for words, options in wrong.items():
        with pytest.raises(UserError, match=words):
            lab.read(lab.table(**options), atlas=atlas)
    transposed = pd.DataFrame(lab.values.T, index=LABELS)
    path = lab.path("t.tsv")
    transposed.to_csv(path, sep="\t")
    with pytest.raises(UserError, match="names its rows"):
        lab.read(path)


# --- XCP-D ----------------------------------------------------------------------------------------------------


def xcpd(lab: Lab, rows: str, moved: np.ndarray, columns: dict | None = None) -> Path:
    """Series with censored volumes as XCP-D leaves them: `removed`, `interpolated`, or `missing`."""
    values = lab.values.copy()
    values[moved] = 1e5
    values = values[~moved] if rows == "removed" else values
    if rows == "missing":
        values[moved] = np.nan
    flags = pd.DataFrame(columns or {"framewise_displacement": moved.astype(int)})
    write_tsv(lab.path(f"{RUN}_outliers.tsv"), flags)
    motion = pd.DataFrame(
        np.zeros((40, 6)), columns=["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    )
    motion["framewise_displacement"] = np.where(moved, 0.9, 0.1)
    write_tsv(lab.path(f"{RUN}_desc-filtered_motion.tsv"), motion)
    return lab.table(f"{RUN}_space-S_seg-Tiny_stat-mean_timeseries.tsv", values)


@pytest.mark.parametrize("rows", ["removed", "interpolated", "missing"])
def test_censored_volumes_keep_their_place_and_are_never_kept(lab, rows):
    moved = np.zeros(40, bool)
    moved[[0, 9, 10, 30, 39]] = True
    series = lab.read(xcpd(lab, rows, moved), clean={"fd_threshold_mm": None})
    assert series.keep.tolist() == (~moved).tolist()
    lab.check(series, ~moved)
    np.testing.assert_allclose(series.times, 1.0 + 2.0 * np.arange(40))
    assert max(np.abs(data).max() for data in series.levels.values()) < 5
    quality = read_qc(lab.root / "q.h5")
    assert quality.fd[9] == 0.9
    assert quality.motion.shape == (40, 6)


def test_columns_of_later_outlier_tables(lab):
    first, second = np.arange(40) == 4, np.isin(np.arange(40), [4, 5, 6])
    columns = {
        "framewise_displacement": first.astype(int), "dvars": np.zeros(40, int), "denoising": first.astype(int),
        "interpolation": second.astype(int), "random_100": np.ones(40, int),
    }  # fmt: skip
    series = lab.read(xcpd(lab, "removed", second, columns))
    assert series.keep.tolist() == (~second).tolist()


def test_displacement_censors_only_where_it_is_known(lab):
    none = np.zeros(40, bool)
    path = xcpd(lab, "interpolated", none)
    motion = pd.read_csv(lab.path(f"{RUN}_desc-filtered_motion.tsv"), sep="\t")
    motion.loc[3, "framewise_displacement"] = 0.6
    write_tsv(lab.path(f"{RUN}_desc-filtered_motion.tsv"), motion)
    assert np.flatnonzero(~lab.read(path).keep).tolist() == [3]
    assert lab.read(path, clean={"fd_threshold_mm": 0.7}).keep.all()
    lab.path(f"{RUN}_desc-filtered_motion.tsv").unlink()
    assert lab.read(path).keep.all()


def test_rows_that_no_outlier_table_explains_are_refused(lab):
    moved = np.arange(40) < 3
    path = xcpd(lab, "removed", moved)
    write_tsv(lab.path(f"{RUN}_outliers.tsv"), pd.DataFrame({"framewise_displacement": np.zeros(50, int)}))
    with pytest.raises(UserError, match=r"37 rows, but .* lists 50 volumes"):
        lab.read(path)


def test_dummies_that_were_dropped_are_counted_with_the_raw_image(lab):
    series = lab.image(44).read(xcpd(lab, "removed", np.arange(40) == 7))
    np.testing.assert_allclose(series.times, 1.0 + 2.0 * (4 + np.arange(40)))


def test_companions_are_those_of_the_run(lab):
    xcpd(lab, "removed", np.zeros(40, bool))
    lab.path("sub-1_task-film_run-02_outliers.tsv").write_text("x\n")
    lab.path("sub-1_task-film_outliers.tsv").write_text("x\n")
    found = companions(lab.path("sub-1_task-film_run-1_space-S_atlas-Y_timeseries.tsv"))
    assert {k: v.name for k, v in found.items()} == {
        "outliers": f"{RUN}_outliers.tsv", "motion": f"{RUN}_desc-filtered_motion.tsv",
    }  # fmt: skip


# --- giga_connectome ------------------------------------------------------------------------------------------


def test_rows_that_a_bare_table_lacks_are_not_taken_from_the_start(lab):
    """XCP-D removes censored rows anywhere; without its outliers table nothing tells which."""
    moved = np.isin(np.arange(40), [9, 10, 30])
    lab.image()
    path = xcpd(lab, "removed", moved)
    np.testing.assert_allclose(lab.read(path).times, 1.0 + 2.0 * np.arange(40))
    lab.path(f"{RUN}_outliers.tsv").unlink()
    with pytest.raises(UserError, match=r"37 of the 40 volumes .* nothing tells which are missing"):
        lab.read(path)
    sidecar = path.with_suffix(".json")
    for said in ({"dummy vols": 1}, {"StartTime": 3.0, "RepetitionTime": 2.0}):
        write_json(sidecar, said)
        with pytest.raises(UserError, match="nothing tells which are missing"):
            lab.read(path)
    write_json(sidecar, {"dummy vols": 3})
    assert lab.read(path).times[0] == 7.0
    sidecar.unlink()
    assert lab.read(path, timing={"discarded_volumes": 2}).times[0] == 5.0


STEADY = "NumberOfVolumesDiscardedByNonsteadyStatesDetector"
SCRUBBED = "NumberOfVolumesDiscardedByMotionScrubbing"


@pytest.mark.parametrize("raw_volumes", [None, 43, 45])
def test_rows_that_giga_connectome_says_it_dropped_are_missing_at_the_start(lab, raw_volumes):
    if raw_volumes:
        lab.image(raw_volumes)
    path = lab.table(f"{RUN}_seg-Tiny_desc-denoiseSimple_timeseries.tsv")
    write_json(path.with_suffix(".json"), {"SamplingFrequency": 0.5, STEADY: 3, SCRUBBED: 0})
    np.testing.assert_allclose(lab.read(path).times, 1.0 + 2.0 * (3 + np.arange(40)))


@pytest.mark.parametrize("raw_volumes", [None, 40, 44])
@pytest.mark.parametrize("strategy", ["Simple", "Scrubbing5"])
def test_scrubbed_rows_of_giga_connectome_are_refused(lab, strategy, raw_volumes):
    if raw_volumes:
        lab.image(raw_volumes)
    path = lab.table(f"{RUN}_seg-Tiny_desc-denoise{strategy}_timeseries.tsv")
    write_json(path.with_suffix(".json"), {"SamplingFrequency": 0.5, STEADY: 0, SCRUBBED: 4})
    for timing in ({}, {"discarded_volumes": 0}):
        with pytest.raises(UserError, match="lacks 4 volumes that were scrubbed"):
            lab.read(path, timing=timing)


def giga(lab: Lab, name: str) -> Path:
    path = lab.out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("sub-1")
        for run, atlas in (("01", "2"), ("02", "2"), ("01", "4")):
            stem = f"sub-1_task-film_run-{run}_atlas-Tiny_desc-{atlas}Parcels"
            data = group.create_dataset(f"{stem}_timeseries", data=lab.values + int(run) - 1)
            data.attrs["RepetitionTime"] = 2.0
            group.create_dataset(f"{stem}_connectome", data=np.eye(4))
    return path


@pytest.mark.parametrize("name", ["sub-1_atlas-Tiny_desc-simple.h5", "atlas-Tiny_desc-simple.h5"])
def test_collections_are_read_in_place(lab, name):
    path = giga(lab, name)
    atlas = {"labels": str(lab.labels), "name": "Tiny2Parcels"}
    series = lab.read(path, atlas=atlas)
    lab.check(series)
    assert series.attributes["tr"] == 2.0
    assert series.attributes["atlas"] == "Tiny2Parcels"
    with pytest.raises(UserError, match="several atlases"):
        lab.read(path, atlas={"labels": str(lab.labels)})


def index(lab: Lab, **fmri):
    func = lab.root / "bids/sub-1/func"
    func.mkdir(parents=True, exist_ok=True)
    for run in ("01", "02"):
        (func / f"sub-1_task-film_run-{run}_events.tsv").write_text(
            "onset\tduration\tstim_file\n0\t4\tfilm.mp4\n"
        )
    fmri = {"source": "timeseries", "space": "S"} | fmri
    dataset = {"bids_dir": str(lab.root / "bids"), "derivatives": str(lab.out)}
    return build_index(parse_config({"dataset": dataset, "fmri": fmri}))


def test_collections_are_indexed(lab):
    path = giga(lab, "sub-1_atlas-Tiny_desc-simple.h5")
    (lab.root / "bids/task-film_bold.json").unlink()
    with pytest.raises(UserError, match=r"several atlases .*Tiny2Parcels"):
        index(lab)
    found = index(lab, atlas={"name": "tiny_2_parcels"})
    assert found.problems == []
    assert found.runs["run"].tolist() == ["01", "02"]
    assert found.runs["timeseries"].tolist() == [str(path)] * 2
    assert found.runs["tr"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("series", "sidecar", "wanted"),
    [
        (
            "seg-Schaefer2018{}Parcels7Networks_desc-denoiseSimple",
            "desc-denoiseSimple",
            "Schaefer2018200Parcels7Networks",
        ),
        (
            "atlas-Schaefer20187Networks_desc-{}Parcels7NetworksSimple",
            "atlas-Schaefer20187Networks",
            "Schaefer20187Networks200Parcels",
        ),
    ],
)
def test_tables_of_giga_connectome_are_indexed(lab, series, sidecar, wanted):
    (lab.root / "bids/task-film_bold.json").unlink()
    for parcels in ("100", "200"):
        lab.table(f"{RUN}_{series.format(parcels)}_timeseries.tsv", columns=range(4))
    write_json(lab.path(f"{RUN}_{sidecar}_timeseries.json"), {"SamplingFrequency": 0.5})
    found = index(lab, atlas={"name": wanted})
    assert found.problems == []
    assert found.runs["run_id"].tolist() == [RUN]
    assert found.runs["timeseries"].str.contains("200Parcels").all()
    assert found.runs["tr"].tolist() == [2.0]
    series = lab.read(Path(found.runs["timeseries"][0]), atlas={"labels": str(lab.labels)})
    lab.check(series)
    # The name by which the index tells the atlases apart.
    assert series.attributes["atlas"].startswith(wanted)
    assert series.attributes["tr"] == 2.0


# --- HDF5 of a laboratory -------------------------------------------------------------------------------------


def test_plain_hdf5(lab):
    path = lab.path(f"{RUN}_timeseries.h5")
    with h5py.File(path, "w") as file:
        file["data"] = lab.values
        file["labels"] = LABELS
        file.attrs["tr"] = 1.5
        file.attrs["space"] = "MNI"
    series = lab.read(path)
    lab.check(series)
    assert (series.attributes["tr"], series.attributes["space"]) == (1.5, "MNI")
    with h5py.File(path, "a") as file:
        file["times"] = np.arange(40) * 1.5
        file["keep"] = np.arange(40) != 5
    series = lab.read(path, timing={"onset_shift_s": 3.0})
    np.testing.assert_allclose(series.times, 3.0 + np.arange(40) * 1.5)
    assert np.flatnonzero(~series.keep).tolist() == [5]


def test_our_own_series_are_read_back(lab):
    levels = {"early": lab.values[:, :2].astype(np.float32), "high": lab.values[:, 2:].astype(np.float32)}
    units = {"early": ["anything", "else"], "high": ["Vis_9", "Default_9"]}
    keep = np.arange(40) != 3
    made = RoiSeries(levels, units, 0.7 + np.arange(40) * 1.2, keep, {"tr": 1.2, "atlas": "A", "space": "T"})
    path = lab.path(f"{RUN}_timeseries.h5")
    write_series(path, made)
    series = lab.read(path, clean={"standardize": False})
    for level, data in levels.items():
        np.testing.assert_array_equal(series.levels[level][keep], data[keep])
    assert series.unit_labels == units
    np.testing.assert_allclose(series.times, made.times)
    assert series.keep.tolist() == keep.tolist()
    # Other levels than the file's are made of its labels.
    again = lab.read(path, levels={"visual": "Vis", "all-else": "anything|else|Default"})
    assert again.unit_labels == {"visual": ["Vis_9"], "all-else": ["anything", "else", "Default_9"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": np.zeros(4)}, r"shape \(4,\); it must be volumes by regions"),
        ({"data": np.ones((40, 4)), "labels": LABELS[:3]}, "4 columns, but /labels 3"),
        ({"data": np.ones((4, 40)), "labels": LABELS}, "one region per row: transpose"),
        ({"data": np.ones((40, 4)), "labels": LABELS, "times": np.zeros(40)}, "/times must increase"),
        ({"data": np.ones((40, 4)), "labels": LABELS, "keep": np.ones(3)}, r"/keep has shape \(3,\)"),
        ({"series": np.ones((40, 4))}, "has neither /data, nor /levels"),
        ({"levels": np.ones((40, 4))}, "does not hold series as"),
    ],
)
def test_hdf5_that_cannot_be_right_is_one_sentence(lab, content, words):
    path = lab.path(f"{RUN}_timeseries.h5")
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value
    with pytest.raises(UserError, match=words):
        lab.read(path)


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "wanted", "same"),
    [
        ("Schaefer200", "schaefer_2018_200", True),
        ("Schaefer2018200Parcels7Networks", "Schaefer2018200Parcels7Networks", True),
        ("4S256Parcels", "4S156Parcels", False),
        ("Schaefer200", "schaefer_2018_400", False),
        ("Glasser", "glasser", True),
        ("Gordon", "Glasser", False),
    ],
)
def test_atlas_names(label, wanted, same):
    assert same_atlas(label, wanted) is same


def test_the_only_atlas_and_space_are_taken_with_a_warning(lab, caplog):
    lab.table()
    with caplog.at_level(logging.WARNING):
        found = index(lab, atlas={"name": "Glasser"}, space="MNI152NLin2009cAsym")
    assert found.problems == []
    assert "are of atlas 'Tiny'" in caplog.text
    assert "are in 'S'" in caplog.text
    caplog.clear()
    index(lab, atlas={"name": "tiny"})
    assert caplog.text == ""


def test_concatenated_runs_are_left_out_and_old_names_found(lab):
    lab.table(f"{RUN}_space-S_atlas-Tiny_desc-timeseries_bold.tsv", header=False, sep=",")
    lab.table("sub-1_task-film_space-S_atlas-Tiny_desc-timeseries_bold.tsv", header=False, sep=",")
    found = index(lab)
    assert found.runs["run_id"].tolist() == [RUN]
    lab.check(lab.read(Path(found.runs["timeseries"][0]), atlas={"labels": str(lab.labels)}))


def test_real_series_are_as_in_their_table(shared_data, tmp_path):
    root = shared_data / "movie_fmri"
    config = parse_config(
        {
            "dataset": {"bids_dir": str(root), "derivatives": str(root / "derivatives/xcp_d")},
            "fmri": {"source": "timeseries", "atlas": {"name": "Schaefer200"}},
        }
    )
    row = build_index(config).runs.iloc[0].to_dict()
    series = extract_run(row, config.fmri, tmp_path / "o.h5", tmp_path / "q.h5", bids_dir=root)
    table = pd.read_csv(row["timeseries"], sep="\t", na_values="n/a")
    np.testing.assert_array_equal(series.times, np.arange(len(table)))
    for level, data in series.levels.items():
        wanted = table[series.unit_labels[level]]
        np.testing.assert_allclose(data, (wanted - wanted.mean()) / wanted.std(), atol=1e-4)
