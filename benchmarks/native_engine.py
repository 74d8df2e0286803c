"""The native preprocessing engine: seconds per step and peak memory from raw to template space, against ANTsPy's motion step.

Run by hand::

    python benchmarks/native_engine.py                      # 64 x 64 x 36 x 300 at 3.3 mm, TR 2 s, slice timing
    python benchmarks/native_engine.py --resolution 2       # the same on 2 mm voxels

A simulated person (T1w of 1 mm with skull, moving head, noise) is written as a raw dataset and preprocessed by a process of its
own, whose peak memory is what the kernel reports. Wall-clock seconds depend on what else the machine does, CPU seconds hardly: both are
printed. For reference, ANTsPy's rigid registration is timed on a few volumes of the same run and *extrapolated*
to all of them, as motion correction alone would take with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPACE = "MNI152NLin2009aSym"
NAME = "sub-01_task-film"
TR_S = 2.0


def write_dataset(root: Path, volumes: int) -> None:
    """A raw dataset of one person with one run."""
    import nibabel as nib
    from realign import GRIDS, make_head, make_run

    from neuroalign.config.dataset import Simulate
    from neuroalign.simulate.anatomy import build_head, t1w_image
    from neuroalign.simulate.atlas import demo_atlas, load_template

    shape, voxel_mm = GRIDS["64x64x36, 3.3 mm"]
    # Twenty positions of the head, again and again with fresh thermal noise: sampling the head 300 times is what takes long.
    some, affine, _, _ = make_run(make_head(), shape, voxel_mm, min(volumes, 20), "noise", 0)
    rng = np.random.default_rng(0)
    data = np.stack(
        [
            some[..., v % some.shape[-1]] + 10 * rng.standard_normal(shape, dtype=np.float32)
            for v in range(volumes)
        ],
        axis=-1,
    )
    np.maximum(data, 0, out=data)
    template = load_template()
    labels, atlas_affine, _ = demo_atlas(template)
    head = build_head(Simulate(), "01", template, labels, atlas_affine, 1.0)
    (root / "sub-01/anat").mkdir(parents=True)
    (root / "sub-01/func").mkdir()
    nib.save(
        nib.Nifti1Image(t1w_image(Simulate(), "01", head), head.affine),
        root / "sub-01/anat/sub-01_T1w.nii.gz",
    )
    image = nib.Nifti1Image(np.rint(data).astype(np.int16), affine)
    image.header.set_zooms((voxel_mm,) * 3 + (TR_S,))
    nib.save(image, root / f"sub-01/func/{NAME}_bold.nii.gz")
    timing = (np.argsort(np.r_[0 : shape[2] : 2, 1 : shape[2] : 2]) * TR_S / shape[2]).tolist()
    (root / f"sub-01/func/{NAME}_bold.json").write_text(
        json.dumps({"RepetitionTime": TR_S, "SliceTiming": timing, "TaskName": "film"})
    )


def preprocess(root: Path, step: str, resolution: float | None, threads: int) -> None:
    """One step in this process; prints wall seconds, CPU seconds and peak MB as JSON."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    from neuroalign.bids.derivatives import anatomy_paths
    from neuroalign.config.fmri import Preprocess
    from neuroalign.fmri.preprocess.native import preprocess_anatomy, preprocess_run

    t1w, folder = root / "sub-01/anat/sub-01_T1w.nii.gz", root.parent / "derivatives"
    began = time.perf_counter()
    if step == "anatomy":
        preprocess_anatomy(t1w, folder, space=SPACE)
    elif step == "run":
        bold = root / f"sub-01/func/{NAME}_bold.nii.gz"
        preprocess_run(
            bold,
            anatomy_paths(t1w, folder, space=SPACE),
            folder,
            NAME,
            metadata=json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text()),
            config=Preprocess(resolution_mm=resolution),
            space=SPACE,
            threads=threads,
        )
    else:
        reference(root)
        return
    report(time.perf_counter() - began)


def reference(root: Path, volumes: int = 6) -> None:
    """ANTsPy's rigid registration of a few volumes to another, scaled to the whole run."""
    import ants

    from neuroalign.fmri.images import read_image
    from neuroalign.fmri.preprocess.register import _to_ants

    data, image = read_image(root / f"sub-01/func/{NAME}_bold.nii.gz", ndim=4)
    moving = [_to_ants(data[..., 2 * v], image.affine) for v in range(volumes + 1)]
    ants.registration(moving[0], moving[1], type_of_transform="Rigid")  # warm
    began, cpu = time.perf_counter(), time.process_time()
    for volume in moving[1:]:
        ants.registration(moving[0], volume, type_of_transform="Rigid", random_seed=1)
    scale = data.shape[-1] / volumes
    report((time.perf_counter() - began) * scale, (time.process_time() - cpu) * scale)


def report(wall: float, cpu: float | None = None) -> None:
    """One line of JSON on standard output."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime if cpu is None else cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "mb": usage.ru_maxrss / 1024}))


def main() -> None:
    """Print one line per step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=300)
    parser.add_argument("--resolution", type=float, help="mm; that of the BOLD unless given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="keep the dataset here and use it again")
    parser.add_argument("--step", choices=("data", "anatomy", "run", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "data":
        write_dataset(Path(options.folder) / "raw", options.volumes)
        return
    if options.step:
        preprocess(Path(options.folder) / "raw", options.step, options.resolution, options.threads)
        return
    with tempfile.TemporaryDirectory(prefix="neuroalign-") as temporary:
        folder = Path(options.folder or temporary)
        command = [sys.executable, __file__, "--folder", str(folder), "--step"]
        if not (folder / "raw").exists():
            # In a process of its own: on Linux, a child's peak memory begins at what its parent holds.
            subprocess.run([*command, "data", "--volumes", str(options.volumes)], check=True)
        print(f"{options.volumes} volumes of 64 x 64 x 36, {options.threads} threads")
        total = [0.0, 0.0]
        for step in ("anatomy", "run", "reference"):
            chosen = ["--threads", str(options.threads)]
            chosen += ["--resolution", str(options.resolution)] if options.resolution else []
            done = subprocess.run([*command, step, *chosen], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            if step != "reference":
                total = [total[0] + found["wall"], total[1] + found["cpu"]]
            name = "ANTsPy motion alone, extrapolated" if step == "reference" else step
            print(
                f"{name:36}{found['wall']:8.1f} s{found['cpu']:8.1f} s CPU{found['mb']:8.0f} MB", flush=True
            )
        print(f"{'raw to template, anatomy included':36}{total[0]:8.1f} s{total[1]:8.1f} s CPU")
        print(
            f"ANTsPy motion / all of ours: {found['wall'] / total[0]:.1f} (wall), {found['cpu'] / total[1]:.1f} (CPU)"
        )


if __name__ == "__main__":
    main()
