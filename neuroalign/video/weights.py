"""Weights of pretrained models: which the configuration asks for, and fetching them once.

A role (``backbone``, …) is one model. Its weights are fetched from the Hugging Face hub into
``<output_dir>/weights/<role>/`` by a step of their own, the only one that needs internet; every other job reads the
folder. Only configuration, preprocessing, tokenizer and safetensors files are taken: nothing that runs code when it is
read (pickles, Python files). A local folder is used where it is, without a copy. Links in it are followed, because the
hub's own cache is made of links; what they lead to is read as JSON or safetensors all the same.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuroalign.config import Config
from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.io import not_here, read_json, write_json
from neuroalign.video.weights_record import (
    RECORD,
    VOCABULARIES,
    check_model_type,
    content_digest,
    describe_files,
    sha256,
)

logger = logging.getLogger(__name__)

CONFIG_FILES = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# The names under which transformers looks for weights; repositories may hold others, for other libraries.
TENSOR_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
TOKENIZER_FILES = (
    *(*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("processor_config.json", "generation_config.json", "chat_template.jinja"),
)
BACKBONE_FILES = (*CONFIG_FILES, "processor_config.json", *TENSOR_FILES)
CAPTIONER_FILES = (*CONFIG_FILES[:2], *TENSOR_FILES, *TOKENIZER_FILES)
TEXT_FILES = (CONFIG_FILES[0], *TENSOR_FILES, *TOKENIZER_FILES)
# Whatever the patterns say: files that run code when they are loaded are never taken.
_NEVER = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"),
    *(".py", ".msgpack", ".h5"),
)
# What was fetched, kept beside the files: the workflow removes its output, the record, before a step runs again.
_FETCHED = ".fetched.json"


@dataclass(frozen=True)
class Request:
    """Weights that the configuration asks for.

    Attributes
    ----------
    weights : str
        Hub id or local folder.
    revision : str or None
        Branch, tag or commit on the hub; None is its main branch.
    patterns : tuple of str
        Names of the files that are needed, with ``*``: files at the top.
    key : str
        The configuration key that names the weights, for messages.
    model_types : tuple of str
        Values of ``model_type`` in ``config.json`` that will do; none for any.
    """

    weights: str
    revision: str | None
    patterns: tuple[str, ...]
    key: str
    model_types: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As plain values, which the workflow compares; `Request` takes them back."""
        return {**asdict(self), "patterns": list(self.patterns), "model_types": list(self.model_types)}


def weights_request(config: Config) -> dict[str, Request]:
    """The weights that a configuration needs, by role.

    Parameters
    ----------
    config : Config

    Returns
    -------
    dict of str to Request
        ``backbone`` where the backbone has weights; with captions ``text``, and ``blip2`` if it writes them.
    """
    requests = {}
    if (backbone := backbone_request(config.video)) is not None:
        requests["backbone"] = backbone
    text, key = config.text, "text.embedding.weights"
    if text.source == "blip2":
        requests["blip2"] = Request(text.weights, text.revision, CAPTIONER_FILES, "text.weights")
    if text.source != "none":
        requests["text"] = Request(text.embedding.weights, text.embedding.revision, TEXT_FILES, key)
    return requests


def backbone_request(video: Video) -> Request | None:
    """The weights that a backbone needs; None for one without weights."""
    registered = REGISTRY.get(video.backbone)
    if registered is None or registered.weights is None:
        return None
    weights = video.weights or registered.weights
    return Request(weights, video.revision, BACKBONE_FILES, "video.weights", registered.model_types)


def local_folder(request: Request) -> Path | None:
    """The folder that a request names, or None for a hub id.

    Raises
    ------
    UserError
        If what is written like a path is no folder.
    """
    folder = Path(request.weights).expanduser()
    if folder.is_dir():
        return folder
    if request.weights.startswith((".", "/", "~")) or request.weights.count("/") > 1:
        raise UserError(
            f"{request.key} {request.weights} is not a folder; set it to a folder of saved weights or to a hub id."
        )
    return None


def local_files(request: Request) -> list[Path]:
    """The needed files of a local folder; none for a hub id, or where the folder is not there."""
    try:
        folder = local_folder(request)
    except UserError:
        return []
    return [folder / name for name in needed(_names(folder), request.patterns)] if folder else []


def folder_problems(request: Request) -> Iterator[str]:
    """What a local folder lacks, a sentence each; nothing for a hub id, which is fetched by a step of its own."""
    try:
        folder = local_folder(request)
    except UserError as error:
        yield str(error)
        return
    if folder is None:
        return
    names = needed(_names(folder), request.patterns)
    for what in lacking(names, request.patterns):
        yield f"{request.key} {request.weights} holds no {what}; save the model and its processor there."
    absent = [problem for name in names if (problem := not_here(folder / name))]
    yield from (f"{problem}." for problem in absent)
    if "config.json" in names and not absent:
        try:
            check_model_type(folder, request.weights, request.model_types)
        except UserError as error:
            yield str(error)


def lacking(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """What a model cannot do without and is not among the needed files.

    Parameters
    ----------
    names : iterable of str
        See `needed`.
    patterns : iterable of str
        Preprocessing and vocabulary are wanted where the patterns name them.

    Returns
    -------
    list of str
        ``config.json``, ``preprocessor_config.json``, ``tokenizer.json``, ``model.safetensors``: those that neither are
        there nor have another file in their stead.
    """
    names, patterns = set(names), set(patterns)
    # A video model's own file of preprocessing stands in for the one of images, and so does a processor's.
    stead = {
        "config.json": {"config.json"},
        "preprocessor_config.json": {*CONFIG_FILES[1:], "processor_config.json"},
        "tokenizer.json": set(VOCABULARIES),
        "model.safetensors": {name for name in names if name.endswith(".safetensors")},
    }
    return [what for what, others in stead.items() if what in patterns and not others & names]


def needed(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of the files that the patterns name, sorted; of one tensor file and its shards, the one file.

    Parameters
    ----------
    names : iterable of str
        Paths in the repository or folder, with forward slashes.
    patterns : iterable of str
        See `Request`.
    """
    patterns = tuple(patterns)
    chosen = {
        name
        for name in names
        if not name.endswith(_NEVER)
        and "/" not in name
        and any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }
    if TENSOR_FILES[0] in chosen:
        chosen = {n for n in chosen if n == TENSOR_FILES[0] or not any(map(_matcher(n), TENSOR_FILES))}
    return sorted(chosen)


def _matcher(name: str):
    return lambda pattern: fnmatch.fnmatchcase(name, pattern)


def _names(folder: Path) -> list[str]:
    """Files at the top of a folder; links that lead nowhere are named too, hidden files are not."""
    return [p.name for p in folder.iterdir() if not p.is_dir() and not p.name.startswith(".")]


def fetch_weights(request: Request, folder: str | os.PathLike) -> dict[str, Any]:
    """Make sure that weights are here, and write the record of them.

    Parameters
    ----------
    request : Request
    folder : path
        Of the role: ``<output_dir>/weights/<role>``. Files from the hub go there; of a local folder only the record.

    Returns
    -------
    dict
        The record, as written to ``weights.json``: `weights`, `revision` (asked for), `commit` (found; None for a local
        folder), `folder` (of local weights, else None), `files` (size and SHA-256 of each).

    Raises
    ------
    UserError
        If the weights cannot be had: one sentence with the way out.

    Notes
    -----
    What was fetched once stays as long as `weights`, `revision` and the needed files are the same, even if the hub's
    branch moves on: results do not change behind one's back. Delete the folder to fetch anew. A line that drops is taken
    up again within the file; a download that was killed goes on with the file that it was in. Files get their final
    names when all of them are here and have the right checksums.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    local = local_folder(request)
    if local is not None:
        record = _local_record(request, local)
    else:
        record = _kept(request, folder)
        if record is None:
            from neuroalign.video.hub import download

            commit, files = download(request, folder)
            record = _record(request, commit, files, None)
        write_json(folder / _FETCHED, {**record, "patterns": list(request.patterns)})
    write_json(folder / RECORD, record)
    return record


def _local_record(request: Request, local: Path) -> dict[str, Any]:
    if problems := list(folder_problems(request)):
        raise UserError(problems[0])
    logger.info("weights %s are used where they are", request.weights)
    files = describe_files(local, needed(_names(local), request.patterns))
    return _record(request, None, files, str(local))


def _record(request: Request, commit: str | None, files: dict, folder: str | None) -> dict[str, Any]:
    revision = None if folder else request.revision
    return {
        "weights": request.weights,
        "revision": revision,
        "commit": commit,
        "folder": folder,
        "files": files,
    }


def _kept(request: Request, folder: Path) -> dict[str, Any] | None:
    """The record of an earlier fetch of the same, if its files are still here and whole."""
    if not (folder / _FETCHED).exists():
        return None
    record = read_json(folder / _FETCHED)
    patterns = record.pop("patterns", None)
    asked = (record.get("weights"), record.get("revision"), patterns)
    if asked != (request.weights, request.revision, list(request.patterns)):
        return None
    for name, expected in record["files"].items():
        path = folder / name
        if (
            not path.is_file()
            or path.stat().st_size != expected["size"]
            or sha256(path) != expected["sha256"]
        ):
            logger.warning("%s is not as it was fetched; it is fetched again", path)
            return None
    logger.info("weights %s at %s are here already", request.weights, record["commit"])
    return record


def summary(role: str, record: dict[str, Any]) -> str:
    """A line for people: role, weights, commit, size."""
    size = sum(file["size"] for file in record["files"].values())
    where = f"in {record['folder']}" if record["folder"] else f"at {record['commit']}"
    return f"{role}: {record['weights']} {where}, {size / 1e6:.1f} MB, {content_digest(record['files'])}"
