"""Filters by subject, session, task and run, and the messages when nothing matches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from neuroalign.bids.naming import PREFIXES, bare_label, plain_index
from neuroalign.config.dataset import Filters, Presentation
from neuroalign.errors import UserError, nearest

_MOST_LISTED = 12


def select(runs: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The runs that match every filter.

    Labels may carry their prefix (``sub-01``). Runs are compared as numbers (``1`` is ``01``), other labels as
    text, or as numbers where no label matches as text. A number that YAML may have read in octal is refused.

    Parameters
    ----------
    runs : DataFrame
        With columns `subject`, `session`, `task`, `run`.
    filters : Filters

    Raises
    ------
    UserError
        If a label matches no run or is ambiguous, or the filters together leave none.
    """
    keep = matching(runs, filters)
    if len(runs) and not keep.any():
        raise UserError(
            f"no run matches the filters together ({labels_text(filters)}), though each matches some; "
            "loosen one of dataset.filters."
        )
    return runs[keep].reset_index(drop=True)


def select_shown(
    runs: pd.DataFrame, presentations: pd.DataFrame, filters: Filters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs that match every filter, and what they show; see `select`."""
    chosen = select(runs, filters)
    return chosen, presentations[presentations["run_id"].isin(chosen["run_id"])].reset_index(drop=True)


def matching(runs: pd.DataFrame, labels: Filters | Presentation) -> pd.Series:
    """Which runs have the labels asked for, by entity.

    Parameters
    ----------
    runs : DataFrame
        With columns `subject`, `session`, `task`, `run`.
    labels : Filters or Presentation
        Their labels of these entities; None asks for nothing.

    Returns
    -------
    Series of bool

    Raises
    ------
    UserError
        If a label matches no run, or is a number that YAML makes of another label, too.
    """
    keep = pd.Series(True, index=runs.index)
    for entity in PREFIXES:
        wanted = getattr(labels, entity)
        if wanted is None:
            continue
        present = sorted(set(runs[entity]) - {""})
        found: set[str] = set()
        for label in wanted:
            found |= _matching(entity, label, present)
        keep &= runs[entity].isin(found)
    return keep


def passes(entities: Mapping[str, str], filters: Filters) -> bool:
    """Whether one run may match the filters, by the entities of its name; nothing is refused.

    Parameters
    ----------
    entities : mapping of str to str
        Short key to label.
    filters : Filters
    """
    for entity, prefix in PREFIXES.items():
        wanted = getattr(filters, entity)
        found = plain_index(entities.get(prefix[:-1], ""))
        if wanted is not None and found not in {plain_index(bare_label(entity, str(w))) for w in wanted}:
            return False
    return True


def labels_text(labels: Filters | Presentation) -> str:
    """The labels asked for, in words: ``subject 01, 02; task film``."""
    asked = ((entity, getattr(labels, entity)) for entity in PREFIXES)
    return "; ".join(
        f"{entity} {', '.join(map(str, wanted))}" for entity, wanted in asked if wanted is not None
    )


def _matching(entity: str, label: str | int, present: list[str]) -> set[str]:
    plain = bare_label(entity, str(label))
    if isinstance(label, int) and (octal := [p for p in present if _is_octal(p, label)]):
        raise UserError(
            f"{entity} {label} can mean '{octal[0]}', which YAML reads as {label} (leading zeros make a number octal); "
            f'put the label in quotes, such as "{octal[0]}".'
        )
    exact = {p for p in present if p == plain}
    if exact and entity != "run":
        return exact
    found = {p for p in present if plain_index(p) == plain_index(plain)}
    if not found:
        raise UserError(
            f"no run matches {entity} '{plain}'; found {entity}s: {listed(present)}{nearest(plain, present)}"
        )
    return found


def _is_octal(label: str, number: int) -> bool:
    """Whether YAML 1.1 reads a label as this number, though in decimal it is another."""
    return bool(re.fullmatch("0[0-7]+", label)) and int(label, 8) == number != int(label)


def listed(labels: Iterable[str]) -> str:
    """Labels for a sentence, at most a dozen; ``none`` for none."""
    labels = list(labels)
    more = f" and {len(labels) - _MOST_LISTED} more" if len(labels) > _MOST_LISTED else ""
    return ", ".join(labels[:_MOST_LISTED]) + more if labels else "none"
