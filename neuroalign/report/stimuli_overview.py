"""All stimuli at once: their numbers, a picture of each with a link to its page. For the report, and a page of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_path, read_json
from neuroalign.report.page import render
from neuroalign.report.style import (
    Clip,
    Links,
    Section,
    Sheet,
    Table,
    listed,
    number,
    plural,
    table,
)

# A page of pictures inside itself stays one that a browser opens at once.
MOST_PICTURES = 3000
_MOST_ROWS = 3000


@dataclass
class Seen:
    """What the page of one stimulus found.

    Parameters
    ----------
    record : mapping
        The JSON file beside the page.
    """

    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The stimulus."""
        return str(self.record["stimulus"])

    def address(self, folder: str) -> str:
        """Relative address of its page in a folder."""
        return f"{folder}/{quote(self.name)}.html"

    @property
    def film(self) -> Mapping[str, Any]:
        """Length, shots and picture; empty without pictures."""
        return self.record.get("film") or {}

    @property
    def length_s(self) -> float:
        """Seconds of film, or up to the centre of the last window."""
        return float(self.film.get("duration_s", self.record["features"]["last_s"]))

    def marked(self, state: str) -> list[str]:
        """Labels of the checks in a state."""
        return [c["label"] for c in self.record["checks"] if c["state"] == state]

    @property
    def remark(self) -> str:
        """What is wrong or worth a look, in a few words; empty if nothing is."""
        bad, look = self.marked("bad"), self.marked("look")
        return "; ".join([f"✗ {name}" for name in bad] + [f"! {name}" for name in look])


def read_seen(files: Iterable[str | os.PathLike]) -> list[Seen]:
    """Read what the pages found, in the order given.

    Raises
    ------
    UserError
        If a file is missing or not one of them.
    """
    seen = []
    for file in files:
        record = read_json(file)
        if not isinstance(record, dict) or not {"stimulus", "features", "checks"} <= set(record):
            raise UserError(
                f"{file} is not the record of a stimulus's page; delete it and run the workflow again."
            )
        seen.append(Seen(record))
    return seen


def write_overview(files: Sequence[str | os.PathLike], destination: str | os.PathLike) -> None:
    """Write one page with a picture of every stimulus; it lies beside the folder of their pages.

    Parameters
    ----------
    files : sequence of path
        Records of the pages.
    destination : path
        The HTML file; written atomically. It links to ``stimuli/<stimulus>.html``.
    """
    seen = read_seen(files)
    parts = [Section("stimuli", "All stimuli", sentences(seen), [sheet(seen, "stimuli", MOST_PICTURES)])]
    left = seen[MOST_PICTURES:]
    if left:
        links = [(s.name, s.address("stimuli")) for s in left]
        parts[0].blocks.append(Links("The others:", links))
    parts.append(
        Section(
            "numbers",
            "Their numbers",
            ["Marks are explained at the end of every page."],
            [
                numbers_table(seen),
                Links("Brain and models:", [("report of the data set", "../report/index.html")]),
            ],
        )
    )
    html = render(parts, title="Stimuli", subtitle="What was shown, and what was found in it")
    with atomic_path(destination) as temporary:
        Path(temporary).write_text(html, encoding="utf-8")


def sentences(seen: Sequence[Seen]) -> list[str]:
    """How much film there is, how it is cut, and which stimuli want a look."""
    total = sum(s.length_s for s in seen)
    lengths = [s.length_s for s in seen]
    text = f"{plural(len(seen), 'stimulus', 'stimuli')}, {_minutes(total)} in all"
    shortest, longest = _minutes(min(lengths)), _minutes(max(lengths))
    if len(seen) > 1:
        text += f" (each {longest})" if shortest == longest else f" (from {shortest} to {longest})"
    shots = [int(s.film["shots"]) for s in seen if s.film]
    if shots:
        filmed = sum(s.length_s for s in seen if s.film)
        text += f"; {plural(sum(shots), 'shot')} were found, of {number(filmed / sum(shots), 1)} s on average"
    out = [text + "."]
    for state, words in (("bad", "a problem"), ("look", "something worth a look")):
        found = [f"{s.name} ({', '.join(s.marked(state)).lower()})" for s in seen if s.marked(state)]
        if found:
            have = "has" if len(found) == 1 else "have"
            out.append(f"{len(found):,} of {len(seen):,} {have} {words}: {listed(found, 8)}.")
    return out


def _minutes(seconds: float) -> str:
    return f"{number(seconds, 1)} s" if seconds < 120 else f"{number(seconds / 60, 1)} min"


def sheet(seen: Sequence[Seen], folder: str, most: int) -> Sheet:
    """A picture of each stimulus with a link to its page; those that are marked come first where not all have room.

    Parameters
    ----------
    seen : sequence of Seen
    folder : str
        Where the pages are, seen from the page that shows this.
    most : int
        Pictures at most.
    """
    shown = list(seen)
    if len(seen) > most:
        order = sorted(
            range(len(seen)), key=lambda k: (not seen[k].marked("bad"), not seen[k].marked("look"), k)
        )
        shown = [seen[k] for k in sorted(order[:most])]
    hues = (210 + 137.5 * np.arange(len(shown))).astype(int) % 360
    clips = []
    for one, hue in zip(shown, hues.tolist(), strict=True):
        told = f"{one.name} · {_minutes(one.length_s)}"
        if one.film:
            told += f" · {plural(int(one.film['shots']), 'shot')}"
        picture = one.film.get("picture")
        alt = f"{'Frame of' if picture else 'Page of'} {told}{'. ' + one.remark if one.remark else ''}"
        label = f"{told} · {one.remark}" if one.remark else told
        clips.append(Clip(label, alt, picture, hue=hue, href=one.address(folder)))
    some = (
        f"{len(shown)} of {len(seen)} stimuli, first those with a mark; e" if len(shown) < len(seen) else "E"
    )
    return Sheet(
        f"{some}ach picture leads to the page of its stimulus, with its shots and its features over time.",
        clips,
    )


def numbers_table(seen: Sequence[Seen]) -> Table:
    """A row per stimulus."""
    rows = []
    for one in seen[:_MOST_ROWS]:
        film, features = one.film, one.record["features"]
        rows.append(
            [
                one.name,
                one.remark or "–",
                number(one.length_s, 1),
                str(film["shots"]) if film else "–",
                number(one.length_s / int(film["shots"]), 1) if film else "–",
                number(float(film["still_s"]), 1) if film else "–",
                str(features["windows"]),
                str(sum(features["levels"].values())),
            ]
        )
    columns = [
        "stimulus",
        "marks",
        "length (s)",
        "shots",
        "mean shot (s)",
        "longest still (s)",
        "windows",
        "features",
    ]
    more = f" (the first {_MOST_ROWS})" if len(seen) > _MOST_ROWS else ""
    return table(f"Every stimulus{more}: length, shots, features", columns, rows, text=2)
