"""Region extraction and cleaning: our single pass against nibabel's read of the same file and nilearn's maskers.

Run by hand; the data are made in a temporary folder::

    python benchmarks/extraction.py
    python benchmarks/extraction.py --large   # peak memory on a run of 1.1 GB, in processes of their own

Times are the best of a few repeats within one process, imports left out on all sides; memory is the peak of a whole
process, imports included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from neuroalign.config.fmri import Fmri
from neuroalign.fmri.clean import load_run_confounds
from neuroalign.fmri.extract import extract_run
from neuroalign.fmri.preprocess.confounds import confounds_table
from neuroalign.fmri.series import read_series
from neuroalign.io import write_json, write_tsv

TR_S = 1.5
REGIONS = 200


def make_run(folder: Path, shape: tuple[int, int, int], volumes: int, suffix: str) -> dict[str, str]:
    """A head of noise in fMRIPrep's layout, int16, with mask, confounds and an atlas of its shell.

    Returns
    -------
    dict
        The row of the run as in ``index/runs.tsv``, and the atlas under `atlas`.
    """
    rng = np.random.default_rng(0)
    centred = np.stack(np.meshgrid(*(np.linspace(-1.15, 1.15, n) for n in shape), indexing="ij"))
    radius = np.sqrt((centred**2).sum(axis=0))
    mask = radius < 1
    base = np.where(mask, 800 + 300 * np.cos(5 * radius), 20).astype(np.float32)
    spread = np.where(mask, 25, 8).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])

    name = "sub-1_task-a"
    bold = folder / f"{name}_space-S_desc-preproc_bold{suffix}"
    header = nib.Nifti1Header()
    header.set_data_shape((*shape, volumes))
    header.set_data_dtype(np.int16)
    header.set_sform(affine, 4)
    header.set_zooms((2, 2, 2, TR_S))
    with nib.openers.Opener(bold, "wb") as file:
        header.write_to(file)
        file.write(bytes(int(header["vox_offset"]) - header.sizeof_hdr))
        for _ in range(volumes):
            volume = np.rint(base + spread * rng.standard_normal(shape, dtype=np.float32))
            file.write(volume.astype(np.int16).tobytes(order="F"))

    cortex = mask & (radius > 0.75)
    parcels = np.zeros(shape, np.int16)
    parcels[cortex] = 1 + np.arange(cortex.sum()) * REGIONS // cortex.sum()
    atlas = folder / "atlas-Shell_space-S_dseg.nii.gz"
    nib.save(nib.Nifti1Image(parcels, affine), atlas)
    levels = ("Vis", "DorsAttn", "Default")
    labels = [f"LH_{levels[3 * (i - 1) // REGIONS]}_{i}" for i in range(1, REGIONS + 1)]
    write_tsv(
        folder / "atlas-Shell_dseg.tsv", pd.DataFrame({"index": np.arange(1, REGIONS + 1), "label": labels})
    )
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / "mask.nii.gz")
    # No drift: nilearn leaves its cosines out when a confound resembles one, and would do less than we.
    motion = rng.normal(size=(volumes, 6)) * [0.05, 0.05, 0.05, 5e-4, 5e-4, 5e-4]
    noise = 1000 + rng.normal(size=(200, volumes))
    table, sidecar = confounds_table(motion, noise, noise[:50], noise[50:90], tr=TR_S, dummies=0)
    confounds = folder / f"{name}_desc-confounds_timeseries.tsv"
    write_tsv(confounds, table)
    write_json(confounds.with_suffix(".json"), sidecar)
    write_json(Path(str(bold).split(".nii")[0] + ".json"), {"RepetitionTime": TR_S})
    return {
        "run_id": name,
        "bold": str(bold),
        "mask": str(folder / "mask.nii.gz"),
        "confounds": str(confounds),
        "atlas": str(atlas),
    }


def settings(row: dict[str, str], units: str) -> Fmri:
    """The configuration both sides follow."""
    return Fmri(source="fmriprep", space="S", atlas={"image": row["atlas"]}, units=units)


def ours(row: dict[str, str], folder: Path, units: str) -> None:
    """The whole job: extraction, cleaning, quality, both files written."""
    extract_run(row, settings(row, units), folder / "series.h5", folder / "qc.h5", bids_dir=folder)


def nilearns(row: dict[str, str], units: str) -> np.ndarray:
    """nilearn's masker with the same regions, confounds, censoring, cosines and scaling."""
    from nilearn.maskers import NiftiLabelsMasker, NiftiMasker

    config = settings(row, units)
    volumes = nib.load(row["bold"]).shape[3]
    columns, keep = load_run_confounds(row["bold"], row["confounds"], config.clean, volumes)
    options = {
        "standardize": "zscore_sample",
        "detrend": True,
        "high_pass": config.clean.high_pass_hz,
        "t_r": TR_S,
        "clean_args": {"filter": "cosine"},
    }
    if units == "parcels":
        masker = NiftiLabelsMasker(row["atlas"], mask_img=row["mask"], resampling_target=None, **options)
    else:
        atlas = nib.load(row["atlas"])
        regions = (np.asarray(atlas.dataobj) > 0).astype(np.uint8)
        masker = NiftiMasker(nib.Nifti1Image(regions, atlas.affine), **options)
    sample_mask = None if keep.all() else np.flatnonzero(keep)
    return masker.fit_transform(row["bold"], confounds=columns, sample_mask=sample_mask)


def best(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds by the clock and of processors (all threads), each of the fastest call."""
    clock, processors = [], []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        function()
        clock.append(time.perf_counter() - began)
        processors.append(time.process_time() - spent)
    return min(clock), min(processors)


def peak_mb() -> float:
    """Peak memory of this process so far, MB of 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def compare(folder: Path, repeats: int, kinds: list[str]) -> None:
    """Time both, and print ratios and the agreement."""
    shape, volumes = (64, 76, 64), 300
    row = make_run(folder, shape, volumes, ".nii.gz")
    ours(row, folder, "parcels")  # imports
    read = best(lambda: np.asarray(nib.load(row["bold"]).dataobj), repeats)
    size = os.path.getsize(row["bold"]) / 1e6
    print(f"{'x'.join(map(str, (*shape, volumes)))} int16, {size:.0f} MB compressed")
    print(
        "| | seconds | × nibabel | processor seconds | × nibabel | largest difference |\n|---|---|---|---|---|---|"
    )

    def line(name: str, spent: tuple[float, float], worst: str = "") -> None:
        cells = (f"{seconds:.2f} | {seconds / base:.2f}" for seconds, base in zip(spent, read, strict=True))
        print(f"| {name} | {' | '.join(cells)} | {worst} |", flush=True)

    line("nibabel, reading only", read)
    for units in kinds:
        theirs = nilearns(row, units)
        slow = best(lambda units=units: nilearns(row, units), 1 if units == "voxels" else repeats)
        fast = best(lambda units=units: ours(row, folder, units), repeats)
        found = read_series(folder / "series.h5")
        got = np.concatenate(list(found.levels.values()), axis=1)
        if units == "voxels":  # ours are sorted by level, nilearn's by position
            place = [
                tuple(map(int, v.split("@")[1].split(",")))
                for members in found.unit_labels.values()
                for v in members
            ]
            got = got[:, np.lexsort(np.array(place).T[::-1])]
        line(f"ours, {got.shape[1]} {units}", fast, f"{np.abs(got[found.keep] - theirs).max():.0e}")
        line(f"nilearn, {got.shape[1]} {units}", slow)


def large(folder: Path) -> None:
    """Peak memory of whole processes on a run of 1.1 GB."""
    for suffix in (".nii.gz", ".nii"):
        place = folder / suffix.strip(".").replace(".", "-")
        place.mkdir()
        # Made in a process of its own too, because a child inherits the peak of its parent.
        subprocess.run([sys.executable, __file__, "--job", "make", str(place), suffix], check=True)
        for units in ("parcels", "voxels"):
            done = subprocess.run(
                [sys.executable, __file__, "--job", units, str(place), suffix],
                check=True,
                capture_output=True,
                text=True,
            )
            print(f"| 97x115x97x500 {suffix}, {units} | {done.stdout.strip()} |")


def job(kind: str, folder: Path, suffix: str) -> None:
    """One child process of `large`."""
    paths = {
        "bold": f"sub-1_task-a_space-S_desc-preproc_bold{suffix}",
        "mask": "mask.nii.gz",
        "confounds": "sub-1_task-a_desc-confounds_timeseries.tsv",
        "atlas": "atlas-Shell_space-S_dseg.nii.gz",
    }
    if kind == "make":
        make_run(folder, (97, 115, 97), 500, suffix)
        return
    row = {"run_id": "sub-1_task-a", **{key: str(folder / name) for key, name in paths.items()}}
    began = time.perf_counter()
    ours(row, folder, kind)
    units = sum(data.shape[1] for data in read_series(folder / "series.h5").levels.values())
    print(f"{units} units | {time.perf_counter() - began:.1f} s | {peak_mb():.0f} MB")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the fastest counts")
    parser.add_argument(
        "--units",
        nargs="+",
        default=["parcels", "voxels"],
        choices=["parcels", "voxels"],
        help="what to time",
    )
    parser.add_argument("--large", action="store_true", help="peak memory on 97x115x97x500 instead")
    parser.add_argument("--job", nargs=3, metavar=("KIND", "FOLDER", "SUFFIX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(options.job[0], Path(options.job[1]), options.job[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.large:
            large(Path(folder))
        else:
            compare(Path(folder), options.repeats, options.units)


if __name__ == "__main__":
    main()
