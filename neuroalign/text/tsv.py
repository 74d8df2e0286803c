"""Captions that a user brings: one table per film (``<stimulus>.tsv``) or its subtitles (``.vtt``, ``.srt``).

A table has the columns ``onset``, ``duration`` (both in seconds, from stimulus start) and ``caption``; other columns are
ignored. Rows may overlap and come in any order. A row whose caption is empty or ``n/a`` says nothing. A film without a file
has no captions, and neither has one whose file holds none (an empty file, or only a header).
"""

from __future__ import annotations

import codecs
import html
import logging
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from neuroalign.brought_files import StimulusFiles, find_all
from neuroalign.errors import MOST_SENTENCES, UserError, nearest
from neuroalign.io import require

logger = logging.getLogger(__name__)

CAPTIONS = StimulusFiles("captions", (".tsv", ".vtt", ".srt"), "text.captions_dir")
COLUMNS = ("onset", "duration", "caption")
# Seconds that rounding of decimal fractions may move an edge by.
_EPSILON = 1e-6
_CUE = re.compile(r"((?:\d+:)?\d+:\d+[.,]\d+)\s+-->\s+((?:\d+:)?\d+:\d+[.,]\d+)")
# Marks of VTT and SRT (<i>, <v Roger>) and of SubStation in SRT ({\an8}).
_MARKS = re.compile(r"<[^>]*>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Said:
    """A caption and when it holds, in seconds from stimulus start; a `duration_s` of 0 is a moment."""

    onset_s: float
    duration_s: float
    caption: str
    line: int


def find_all_captions(
    captions_dir: str | os.PathLike | None, stimuli: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """The caption files of those of many stimuli that have captions, and what keeps files from being used.

    Parameters
    ----------
    captions_dir : path or None
        ``text.captions_dir``.
    stimuli : sequence of str
        Stimulus ids.

    Returns
    -------
    files : dict of str to Path
        By stimulus, in their order; without those that have no file, or a file without a caption.
    problems : list of str
        What `find_captions` says of files that cannot be used; and where no stimulus has captions, that.
    """
    silent: set[str] = set()

    def find(folder: str | os.PathLike | None, stimulus: str, among: Collection[str]) -> Path:
        path = find_captions(folder, stimulus, among)
        if not read_said(path):
            silent.add(stimulus)
        return path

    there = [s for s in stimuli if captions_dir and not CAPTIONS.is_absent(captions_dir, s)]
    # Where none is there, all of them are missed: the folder is wrong, or the names are.
    files, problems = find_all(CAPTIONS, find, captions_dir, there or stimuli)
    files = {stimulus: path for stimulus, path in files.items() if stimulus not in silent}
    if there and not files and not problems:
        problems = [
            f"No file in text.captions_dir {captions_dir} holds a caption; write some, or set text.source to none."
        ]
    return files, problems


def without_captions(
    captions_dir: str | os.PathLike | None, files: Collection[str], stimuli: Sequence[str]
) -> str | None:
    """A sentence about the stimuli that have no captions, or None where all have.

    Parameters
    ----------
    captions_dir : path or None
        ``text.captions_dir``.
    files : collection of str
        Stimuli with captions (`find_all_captions`).
    stimuli : sequence of str
    """
    missing = [stimulus for stimulus in stimuli if stimulus not in files]
    if not missing or not captions_dir:
        return None
    strays = CAPTIONS.strays(captions_dir, stimuli)
    names = []
    for name in missing[:MOST_SENTENCES]:
        hint = nearest(name, strays) if CAPTIONS.is_absent(captions_dir, name) else ""
        names.append(f"{name} ({hint.removeprefix('; ')})" if hint else name)
    more = f" and {len(missing) - len(names)} more" if len(missing) > len(names) else ""
    return (
        f"{len(missing)} of {len(stimuli)} stimuli have no captions in {captions_dir}: {', '.join(names)}{more}; "
        "they take part by their video alone"
    )


def find_captions(
    captions_dir: str | os.PathLike | None, stimulus: str, stimuli: Collection[str] = ()
) -> Path:
    """The caption file of a stimulus, checked by reading it.

    Parameters
    ----------
    captions_dir : path or None
        ``text.captions_dir``.
    stimulus : str
    stimuli : collection of str, optional
        All stimuli: files of others are not what was meant.

    Raises
    ------
    UserError
        If the folder or file is missing (the nearest name is told), or the file is not as `read_said` wants it.
    """
    if not captions_dir:
        raise UserError("text.source is 'tsv' but text.captions_dir is not set; name the folder.")
    path = CAPTIONS.find(captions_dir, stimulus, stimuli)
    read_said(path)
    return path


def read_said(path: str | os.PathLike) -> list[Said]:
    """Read a table of captions or a subtitle file.

    Parameters
    ----------
    path : path
        ``.vtt`` and ``.srt`` are read as subtitles, anything else as a table.

    Returns
    -------
    list of Said
        By onset; of equal onsets in the order of the file. White space within a caption becomes single spaces.

    Raises
    ------
    UserError
        If the file is missing, is not text in UTF-8 (or UTF-16 with its mark), lacks a column, or holds a time that is
        no number of seconds: file, line and value are told.
    """
    path = Path(path)
    require(path)
    lines = re.split(r"\r\n|\r|\n", _decode(path))
    said = _subtitles(path, lines) if path.suffix.lower() in CAPTIONS.endings[1:] else _table(path, lines)
    return sorted((row for row in said if row.caption), key=lambda row: row.onset_s)


def _decode(path: Path) -> str:
    """The text of a file. Excel's "Unicode text" is UTF-16 with a mark; other encodings cannot be told apart."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path} is not text in UTF-8 (line {line}); save it in that encoding.") from error
    if "\0" in text:
        raise UserError(f"{path} is not text in UTF-8 (it holds zero bytes); save it in that encoding.")
    return text


def _table(path: Path, lines: list[str]) -> Iterator[Said]:
    header: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = [_unquoted(cell.strip()) for cell in line.split("\t")]
        if not header:
            header = [cell.lower() for cell in cells]
            _check_header(path, header)
            continue
        if any(cells[len(header) :]):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells, but the header has {len(header)}; a tab inside a caption must "
                "become a space."
            )
        # Editors drop tabs at the end of a line, but a row that lost more than its caption is none: half of a cell with a line
        # break, or spaces in place of tabs.
        if len(cells) <= max(map(header.index, COLUMNS[:2])):
            raise _broken(path, number, cells, header)
        row = dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))
        caption = " ".join(row["caption"].split())
        if caption and caption != "n/a":
            onset, duration = (_seconds(path, number, name, row[name]) for name in COLUMNS[:2])
            if duration < 0:
                raise UserError(f"{path}, line {number}: the duration {duration:g} is negative; correct it.")
            yield Said(onset, duration, caption, number)
        else:
            # A row without words may lack its times, but nothing else may stand there: half of a broken row would.
            for name in COLUMNS[:2]:
                if row[name] not in ("", "n/a"):
                    _seconds(path, number, name, row[name])


def _broken(path: Path, number: int, cells: list[str], header: list[str]) -> UserError:
    count = f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}"
    return UserError(
        f"{path}, line {number}: no row of onset, duration and caption ({count}, beginning with '{cells[0][:40]}'; the header has "
        f"{len(header)}); put tabs between cells, and a space in place of a line break inside a caption."
    )


def _unquoted(cell: str) -> str:
    """Spreadsheets put quotes around cells with quotes in them, and double those; TSV of BIDS has no quoting."""
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if not missing:
        return
    if len(header) == 1 and any(mark in header[0] for mark in ",;"):
        raise UserError(f"{path}: its columns are not separated by tabs; save it as tab-separated text.")
    others = [name for name in header if name not in COLUMNS]
    hint = nearest(missing[0], others) or f"; found {', '.join(header)}."
    raise UserError(
        f"{path} has no column '{missing[0]}' (a table of captions has {', '.join(COLUMNS)}){hint}"
    )


def _seconds(path: Path, number: int, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        wanted = "seconds from stimulus start" if name == "onset" else "seconds (0 for a moment)"
        hint = ", with a point before the decimals" if re.fullmatch(r"-?\d+,\d+", cell) else ""
        raise UserError(f"{path}, line {number}: the {name} is '{cell}'; give {wanted}{hint}.")
    return value


def _subtitles(path: Path, lines: list[str]) -> Iterator[Said]:
    """Cues of a subtitle file: a line of times, then text up to an empty line or the next cue; all else (numbers, notes) is passed by."""
    cues = [(number, match) for number, line in enumerate(lines) if (match := _CUE.search(line))]
    if not cues and any(line.strip() and not line.startswith("WEBVTT") for line in lines):
        raise UserError(
            f"{path} holds no subtitles (lines such as 00:00:01.000 --> 00:00:02.500); mend or remove it."
        )
    stops = [number for number, _ in cues[1:]] + [len(lines)]
    for (number, match), stop in zip(cues, stops, strict=False):
        begin, end = map(_clock, match.groups())
        words = list(takewhile(str.strip, lines[number + 1 : stop]))
        # Without an empty line between, what stands before the next times is their number.
        if words and number + 1 + len(words) == stop < len(lines) and words[-1].strip().isdigit():
            del words[-1]
        words = [html.unescape(_MARKS.sub("", line)) for line in words]
        if end < begin:
            raise UserError(f"{path}, line {number + 1}: the subtitle ends before it begins; correct it.")
        yield Said(begin, end - begin, " ".join(" ".join(words).split()), number + 1)


def _clock(time: str) -> float:
    """Seconds of a time such as 00:01:02.500 or 01:02,5."""
    return sum(float(part) * 60**i for i, part in enumerate(reversed(time.replace(",", ".").split(":"))))


def check_end(path: str | os.PathLike, said: Sequence[Said], duration_s: float) -> None:
    """Notice captions on another clock than the film's.

    Captions that begin after the end of the film are not used. A few may be of a longer cut, or of what a damaged file
    lost, and are a warning; if they are most, the table is in another unit or of another film.

    Parameters
    ----------
    path : path
        Where the captions come from.
    said : sequence of Said
    duration_s : float
        Length of the film.

    Raises
    ------
    UserError
        If more than half of the captions begin after the end.
    """
    late = [row for row in said if row.onset_s >= duration_s]
    if not late:
        return
    count = f"{len(late)} of {len(said)} captions begin" if len(said) > 1 else "the only caption begins"
    words = (
        f"{path}: {count} after the end of the film at {duration_s:g} s, "
        f"the first at {late[0].onset_s:g} s (line {late[0].line})"
    )
    if 2 * len(late) > len(said):
        raise UserError(f"{words}; is the table of this film, and in seconds from its beginning?")
    logger.warning("%s; they are not used", words)


def captions_problems(
    captions_dir: str | os.PathLike | None, films: Mapping[str, str], guard_s: float | None = None
) -> Iterator[str]:
    """What is wrong with the captions of some films, a sentence each, found without the films being normalised.

    Films without captions, and captions that reach over the guard of a split, are warnings.

    Parameters
    ----------
    captions_dir : path or None
        ``text.captions_dir``.
    films : mapping of stimulus to path
        A film that cannot be read is passed by: others say so.
    guard_s : float, optional
        Seconds that are left out where a film is cut into splits; None where films are not cut.
    """
    from neuroalign.video.probe import probe

    found, problems = find_all_captions(captions_dir, sorted(films))
    yield from problems
    if found and (sentence := without_captions(captions_dir, found, sorted(films))):
        logger.warning("%s", sentence)
    for stimulus, path in found.items():
        said = read_said(path)
        _warn_of_long(path, said, guard_s)
        try:
            end = probe(films[stimulus]).end_s
        except UserError:
            continue
        try:
            check_end(path, said, math.inf if end is None else end)
        except UserError as error:
            yield str(error)


def _warn_of_long(path: Path, said: Sequence[Said], guard_s: float | None) -> None:
    """The words of one row may stand on both sides of a cut between training and test."""
    long = [row for row in said if guard_s is not None and row.duration_s > guard_s]
    if long:
        logger.warning(
            "%s: %d of %d captions last longer than split.guard_s (%g s), the first in line %d: where the film is cut into "
            "splits the same words can be in training and in test",
            *(path, len(long), len(said), guard_s, min(row.line for row in long)),
        )


def window_captions(said: Sequence[Said], times: np.ndarray, window_s: float) -> list[str]:
    """What is said in each window.

    Parameters
    ----------
    said : sequence of Said
        By onset.
    times : array of shape (windows,)
        Centres of the windows, increasing, seconds.
    window_s : float
        Length of a window.

    Returns
    -------
    list of str
        The captions that hold during some of the window, in the order of their onsets, joined by spaces; the same words
        once. Empty where none holds.
    """
    begin, end = np.asarray(times) - window_s / 2, np.asarray(times) + window_s / 2
    found: list[dict[str, None]] = [{} for _ in begin]
    for row in said:
        # Windows are ordered, so those that a row meets are contiguous. A moment belongs to the windows that begin at it
        # or before; a stretch that only touches an edge does not.
        momentary = row.duration_s <= 2 * _EPSILON
        first = np.searchsorted(end, row.onset_s + _EPSILON, side="right")
        last = np.searchsorted(
            begin, row.onset_s + (_EPSILON if momentary else row.duration_s - _EPSILON), side="left"
        )
        for k in range(first, last):
            found[k].setdefault(row.caption)
    return [" ".join(captions) for captions in found]
