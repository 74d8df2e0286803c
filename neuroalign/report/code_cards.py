"""What codes stand for: per level the most frequent codes as cards with clips, brain regions and modalities."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.brain_map import RegionMap
from neuroalign.report.results import Results
from neuroalign.report.style import (
    Card,
    Cards,
    Picture,
    drawing,
    listed,
    number,
    percent,
    picture,
    plural,
)
from neuroalign.report.thumbnails import ClipPictures

_CARDS_PER_LEVEL, _CLIPS_PER_CODE, _REGIONS_TOLD = 2, 6, 3


def cards(results: Results, pictures: ClipPictures, counts: pd.DataFrame) -> Cards | None:
    """The most frequent first-depth codes of every level, of the first branch; None where their clips are not known.

    Parameters
    ----------
    results : Results
    pictures : ClipPictures
    counts : DataFrame
        ``codes.tsv`` of all branches.
    """
    users = results.branch_tables("vq/code_clips.tsv")
    if users is None:
        return None
    users, counts = _first(users), _first(counts)
    regions = results.branch_tables("vq/code_regions.tsv")
    regions = None if regions is None else _first(regions)
    mapped = RegionMap.read(results.root / "quality" / "template" / "regions.h5")
    chosen = []
    for level, part in users.groupby("level", sort=False):
        book = counts[counts["level"] == level]
        totals = book.groupby("code")["count"].sum().sort_values(ascending=False, kind="stable")
        for code in [c for c in totals.index if (part["code"] == c).any()][:_CARDS_PER_LEVEL]:
            mine = part[part["code"] == code].sort_values("count", ascending=False, kind="stable")
            chosen.append((level, code, book[book["code"] == code], list(mine["clip_id"][:_CLIPS_PER_CODE])))
    pictures.load(c for *_, clips in chosen for c in clips)
    made = []
    for level, code, book, clips in chosen:
        activity = None
        if regions is not None:
            activity = regions[(regions["level"] == level) & (regions["code"] == code)]
        facts = [modality_fact(book), *([region_fact(activity)] if _any(activity) else [])]
        shown = _map(mapped, level, code, activity) if _any(activity) else None
        made.append(Card(f"{level} · code {code}", facts, [pictures.clip(clip) for clip in clips], shown))
    caption = (
        "The most frequent codes of each level: how much of their tokens each modality gives and how its tokens weigh in the code "
        "(above 1: they lie closer to it than that modality's tokens usually do), the regions that are more or less active while a "
        "brain token takes the code, and the clips that take it most often. Activity is in standard deviations of the region over all "
        "tokens; it describes and is no test."
    )
    return Cards(caption, made) if made else None


def _first(table: pd.DataFrame) -> pd.DataFrame:
    """The first depth of the first branch."""
    table = table[table["branch"] == table["branch"].iloc[0]]
    return table[table["depth"] == table["depth"].min()]


def _any(table: pd.DataFrame | None) -> bool:
    return table is not None and bool(table["effect"].notna().any())


def modality_fact(book: pd.DataFrame) -> str:
    """Tokens of a code, by modality, and their dynamic weights."""
    total = int(book["count"].sum())
    parts = []
    for row in book.to_dict("records"):
        weight = f", weight {number(row['weight'])}" if "weight" in row else ""
        parts.append(f"{row['modality']} {percent(row['count'] / max(total, 1), 0)}{weight}")
    return f"{plural(total, 'token')}: {'; '.join(parts)}"


def region_fact(activity: pd.DataFrame) -> str:
    """The regions with the largest and the smallest activity while the brain takes a code."""
    ordered = activity.dropna(subset="effect").sort_values("effect", ascending=False, kind="stable")

    def told(rows: pd.DataFrame) -> str:
        values = (f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") for value in rows["effect"])
        return listed(f"{name} ({value})" for name, value in zip(rows["region"], values, strict=True))

    high, low = (
        ordered[ordered["effect"] > 0][:_REGIONS_TOLD],
        ordered[ordered["effect"] < 0][::-1][:_REGIONS_TOLD],
    )
    parts = [f"more active: {told(high)}"] * bool(len(high)) + [f"less active: {told(low)}"] * bool(len(low))
    tokens = int(ordered["tokens"].iloc[0])
    return f"while {plural(tokens, 'brain token')} take it, {'; '.join(parts) or 'no region differs'}"


def _map(mapped: RegionMap | None, level: str, code: int, activity: pd.DataFrame) -> Picture | None:
    if mapped is None or not mapped.knows(activity["region"]):
        return None
    values = dict(zip(activity["region"], activity["effect"], strict=True))
    largest = max(1e-6, float(activity["effect"].abs().max()))
    with drawing(5.2, mapped.height(5.2), layout="none") as figure:
        ax = figure.add_axes((0, 0, 1, 1))
        mapped.paint(ax, values, largest, words=False)
        told = f"Brain map of activity while tokens take code {code} ({level}); full colour is {number(largest)} SD"
        return picture(figure, f"{told}. {region_fact(activity)}", "", raster=True)
