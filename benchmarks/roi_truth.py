"""Regional signals after the whole raw path, against the simulator's noise-free truth; with and without motion correction.

Run by hand::

    python benchmarks/roi_truth.py

One simulated person and run with all noise but a still head is moved afterwards, volume by volume, by known motion of several sizes
(relative to the simulator's cooperative adult, mean framewise displacement about 0.12 mm), so that signal and noise move with
the head. The anatomy is preprocessed once. The run is preprocessed twice: as always, and with every volume taken to lie where
the reference lies. Parcels of the true atlas are averaged; they and the truth are high-pass filtered at 0.01 Hz, as any
analysis would; with `+ 6` the six estimated motion parameters are regressed out as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

from neuroalign.bids.metadata import sidecar
from neuroalign.config.dataset import Simulate
from neuroalign.config.fmri import Preprocess
from neuroalign.fmri.images import to_grid
from neuroalign.fmri.preprocess import native
from neuroalign.fmri.preprocess.confounds import MOTION, cosines
from neuroalign.fmri.series import read_series
from neuroalign.io import read_tsv
from neuroalign.simulate import bold as simulated
from neuroalign.simulate import make_dataset
from neuroalign.simulate.motion import rigid

SPACE = "MNI152NLin2009aSym"


def still(*arguments, **options):
    """`realign`, with the motion it found thrown away."""
    found = native_realign(*arguments, **options)
    return dataclasses.replace(found, matrices=np.broadcast_to(np.eye(4), found.matrices.shape))


native_realign = native.realign


def move(bold: Path, motion: np.ndarray, centre: np.ndarray) -> None:
    """Move every volume of a run by rigid displacements of the head, in place."""
    image = nib.load(bold)
    data, inverse = image.get_fdata(dtype=np.float32), np.linalg.inv(image.affine)
    for volume, parameters in enumerate(motion):
        pull = inverse @ np.linalg.inv(rigid(parameters, centre)) @ image.affine
        data[..., volume] = affine_transform(data[..., volume], pull[:3, :3], pull[:3, 3], mode="nearest")
    moved = nib.Nifti1Image(np.rint(np.maximum(data, 0)).astype(np.int16), image.affine, image.header)
    nib.save(moved, bold)


def parcels(bold: Path, atlas: Path) -> np.ndarray:
    """Mean series of every parcel, (volumes, parcels)."""
    image, labels = nib.load(bold), nib.load(atlas)
    where = to_grid(
        np.asarray(labels.dataobj).astype(np.int16), labels.affine, image.shape[:3], image.affine, order=0
    )
    data = image.get_fdata(dtype=np.float32)
    seen = data.std(axis=-1) > 0
    return np.stack([data[(where == k) & seen].mean(axis=0) for k in range(1, where.max() + 1)], axis=1)


def agreement(series: np.ndarray, truth: np.ndarray, tr: float, extra: np.ndarray | None) -> np.ndarray:
    """Correlation of every parcel with the truth after high-pass filtering."""
    slow = cosines(len(series), tr, 100.0)
    columns = [np.ones((len(series), 1)), slow] + ([] if extra is None else [extra - extra.mean(axis=0)])
    basis, _ = np.linalg.qr(np.column_stack(columns))
    one, other = (v - basis @ (basis.T @ v) for v in (series.astype(float), truth.astype(float)))
    return (one * other).sum(0) / (np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0))


def main() -> None:
    """Print one line per size of motion and way of preprocessing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", nargs="*", type=float, default=[1.0, 5.0, 15.0])
    parser.add_argument("--film-s", type=float, default=60.0)
    options = parser.parse_args()
    settings = Simulate(subjects=1, sessions=1, films=2, film_s=options.film_s, films_per_run=2, repeats=1)
    acquired = simulated.head_motion
    print(f"{'motion':8}{'FD mm':>7}  {'preprocessing':26}{'r with truth':>13}{'worst parcel':>13}")
    with tempfile.TemporaryDirectory(prefix="neuroalign-") as folder:
        root = Path(folder) / "bids"
        with mock.patch.object(simulated, "head_motion", lambda s, r: 0 * acquired(s, r)):
            plan = make_dataset(settings, root)
        run = plan.run_plans[0]
        still_bold = root / f"{run.func}_bold.nii.gz"
        t1w = next(root.glob("sub-*/anat/*_T1w.nii.gz"))
        anatomy = native.preprocess_anatomy(t1w, Path(folder) / "derivatives", space=SPACE)
        for size in options.motion:
            bold = Path(folder) / f"{size:g}" / "raw" / f"{run.func}_bold.nii.gz"
            bold.parent.mkdir(parents=True)
            shutil.copy(still_bold, bold)
            move(bold, size * acquired(settings, run), simulated.geometry(settings).centre)
            series = read_series(plan.truth_dir / "signals" / f"{run.run_id}.h5")
            truth = np.concatenate(list(series.levels.values()), axis=1)
            units = [name for names in series.unit_labels.values() for name in names]
            atlas = next(plan.truth_dir.glob("atlas-demo*_dseg.nii.gz"))
            order = read_tsv(atlas.with_name(atlas.name.replace(".nii.gz", ".tsv")))["label"].tolist()
            columns = [order.index(name) for name in units]
            for name, ours in (("full", native_realign), ("motion correction off", still)):
                with mock.patch.object(native, "realign", ours):
                    paths = native.preprocess_run(
                        bold, anatomy, Path(folder) / f"{size:g}" / name.replace(" ", "-"), run.run_id,
                        metadata=sidecar(still_bold, root), config=Preprocess(), space=SPACE, threads=2,
                    )  # fmt: skip
                table = read_tsv(paths["confounds"])
                found = parcels(paths["bold"], atlas)[:, columns]
                for label, extra in ((name, None), (f"{name} + 6", table[list(MOTION)].to_numpy())):
                    r = agreement(found, truth, settings.tr_s, extra)
                    moved = table["framewise_displacement"].mean()
                    print(f"x{size:<7g}{moved:7.2f}  {label:26}{r.mean():13.3f}{r.min():13.3f}", flush=True)


if __name__ == "__main__":
    main()
