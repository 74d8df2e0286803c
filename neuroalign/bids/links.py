"""Only files inside the stimuli folder, or the dataset that it belongs to, are ever read: where links lead."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def strays(
    files: Iterable[str], stimuli_dir: str | os.PathLike, bids_dir: str | os.PathLike
) -> dict[str, str]:
    """The stimulus files that are, or lie behind, links which lead elsewhere, each with a sentence.

    Allowed are targets in the stimuli folder, in the dataset, and, because that is where git-annex and DataLad keep
    content, in ``.git/annex/objects`` of the repository that holds the link. A stimuli folder that is itself a link is
    taken as meant.

    Parameters
    ----------
    files : iterable of str
        Paths of stimulus files; those that do not exist are passed over.
    stimuli_dir, bids_dir : path
    """
    roots = [os.path.realpath(stimuli_dir), os.path.realpath(bids_dir)]
    real_folder = cache(os.path.realpath)
    annex = cache(_annex)
    found = {}
    for file in files:
        folder = real_folder(os.path.dirname(file))
        target = os.path.join(folder, os.path.basename(file))
        if os.path.islink(target):
            target = os.path.realpath(target)
        allowed = [*roots, annex(folder)]
        if os.path.exists(target) and not any(r and Path(target).is_relative_to(r) for r in allowed):
            found[file] = (
                f"The stimulus {file} leads to {target}, outside of the stimuli folder and the dataset, and only files inside "
                "are read; copy it there, or set dataset.stimuli_dir to the folder that holds the files."
            )
    return found


def _annex(folder: str) -> str | None:
    """Where git-annex keeps the content of the repository that holds a folder."""
    for parent in (Path(folder), *Path(folder).parents):
        if (parent / ".git").is_dir():
            return os.path.realpath(parent / ".git" / "annex" / "objects")
    return None
