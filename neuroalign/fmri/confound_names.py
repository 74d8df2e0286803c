"""The names by which nilearn finds the confounds of an image, whatever the names on disk.

`nilearn.interfaces.fmriprep.load_confounds` takes an image and looks for the table beside it. It refuses uncompressed
images and ``desc-optcom``, stops where two tables could be meant (``…_timeseries.tsv`` and ``…_regressors.tsv``), and
finds no JSON where a folder's name holds ``tsv``. The index knows which table belongs to which image.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neuroalign.errors import UserError

_STEM = "sub-x_task-x"
# nilearn writes json for this, everywhere in the path of a table, to find its JSON.
_REWRITTEN = "tsv"
_ELSEWHERE = ("/tmp", "/var/tmp")


def _parent() -> str:
    """A folder for temporary files whose path nilearn leaves as it is: the usual one, or one of the system's."""
    for parent in (os.path.abspath(tempfile.gettempdir()), *_ELSEWHERE):
        if _REWRITTEN not in parent and os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK):
            return parent
    raise UserError(
        f"Temporary files go to {tempfile.gettempdir()}, and nilearn finds no confounds where a path holds "
        f"'{_REWRITTEN}'; set the environment variable TMPDIR to another folder."
    )


@contextmanager
def named_as_nilearn_expects(confounds: str | os.PathLike) -> Iterator[str]:
    """Give the path of an image, which is not there, whose confounds are the given table.

    Parameters
    ----------
    confounds : path
        A confounds table of fMRIPrep; its JSON, if any, lies beside it under the same name.

    Yields
    ------
    str
        Path in a temporary folder; only links are made in it.

    Raises
    ------
    UserError
        If every folder for temporary files has a path that nilearn would rewrite.
    """
    table = Path(confounds).absolute()
    with ExitStack() as stack:
        parent, folder = _parent(), Path(_REWRITTEN)
        while _REWRITTEN in folder.name:  # the random part of the name
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuroalign-", dir=parent)))
        for source in (table, table.with_suffix(".json")):
            if source.exists():
                (folder / f"{_STEM}_desc-confounds_timeseries{source.suffix}").symlink_to(source)
        yield str(folder / f"{_STEM}_desc-preproc_bold.nii.gz")
