"""BIDS file names: entities to names and back. Pure functions on text; no file is touched.

Entities go by their short keys (``sub``, ``ses``, ``task``, ``run`` …), labels are text without prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

# Order of entities in names (BIDS 1.10, appendix on entities); others come before `desc`, alphabetically.
ENTITY_ORDER = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run",
    "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "cohort", "split", "recording", "chunk",
    "atlas", "seg", "scale", "res", "den", "label", "from", "to", "mode", "stat",
)  # fmt: skip
_RANK = {key: rank for rank, key in enumerate(ENTITY_ORDER)}
_LAST = {"desc": len(ENTITY_ORDER) + 1}

# Labels as BIDS has them; `+` joins (for example `part1+2`).
LABEL = re.compile(r"[A-Za-z0-9+]+")
PREFIXES = {"subject": "sub-", "session": "ses-", "task": "task-", "run": "run-"}

# Versions of one acquisition, not acquisitions of their own: they are no part of a run's identity.
VERSION_ENTITIES = ("echo", "part")
IMAGE = (".nii.gz", ".nii")


@dataclass(frozen=True)
class BidsName:
    """A file name, taken apart.

    Attributes
    ----------
    entities : dict of str to str
        Short key to label, in the order of the name.
    suffix : str
        The last part, such as ``bold``.
    extension : str
        With its dot(s), such as ``.nii.gz``; empty if there is none.
    """

    entities: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""
    extension: str = ""

    def __str__(self) -> str:
        return build_name(self.entities, self.suffix, self.extension)

    def key(self) -> frozenset[tuple[str, str]]:
        """The entities as a set in which ``run-1`` and ``run-01`` are the same."""
        return frozenset((k, plain_index(v) if k in ("run", "echo") else v) for k, v in self.entities.items())


@lru_cache(maxsize=65536)
def parse_name(name: str) -> BidsName:
    """Take a file name apart.

    Parameters
    ----------
    name : str
        A file name (folders before it are ignored).

    Raises
    ------
    ValueError
        If it is not of the form ``key-label[_key-label…]_suffix[.extension]``.
    """
    name = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not (key and dash and label) or key in entities:
            raise ValueError(f"'{name}' is not a BIDS file name")
        entities[key] = label
    if not suffix or "-" in suffix:
        raise ValueError(f"'{name}' is not a BIDS file name")
    return BidsName(entities, suffix, dot + extension)


def parse_entities(name: str) -> dict[str, str]:
    """The entities of a file name or run id: short key to label; empty where it is no BIDS name.

    Examples
    --------
    >>> parse_entities("sub-01_task-film_run-1_bold.nii.gz")
    {'sub': '01', 'task': 'film', 'run': '1'}
    """
    for candidate in (name, f"{name}_none"):
        try:
            return dict(parse_name(candidate).entities)
        except ValueError:
            continue
    return {}


def build_name(entities: Mapping[str, str], suffix: str = "", extension: str = "") -> str:
    """A file name with the entities in BIDS order; empty labels are left out.

    Examples
    --------
    >>> build_name({"task": "film", "sub": "01", "run": ""}, "bold", ".nii.gz")
    'sub-01_task-film_bold.nii.gz'
    """
    keys = sorted((k for k, v in entities.items() if v), key=_rank)
    parts = [f"{key}-{entities[key]}" for key in keys]
    return "_".join([*parts, suffix] if suffix else parts) + extension


def _rank(key: str) -> tuple[int, str]:
    return (_LAST.get(key, _RANK.get(key, len(ENTITY_ORDER))), key)


def run_id(subject: str, session: str = "", task: str = "", run: str = "", **others: str) -> str:
    """The identity of a run: its BIDS name up to the suffix, without `VERSION_ENTITIES`.

    Parameters
    ----------
    subject, session, task, run : str
        Labels, with or without prefix; empty where the entity is absent.
    **others : str
        Further entities by short key, such as ``acq`` or ``dir``.

    Examples
    --------
    >>> run_id("01", session="02", task="film", run="1")
    'sub-01_ses-02_task-film_run-1'
    """
    labels = {"subject": subject, "session": session, "task": task, "run": run}
    entities = {PREFIXES[e][:-1]: bare_label(e, v) for e, v in labels.items()}
    entities |= {k: v for k, v in others.items() if k not in VERSION_ENTITIES}
    return build_name(entities)


def run_folder(subject: str, session: str = "") -> str:
    """The folder of a run below the dataset root: ``sub-01/ses-01/func`` or ``sub-01/func``."""
    parts = [f"sub-{bare_label('subject', subject)}"]
    if session:
        parts.append(f"ses-{bare_label('session', session)}")
    return "/".join([*parts, "func"])


def bare_label(entity: str, label: str) -> str:
    """A label without its prefix: ``sub-01`` is ``01`` for the entity ``subject``."""
    return str(label).removeprefix(PREFIXES[entity])


def plain_index(label: str) -> str:
    """An index without padding (``01`` is ``1``); other labels stay as they are."""
    return str(int(label)) if label.isascii() and label.isdigit() else label
