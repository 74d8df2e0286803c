"""Atlases that nilearn downloads, by name: which there are, and the space each is in (docs/atlases.md)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuroalign.errors import UserError, nearest

_PROBABILISTIC = re.compile(
    r"(difumo|msdl|craddock|smith|allen|pauli)\w*|(harvard_oxford|juelich)_(\w+-)?prob-.*"
)


@dataclass(frozen=True)
class KnownAtlas:
    """An atlas of nilearn.

    Attributes
    ----------
    pattern : str
        Of its names; groups become arguments.
    function : str
        Of `nilearn.datasets`.
    arguments : callable
        Groups of the pattern → keyword arguments.
    space : str
        Template of the image, in TemplateFlow's names where it has one.
    names : str
        How to write a name, for messages and docs.
    """

    pattern: str
    function: str
    arguments: Callable[[dict[str, str | None]], dict[str, Any]]
    space: str
    names: str


ATLASES = (
    KnownAtlas(
        r"schaefer_2018_(?P<n>\d+)(_(?P<networks>7|17)networks)?",
        "fetch_atlas_schaefer_2018",
        lambda g: {"n_rois": int(g["n"]), "yeo_networks": int(g["networks"] or 7)},
        "MNI152NLin6Asym",
        "schaefer_2018_<100…1000>[_17networks]",
    ),
    KnownAtlas(
        r"yeo_2011_(?P<n>7|17)(_(?P<thickness>thin|thick))?",
        "fetch_atlas_yeo_2011",
        lambda g: {"n_networks": int(g["n"]), "thickness": g["thickness"] or "thick"},
        "MNI152NLin6Asym",
        "yeo_2011_<7|17>[_thin]",
    ),
    KnownAtlas(
        r"aal(_(?P<version>SPM5|SPM8|SPM12|3v2))?",
        "fetch_atlas_aal",
        lambda g: {"version": g["version"] or "3v2"},
        "MNIColin27",
        "aal[_SPM12]",
    ),
    KnownAtlas(
        r"harvard_oxford_(?P<variant>(cortl?|sub)-maxprob-thr\d+-[12]mm)(?P<split>_split)?",
        "fetch_atlas_harvard_oxford",
        lambda g: {"atlas_name": g["variant"], "symmetric_split": g["split"] is not None},
        "MNI152NLin6Asym",
        "harvard_oxford_<cort|cortl|sub>-maxprob-thr<0|25|50>-<1|2>mm[_split]",
    ),
    KnownAtlas(
        r"juelich_(?P<variant>maxprob-thr\d+-[12]mm)(?P<split>_split)?",
        "fetch_atlas_juelich",
        lambda g: {"atlas_name": g["variant"], "symmetric_split": g["split"] is not None},
        "MNI152NLin6Asym",
        "juelich_maxprob-thr<0|25|50>-<1|2>mm[_split]",
    ),
    KnownAtlas(
        r"destrieux_2009(?P<merged>_merged)?",
        "fetch_atlas_destrieux_2009",
        lambda g: {"lateralized": g["merged"] is None},
        "fsaverage",
        "destrieux_2009[_merged]",
    ),
    KnownAtlas(
        r"basc_2015_(?P<n>\d+)",
        "fetch_atlas_basc_multiscale_2015",
        lambda g: {"resolution": int(g["n"]), "version": "sym"},
        "MNI152sym",
        "basc_2015_<7…444>",
    ),
    KnownAtlas(
        r"talairach_(?P<level>hemisphere|lobe|gyrus|tissue|ba)",
        "fetch_atlas_talairach",
        lambda g: {"level_name": g["level"]},
        "Talairach",
        "talairach_<hemisphere|lobe|gyrus|tissue|ba>",
    ),
)


@dataclass(frozen=True)
class FetchedAtlas:
    """What nilearn gave.

    Attributes
    ----------
    maps : path or nibabel image
    labels : dict of int to str
        Without the background.
    space : str
    """

    maps: Any
    labels: dict[int, str]
    space: str


def fetch_atlas(name: str) -> FetchedAtlas:
    """Fetch an atlas with nilearn, from its cache or the network.

    Raises
    ------
    UserError
        If the name is unknown or that of a probabilistic atlas, or the download fails.
    """
    found = ((atlas, re.fullmatch(atlas.pattern, name)) for atlas in ATLASES)
    known, match = next(((atlas, match) for atlas, match in found if match), (None, None))
    if known is None:
        if _PROBABILISTIC.fullmatch(name):
            raise UserError(
                f"fmri.atlas.name '{name}' is a probabilistic atlas (a map per region); use a label image, such as the "
                "maximum-probability version of Harvard-Oxford or Juelich (…maxprob-thr25-2mm)."
            )
        families = [atlas.names.split("<")[0].split("[")[0].rstrip("_") for atlas in ATLASES]
        raise UserError(
            f"fmri.atlas.name '{name}' is unknown{nearest(name, families)}; use one of "
            f"{', '.join(atlas.names for atlas in ATLASES)}, or give fmri.atlas.image."
        )
    from nilearn import datasets

    try:
        fetched = getattr(datasets, known.function)(**known.arguments(match.groupdict()))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Atlas '{name}' could not be fetched ({reason}); download it once on a connected machine, or set "
            "fmri.atlas.image and fmri.atlas.labels."
        ) from error
    table = fetched.lut
    labels = {int(i): str(n) for i, n in zip(table["index"], table["name"], strict=True) if int(i) != 0}
    return FetchedAtlas(fetched.maps, labels, known.space)
