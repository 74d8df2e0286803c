"""What the headline is held against: controls, baselines side by side, paired differences, and ceilings."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.plots import differences, intervals, metric_table
from neuroalign.report.results import Results, above_chance, headline_rows, over_seeds, pick
from neuroalign.report.retrieval import MODEL, PRIMARY
from neuroalign.report.style import (
    DIRECTIONS,
    MODEL_NAMES,
    Section,
    listed,
    metric_name,
    model_name,
    p_value,
    percent,
    plural,
    subject_name,
    table,
)

CONTROL_NAMES = {
    "shift": "brain series shifted in time",
    "shifted": "brain series shifted in time",
    "shuffle": "shuffled pairing",
    "shuffled": "shuffled pairing",
    "clip_time": "only the time of the clip",
    "time_only": "only the time of the clip",
    "luminance": "only luminance",
    "low_level": "only luminance, contrast and motion",
    "motion_energy": "only motion energy",
}
# Controls made of the stimulus' low-level content may beat chance; they must not beat the model.
_CONTENT = ("luminance", "low_level", "motion_energy", "motion", "contrast")
_SHOWN = ("top1", "top5")


def section(results: Results) -> Section:
    """Controls that must sit at chance, and those that must not win."""
    out = Section("controls", "Controls")
    controls = _named(results.table("evaluation/controls.tsv"), "control")
    if controls is None:
        out.absent.append("There are no controls (evaluation/controls.tsv).")
        return out
    rows = headline_rows(over_seeds(controls), subject="all")
    rows = rows if len(rows) else headline_rows(over_seeds(controls))
    ours = headline_rows(results.metrics, model=MODEL, subject="all").assign(control=MODEL)
    out.reading.extend(control_sentences(rows, ours))
    everything = pd.concat([ours, rows], ignore_index=True) if len(ours) else rows
    shown = everything[everything["metric"].isin(_SHOWN)]
    names = {c: control_name(c) for c in dict.fromkeys(shown["control"])}
    out.blocks.append(
        intervals(shown, "control", names, "Controls beside the fused model, all subjects pooled. Black ticks are chance.")
    )
    every = over_seeds(controls)
    leading = {
        "control": [control_name(c) for c in every["control"]],
        "subject": [subject_name(s) for s in every["subject"]],
    }
    out.blocks.append(metric_table(every.reset_index(drop=True), leading, "Every control"))
    return out


def control_name(control: str) -> str:
    """A control's name for people."""
    return CONTROL_NAMES.get(control, model_name(control))


def control_sentences(rows: pd.DataFrame, ours: pd.DataFrame) -> list[str]:
    """Which controls are at chance, which are not, and whether low-level content wins."""
    primary = rows[rows["metric"] == PRIMARY]
    strict = [r for r in primary.to_dict("records") if not _content(r["control"])]
    off = sorted({control_name(r["control"]) for r in strict if above_chance(r)})
    on = sorted({control_name(r["control"]) for r in strict} - set(off))
    sentences = []
    if off:
        sentences.append(
            f"Warning: {listed(off)} lie above chance where they must not; look for leakage before believing the headline."
        )
    if on:
        sentences.append(f"At chance, as they must be: {listed(on)}.")
    best = {r["direction"]: r["value"] for r in ours[ours["metric"] == PRIMARY].to_dict("records")}
    content = [r for r in primary.to_dict("records") if _content(r["control"])]
    if content and best:
        winners = sorted({control_name(r["control"]) for r in content if r["value"] >= best.get(r["direction"], 1)})
        names = sorted({control_name(r["control"]) for r in content})
        sentences.append(
            f"Low-level content wins: {listed(winners)} do as well as the model or better in at least one direction."
            if winners
            else f"Below the fused model in every direction: {listed(names)}."
        )
    return sentences or ["No control was scored with top-1."]


def _content(control: str) -> bool:
    return any(part in control for part in _CONTENT)


def baselines(results: Results) -> Section:
    """Every method on the same pairs, split and scoring, and the paired differences."""
    out = Section("baselines", "Baselines")
    rows = headline_rows(results.metrics, subject="all")
    rows = rows if len(rows) else headline_rows(results.metrics)
    others = [m for m in dict.fromkeys(rows["model"]) if m not in MODEL_NAMES]
    if not others:
        out.absent.append("No baseline was evaluated.")
        return out
    mean = rows[rows["metric"] == PRIMARY].groupby("model")["value"].mean().sort_values(ascending=False, kind="stable")
    names = {m: model_name(m) for m in mean.index}
    out.reading.append(ranking_sentence(mean))
    shown = rows[rows["metric"].isin(_SHOWN)]
    out.blocks.append(
        intervals(shown, "model", names, "All methods on the same pairs, split and scoring code, best first; full gallery, all subjects pooled.")
    )
    ordered = rows[rows["model"].isin(names)]
    ordered = ordered.assign(order=ordered["model"].map({m: i for i, m in enumerate(names)})).sort_values("order", kind="stable")
    leading = {"model": [names[m] for m in ordered["model"]]}
    out.blocks.append(metric_table(ordered.reset_index(drop=True), leading, "Every method, full gallery, all subjects"))
    _add_differences(out, results)
    return out


def ranking_sentence(mean: pd.Series) -> str:
    """Where the fused model stands among the methods (top-1 averaged over directions, best first)."""
    if MODEL not in mean:
        return f"Best of the baselines is {model_name(mean.index[0])} ({percent(mean.iloc[0])} top-1, both directions averaged)."
    own = mean[MODEL]
    others = mean[[m for m in mean.index if m not in MODEL_NAMES]]
    best = others.idxmax()
    numbers = f"({percent(own)} against {percent(others[best])} top-1, both directions averaged)"
    better = [m for m in others.index if others[m] > own]
    if better:
        return (
            f"The fused model does not beat every baseline: {listed(model_name(m) for m in better)} "
            f"{'does' if len(better) == 1 else 'do'} better {numbers}."
        )
    if others[best] == own:
        return f"The fused model and {model_name(best)} do equally well {numbers}."
    return f"The fused model stands above the best baseline, {model_name(best)} {numbers}."


def _add_differences(out: Section, results: Results) -> None:
    comparisons = results.table("evaluation/comparisons.tsv")
    if comparisons is None:
        out.absent.append("There are no paired differences (evaluation/comparisons.tsv).")
        return
    comparisons = over_seeds(comparisons)
    rows = headline_rows(_oriented(comparisons), metric=PRIMARY, subject="all")
    if len(rows):
        names = list(dict.fromkeys(rows["model_b"]))
        out.reading.append(difference_sentence(rows))
        out.blocks.append(
            differences(
                rows,
                names,
                "Top-1 of the fused model minus that of each other method, on the same queries; right of zero the fused model "
                "is better. Filled dots: the interval leaves out zero.",
            )
        )
    lines = []
    for r in comparisons.to_dict("records"):
        scale, unit = (100, " points") if str(r["metric"]).startswith("top") else (1, "")
        values = [f"{scale * r[c]:+.3g}{unit}" if pd.notna(r[c]) else "–" for c in ("difference", "ci_low", "ci_high")]
        gallery = "full" if r.get("gallery") == "full" else f"{r.get('gallery_size', float('nan')):.0f}-way"
        lines.append(
            [
                *(model_name(r["model_a"]), model_name(r["model_b"]), subject_name(r["subject"])),
                *(DIRECTIONS.get(r["direction"], r["direction"]), gallery, metric_name(r["metric"])),
                *(values[0], f"{values[1]} to {values[2]}", p_value(r.get("p_value"))),
            ]
        )
    columns = ["model", "minus", "subject", "direction", "gallery", "metric", "difference", "interval", "p"]
    out.blocks.append(table("Paired differences", columns, lines, text=6))


def _oriented(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Comparisons with the fused model as ``model_a``; those without it are left out."""
    own = comparisons[comparisons["model_a"] == MODEL]
    turned = comparisons[comparisons["model_b"] == MODEL]
    turned = turned.assign(
        model_a=turned["model_b"],
        model_b=turned["model_a"],
        difference=-turned["difference"],
        ci_low=-turned["ci_high"],
        ci_high=-turned["ci_low"],
    )
    return pd.concat([own, turned], ignore_index=True)


def difference_sentence(rows: pd.DataFrame) -> str:
    """How many paired differences exclude zero, and on which side."""
    parts = []
    for direction, name in DIRECTIONS.items():
        part = rows[rows["direction"] == direction]
        if part.empty:
            continue
        better, worse = (part["ci_low"] > 0).sum(), (part["ci_high"] < 0).sum()
        undecided = len(part) - better - worse
        parts.append(f"{name}: better than {better}, worse than {worse}, undecided against {undecided}")
    return f"Paired on the same queries (intervals that leave out zero): {'; '.join(parts)}."


def ceilings(results: Results) -> Section:
    """What the brain itself allows: repeat to repeat, and one subject against the group."""
    out = Section("ceilings", "Ceilings")
    rows = _named(results.table("evaluation/ceilings.tsv"), "ceiling")
    if rows is None:
        out.absent.append("There are no ceilings (evaluation/ceilings.tsv): these data may hold no repeats and no shared clips.")
        return out
    rows = over_seeds(rows)
    lines, parts = [], []
    for r in rows.to_dict("records"):
        name = str(r["ceiling"]).replace("_", " ")
        share = str(r["metric"]).startswith("top")
        show = percent if share else (lambda v: "–" if v is None or pd.isna(v) else f"{v:.3g}")
        lines.append(
            [
                *(name, subject_name(r["subject"]), metric_name(r["metric"])),
                *(show(r["value"]), f"{show(r.get('ci_low'))} to {show(r.get('ci_high'))}", show(r.get("chance"))),
                *(f"{r[c]:,.0f}" if pd.notna(r.get(c)) else "–" for c in ("n_queries", "gallery_size")),
            ]
        )
        if r["subject"] == "all" and r["metric"] == PRIMARY:
            parts.append(f"{name} {percent(r['value'])} (chance {percent(r.get('chance'))})")
    kinds = plural(rows["ceiling"].nunique(), "ceiling")
    out.reading.append(
        f"Identifying clips from the brain itself, top-1: {listed(dict.fromkeys(parts))}." if parts else f"{kinds} measured from the brain itself."
    )
    columns = ["ceiling", "subject", "metric", "value", "interval", "chance", "queries", "candidates"]
    out.blocks.append(table("What the brain itself allows", columns, lines, text=3, opened=True))
    return out


def _named(rows: pd.DataFrame | None, column: str) -> pd.DataFrame | None:
    """The table with its naming column called `column` (the evaluator may call it ``model``)."""
    if rows is None or column in rows:
        return rows
    return rows.rename(columns={"model": column}) if "model" in rows else None
