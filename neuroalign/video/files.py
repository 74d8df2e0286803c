"""Is there a file to read at all? The same sentences for originals and mezzanines."""

from __future__ import annotations

import os
from pathlib import Path

from neuroalign.errors import UserError
from neuroalign.io import not_here


def check_file(path: str | os.PathLike) -> None:
    """See that there is a file with something in it.

    Raises
    ------
    UserError
        If it is missing, a dangling link, a folder, a pipe or device, unreadable, empty, or a pointer of git-annex or Git LFS.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, which is not there; fetch the file "
            "(for DataLad and git-annex: `datalad get`)."
        )
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a video file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (zero bytes); copy the file again.")
    if problem := not_here(path):
        raise UserError(f"{problem}.")
