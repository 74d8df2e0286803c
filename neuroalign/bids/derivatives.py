"""Names and descriptions of the BIDS derivatives that the native preprocessing writes.

Pure path arithmetic and JSON: the workflow imports this while it is parsed, so nothing here opens an image or
imports anything heavy.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from neuroalign import __version__
from neuroalign.errors import UserError
from neuroalign.io import atomic_path, write_json

BIDS_VERSION = "1.10.0"
# Not in the specification yet (BEP 012, 014): fMRIPrep names them so, and lists them in the same file.
_IGNORED = ("*_xfm.*", "*_boldref.*", "*_timeseries.*", "logs/")
_README = """Preprocessed fMRI written by NeuroAlign's native engine.

One folder per subject: `anat` (bias-corrected T1w, brain mask, tissue classes, transforms) and `func` (preprocessed BOLD in
template space, brain mask, references, confounds). Names and confounds follow fMRIPrep where BIDS leaves them open.
The raw dataset is linked as `raw` in `dataset_description.json`.
"""
_ENTITY = re.compile(r"(?:^|_)(sub|ses)-([A-Za-z0-9+]+)")


def stem(path: str | os.PathLike) -> str:
    """A BIDS file name without suffix and extension: ``sub-01_run-1_T1w.nii.gz`` → ``sub-01_run-1``."""
    return Path(path).name.split(".", 1)[0].rpartition("_")[0]


def _entity_folder(folder: str | os.PathLike, name: str, datatype: str) -> Path:
    entities = dict(_ENTITY.findall(name))
    if "sub" not in entities:
        raise UserError(f"'{name}' does not begin with sub-<label>, so it is no BIDS name; rename the file.")
    parts = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    return Path(folder).joinpath(*parts, datatype)


def anatomy_paths(t1w: str | os.PathLike, folder: str | os.PathLike, *, space: str) -> dict[str, Path]:
    """Files that `preprocess_anatomy` writes for one T1w image.

    Parameters
    ----------
    t1w : path
        The raw T1w image; only its name is used.
    folder : path
        Root of the derivatives.
    space : str
        Template space, e.g. ``MNI152NLin2009cAsym``.

    Returns
    -------
    dict of str to Path
        `t1w`, `mask`, `dseg` (T1w space), `t1w_template` and `mask_template` (template space), `to_template` and
        `from_template` (ITK displacement fields), each with its sidecar under the same key with `_json` appended, and
        `dseg_tsv` (labels).
    """
    name = stem(t1w)
    base = _entity_folder(folder, name, "anat")
    images = {
        "t1w": f"{name}_desc-preproc_T1w",
        "mask": f"{name}_desc-brain_mask",
        "dseg": f"{name}_dseg",
        "t1w_template": f"{name}_space-{space}_desc-preproc_T1w",
        "mask_template": f"{name}_space-{space}_desc-brain_mask",
        "to_template": f"{name}_from-T1w_to-{space}_mode-image_xfm",
        "from_template": f"{name}_from-{space}_to-T1w_mode-image_xfm",
    }
    return _with_sidecars(base, images) | {"dseg_tsv": base / f"{name}_dseg.tsv"}


def _with_sidecars(base: Path, images: dict[str, str]) -> dict[str, Path]:
    """Images and their sidecars, by key."""
    return {key: base / f"{name}.nii.gz" for key, name in images.items()} | {
        f"{key}_json": base / f"{name}.json" for key, name in images.items()
    }


def run_paths(run_id: str, folder: str | os.PathLike, *, space: str) -> dict[str, Path]:
    """Files that `preprocess_run` writes for one run.

    Parameters
    ----------
    run_id : str
        BIDS name up to the suffix, e.g. ``sub-01_ses-01_task-film_run-1``.
    folder : path
        Root of the derivatives.
    space : str
        Template space.

    Returns
    -------
    dict of str to Path
        `bold`, `mask`, `boldref` (template space) and `boldref_native` (the reference of motion and coregistration,
        on the run's own grid), each with its sidecar under the same key with `_json` appended; `confounds`,
        `confounds_json`; `coreg` (4×4 matrix, BOLD reference to T1w) and `coreg_json`.
    """
    base = _entity_folder(folder, run_id, "func")
    images = {
        "bold": f"{run_id}_space-{space}_desc-preproc_bold",
        "mask": f"{run_id}_space-{space}_desc-brain_mask",
        "boldref": f"{run_id}_space-{space}_boldref",
        "boldref_native": f"{run_id}_desc-coreg_boldref",
    }
    coreg = f"{run_id}_from-boldref_to-T1w_mode-image_desc-coreg_xfm"
    return _with_sidecars(base, images) | {
        "confounds": base / f"{run_id}_desc-confounds_timeseries.tsv",
        "confounds_json": base / f"{run_id}_desc-confounds_timeseries.json",
        "coreg": base / f"{coreg}.txt",
        "coreg_json": base / f"{coreg}.json",
    }


def dataset_root(path: str | os.PathLike) -> Path:
    """The root of the dataset that holds a BIDS file: the folder above its ``sub-`` folder."""
    path = Path(path)
    for parent in path.parents:
        if parent.name.startswith("sub-"):
            return parent.parent
    return path.parent


def source_uri(path: str | os.PathLike, dataset: str = "raw") -> str:
    """A BIDS URI naming a source file, e.g. ``bids:raw:sub-01/anat/sub-01_T1w.nii.gz``."""
    relative = Path(path).relative_to(dataset_root(path)).as_posix()
    return f"bids:{dataset}:{relative}"


def local_uri(path: str | os.PathLike) -> str:
    """A BIDS URI of a file within its own dataset, e.g. ``bids::sub-01/anat/sub-01_dseg.nii.gz``."""
    return source_uri(path, dataset="")


def write_description(folder: str | os.PathLike, raw_root: str | os.PathLike) -> Path:
    """Write ``dataset_description.json``, ``README`` and ``.bidsignore`` at the root of the derivatives, unless there.

    Safe under concurrent jobs: every job would write the same bytes, and writing is atomic.

    Parameters
    ----------
    folder : path
        Root of the derivatives.
    raw_root : path
        Root of the raw dataset, linked as ``raw`` for the BIDS URIs in ``Sources``.
    """
    path = Path(folder) / "dataset_description.json"
    for name, text in (("README", _README), (".bidsignore", "\n".join(_IGNORED) + "\n")):
        if not (Path(folder) / name).exists():
            with atomic_path(Path(folder) / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if not path.exists():
        link = Path(os.path.relpath(raw_root, folder)).as_posix()
        write_json(
            path,
            {
                "Name": "NeuroAlign - native fMRI preprocessing",
                "BIDSVersion": BIDS_VERSION,
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "NeuroAlign", "Version": __version__}],
                "DatasetLinks": {"raw": link},
            },
        )
    return path
