"""Unseen people: the learning curve of minutes needed, for known and for new content."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.plots import share_axis
from neuroalign.report.results import Results, over_seeds
from neuroalign.report.style import (
    BLUE,
    DIRECTIONS,
    GREEN,
    INK,
    MUTED,
    VERMILLION,
    Picture,
    Section,
    amount,
    drawing,
    interval,
    listed,
    metric_name,
    number,
    percent,
    picture,
    subject_name,
    table,
)

_MODELS = {
    "neuroalign": ("NeuroAlign, adapted", BLUE, "o"),
    "ridge_from_scratch": ("ridge from scratch", VERMILLION, "s"),
    "cca_from_scratch": ("CCA from scratch", GREEN, "D"),
}
_QUESTIONS = {
    "known": "clips that others were trained on (known content)",
    "new": "clips that nobody was trained on (new content)",
}


def section(results: Results) -> Section:
    """Retrieval of unseen people against the minutes that the model was adapted on."""
    out = Section("adaptation", "Unseen people")
    curve = results.table("evaluation/learning_curve.tsv")
    if curve is None:
        out.absent.append(
            "There is no learning curve (evaluation/learning_curve.tsv): it is made where people are held out "
            "(split.by: subject) and units are the same in everybody."
        )
        return out
    curve = over_seeds(curve)
    curve = curve[(curve["gallery"] == "full") & (curve["exclude_s"] == curve["exclude_s"].min())]
    pool = curve[curve["subject"] == "all"]
    if pool.empty:
        out.absent.append("The learning curve is empty: no clip of an unseen person was left to test.")
        return out
    for content, words in _QUESTIONS.items():
        part = pool[pool["content"] == content]
        if part.empty:
            out.absent.append(f"No unseen person was tested on {words}.")
            continue
        out.reading += [_reading(part[part["direction"] == d], words, DIRECTIONS[d]) for d in DIRECTIONS]
    out.blocks.append(_figure(pool))
    out.blocks.append(_table(curve))
    return out


def _reading(rows: pd.DataFrame, words: str, direction: str) -> str:
    """How far the longest adaptation got, and whether that is more than the shared model."""
    rows = rows[(rows["metric"] == "top1") & (rows["model"] == "neuroalign")].sort_values("minutes")
    if rows.empty:
        return f"New people, {words}, {direction}: nothing was measured."
    first, last = rows.iloc[0], rows.iloc[-1]
    start = (
        f"New people, {words}, {direction}: the shared model finds {percent(first['value'])} "
        f"(chance {percent(first['chance'])})"
    )
    if len(rows) < 2:
        return start + "; there were too few minutes to adapt on."
    decided = (
        "more than the shared model"
        if last["gain_low"] > 0
        else "less than the shared model"
        if last["gain_high"] < 0
        else "not told apart from the shared model"
    )
    return (
        f"{start}, after {last['minutes']:g} minutes {percent(last['value'])}: a difference of {100 * last['gain']:+.1f} points "
        f"({100 * last['gain_low']:+.1f} to {100 * last['gain_high']:+.1f}), {decided}."
    )


def _figure(pool: pd.DataFrame) -> Picture:
    rows = pool[pool["metric"] == "top1"]
    contents = [c for c in _QUESTIONS if (rows["content"] == c).any()]
    directions = [d for d in DIRECTIONS if (rows["direction"] == d).any()]
    ticks = sorted(rows["minutes"].unique())
    told = []
    with drawing(9.2, 0.7 + 2.5 * len(contents)) as figure:
        axes = figure.subplots(len(contents), len(directions), squeeze=False, sharex=True)
        for line, content in zip(axes, contents, strict=True):
            for ax, direction in zip(line, directions, strict=True):
                part = rows[(rows["content"] == content) & (rows["direction"] == direction)]
                for model, (name, colour, marker) in _MODELS.items():
                    points = part[part["model"] == model].sort_values("minutes")
                    if points.empty:
                        continue
                    x = [ticks.index(m) for m in points["minutes"]]
                    ax.plot(x, points["value"], color=colour, marker=marker, ms=5, label=name)
                    ax.fill_between(x, points["ci_low"], points["ci_high"], color=colour, alpha=0.14, lw=0)
                    told.append(
                        f"{name}, {content} content, {DIRECTIONS[direction]}: {percent(points['value'].iloc[0])} at "
                        f"{points['minutes'].iloc[0]:g} and {percent(points['value'].iloc[-1])} at {points['minutes'].iloc[-1]:g} minutes"
                    )
                shared = part[(part["model"] == "neuroalign") & (part["minutes"] == 0)]
                if len(shared):
                    ax.axhline(
                        shared["value"].iloc[0], color=BLUE, lw=1, ls=(0, (4, 2)), label="shared model"
                    )
                ax.axhline(part["chance"].mean(), color=INK, lw=1, ls=(0, (1, 1.5)), label="chance")
                ax.set_title(f"{content} content, {DIRECTIONS[direction]}", fontsize=9)
                ax.set_xticks(range(len(ticks)), [f"{m:g}" for m in ticks])
                share_axis(ax, "y")
        for ax in axes[-1]:
            ax.set_xlabel("minutes of the new person", color=MUTED, fontsize=8)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        return picture(
            figure,
            f"Curves of top-1 against minutes. {listed(told, 12)}.",
            "Top-1 of people whom the model has never seen, against the minutes of them that it was adapted on; bands are block bootstraps over "
            "clips. All points are tested on the same later clips.",
        )


def _table(curve: pd.DataFrame):
    rows = curve[curve["metric"].isin(("top1", "mrr"))]
    columns = ["model", "minutes", "content", "subject", "direction", "metric", "value", "interval", "chance"]
    columns += ["against the shared model", "its interval", "over people"]
    lines = []
    for row in rows.to_dict("records"):
        metric = row["metric"]
        lines.append(
            [
                _MODELS.get(row["model"], (row["model"],))[0],
                f"{row['minutes']:g}",
                row["content"],
                subject_name(row["subject"]),
                DIRECTIONS.get(row["direction"], row["direction"]),
                metric_name(metric),
                amount(metric, row["value"]),
                interval(metric, row["ci_low"], row["ci_high"]),
                amount(metric, row["chance"]),
                percent(row["gain"]) if metric.startswith("top") else number(row["gain"], 3),
                interval(metric, row["gain_low"], row["gain_high"]),
                interval(metric, row["people_low"], row["people_high"]),
            ]
        )
    return table("Every point of the learning curve", columns, lines, text=6)
