"""``weights.json``: what a folder of weights is, and the way back from it to the files.

The record is what jobs depend on: it is small, so the workflow compares it by content, and it changes exactly when the
weights do. `weights` writes it; the neural backbones and the caption models read it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroalign.errors import UserError
from neuroalign.io import read_json

RECORD = "weights.json"
# The names under which transformers looks for the words of a tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
_BLOCK = 2**20


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    Attributes
    ----------
    folder : Path
        Where the files are: configuration, preprocessing, safetensors.
    name : str
        Hub id, or the local folder as the user wrote it.
    revision : str
        What fixes the numbers: ``<name>@<commit>``, or ``<name>@sha256:<digest of the files>`` for a local folder.
    """

    folder: Path
    name: str
    revision: str


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of files below `folder`; links are followed."""
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def open_weights(path: str | os.PathLike) -> Weights:
    """Find the weights that a record speaks of.

    Parameters
    ----------
    path : path
        A ``weights.json``, the folder that holds one, or any folder with a saved model.

    Raises
    ------
    UserError
        If there is no such folder, or a file is missing or has another size than when the record was written.
    """
    path = Path(path)
    record = path if path.name == RECORD else path / RECORD
    if not record.exists() and path.is_dir():
        # A folder that no `weights` step has seen: named by its content.
        names = sorted(p.name for p in path.iterdir() if p.suffix in (".json", ".safetensors"))
        if not names:
            raise UserError(
                f"{path} holds no weights; save a model there, or fetch it with `neuroalign weights`."
            )
        return Weights(path, str(path), f"{path}@{content_digest(describe_files(path, names))}")
    content = read_json(record)
    try:
        folder = Path(content["folder"] or record.parent)
        files, name = content["files"], content["weights"]
        mark = content["commit"] or content_digest(files)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{record} is no record of weights; remove it and fetch the weights again."
        ) from error
    for file, expected in files.items():
        there = folder / file
        size = there.stat().st_size if there.exists() else None
        if size != expected["size"]:
            what = "is missing" if size is None else f"has {size} bytes instead of {expected['size']}"
            raise UserError(
                f"{there} {what}; remove {record} and fetch the weights again (`neuroalign weights --config FILE`)."
            )
    return Weights(folder, name, f"{name}@{mark}")


def check_model_type(folder: Path, name: str, types: Collection[str]) -> None:
    """Check that a folder holds a kind of model that can be used.

    Parameters
    ----------
    folder : Path
    name : str
        Of the weights, for the message.
    types : collection of str
        Values of ``model_type`` in ``config.json`` that will do; none for any.

    Raises
    ------
    UserError
        If it is of another kind, or its ``config.json`` is no configuration.
    """
    content = read_json(folder / "config.json")
    if not isinstance(content, dict):
        raise UserError(
            f"{folder / 'config.json'} is no configuration of a model; save the model anew with save_pretrained."
        )
    found = content.get("model_type")
    if types and found not in types:
        raise UserError(
            f"the weights {name} are of a {found} model, and this backbone needs {' or '.join(types)}; "
            "correct video.weights or video.backbone."
        )


def content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """A short name for the content of files that have no commit."""
    text = "".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
