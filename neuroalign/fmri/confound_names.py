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

_STEM = "sub-x_task-x"


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
        Path of a temporary folder; only links are made in it.
    """
    table = Path(confounds).absolute()
    with ExitStack() as stack:
        folder = Path("tsv")
        # nilearn writes json for tsv everywhere in the path: a random name must not hold it.
        while "tsv" in folder.name:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuroalign-")))
        for source in (table, table.with_suffix(".json")):
            if source.exists():
                (folder / f"{_STEM}_desc-confounds_timeseries{source.suffix}").symlink_to(source)
        yield str(folder / f"{_STEM}_desc-preproc_bold.nii.gz")
