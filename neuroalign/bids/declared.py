"""Films that the configuration declares (`dataset.presentations`), for runs whose events tables do not tell.

A declaration holds for the runs with its labels; without `task` for all but rest. It fills in where a run has no
events table, or one that names no stimulus. A table that names stimuli is kept, unless a declaration that holds for
the run has `replace_events`: then all that is declared for the run replaces the table.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from neuroalign.bids.events import OVERLAP_S, Showing, relative_stimulus
from neuroalign.bids.filters import labels_text, listed, matching
from neuroalign.config.dataset import Presentation
from neuroalign.errors import UserError

logger = logging.getLogger(__name__)

_REST = re.compile(r"(?i:rest(?:ing)?(?:state)?(?:eyes?)?(?:open|closed?|eo|ec)?(?:pre|post)?)(?![a-z])")
_INSTANT_S = 2 * OVERLAP_S


@dataclass(frozen=True)
class Declared:
    """What is declared for one run.

    Attributes
    ----------
    showings : list of Showing
        By onset.
    replaces : bool
        Whether they replace an events table that names stimuli.
    """

    showings: list[Showing]
    replaces: bool


def is_rest(task: str) -> bool:
    """Whether a task is rest by its name: it shows no stimulus, and BIDS asks no events of it.

    Rest is ``rest`` or ``resting``, with ``state``, eyes (``open``, ``closed``) and ``pre`` or ``post``; a number or what
    begins with a capital letter may follow. Words that only begin so are not.

    Examples
    --------
    >>> [is_rest(task) for task in ("rest", "restEO", "RestingState2", "restaurant")]
    [True, True, True, False]
    """
    # Where all letters are capitals, they mark no beginning of another word.
    word = task.lower() if task == task.upper() else task
    return _REST.match(word) is not None


def declared(
    runs: pd.DataFrame, presentations: Sequence[Presentation]
) -> tuple[dict[str, Declared], list[str]]:
    """What is declared for each run.

    Parameters
    ----------
    runs : DataFrame
        All runs, unfiltered: columns `run_id`, `subject`, `session`, `task`, `run`.
    presentations : sequence of Presentation

    Returns
    -------
    by_run : dict of str to Declared
        Only runs for which something is declared.
    problems : list of str
        Declarations that hold for no run, leave the stimuli folder, or overlap.
    """
    problems: list[str] = []
    shown: dict[str, list[tuple[Showing, int]]] = defaultdict(list)
    for number, presentation in enumerate(presentations):
        where = f"dataset.presentations[{number}]"
        try:
            showing = _showing(presentation, f"{where}: stimulus")
            holds = matching(runs, presentation)
        except UserError as error:
            problems.append(str(error) if str(error).startswith(where) else f"{where}: {error}")
            continue
        if presentation.task is None:
            holds &= ~runs["task"].map(is_rest)
        if not holds.any():
            asked = labels_text(presentation) or "any task but rest"
            problems.append(
                f"{where} ({presentation.stimulus}) holds for no run ({asked}); correct its labels."
            )
        for run_id in runs.loc[holds, "run_id"]:
            shown[run_id].append((showing, number))
    problems += _overlaps(shown)
    by_run = {
        run_id: Declared(
            sorted((showing for showing, _ in items), key=lambda showing: showing.onset),
            any(presentations[number].replace_events for _, number in items),
        )
        for run_id, items in shown.items()
    }
    return by_run, problems


def _showing(presentation: Presentation, where: str) -> Showing:
    name = relative_stimulus(presentation.stimulus, where)
    duration = math.nan if presentation.duration is None else presentation.duration
    return Showing(presentation.onset, duration, name, presentation.offset, "")


def _overlaps(shown: dict[str, list[tuple[Showing, int]]]) -> list[str]:
    """A sentence per pair of declarations that show two films at once, with the runs concerned.

    When a film that is shown to its end ends is not known before it is probed: it lasts for an instant here.
    """
    pairs: dict[tuple[int, int], list[str]] = defaultdict(list)
    for run_id, items in shown.items():
        # The film that ends last of those before: a long one may reach beyond its neighbour.
        ends, last = -math.inf, -1
        for showing, number in sorted(items, key=lambda item: (item[0].onset, item[1])):
            if showing.onset < ends - OVERLAP_S:
                pairs[min(last, number), max(last, number)].append(run_id)
            lasts = _INSTANT_S if math.isnan(showing.duration) else showing.duration
            if showing.onset + lasts > ends:
                ends, last = showing.onset + lasts, number
    return [
        f"dataset.presentations[{one}] and [{other}] overlap in {listed(ids)}; correct their onsets and durations, or "
        "say with subject, session, task or run which runs each is of."
        for (one, other), ids in sorted(pairs.items())
    ]


def unused(by_run: dict[str, Declared], kept: list[str]) -> None:
    """Say that declarations give way to events tables that name stimuli."""
    runs = [run_id for run_id in kept if run_id in by_run]
    if runs:
        logger.warning(
            "dataset.presentations is not used for %s, whose events name stimuli; set replace_events to use it there.",
            listed(runs),
        )
