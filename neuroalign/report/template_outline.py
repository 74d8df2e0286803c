"""Brain and white matter of the template, made once for the pages of all runs."""

from __future__ import annotations

import logging
import os

import numpy as np

from neuroalign.errors import UserError
from neuroalign.fmri.images import TEMPLATE, write_image
from neuroalign.fmri.preprocess.anatomy import load_template
from neuroalign.report.run_quality_images import GRID_MM, white_matter

logger = logging.getLogger(__name__)


def write_template_outline(
    space: str, template: str | os.PathLike | None, destination: str | os.PathLike
) -> None:
    """Write the brain mask of a space's template and its white matter as one 4-D image of two volumes.

    Parameters
    ----------
    space : str
        Name of the space.
    template : path, optional
        Brain-extracted T1w template of it; None takes nilearn's where that fits, and writes an empty image where it
        does not.
    destination : path
        NIfTI image, about 2 mm.

    Raises
    ------
    UserError
        If a template is named but cannot be read.
    """
    try:
        found = load_template(space, template, GRID_MM)
    except UserError as error:
        if template:
            raise
        logger.info("%s", error)
        empty = np.zeros((2, 2, 2, 2), np.uint8)
        write_image(destination, empty, np.diag([GRID_MM] * 3 + [1.0]), code=TEMPLATE)
        return
    white = white_matter(found.data, found.mask)
    both = np.stack([found.mask, white], axis=-1).astype(np.uint8)
    write_image(destination, both, found.affine, code=TEMPLATE)
