"""The gallery: what was asked and the five clips that came back, for queries chosen by rule."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.results import Results, headline_rows, pick
from neuroalign.report.retrieval import MODEL
from neuroalign.report.style import DIRECTIONS, Section, Strip, Strips, plural, subject_name
from neuroalign.report.thumbnails import ClipPictures

_TOP = [f"top_{k}" for k in range(1, 6)]
# Good, middling and bad queries by their place among the subject's queries ordered by rank.
_PLACES = (("good", 0.1), ("median", 0.5), ("bad", 0.9))


def section(results: Results, pictures: ClipPictures) -> Section:
    """Strips of the true clip and the top five, spread over subjects and over good, median and bad ranks."""
    out = Section("gallery", "Gallery")
    count = int(results.setting("report.examples", 6))
    if count == 0:
        out.absent.append("No examples were asked for (report.examples is 0).")
        return out
    rankings = own_rankings(results.table("evaluation/rankings.tsv"))
    if rankings.empty:
        out.absent.append("There are no rankings (evaluation/rankings.tsv), so no examples are shown.")
        return out
    # Half of the examples for each direction, the odd one for the first; other people come first in the second.
    shares = {"fmri_to_video": (count + 1) // 2, "video_to_fmri": count // 2}
    chosen = {
        d: choose(rankings[rankings["direction"] == d], n, k) for k, (d, n) in enumerate(shares.items())
    }
    clips = [c for part in chosen.values() for column in ("clip_id", *_TOP) for c in part.get(column, [])]
    pictures.load(clips)
    out.reading.append(
        "Examples are chosen by rule, not by how they look: of each subject's test queries ordered by the rank of the true "
        "clip, those at 10 % (good), 50 % (median) and 90 % (bad)."
    )
    for direction, part in chosen.items():
        if len(part):
            out.reading.append(_reading(direction, part))
            out.blocks.append(_strips(direction, part, pictures, _sizes(results, direction)))
    if not pictures.any_video:
        out.absent.append(
            "No video came with these stimuli, so clips are shown as tiles with their time in the stimulus."
        )
    return out


def own_rankings(rankings: pd.DataFrame | None) -> pd.DataFrame:
    """Rankings of the fused model in the full gallery, of the first seed."""
    rows = pick(rankings, model=MODEL)
    if len(rows) and "seed" in rows:
        rows = rows[rows["seed"] == rows["seed"].iloc[0]]
    return rows


def choose(rankings: pd.DataFrame, count: int, start: int = 0) -> pd.DataFrame:
    """Queries to show: subjects in turn, and in turn the 10 %, 50 % and 90 % places of their ranks.

    Parameters
    ----------
    rankings : DataFrame with columns subject and rank
    count : int
        At most this many; fewer if there are fewer queries.
    start : int
        Which subject comes first.

    Returns
    -------
    DataFrame
        The chosen rows with a column ``place`` (good, median, bad).
    """
    people = sorted(set(rankings["subject"]) - {"all"})
    left = {s: rankings[rankings["subject"] == s].sort_values("rank", kind="stable") for s in people}
    taken: dict[object, str] = {}
    for i in range(count):
        if not people:
            break
        name, place = _PLACES[i % len(_PLACES)]
        # The extra shift by rounds pairs every subject with every place when their numbers share a factor.
        ordered = left[people[(start + i + i // len(_PLACES)) % len(people)]]
        target = round(place * (len(ordered) - 1))
        free = [k for k in range(len(ordered)) if ordered.index[k] not in taken]
        if free:
            taken[ordered.index[min(free, key=lambda k: abs(k - target))]] = name
    return rankings.loc[list(taken)].assign(place=list(taken.values()))


def _reading(direction: str, part: pd.DataFrame) -> str:
    first, five = int((part["rank"] == 1).sum()), int((part["rank"] <= 5).sum())
    return (
        f"{DIRECTIONS[direction]}: of these {plural(len(part), 'example')}, {first} have the true clip first and {five} "
        f"among the first five."
    )


def _strips(direction: str, part: pd.DataFrame, pictures: ClipPictures, sizes: dict[str, float]) -> Strips:
    strips = []
    for row in part.to_dict("records"):
        true = row["clip_id"]
        of = f" of {sizes[row['subject']]:.0f}" if row["subject"] in sizes else ""
        strips.append(
            Strip(
                f"{subject_name(row['subject'])} · {row['place']} · true clip at rank {float(row['rank']):g}{of}",
                [
                    pictures.clip(row[column], note=str(k), correct=row[column] == true)
                    for k, column in enumerate(_TOP, 1)
                    if row.get(column)
                ],
                pictures.clip(true),
            )
        )
    asked = (
        "The brain's response to the clip on the left was asked for"
        if direction == "fmri_to_video"
        else (
            "The clip on the left was asked for; the brain responses that came back are shown by the clips they belong to"
        )
    )
    return Strips(f"{DIRECTIONS[direction]}. {asked}. A framed clip with a tick is the true one.", strips)


def _sizes(results: Results, direction: str) -> dict[str, float]:
    """Candidates in the full gallery of each subject."""
    rows = headline_rows(results.metrics, model=MODEL, direction=direction)
    return dict(zip(rows["subject"], rows["gallery_size"], strict=True)) if "gallery_size" in rows else {}
