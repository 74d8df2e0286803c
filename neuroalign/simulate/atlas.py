"""The template and the demo parcellation: regions from the back of the head to the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from neuroalign.simulate.features import LEVELS

PARCELS = {"early": 9, "intermediate": 10, "high": 11}
"""Parcels per hemisphere."""

ATLAS_MM = 2.0


@dataclass
class Template:
    """Nilearn's MNI template: brain-only T1, grey and white matter probability (all 1 mm, 0 to 1)."""

    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    affine: np.ndarray


def load_template() -> Template:
    """Load the ICBM152 2009a template that nilearn's wheel holds (Fonov et al., 2011)."""
    from nilearn import datasets

    t1 = datasets.load_mni152_template(resolution=1)
    gm = datasets.load_mni152_gm_template(resolution=1)
    wm = datasets.load_mni152_wm_template(resolution=1)
    arrays = [np.asarray(image.dataobj, np.float32) for image in (t1, gm, wm)]
    return Template(arrays[0], arrays[1], arrays[2], np.asarray(t1.affine, float))


def demo_atlas(template: Template) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Parcellate cortical grey matter into regions of three levels.

    Occipital cortex is *early*; parietal and occipito-temporal cortex *intermediate*; temporal and frontal
    cortex *high*. Cerebellum, deep nuclei and the sensorimotor strip belong to no parcel. Within a level and
    hemisphere, k-means on the coordinates makes compact parcels of similar size, numbered from back to front.

    Parameters
    ----------
    template : Template

    Returns
    -------
    labels : int16 array
        0 is background.
    affine : array of shape (4, 4)
        Of `labels`, voxel to template millimetres.
    table : DataFrame
        Columns `index` and `label` (``LH_early_01``, …).
    """
    step = int(ATLAS_MM)
    gm = ndimage.uniform_filter(template.gm, step)[::step, ::step, ::step]
    affine = template.affine @ np.diag([step, step, step, 1.0])
    voxels = np.argwhere(gm > 0.35)
    xyz = voxels @ affine[:3, :3].T + affine[:3, 3]
    level = _level(xyz)
    labels = np.zeros(gm.shape, np.int16)
    rows: list[tuple[int, str]] = []
    for side, hemisphere in (("LH", xyz[:, 0] < 0), ("RH", xyz[:, 0] >= 0)):
        for number, name in enumerate(LEVELS):
            member = hemisphere & (level == number)
            points = xyz[member]
            _, cluster = kmeans2(points, PARCELS[name], minit="++", rng=number, iter=30)
            order = np.argsort([points[cluster == k, 1].mean() for k in range(PARCELS[name])])
            for position, k in enumerate(order, start=1):
                index = len(rows) + 1
                labels[tuple(voxels[member][cluster == k].T)] = index
                rows.append((index, f"{side}_{name}_{position:02d}"))
    return labels, affine, pd.DataFrame(rows, columns=["index", "label"])


def _level(xyz: np.ndarray) -> np.ndarray:
    """Position of each coordinate's level in `LEVELS`; -1 outside every parcel."""
    x, y, z = np.abs(xyz[:, 0]), xyz[:, 1], xyz[:, 2]
    level = np.full(len(xyz), -1)
    level[(y < -34) & (z > -22)] = 1
    level[y < -70] = 0
    level[(y >= -34) & ((z < 12) | (y > 4))] = 2
    # The tentorium falls towards the back; what lies below and between the temporal lobes is no cortex.
    cerebellum = (y < -34) & (z < -14 - 0.15 * (y + 70)) & ~((x > 40) & (y > -60))
    deep = (x < 26) & (y > -36) & (y < 20) & (z > -28) & (z < 20)
    sensorimotor = (y > -46) & (y < 4) & (z > 46)
    brainstem = (x < 16) & (y > -46) & (y < -4) & (z < 4)
    level[cerebellum | deep | sensorimotor | brainstem] = -1
    return level


def units_by_level(table: pd.DataFrame) -> dict[str, list[str]]:
    """Labels of the parcels of each level, in the order of the atlas."""
    return {level: [name for name in table["label"] if f"_{level}_" in name] for level in LEVELS}


def unit_columns(units: Mapping[str, list[str]], table: pd.DataFrame) -> np.ndarray:
    """For each row of the atlas, its column among the units of all levels joined in order."""
    order = {label: i for i, label in enumerate(label for labels in units.values() for label in labels)}
    return np.array([order[label] for label in table["label"]])
