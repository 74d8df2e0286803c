"""Label tables of atlases: BIDS and nilearn TSV or CSV, FreeSurfer look-up tables, and two columns of text."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from pathlib import Path

from neuroalign.errors import UserError

_NAMES = ("label", "name")
_SUFFIXES = (".tsv", ".csv", ".txt", ".ctab", ".lut")
_COLOUR = re.compile(r"\s+(?:\d+\s+){2,3}\d+\s*$")


def labels_beside(image: str | os.PathLike) -> Path | None:
    """The label table of an atlas image: the same stem, or the same without ``space-`` and ``res-`` (BIDS)."""
    image = Path(image)
    name = image.name.split(".nii", 1)[0]
    bare = re.sub(r"_(space|res)-[A-Za-z0-9]+", "", name)
    for suffix in _SUFFIXES:
        for stem in dict.fromkeys([name, f"{name}_dseg", bare, f"{bare}_dseg"]):
            candidate = image.with_name(f"{stem}{suffix}")
            if candidate.exists():
                return candidate
    return None


def read_labels(path: str | os.PathLike) -> dict[int, str]:
    """Read a label table.

    Parameters
    ----------
    path : path
        A TSV or CSV with a column `index` and one of `label`, `name` (the first that there is); a FreeSurfer look-up
        table (index, name, red, green, blue, alpha); or lines of an index and a name. ``#`` begins a comment.

    Returns
    -------
    dict of int to str
        Index → label, ordered by index; index 0 (background) is left out.

    Raises
    ------
    UserError
        If the file is missing, is none of these, or repeats an index or a label.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a readable label table ({error}).") from error
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    begins_with_number = bool(lines) and re.match(r"\s*\d+(\s|,|;)", lines[0])
    pairs = list(_plain(path, lines) if begins_with_number else _columns(path, lines))
    pairs = [(index, label) for index, label in pairs if index != 0 and label not in ("", "n/a")]
    labels = dict(pairs)
    if not labels:
        raise UserError(f"{path} names no region; it needs an index and a label per region.")
    if len(labels) != len(pairs) or len(set(labels.values())) != len(labels):
        raise UserError(f"{path} repeats an index or a label; every region needs its own.")
    return dict(sorted(labels.items()))


def _columns(path: Path, lines: list[str]) -> Iterable[tuple[int, str]]:
    """A table with a header."""
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    rows = csv.DictReader(lines, delimiter=delimiter)
    found = [c.strip() for c in rows.fieldnames or []]
    rows.fieldnames = found
    column = next((c for c in _NAMES if c in found), None)
    if column is None or "index" not in found:
        shown = ", ".join(found[:6]) or "nothing"
        raise UserError(f"{path} needs the columns 'index' and 'label' (or 'name'); it has {shown}.")
    for row in rows:
        yield _number(path, row["index"]), (row[column] or "").strip()


def _plain(path: Path, lines: list[str]) -> Iterable[tuple[int, str]]:
    """Index and name without a header; the colours of a look-up table are dropped."""
    for line in lines:
        index, _, name = re.sub(r"[\t,;]", " ", line.strip()).partition(" ")
        yield _number(path, index), _COLOUR.sub("", name).strip()


def _number(path: Path, text: str | None) -> int:
    try:
        value = float(text or "")
    except ValueError:
        value = 0.5
    if value != int(value):
        raise UserError(f"{path}: '{text}' is no region index; indices are whole numbers.")
    return int(value)
