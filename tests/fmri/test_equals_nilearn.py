"""ROI series against nilearn's maskers with the same options, and against painted series that are known exactly."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from scipy.signal import detrend

from neuroalign.config.fmri import Fmri
from neuroalign.fmri.extract import extract_run
from neuroalign.fmri.preprocess.confounds import confounds_table
from neuroalign.fmri.series import RoiSeries
from neuroalign.io import write_json, write_tsv

TR = 1.5
SPACE = "MNI152NLin2009cAsym"
WANTED = {"early": "^LH_(Vis|SomMot)_", "high": "^RH_(Default|Cont)_"}


def write_image(path: Path, data: np.ndarray, affine: np.ndarray, kind: str) -> Path:
    """Save a series as it is (`raw`), as float32, or as int16 with scale factors that fill its range."""
    image = nib.Nifti1Image(data if kind == "raw" else data.astype(np.float32), affine)
    if kind == "int16":
        image.set_data_dtype(np.int16)  # nibabel picks slope and intercept
    image.header.set_zooms((*image.header.get_zooms()[:3], TR))
    nib.save(image, path)
    stored = nib.load(path)
    assert kind == "raw" or stored.get_data_dtype() == np.dtype(kind)
    assert kind != "int16" or stored.dataobj.slope != 1
    return path


def write_confounds(path: Path, volumes: int) -> Path:
    """A full table with one volume that moves too much."""
    rng = np.random.default_rng(5)
    motion = np.cumsum(rng.normal(size=(volumes, 6)) * [0.03, 0.03, 0.03, 4e-4, 4e-4, 4e-4], axis=0)
    motion[volumes // 2 :, 1] += 1.5
    noise = 900 + 8 * rng.normal(size=(150, volumes))
    table, sidecar = confounds_table(motion, noise, noise[:60], noise[60:100], tr=TR, dummies=1)
    write_tsv(path, table)
    write_json(path.with_suffix(".json"), sidecar)
    return path


def options(config: Fmri, bold: Path) -> tuple[dict, dict]:
    """What nilearn's maskers take for the same cleaning: constructor, and `fit_transform`."""
    clean = config.clean
    build = {"detrend": True, "standardize": "zscore_sample" if clean.standardize else None, "t_r": TR}
    if clean.low_pass_hz:
        build |= {"low_pass": clean.low_pass_hz, "high_pass": clean.high_pass_hz}
        build["clean_args"] = {"filter": "butterworth", "extrapolate": False}
    elif clean.high_pass_hz:
        build |= {"high_pass": clean.high_pass_hz, "clean_args": {"filter": "cosine"}}
    if clean.strategy == "none":
        return build, {}
    parts = {
        "motion": ("motion",),
        "simple": ("motion", "wm_csf"),
        "scrubbing": ("motion", "wm_csf", "scrub"),
    }
    more = {"scrub": 5, "fd_threshold": 0.5, "std_dvars_threshold": 1.5, "wm_csf": "full"}
    columns, sample_mask = load_confounds(
        f"{str(bold).removesuffix('.gz')}.gz", strategy=parts[clean.strategy], motion=clean.motion, demean=True,
        **(more if clean.strategy == "scrubbing" else {}),
    )  # fmt: skip
    if sample_mask is None:
        sample_mask = np.arange(len(columns))
    fd = pd.read_csv(f"{str(bold).split('_space-')[0]}_desc-confounds_timeseries.tsv", sep="\t")[
        "framewise_displacement"
    ]
    moved = np.flatnonzero(fd > 0.5)
    assert len(moved)
    return build, {"confounds": columns, "sample_mask": np.setdiff1d(sample_mask, moved)}


def theirs(
    config: Fmri, bold: Path, labels: np.ndarray, affine: np.ndarray, mask: np.ndarray, found: RoiSeries
):
    """nilearn's series, columns in the order of ours."""
    build, call = options(config, bold)
    image = nib.Nifti1Image(labels.astype(np.int32), affine)
    if config.units == "parcels":
        masker = NiftiLabelsMasker(image, mask_img=nib.Nifti1Image(mask.astype(np.uint8), affine), **build)
        series = masker.fit_transform(str(bold), **call)
        numbers = [
            int(label.rsplit("#", 1)[1]) for members in found.unit_labels.values() for label in members
        ]
        return series[:, np.argsort(np.argsort(numbers))]
    masker = NiftiMasker(nib.Nifti1Image((labels > 0).astype(np.uint8), affine), **build)
    series = masker.fit_transform(str(bold), **call)
    place = np.argwhere(labels > 0)
    column = {tuple(p): i for i, p in enumerate(place.tolist())}
    wanted = [
        column[tuple(int(v) for v in label.rsplit("@", 1)[1].split(","))]
        for members in found.unit_labels.values()
        for label in members
    ]
    return series[:, wanted]


def assert_equal(found: RoiSeries, wanted: np.ndarray) -> None:
    """1e-4 of each unit's own size."""
    got = np.concatenate(list(found.levels.values()), axis=1)[found.keep]
    assert got.shape == wanted.shape
    size = np.abs(wanted).max(axis=0)
    assert (size > 0).all()
    assert (np.abs(got - wanted).max(axis=0) / size).max() < 1e-4


@pytest.fixture(scope="module")
def schaefer(shared_data):
    """The real atlas on a 6 mm grid: labels, affine, the names of the cortical regions by number."""
    from nilearn.image import resample_img

    (image,) = (shared_data / "atlas").glob("*_dseg.nii.gz")
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = [-90, -126, -72]
    moved = resample_img(
        nib.load(image), affine, (31, 38, 31), interpolation="nearest", force_resample=True, copy_header=True
    )
    table = pd.read_csv(next((shared_data / "atlas").glob("*.tsv")), sep="\t")
    names = dict(zip(table["index"], table["label"], strict=True))
    return np.asarray(moved.dataobj).astype(int), affine, names


@pytest.fixture(scope="module")
def painted(schaefer, shared_data):
    """Real series of 160 s painted into their parcels: data, labels of the used regions, mask, the series."""
    labels, affine, names = schaefer
    file = next((shared_data / "movie_fmri/derivatives/xcp_d").glob("sub-*/func/*sitcomep1*_timeseries.tsv"))
    table = pd.read_csv(file, sep="\t").iloc[100:260]
    rng = np.random.default_rng(0)
    cortex = [n for n in np.unique(labels[labels > 0]) if names[n] in table.columns]
    data = 400 + 5 * rng.normal(size=(*labels.shape, len(table)))
    for number in cortex:
        series = table[names[number]].to_numpy()
        data[labels == number] = 1000 + 60 * (series - series.mean()) / series.std()
    used = np.where(np.isin(labels, cortex), labels, 0)
    return data, used, affine, names, table


def make(folder: Path, data, labels, affine, names, mask, kind, suffix, **settings):
    """A run in fMRIPrep's layout with an atlas whose labels end in ``#number``; our series of it."""
    bold = write_image(folder / f"sub-1_task-a_space-{SPACE}_desc-preproc_bold{suffix}", data, affine, kind)
    write_json(Path(str(bold).split(".nii")[0] + ".json"), {"RepetitionTime": TR})
    atlas = folder / f"atlas-T_space-{SPACE}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), affine), atlas)
    numbers = np.unique(labels[labels > 0])
    write_tsv(
        folder / "atlas-T_dseg.tsv",
        pd.DataFrame({"index": numbers, "label": [f"{names[n]}#{n}" for n in numbers]}),
    )
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / "mask.nii.gz")
    confounds = write_confounds(folder / "sub-1_task-a_desc-confounds_timeseries.tsv", data.shape[3])
    row = {
        "run_id": "sub-1_task-a", "subject": "1", "task": "a", "bold": str(bold), "mask": str(folder / "mask.nii.gz"),
        "confounds": str(confounds),
    }  # fmt: skip
    config = Fmri(source="fmriprep", space=SPACE, atlas={"image": str(atlas)}, **settings)
    return extract_run(row, config, folder / "o.h5", folder / "q.h5", bids_dir=folder), config, bold


def chosen(labels: np.ndarray, names: dict[int, str], levels: dict[str, str]) -> np.ndarray:
    """Labels of the regions in a level only: nilearn takes every region of the image it is given."""
    kept = [n for n in np.unique(labels[labels > 0]) if any(re.search(p, names[n]) for p in levels.values())]
    return np.where(np.isin(labels, kept), labels, 0)


def of_units(found: RoiSeries, table: pd.DataFrame) -> np.ndarray:
    """Columns of `table` (by region name) in the order of our units, whether parcels or voxels."""
    units = [label for members in found.unit_labels.values() for label in members]
    return table[[label.split("#")[0] for label in units]].to_numpy()


def z(series: np.ndarray) -> np.ndarray:
    """Detrended z-scores."""
    left = detrend(series, axis=0)
    return left / left.std(axis=0, ddof=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "suffix", "units"),
    [("int16", ".nii.gz", "parcels"), ("float32", ".nii", "parcels"), ("int16", ".nii", "voxels"),
     ("float32", ".nii.gz", "voxels")],
)  # fmt: skip
def test_painted_film_series_come_back(painted, tmp_path, kind, suffix, units):
    data, labels, affine, names, table = painted
    found, _, bold = make(
        tmp_path, data, labels, affine, names, labels > 0, kind, suffix, units=units,
        clean={"strategy": "none", "high_pass_hz": None, "fd_threshold_mm": None},
    )  # fmt: skip
    assert len({v.split("@")[0] for members in found.unit_labels.values() for v in members}) == 200
    assert found.keep.tolist() == [False] + [True] * (len(table) - 1)  # the first is not at steady state
    got = np.concatenate(list(found.levels.values()), axis=1)[1:]
    stored = np.asarray(nib.load(bold).dataobj)
    there = {names[n]: stored[tuple(np.argwhere(labels == n)[0])] for n in np.unique(labels[labels > 0])}
    np.testing.assert_allclose(got, z(of_units(found, pd.DataFrame(there))[1:]), atol=1e-4)
    # int16 itself costs half a step of the scale, about 1e-4 of the series' deviation.
    np.testing.assert_allclose(got, z(of_units(found, table)[1:]), atol=3e-4 if kind == "int16" else 1e-4)


FULL = {"strategy": "simple", "motion": "full", "high_pass_hz": 0.01}
SCRUB = {"strategy": "scrubbing", "motion": "basic", "high_pass_hz": 0.008}
PLAIN = {"strategy": "motion", "motion": "basic", "high_pass_hz": None, "standardize": False}
BAND = {"strategy": "simple", "motion": "basic", "high_pass_hz": 0.01, "low_pass_hz": 0.1}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("clean", "kind", "suffix", "units"),
    [
        (FULL, "int16", ".nii.gz", "parcels"),
        (FULL, "float32", ".nii", "voxels"),
        (SCRUB, "float32", ".nii.gz", "voxels"),
        (SCRUB, "int16", ".nii", "parcels"),
        (PLAIN, "int16", ".nii", "voxels"),
        (PLAIN, "float32", ".nii.gz", "parcels"),
        (BAND, "float32", ".nii", "parcels"),
        (BAND, "int16", ".nii.gz", "voxels"),
    ],
)
def test_cleaned_series_equal_nilearns_maskers(painted, tmp_path, clean, kind, suffix, units):
    data, labels, affine, names, _ = painted
    rng = np.random.default_rng(1)
    data = data + 10 * rng.normal(size=data.shape)
    labels = chosen(labels, names, WANTED)
    mask = rng.random(labels.shape) > 0.2  # a ragged mask, which leaves something of every region
    found, config, bold = make(
        tmp_path, data, labels, affine, names, mask, kind, suffix, units=units, clean=clean, levels=WANTED
    )
    assert not found.keep.all()
    assert_equal(found, theirs(config, bold, labels, affine, mask, found))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A raw run of the demo, its affine, the demo's atlas on its grid, and the regions' names."""
    from neuroalign.fmri.images import to_grid
    from neuroalign.simulate.dataset import make_dataset
    from neuroalign.simulate.plan import PRESETS

    settings = PRESETS["tiny"].model_copy(
        update={"subjects": 1, "films": 1, "repeats": 1, "film_s": 60, "tr_s": TR, "voxel_mm": 7.0}
    )
    folder = tmp_path_factory.mktemp("demo")
    plan = make_dataset(settings, folder / "bids")
    raw = nib.load(next((folder / "bids").rglob("*_bold.nii.gz")))
    template = nib.load(next(plan.truth_dir.glob("atlas-*_dseg.nii.gz")))
    table = pd.read_csv(next(plan.truth_dir.glob("atlas-*_dseg.tsv")), sep="\t")
    labels = to_grid(np.asarray(template.dataobj).astype(int), template.affine, raw.shape[:3], raw.affine)
    return raw, labels, dict(zip(table["index"], table["label"], strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("units", ["parcels", "voxels"])
def test_raw_demo_data_equal_nilearns_maskers(demo, tmp_path, units):
    raw, labels, names = demo
    data = np.asarray(raw.dataobj)
    assert data.dtype == np.int16
    levels = {"early": "_early_", "high": "_high_"}
    labels = chosen(labels, names, levels)
    mask = data[..., 0] > np.median(data[..., 0])
    found, config, bold = make(
        tmp_path, data, labels, raw.affine, names, mask, "raw", ".nii.gz", units=units,
        clean={"strategy": "simple", "motion": "basic", "high_pass_hz": 0.01}, levels=levels,
    )  # fmt: skip
    assert_equal(found, theirs(config, bold, labels, raw.affine, mask, found))


def test_regions_reach_the_grid_of_the_bold_as_by_nilearn(schaefer, shared_data):
    from neuroalign.config.fmri import Atlas
    from neuroalign.fmri.atlas import load_atlas

    labels, affine, _ = schaefer
    (image,) = (shared_data / "atlas").glob("*_dseg.nii.gz")
    atlas = load_atlas(Atlas(image=str(image)), SPACE)
    moved = atlas.on_grid(labels.shape, affine, list(atlas.labels.values()))
    np.testing.assert_array_equal(moved, labels)
