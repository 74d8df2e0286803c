"""The BIDS filter file: which images are used, in the form that fMRIPrep reads (``--bids-filter-file``).

A JSON object with the queries ``bold`` and ``t1w``; each maps entities, by their long pybids names, to what a file
must have: a label, a list of labels, ``null`` (the entity is absent) or ``"*"`` (it is there, with any label). With
``"regex_search": true`` labels are regular expressions that are searched for, whatever the case. Queries that
fMRIPrep knows and that are not used here (``fmap``, ``t2w`` …) are passed over.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroalign.bids.naming import BidsName, plain_index
from neuroalign.errors import UserError, nearest
from neuroalign.io import read_json

logger = logging.getLogger(__name__)

# Long names of pybids, and the short keys of file names; some entities have two long names in its configurations.
LONG_NAMES = {
    "subject": "sub", "session": "ses", "sample": "sample", "task": "task", "tracksys": "tracksys",
    "acquisition": "acq", "nucleus": "nuc", "volume": "voi", "ceagent": "ce", "tracer": "trc", "staining": "stain",
    "reconstruction": "rec", "direction": "dir", "run": "run", "modality": "mod", "mod": "mod", "echo": "echo",
    "flip": "flip", "inv": "inv", "mt": "mt", "part": "part", "proc": "proc", "hemi": "hemi",
    "hemisphere": "hemi", "space": "space", "cohort": "cohort", "split": "split", "recording": "recording",
    "chunk": "chunk", "atlas": "atlas", "segmentation": "seg", "scale": "scale", "res": "res", "resolution": "res",
    "den": "den", "density": "den", "label": "label", "desc": "desc", "description": "desc", "statistic": "stat",
}  # fmt: skip
_OTHER = ("datatype", "suffix", "extension")
_SHORT = {short: long for long, short in reversed(LONG_NAMES.items())}
USED = ("bold", "t1w")
# Known to fMRIPrep and its kin, and of no use here.
_KNOWN = ("fmap", "sbref", "t2w", "flair", "roi", "dwi", "asl", "pet", "events", "xfm", "regex_search")
# Entities whose labels are numbers, padded or not.
_INDICES = ("run", "echo", "flip", "inv", "split", "chunk")


@dataclass(frozen=True)
class Query:
    """One query of a filter file.

    Attributes
    ----------
    name : str
        ``bold`` or ``t1w``.
    file : str
        Where it is written, for messages.
    wanted : mapping of str to tuple of (str or None)
        Entity (long name) to the labels that it may have; None stands for its absence, ``*`` for any.
    regex : bool
        Whether labels are regular expressions.
    ignored : tuple of str
        Entities that are not looked at.
    lenient : tuple of str
        Entities that are not looked at in files that lack them.
    """

    name: str
    file: str
    wanted: Mapping[str, tuple[str | None, ...]]
    regex: bool = False
    ignored: tuple[str, ...] = ()
    lenient: tuple[str, ...] = ()

    def matches(self, name: BidsName, datatype: str) -> bool:
        """Whether a file passes.

        Parameters
        ----------
        name : BidsName
        datatype : str
            Its folder, such as ``func``.
        """
        return all(
            self._passes(entity, labels, _label(entity, name, datatype))
            for entity, labels in self.wanted.items()
        )

    def _passes(self, entity: str, labels: tuple[str | None, ...], found: str) -> bool:
        if entity in self.ignored or (not found and entity in self.lenient):
            return True
        if not found:
            return None in labels
        return any(label is not None and self._agrees(entity, label, found) for label in labels)

    def _agrees(self, entity: str, label: str, found: str) -> bool:
        if label == "*":
            return True
        if self.regex:
            return re.search(label, found, re.IGNORECASE) is not None
        if entity in _INDICES:
            return plain_index(label) == plain_index(found)
        return label == found

    def mismatch(self, root: str | os.PathLike, names: Iterable[tuple[BidsName, str]]) -> UserError:
        """The error of a query that nothing passes: what it asked for, where, and what there is instead.

        Parameters
        ----------
        root : path
            The dataset.
        names : iterable of (BidsName, str)
            The files that were asked, with their datatype; at least one.
        """
        left = list(names)
        for entity, labels in self.wanted.items():
            passing = [n for n in left if self._passes(entity, labels, _label(entity, *n))]
            if not passing:
                present = sorted({_label(entity, *n) for n in left})
                shown = ", ".join(label or "(none)" for label in present[:12])
                hint = "".join(nearest(label, present) for label in labels[:1] if label)
                return UserError(
                    f"no {self.name} file in {root} matches {self.text()} of {self.file}: the labels of '{entity}' are "
                    f"{shown}{hint}"
                )
            left = passing
        return UserError(f"no {self.name} file in {root} matches {self.text()} of {self.file}.")

    def text(self) -> str:
        """The query as JSON."""
        plain = {e: list(v) if len(v) > 1 else v[0] for e, v in self.wanted.items()}
        return json.dumps(plain | ({"regex_search": True} if self.regex else {}), ensure_ascii=False)


def _label(entity: str, name: BidsName, datatype: str) -> str:
    if entity == "datatype":
        return datatype
    if entity in ("suffix", "extension"):
        return getattr(name, entity)
    return name.entities.get(LONG_NAMES[entity], "")


def read_queries(path: str | os.PathLike | None) -> dict[str, Query]:
    """The queries of a BIDS filter file that are used here.

    Parameters
    ----------
    path : path or None
        None gives no queries.

    Returns
    -------
    dict of str to Query
        At most ``bold`` and ``t1w``.

    Raises
    ------
    UserError
        If the file is no such JSON, or names an unknown query or entity.
    """
    if path is None:
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, (dict, bool)) for v in content.values()):
        raise UserError(
            f'{path} must hold a JSON object of queries such as {{"bold": {{"task": "film"}}}} '
            "(dataset.filters.bids_filter_file)."
        )
    unknown = [name for name in content if name not in (*USED, *_KNOWN)]
    if unknown:
        raise UserError(
            f"{path} has an unknown query '{unknown[0]}'{nearest(unknown[0], (*USED, *_KNOWN))} (it must be bold, t1w, "
            "or one that fMRIPrep knows)"
        )
    passed = [name for name in content if name not in USED]
    if passed:
        logger.info("%s: passed over, because only bold and t1w are used here: %s", path, ", ".join(passed))
    return {name: _query(name, content[name], str(path)) for name in USED if name in content}


def _query(name: str, content: Any, path: str) -> Query:
    where = f"{path}: query '{name}'"
    if not isinstance(content, dict):
        raise UserError(f'{where} must be an object such as {{"task": "film"}}.')
    regex = content.get("regex_search", False)
    if not isinstance(regex, bool):
        raise UserError(f"{where}: regex_search must be true or false.")
    wanted = {}
    for entity, value in content.items():
        if entity == "regex_search":
            continue
        if entity not in LONG_NAMES and entity not in _OTHER:
            hint = f"; did you mean '{_SHORT[entity]}'?" if entity in _SHORT else None
            hint = (
                hint
                or nearest(entity, (*LONG_NAMES, *_OTHER))
                or "; use pybids' long names, such as acquisition"
            )
            raise UserError(f"{where} has an unknown entity '{entity}'{hint}")
        values = value if isinstance(value, list) else [value]
        if not values or not all(v is None or isinstance(v, (str, int)) for v in values):
            raise UserError(f"{where}: '{entity}' must be a label, a list of labels, null or \"*\".")
        wanted[entity] = tuple(_wanted(entity, v, regex, where) for v in values)
    return Query(name, path, wanted, regex)


def _wanted(entity: str, value: Any, regex: bool, where: str) -> str | None:
    if value is None or value == "*":
        return value
    if isinstance(value, bool):
        raise UserError(f"{where}: '{entity}' must be a label, a list of labels, null or \"*\".")
    if not regex:
        return str(value).removeprefix(f"{LONG_NAMES.get(entity, entity)}-")
    try:
        re.compile(str(value))
    except re.error as error:
        raise UserError(f"{where}: '{value}' of '{entity}' is no regular expression ({error}).") from error
    return str(value)


def selector(query: Query | None) -> Callable[[tuple[Path, BidsName]], bool]:
    """A test of found files for `filter`: everything passes where there is no query."""
    if query is None:
        return lambda file: True
    return lambda file: query.matches(file[1], file[0].parent.name)
