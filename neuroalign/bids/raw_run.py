"""The raw run behind a preprocessed one: what its sidecars and its header say about timing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroalign.bids.metadata import Tree, applicable, sidecar
from neuroalign.bids.naming import (
    IMAGE,
    VERSION_ENTITIES,
    BidsName,
    build_name,
    parse_entities,
    parse_name,
    run_folder,
)
from neuroalign.bids.repetition import path_timing


@dataclass(frozen=True)
class RawRun:
    """What is known of a raw run.

    Attributes
    ----------
    path : Path
        Its image; for several echoes or parts the first magnitude image. It need not exist.
    metadata : mapping
        Its sidecar, inheritance resolved; empty where there is none.
    volumes : int or None
        Number of volumes of the image; None if it is not there.
    """

    path: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)
    volumes: int | None = None


def find_raw_run(run_id: str, bids_dir: str | os.PathLike, volumes: str | None = None) -> RawRun:
    """The raw run of a preprocessed one, found by its name.

    Parameters
    ----------
    run_id : str
        BIDS name up to the suffix; ``run-1`` and ``run-01`` are the same run.
    bids_dir : path
        Root of the raw dataset.
    volumes : str, optional
        `raw_volumes` of the index, empty where there is no image; without it the header is read.
    """
    tree = Tree(bids_dir)
    path = raw_image(run_id, tree)
    count = path_timing(path)[0] if volumes is None else int(volumes) if volumes else None
    return RawRun(path, sidecar(path, tree), count)


def raw_image(run_id: str, tree: Tree) -> Path:
    """Path of the raw image of a run; where there is none, the path that it would have.

    Parameters
    ----------
    run_id : str
    tree : Tree
        The raw dataset.
    """
    entities = {k: v for k, v in parse_entities(run_id).items() if k not in VERSION_ENTITIES}
    folder = tree.root / run_folder(entities.get("sub", ""), entities.get("ses", ""))
    wanted = BidsName(entities).key()
    found = []
    for name in tree.names(folder):
        try:
            parsed = parse_name(name)
        except ValueError:
            continue
        plain = BidsName({k: v for k, v in parsed.entities.items() if k not in VERSION_ENTITIES})
        part = parsed.entities.get("part", "mag")
        if parsed.suffix == "bold" and plain.key() == wanted and part == "mag":
            image = name.removesuffix(".json") + ".nii.gz" if parsed.extension == ".json" else name
            if parsed.extension in (*IMAGE, ".json"):
                found.append((parsed.extension == ".json", len(parsed.entities), image))
    return folder / (min(found)[2] if found else build_name(entities, "bold", ".nii.gz"))


def raw_sidecars(run_id: str, tree: Tree) -> list[Path]:
    """JSON files that apply to the raw image of a run."""
    return applicable(raw_image(run_id, tree), tree, "bold", ".json")
