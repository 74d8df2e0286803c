"""What lies in a dataset folder, subject by subject: the state of its files, and the files that pybids finds.

The states decide which subjects are walked again (`bids.records`); they cost one `os.scandir` per folder. Nothing is
ever written inside the dataset.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from neuroalign.errors import UserError

# More subjects than this are cheaper to find in a walk of all than through a pattern that names each.
_MOST_NAMED = 50


@dataclass(frozen=True)
class Scope:
    """Which files of a dataset matter: the rest is neither walked nor watched.

    Attributes
    ----------
    folders : tuple of str
        Modality folders below ``sub-*/[ses-*/]``.
    suffixes : tuple of str
        Suffixes of the files that are looked for.
    extensions : tuple of str
        Their extensions.
    watched : tuple of str
        Further suffixes of files that are read though not looked for (events, sidecars).
    """

    folders: tuple[str, ...]
    suffixes: tuple[str, ...]
    extensions: tuple[str, ...] = (".nii", ".nii.gz", ".json", ".tsv", ".h5")
    watched: tuple[str, ...] = ()

    def found(self) -> str:
        """Pattern of the names that are looked for; case does not count, so that misspelt ones can be told."""
        return _names(self.suffixes, self.extensions)

    def read(self) -> str:
        """Pattern of the names that may be read, at any level: a sidecar at the root is ``bold.json``."""
        suffixes = dict.fromkeys((*self.suffixes, *self.watched))
        return _names(suffixes, dict.fromkeys((*self.extensions, ".json", ".tsv", ".tsv.gz")))


def _names(suffixes: Collection[str], extensions: Collection[str]) -> str:
    return rf"(?:[^/]*_)?(?:{'|'.join(suffixes)})(?:{'|'.join(map(re.escape, extensions))})"


class State(NamedTuple):
    """A digest of names, sizes and times of some files, and the newest of those times (seconds)."""

    digest: str
    newest: float


@dataclass
class States:
    """The state of a dataset.

    Attributes
    ----------
    shared : State
        Of the files at the root, which every subject may inherit.
    subjects : dict of str to State
        Of every folder ``sub-*``, by name.
    """

    shared: State
    subjects: dict[str, State] = field(default_factory=dict)


def scan(root: Path, scope: Scope) -> States:
    """The state of every file that an index may look at.

    Parameters
    ----------
    root : path
        Root of a dataset.
    scope : Scope

    Raises
    ------
    UserError
        If a folder may not be read.
    """
    relevant = re.compile(scope.read(), re.IGNORECASE)
    listing = _listing(root)
    subjects = {e.name: e for e in listing if e.name.startswith("sub-") and e.is_dir()}
    beside = [
        _state(e, e.name)
        for e in listing
        if relevant.fullmatch(e.name) or e.name == "dataset_description.json"
    ]
    states = {name: _digest(_below(Path(entry.path), scope, relevant)) for name, entry in subjects.items()}
    return States(_digest(beside), states)


def _digest(files: Iterator[tuple[str, str, float]] | list[tuple[str, str, float]]) -> State:
    digest, newest = hashlib.blake2b(digest_size=12), 0.0
    for name, state, changed in files:
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogateescape"))
        newest = max(newest, changed)
    return State(digest.hexdigest(), newest)


def _below(subject: Path, scope: Scope, relevant: re.Pattern) -> Iterator[tuple[str, str, float]]:
    """Name, state and time of change of the files of one subject, in a stable order."""
    pending = [(subject, "")]
    while pending:
        folder, prefix = pending.pop()
        modality = folder.name in scope.folders and folder != subject
        for entry in _listing(folder):
            if relevant.fullmatch(entry.name):
                yield _state(entry, prefix + entry.name)
            elif not modality and _is_level(entry.name, prefix, scope) and entry.is_dir():
                yield prefix + entry.name, "folder", 0.0
                pending.append((Path(entry.path), f"{prefix}{entry.name}/"))


def _is_level(name: str, prefix: str, scope: Scope) -> bool:
    return name in scope.folders or (not prefix and name.startswith("ses-"))


def _listing(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise UserError(f"{folder} may not be read by this user; change its permissions.") from error


def _state(entry: os.DirEntry, name: str) -> tuple[str, str, float]:
    """A link counts with the file it points to; a dangling link with itself."""
    try:
        status = entry.stat()
        kind = "file"
    except OSError:
        status = entry.stat(follow_symlinks=False)
        kind = "dangling"
    changed = max(status.st_mtime, status.st_ctime)
    return name, f"{kind} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}", changed


def file_state(paths: Iterable[Path]) -> State:
    """The state of a few files by their paths."""
    found = []
    for path in paths:
        status = path.stat()
        changed = max(status.st_mtime, status.st_ctime)
        found.append((path.name, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}", changed))
    return _digest(found)


def find_files(root: Path, subjects: Collection[str], scope: Scope) -> dict[str, list[str]]:
    """The files of some subjects, found by pybids.

    Only ``sub-*/[ses-*/]<folder>`` is walked: derivatives, stimuli or source data nested in the dataset are not
    raw data. Nothing is written: the layout lives in memory.

    Parameters
    ----------
    root : path
        Root of the dataset.
    subjects : collection of str
        Names of folders, such as ``sub-01``.
    scope : Scope

    Returns
    -------
    dict of str to list of str
        Sorted paths relative to `root`, by subject.

    Notes
    -----
    One layout for all the subjects: the cost of a layout is some 70 ms, that of a file half a millisecond
    (docs/performance.md).
    """
    found: dict[str, list[str]] = {subject: [] for subject in sorted(subjects)}
    if not found:
        return found
    from bids import BIDSLayout, BIDSLayoutIndexer

    named = "|".join(map(re.escape, found)) if len(found) <= _MOST_NAMED else "sub-[^/]+"
    folders = "|".join(scope.folders)
    elsewhere = [
        re.compile(rf"^/(?!(?:{named})(?:/|$))"),
        re.compile(rf"^/sub-[^/]+/(?!ses-[^/]+(?:/|$)|(?:{folders})(?:/|$))"),
        re.compile(rf"^/sub-[^/]+/ses-[^/]+/(?!(?:{folders})(?:/|$))"),
        re.compile(rf"/(?:{folders})/(?!{scope.found()}$)", re.IGNORECASE),
    ]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=elsewhere)
    layout = BIDSLayout(root, validate=False, indexer=indexer)
    # pybids makes paths absolute; ours stay as the configuration gives them.
    absolute = str(layout.root)
    for name in sorted(layout.files):
        relative = os.path.relpath(name, absolute).replace(os.sep, "/")
        subject = relative.partition("/")[0]
        if subject in found:
            found[subject].append(relative)
    return found
