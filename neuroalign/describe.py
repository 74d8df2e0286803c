"""``neuroalign info``: what a file or folder is, and what made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from neuroalign.errors import UserError
from neuroalign.io import open_hdf5, read_json, read_tsv

# What tells our formats apart, the first that a file has, and what such a file is.
_KINDS = {
    "carpet": "quality record of a run",
    "keep": "ROI series of a run",
    "step_times": "video windows of a paired dataset",
    "clip_row": "fMRI windows of a subject",
    "subjects": "scores of a method on the test set",
    "features": "features of a stimulus",
    "levels": "embedding of a stimulus",
}


def describe(path: Path) -> str:
    """A few lines on a results folder, a model, or any file the workflow writes.

    Raises
    ------
    UserError
        If there is nothing at `path`, or it is no file of NeuroAlign.
    """
    path = Path(path)
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix == ".h5":
        with open_hdf5(path) as file:
            return "\n".join(_describe_hdf5(path, file))
    if path.suffix == ".json":
        content = read_json(path)
        return f"{path}\n{json.dumps(content, indent=2)}"
    if path.suffix == ".tsv":
        table = read_tsv(path)
        return f"{path}: table of {len(table)} rows\ncolumns: {', '.join(table.columns)}"
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    raise UserError(
        f"{path} is no .h5, .tsv or .json file; give one of those that NeuroAlign writes, or a folder of them."
    )


def _describe_hdf5(path: Path, file: h5py.File) -> list[str]:
    kind = next((words for name, words in _KINDS.items() if name in file), "HDF5 file of an unknown kind")
    lines = [f"{path}: {kind}"]
    file.visititems(
        lambda name, item: (
            lines.append(f"  /{name}  {item.shape} {item.dtype}") if hasattr(item, "shape") else None
        )
    )
    for name, value in file.attrs.items():
        if name == "provenance":
            lines += _describe_provenance(json.loads(value))
        else:
            lines.append(f"  {name}: {value}")
    return lines


def _describe_provenance(record: dict[str, Any]) -> list[str]:
    made_by = record.get("generated_by", {})
    lines = [f"made by {made_by.get('name', '?')} {made_by.get('version', '?')}"]
    for name, item in record.get("inputs", {}).items():
        lines.append(f"  from {name}: {item['checksum']}")
    if record.get("config") is not None:
        lines.append(f"  config: {json.dumps(record['config'], sort_keys=True)}")
    return lines


def _describe_folder(folder: Path) -> str:
    models = sorted(folder.glob("**/model.json"))
    metrics = folder / "evaluation" / "metrics.tsv"
    if not models and not metrics.exists():
        raise UserError(f"{folder} holds neither a model nor an evaluation; give a results or model folder.")
    lines = [str(folder)]
    for path in models:
        meta = read_json(path)
        lines.append(
            f"model {path.parent.relative_to(folder)}: stage {meta.get('stage', '?')}, seed {meta.get('seed', '?')}"
        )
    if metrics.exists():
        table = read_tsv(metrics, text=("subject", "seed"))
        wanted = (table["subject"] == "all") & (table["gallery"] == "full") & (table["metric"] == "top1")
        for row in table[wanted & (table["exclude_s"] == table["exclude_s"].min())].itertuples():
            lines.append(
                f"{row.model} seed {row.seed} {row.direction}: top-1 {row.value:.1%} of {row.gallery_size:g} "
                f"(interval {row.ci_low:.1%} to {row.ci_high:.1%}, chance {row.chance:.1%})"
            )
    return "\n".join(lines)
