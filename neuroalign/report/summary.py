"""Everything that was evaluated in one grouped table, what each ablation costs, and how hard every method was tuned."""

from __future__ import annotations

from typing import Any

import pandas as pd

from neuroalign.config.variants import ABLATIONS, folder_of
from neuroalign.io import read_json
from neuroalign.report.controls import CEILING_NAMES, control_name
from neuroalign.report.results import Results
from neuroalign.report.style import (
    DIRECTIONS,
    Section,
    Table,
    amount,
    interval,
    listed,
    metric_name,
    model_name,
    plural,
    table,
)

PRIMARY = "top1"
GROUPS = {
    "model": "NeuroAlign",
    "part": "Parts of its score",
    "ablation": "Without a part",
    "baseline": "Baselines",
    "control": "Controls",
    "ceiling": "Ceilings",
}
_SETTINGS = ("options", "chosen_by", "name", "seed")


def section(results: Results) -> Section:
    """The grouped table, the costs of ablations in words, and the tuning budget."""
    out = Section("summary", "Everything in one table")
    summary = results.table("evaluation/summary.tsv")
    if summary is None:
        out.absent.append("There is no summary of all methods (evaluation/summary.tsv).")
        return out
    out.reading += [*cost_sentences(summary), intervals_sentence(summary)]
    for metric in dict.fromkeys(summary["metric"]):
        out.blocks.append(grouped(summary[summary["metric"] == metric], metric))
    descriptions = ablation_table(summary)
    if descriptions:
        out.blocks.append(descriptions)
    budget = budget_table(results, summary)
    if budget:
        out.blocks.append(budget)
    return out


def cost_sentences(summary: pd.DataFrame) -> list[str]:
    """Which parts of the model are shown to be worth something by top-1, which to do harm, and of which nothing is shown."""
    rows = summary[(summary["group"] == "ablation") & (summary["metric"] == PRIMARY)]
    # What belongs to quantisation alone may not show in the fused score, which need not listen to it.
    apart = {f"neuroalign_{folder_of('ablation', name)}_quantised" for name in ("no_dynamic", "no_depth")}
    fused = ~rows["model"].str.endswith("_quantised")
    rows = rows[(fused | rows["model"].isin(apart)) & rows["difference"].notna()]
    if rows.empty:
        return []
    told: dict[str, list[str]] = {"worth": [], "harm": [], "open": []}
    for model, part in rows.groupby("model", sort=False):
        cost = -100 * part["difference"].mean()
        words = f"{_removed(str(model))} ({cost:+.1f})"
        if (part["difference_high"] < 0).any() and not (part["difference_low"] > 0).any():
            told["worth"].append(words)
        elif (part["difference_low"] > 0).any() and not (part["difference_high"] < 0).any():
            told["harm"].append(words)
        else:
            told["open"].append(words)
    sentences = []
    if told["worth"]:
        sentences.append(
            f"Shown to help, with what they add in points of top-1 (both directions averaged): {listed(told['worth'], 20)}."
        )
    if told["harm"]:
        sentences.append(f"Shown to do harm on these data: {listed(told['harm'], 20)}.")
    if told["open"]:
        sentences.append(
            f"Not shown to matter on these data (the interval holds zero in both directions): {listed(told['open'], 20)}."
        )
    return sentences


def intervals_sentence(summary: pd.DataFrame) -> str:
    """What each kind of interval resamples."""
    text = (
        "Intervals: 'clips' resamples stretches of film, with all people who saw them (other clips, these people); 'clips and "
        "people' resamples both (other people too)"
    )
    if not summary["people_low"].notna().any():
        text += ", which needs at least five people and is left out here"
    seeds = int(summary["seeds"].max()) if summary["seeds"].notna().any() else 1
    more = f"; 'seeds' is the t interval of the mean over {plural(seeds, 'seed')}" if seeds > 1 else ""
    return f"{text}{more}. Differences are to NeuroAlign on the same queries."


def grouped(rows: pd.DataFrame, metric: str) -> Table:
    """One table of a metric, group by group."""
    lines = []
    for group, title in GROUPS.items():
        for r in rows[rows["group"] == group].to_dict("records"):
            lines.append(
                [
                    *(title, name_of(group, r["model"]), DIRECTIONS[r["direction"]]),
                    *(amount(metric, r["value"]), amount(metric, r["chance"])),
                    interval(metric, r["clips_low"], r["clips_high"]),
                    interval(metric, r["people_low"], r["people_high"]),
                    interval(metric, r["seeds_low"], r["seeds_high"]),
                    _difference(metric, r),
                ]
            )
    columns = [
        *("group", "method", "direction", "value", "chance", "clips", "clips and people", "seeds"),
        "difference to NeuroAlign",
    ]
    return table(
        f"All methods by {metric_name(metric)}, full gallery, all subjects",
        columns,
        lines,
        text=3,
        opened=metric == PRIMARY,
    )


def name_of(group: str, name: str) -> str:
    """A row's name for people."""
    if group == "control":
        return control_name(name)
    return CEILING_NAMES.get(name, model_name(name)) if group == "ceiling" else model_name(name)


def ablation_table(summary: pd.DataFrame) -> Table | None:
    """What each ablation that was run overrides."""
    shown = set(summary.loc[summary["group"] == "ablation", "model"])
    lines = [
        [name, variant.title, variant.description.replace("`", "")]
        for name, variant in ABLATIONS.items()
        if f"neuroalign_{folder_of('ablation', name)}" in shown
    ]
    return (
        table("What each ablation takes away", ["ablation", "part", "how"], lines, text=3) if lines else None
    )


def budget_table(results: Results, summary: pd.DataFrame) -> Table | None:
    """How many settings every baseline tried, on what data, and what it took."""
    lines = []
    for model in dict.fromkeys(summary.loc[summary["group"] == "baseline", "model"]):
        found = [
            read_json(path)
            for branch in results.branches
            if (path := results.root / "evaluation/scores" / str(model) / f"{branch}.json").is_file()
        ]
        if not found:
            continue
        tried = sorted({int(f["options"]) for f in found if "options" in f})
        lines.append(
            [
                model_name(str(model)),
                " or ".join(map(str, tried)) or "–",
                str(found[0].get("chosen_by", "–")),
                listed(dict.fromkeys(_told(f) for f in found), 4),
            ]
        )
    if not lines:
        return None
    columns = ["baseline", "settings tried", "chosen by", "taken (by fold and seed)"]
    return table("How hard the baselines were tuned", columns, lines, text=4)


def _told(found: dict[str, Any]) -> str:
    """What a baseline chose, in a line."""
    shown = {k: v for k, v in found.items() if k not in _SETTINGS and not isinstance(v, (list, dict))}
    lags = found.get("lags_s")
    if isinstance(lags, list) and lags != [0.0]:
        shown = {"lags": " ".join(f"{lag:g}" for lag in lags) + " s", **shown}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()) or "–"


def _removed(model: str) -> str:
    names = {f"neuroalign_{folder_of('ablation', name)}": v.title for name, v in ABLATIONS.items()}
    whole = model.removesuffix("_quantised")
    return names.get(whole, model_name(whole)) + (" by the quantised part" if whole != model else "")


def _difference(metric: str, row: dict[str, Any]) -> str:
    if pd.isna(row["difference"]):
        return "–"
    scale, unit = (100, " points") if metric.startswith("top") else (1, "")
    low, high = scale * row["difference_low"], scale * row["difference_high"]
    between = "" if pd.isna(low) else f" ({low:+.2g} to {high:+.2g})"
    return f"{scale * row['difference']:+.2g}{unit}{between}"
