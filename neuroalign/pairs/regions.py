"""Regions of brain units by their labels: which region a unit belongs to, and which network a region."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# Networks of Yeo et al. (2011) as Schaefer et al. (2018) write them into their labels, 7 and 17 networks alike.
_NETWORK = re.compile(
    r"(?:^|_)((?:Vis|SomMot|DorsAttn|SalVentAttn|Limbic|Cont|Default|TempPar)[A-Za-z]*)(?:_|$)"
)


def region_of(unit: str) -> str:
    """The region of a unit's label: a parcel is its own region, a voxel (``<region>@i,j,k``) that of its name."""
    return unit.rsplit("@", 1)[0]


def network_of(region: str) -> str:
    """The network that a region's label names, or an empty text."""
    found = _NETWORK.search(region)
    return found[1] if found else ""


def units_by_region(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Positions of the units of every region, in order of first appearance."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(region_of(label), []).append(place)
    return {region: np.array(units) for region, units in places.items()}
