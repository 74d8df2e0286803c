"""The one exception that reaches users as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# More problems of one kind than this share a sentence.
MOST_SENTENCES = 5


class UserError(Exception):
    """Something the user can mend: what is wrong, where, and what to do, in one sentence.

    Commands and jobs print the message alone and exit with status 1; every other exception is a
    defect of NeuroAlign and keeps its traceback.
    """


class Problems(UserError):
    """Several user errors found together, so that one run of a check names them all.

    Parameters
    ----------
    problems : iterable of str
        One sentence each, as for `UserError`.
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        one = len(self.problems) == 1
        super().__init__(self.problems[0] if one else "".join(f"\n- {problem}" for problem in self.problems))


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A hint naming the closest candidate: ``"; did you mean 'x'?"``, or the empty string."""
    match = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
