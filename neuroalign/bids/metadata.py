"""Sidecars: the inheritance principle, and what is read from JSON metadata.

A JSON file applies to a data file if it lies in the same folder or above it within the dataset, has the
same suffix, and names no entity that the data file does not have. All that apply are merged; the nearest wins.
Tables (``events.tsv``) are not merged: the nearest is taken.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from neuroalign.bids.naming import parse_name
from neuroalign.errors import UserError
from neuroalign.io import read_json


class Tree:
    """A dataset folder whose listings and JSON files are read once.

    For one pass over a dataset: a new `Tree` sees changes, an old one does not.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        self._names: dict[Path, list[str]] = {}
        self._json: dict[Path, dict[str, Any]] = {}

    def names(self, folder: Path) -> list[str]:
        """Sorted names in a folder; empty where it does not exist."""
        if folder not in self._names:
            try:
                self._names[folder] = sorted(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = []
        return self._names[folder]

    def json(self, path: Path) -> dict[str, Any]:
        """The content of a JSON sidecar."""
        if path not in self._json:
            content = read_json(path)
            if not isinstance(content, dict):
                raise UserError(f'{path} must hold a JSON object such as {{"RepetitionTime": 2.0}}.')
            self._json[path] = content
        return self._json[path]


def applicable(
    path: str | os.PathLike, root: str | os.PathLike | Tree, suffix: str, extension: str
) -> list[Path]:
    """Files of a suffix and extension that apply to a data file, from the farthest to the nearest.

    Parameters
    ----------
    path : path
        The data file; it need not exist.
    root : path or Tree
        Root of the dataset; nothing above it is looked at.
    suffix, extension : str
        Such as ``bold`` and ``.json``, or ``events`` and ``.tsv``.
    """
    tree = root if isinstance(root, Tree) else Tree(root)
    path = Path(path)
    key = parse_name(path.name).key()
    ending = f"{suffix}{extension}"
    found = []
    for folder in _levels(path.parent, tree.root):
        matches = []
        for name in tree.names(folder):
            if not name.endswith(ending):
                continue
            try:
                parsed = parse_name(name)
            except ValueError:
                continue
            if parsed.suffix == suffix and parsed.extension == extension and parsed.key() <= key:
                matches.append((len(parsed.entities), folder / name))
        found += [match for _, match in sorted(matches)]
    return found


def _levels(folder: Path, root: Path) -> list[Path]:
    try:
        parts = folder.relative_to(root).parts
    except ValueError:
        return [folder]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def sidecar(path: str | os.PathLike, root: str | os.PathLike | Tree) -> dict[str, Any]:
    """The metadata of a data file: every JSON that applies, merged; the nearest wins.

    Parameters
    ----------
    path : path
        The data file; it need not exist.
    root : path or Tree
        Root of the dataset.

    Raises
    ------
    UserError
        If a sidecar that applies is no JSON object.
    """
    tree = root if isinstance(root, Tree) else Tree(root)
    merged: dict[str, Any] = {}
    try:
        suffix = parse_name(Path(path).name).suffix
    except ValueError:
        # A file of several runs has no BIDS name, and no sidecar.
        return merged
    for file in applicable(path, tree, suffix, ".json"):
        merged |= tree.json(file)
    return merged
