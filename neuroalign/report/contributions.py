"""What carries retrieval: single levels, levels left out, and occlusion by network and region as a map."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.brain_map import RegionMap, bars
from neuroalign.report.results import Results
from neuroalign.report.style import (
    CYCLE,
    MUTED,
    Picture,
    Section,
    drawing,
    listed,
    number,
    percent,
    picture,
    plural,
    subject_name,
    table,
)

_KEYS = ["kind", "name", "level", "subject", "metric"]
_MOST_BARS, _MOST_ROWS = 24, 40


def section(results: Results) -> Section:
    """Contributions of levels, networks and regions."""
    out = Section("contributions", "What carries retrieval")
    found = read(results)
    if found is None:
        out.absent.append(
            "Contributions of levels and regions were not measured (evaluation/contributions/<branch>.tsv)."
        )
        return out
    pool = found[found["subject"] == "all"]
    if (pool["kind"] == "single").any():
        out.reading.append(level_sentence(pool))
        out.blocks.append(_levels(pool))
    regions = pool[(pool["kind"] == "region") & (pool["metric"] == "quality")]
    networks = pool[(pool["kind"] == "network") & (pool["metric"] == "quality")]
    if len(regions):
        out.reading.append(region_sentence(regions))
        out.blocks.append(_regions(results, regions))
    if len(networks):
        out.blocks.append(_bar_picture(networks, "network"))
    if (pool["kind"] == "single").any():
        out.blocks.append(_level_table(found))
    if len(regions):
        out.blocks.append(_region_table(pool))
    return out


def read(results: Results) -> pd.DataFrame | None:
    """The contributions, mean over branches; ends of intervals are averaged too, which keeps the width that clips cause."""
    tables = [results.table(f"evaluation/contributions/{branch}.tsv") for branch in results.branches]
    tables = [found for found in tables if found is not None]
    if not tables:
        return None
    joined = pd.concat(tables, ignore_index=True).fillna({"level": ""})
    how = dict.fromkeys(("value", "drop", "ci_low", "ci_high"), "mean") | {"units": "max", "n_queries": "sum"}
    return joined.groupby(_KEYS, sort=False, dropna=False).agg(how).reset_index()


def level_sentence(pool: pd.DataFrame) -> str:
    """Which level does most alone, and which is missed most."""
    top = pool[pool["metric"] == "top1"]
    whole = float(top[top["kind"] == "whole"]["value"].iloc[0])
    single = top[top["kind"] == "single"].sort_values("value", ascending=False, kind="stable")
    told = [f"{name} {percent(value)}" for name, value in zip(single["name"], single["value"], strict=True)]
    text = f"All levels together find the right candidate first in {percent(whole)} of the queries, single levels alone: {listed(told)}."
    quality = pool[(pool["metric"] == "quality") & (pool["kind"] == "without")]
    missed = quality[quality["ci_low"] > 0].sort_values("drop", ascending=False, kind="stable")
    spare = quality[quality["ci_low"] <= 0]
    if len(missed):
        text += f" Leaving out {listed(missed['name'])} costs retrieval" + (
            " (the interval of the drop excludes zero)."
            if not len(spare)
            else f"; no cost can be told for {listed(spare['name'])}."
        )
    else:
        text += " No cost of leaving out any one level can be told from chance."
    return text


def region_sentence(regions: pd.DataFrame) -> str:
    """How many regions cost retrieval when they are occluded, beside how many would by luck."""
    clear = regions[regions["ci_low"] > 0].sort_values("drop", ascending=False, kind="stable")
    worse = int((regions["ci_high"] < 0).sum())
    text = (
        f"Occluded one at a time, {len(clear)} of {plural(len(regions), 'region')} cost retrieval by an interval above zero "
        f"({worse} below zero; about {number(0.025 * len(regions), 1)} of either are expected by luck with 95 % intervals)"
    )
    return text + (f"; most of all {listed(clear['name'][:3])}." if len(clear) else ".")


def _levels(pool: pd.DataFrame) -> Picture:
    rows = pool[pool["metric"] == "quality"]
    whole = float(rows[rows["kind"] == "whole"]["value"].iloc[0])
    levels = list(dict.fromkeys(rows[rows["kind"] == "single"]["name"]))
    told = []
    with drawing(7.6, 1.2 + 0.55 * len(levels)) as figure:
        ax = figure.subplots()
        for y, level in enumerate(levels):
            for k, (kind, label) in enumerate(
                (("single", "this level alone"), ("without", "all but this level"))
            ):
                row = rows[(rows["kind"] == kind) & (rows["name"] == level)].iloc[0]
                at = y + (k - 0.5) * 0.32
                ends = whole - row["ci_high"], whole - row["ci_low"]
                ax.plot(ends, [at, at], color=CYCLE[k], lw=1.4)
                ax.plot(row["value"], at, "os"[k], color=CYCLE[k], label=label if y == 0 else None)
                told.append(f"{label} ({level}) {number(row['value'])}")
        ax.axvline(whole, color=MUTED, lw=1.2, ls="--", label="whole brain")
        ax.set_yticks(range(len(levels)), levels)
        ax.set_ylim(len(levels) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("quality of retrieval (1: all true candidates first)")
        figure.legend(loc="outside lower center", ncols=3)
        return picture(
            figure,
            f"Quality of retrieval, whole brain {number(whole)}; {'; '.join(told)}.",
            "Retrieval from one level alone and with one level left out: the others are replaced by their training mean in the test "
            "windows. Intervals are of the difference to the whole brain. The model is not trained again.",
        )


def _regions(results: Results, regions: pd.DataFrame) -> Picture:
    mapped = RegionMap.read(results.root / "quality" / "template" / "regions.h5")
    if mapped is None or not mapped.knows(regions["name"]):
        return _bar_picture(regions, "region")
    values = dict(zip(regions["name"], 100 * regions["drop"], strict=True))
    pale = set(regions[(regions["ci_low"] <= 0) & (regions["ci_high"] >= 0)]["name"])
    largest = max(1e-6, float(regions["drop"].abs().max()) * 100)
    with drawing(9.2, mapped.height(9.2) + 0.75) as figure:
        ax = figure.subplots()
        mapped.paint(ax, values, largest, pale)
        mapped.scale(figure, ax, largest, "drop of the quality of retrieval (points of 100)")
        first = regions.sort_values("drop", ascending=False, kind="stable").iloc[0]
        return picture(
            figure,
            f"Map of the drop in retrieval when a region is occluded; the largest is {first['name']} with "
            f"{number(100 * first['drop'])} points.",
            "Occlusion by region: what the quality of retrieval loses when the region's signal is replaced by its training mean in the "
            "test windows, mean over people and both directions. Red is a loss. Pale regions have an interval that holds zero. A region "
            "whose content others share costs little: this is a map of what the model reads there alone, not of where information is.",
            raster=True,
        )


def _bar_picture(rows: pd.DataFrame, what: str) -> Picture:
    levels = [level for level in dict.fromkeys(rows["level"]) if level]
    chosen = rows.reindex(rows["drop"].abs().sort_values(ascending=False, kind="stable").index)[:_MOST_BARS]
    colour = {level: CYCLE[k % len(CYCLE)] for k, level in enumerate(levels)}
    with drawing(7.6, 0.9 + 0.2 * len(chosen)) as figure:
        ax = figure.subplots()
        bars(
            ax,
            {name: 100 * v for name, v in zip(chosen["name"], chosen["drop"], strict=True)},
            {
                name: (100 * low, 100 * high)
                for name, low, high in zip(chosen["name"], chosen["ci_low"], chosen["ci_high"], strict=True)
            },
            {n: colour.get(level, MUTED) for n, level in zip(chosen["name"], chosen["level"], strict=True)},
        )
        ax.set_xlabel("drop of the quality of retrieval (points of 100)")
        for level in levels:
            ax.barh(0, 0, color=colour[level], label=level)
        if levels:
            ax.legend(loc="lower right")
        first = chosen.iloc[0]
        of = f" ({len(chosen)} of {len(rows)} with the largest effects)" if len(chosen) < len(rows) else ""
        return picture(
            figure,
            f"Bars of the drop in retrieval by occluded {what}; the largest is {first['name']} with {number(100 * first['drop'])} points.",
            f"Occlusion by {what}{of}: loss of the quality of retrieval, with block-bootstrap intervals.",
        )


def _level_table(found: pd.DataFrame):
    rows = found[found["kind"].isin(["whole", "single", "without"])]
    cells = []
    for (kind, name, subject), part in rows.groupby(["kind", "name", "subject"], sort=False):
        by = part.set_index("metric")
        cells.append(
            [
                {"whole": "whole brain", "single": f"{name} alone", "without": f"all but {name}"}[kind],
                subject_name(subject),
                percent(by.loc["top1", "value"]),
                number(by.loc["quality", "value"], 3),
                "–" if kind == "whole" else number(by.loc["quality", "drop"], 3),
                "–"
                if kind == "whole"
                else f"{number(by.loc['quality', 'ci_low'], 3)} to {number(by.loc['quality', 'ci_high'], 3)}",
            ]
        )
    columns = ["heard", "subject", "top-1", "quality", "drop", "95 % interval"]
    return table("Levels: retrieval from parts of the brain", columns, cells, text=2)


def _region_table(pool: pd.DataFrame):
    rows = pool[pool["kind"].isin(["region", "network"])]
    quality = rows[rows["metric"] == "quality"].sort_values("drop", ascending=False, kind="stable")
    top1 = rows[rows["metric"] == "top1"].set_index(["kind", "name"])["drop"]
    cells = [
        [
            r["name"],
            r["kind"] if r["kind"] == "network" else r["level"],
            number(100 * r["drop"]),
            f"{number(100 * r['ci_low'])} to {number(100 * r['ci_high'])}",
            number(100 * top1[r["kind"], r["name"]]),
        ]
        for r in quality[:_MOST_ROWS].to_dict("records")
    ]
    columns = ["occluded", "level", "drop of quality (points)", "interval", "drop of top-1 (points)"]
    return table(
        f"Regions and networks with the largest losses ({len(cells)} of {len(quality)})",
        columns,
        cells,
        text=2,
    )
