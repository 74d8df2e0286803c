"""Slices of the atlas, made once: what regional results are painted on, without reading an image again.

The file (HDF5) holds one composed picture of slices in three orientations: `/region` int32 (rows, columns), number of the region
or 0; `/brain` and `/white` uint8 (rows, columns) of the template, 0 where it is unknown; `/label` and `/number` of the regions; and the
texts that belong on the picture: `/text` with `/text_at` (column, row) and `/text_align`.
"""

from __future__ import annotations

import os

import numpy as np
from scipy.ndimage import binary_closing, binary_fill_holes

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.fmri.atlas import load_atlas
from neuroalign.fmri.images import read_image, to_grid
from neuroalign.io import atomic_hdf5, stamp
from neuroalign.report.run_quality_images import Layout, grid_around


def write_region_map(
    config: AtlasConfig, space: str, outline: str | os.PathLike, destination: str | os.PathLike
) -> None:
    """Write the slices of an atlas.

    Parameters
    ----------
    config : Atlas section
    space : str
        `fmri.space`.
    outline : path
        Written by `template_outline`: brain and white matter of the template, or empty.
    destination : path
        HDF5.

    Raises
    ------
    UserError
        If the atlas cannot be read.
    """
    atlas = load_atlas(config, space)
    both, image = read_image(outline, ndim=4)
    named = np.where(np.isin(atlas.data, list(atlas.labels)), atlas.data, 0)
    known = bool(both[..., 0].any())
    shape, affine = (
        grid_around(both[..., 0] > 0, image.affine) if known else grid_around(named > 0, atlas.affine)
    )
    regions = to_grid(named, atlas.affine, shape, affine)
    if known:
        brain, white = (
            to_grid(both[..., k].astype(np.float32), image.affine, shape, affine, order=1) > 0.5
            for k in (0, 1)
        )
    else:
        # Without a template the regions themselves, closed, stand for the brain.
        brain = binary_fill_holes(binary_closing(regions > 0, iterations=4))
        white = np.zeros(shape, bool)
    layout = Layout(brain | (regions > 0), affine)
    texts = layout.labels()
    with atomic_hdf5(destination) as file:
        for name, volume, kind in (
            ("region", regions, np.int32),
            ("brain", brain, np.uint8),
            ("white", white, np.uint8),
        ):
            file.create_dataset(name, data=layout.compose(volume).astype(kind), compression="gzip")
        file.create_dataset("number", data=np.array(list(atlas.labels), np.int32))
        file.create_dataset("label", data=list(atlas.labels.values()))
        file.create_dataset("text", data=[text for _, _, text, _ in texts])
        file.create_dataset("text_at", data=np.array([(x, y) for x, y, _, _ in texts], np.float32))
        file.create_dataset("text_align", data=[align for *_, align in texts])
        file.attrs["atlas"] = atlas.name
        stamp(file, {})
