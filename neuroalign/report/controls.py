"""What the headline is held against: controls, baselines side by side, paired differences, and ceilings."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.plots import differences, intervals, metric_table
from neuroalign.report.results import Results, headline_rows, pick
from neuroalign.report.retrieval import MODEL, PRIMARY, gallery_name
from neuroalign.report.style import (
    DIRECTIONS,
    MODEL_NAMES,
    Section,
    listed,
    metric_name,
    model_name,
    p_value,
    percent,
    subject_name,
    table,
)

CONTROL_NAMES = {
    "shifted": "brain series shifted in time",
    "shuffled": "shuffled pairing",
    "time_only": "only the time of the clip",
    "shuffled_training": "trained on shuffled pairs",
    "low_level": "only luminance, contrast and motion",
    "retrained_shuffled": "NeuroAlign trained on shuffled pairs",
    "retrained_shifted": "NeuroAlign trained on brain series shifted in time",
    "retrained_time_only": "NeuroAlign trained on only the time of the clip",
}
CEILING_NAMES = {
    "repeat_to_repeat": "a repeat, by the first showing",
    "subject_to_group": "one person, by the others' mean",
}
_SHOWN = ("top1", "top5")


def section(results: Results) -> Section:
    """Controls that must sit at chance, and those that must not win."""
    out = Section("controls", "Controls")
    controls = results.table("evaluation/controls.tsv")
    if controls is None:
        out.absent.append("There are no controls (evaluation/controls.tsv).")
        return out
    rows = headline_rows(controls, subject="all")
    ours = headline_rows(results.metrics, model=MODEL, subject="all").assign(control=MODEL)
    out.reading.extend(control_sentences(controls))
    everything = pd.concat([ours, rows], ignore_index=True) if len(ours) else rows
    shown = everything[everything["metric"].isin(_SHOWN)]
    names = {c: control_name(c) for c in dict.fromkeys(shown["control"])}
    out.blocks.append(
        intervals(
            shown,
            "control",
            names,
            "Controls beside the fused model, all subjects pooled; black ticks are chance. The intervals of a control hold for "
            "all its subjects and directions together, so they are wide.",
        )
    )
    leading = {
        "control": [control_name(c) for c in controls["control"]],
        "subject": [subject_name(s) for s in controls["subject"]],
        "expected": [e.replace("_", " ") for e in controls["expected"]],
        "held": [{"True": "yes", "False": "no"}.get(p, "–") for p in controls["passed"]],
    }
    out.blocks.append(metric_table(controls, leading, "Every control"))
    return out


def control_name(control: str) -> str:
    """A control's name for people."""
    return CONTROL_NAMES.get(control, model_name(control))


def control_sentences(controls: pd.DataFrame) -> list[str]:
    """Which controls held what the evaluator expects of them, by top-1, and which did not and where.

    Parameters
    ----------
    controls : DataFrame
        Rows of ``controls.tsv``; `passed` is text (``True``, ``False`` or empty where nothing can be said).
    """
    primary = controls[controls["metric"] == PRIMARY]
    failed = primary[primary["passed"] == "False"]
    sentences = []
    for control, part in failed[failed["expected"] == "chance"].groupby("control", sort=False):
        where = listed(
            f"{subject_name(s)} ({DIRECTIONS[d]})"
            for s, d in zip(part["subject"], part["direction"], strict=True)
        )
        sentences.append(
            f"Warning: {control_name(control)} lies above chance in {where}; look for leakage before believing the headline."
        )
    for control, part in failed[failed["expected"] == "below_model"].groupby("control", sort=False):
        where = listed(
            f"{subject_name(s)} ({DIRECTIONS[d]})"
            for s, d in zip(part["subject"], part["direction"], strict=True)
        )
        sentences.append(
            f"Low-level content does as well as the model: {control_name(control)} is not below it in {where}."
        )
    for expected, told in (
        ("chance", "At chance, as they must be"),
        ("below_model", "Below the fused model, as it must be"),
    ):
        held = primary[(primary["expected"] == expected) & (primary["passed"] == "True")]
        names = [c for c in dict.fromkeys(held["control"]) if c not in set(failed["control"])]
        if names:
            sentences.append(f"{told}: {listed(control_name(c) for c in names)}.")
    return sentences or ["The controls are too few to say anything about top-1."]


def baselines(results: Results) -> Section:
    """Every method on the same pairs, split and scoring, and the paired differences."""
    out = Section("baselines", "Baselines")
    rows = headline_rows(results.metrics, subject="all")
    rows = rows if len(rows) else headline_rows(results.metrics)
    rows = rows[~ablations(rows["model"])]
    others = [m for m in dict.fromkeys(rows["model"]) if m not in MODEL_NAMES]
    if not others:
        out.absent.append("No baseline was evaluated.")
        return out
    mean = (
        rows[rows["metric"] == PRIMARY]
        .groupby("model")["value"]
        .mean()
        .sort_values(ascending=False, kind="stable")
    )
    names = {m: model_name(m) for m in mean.index}
    out.reading.append(ranking_sentence(mean, results.table("evaluation/comparisons.tsv")))
    shown = rows[rows["metric"].isin(_SHOWN)]
    out.blocks.append(
        intervals(
            shown,
            "model",
            names,
            "All methods on the same pairs, split and scoring code, best first; full gallery, all subjects pooled.",
        )
    )
    ordered = rows[rows["model"].isin(names)]
    ordered = ordered.assign(order=ordered["model"].map({m: i for i, m in enumerate(names)})).sort_values(
        "order", kind="stable"
    )
    leading = {"model": [names[m] for m in ordered["model"]]}
    out.blocks.append(
        metric_table(ordered.reset_index(drop=True), leading, "Every method, full gallery, all subjects")
    )
    _add_differences(out, results)
    return out


def ablations(models: pd.Series) -> pd.Series:
    """Which rows are of the model without a part: the summary's, not a baseline's."""
    return models.astype(str).str.startswith(f"{MODEL}_without_")


def ranking_sentence(mean: pd.Series, comparisons: pd.DataFrame | None = None) -> str:
    """Where the fused model stands among the methods (top-1 averaged over directions, best first).

    With `comparisons`, it stands above the best baseline only where a paired interval leaves out zero.
    """
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
    paired = headline_rows(pick(comparisons, model_a=MODEL, model_b=best, subject="all", metric=PRIMARY))
    if len(paired) and not (paired["ci_low"] > 0).any():
        return (
            f"The fused model is not clearly better than the best baseline, {model_name(best)} {numbers}: the paired "
            "difference is within its uncertainty."
        )
    return f"The fused model stands above the best baseline, {model_name(best)} {numbers}."


def _add_differences(out: Section, results: Results) -> None:
    comparisons = results.table("evaluation/comparisons.tsv")
    if comparisons is None:
        out.absent.append("There are no paired differences (evaluation/comparisons.tsv).")
        return
    rows = headline_rows(pick(comparisons, model_a=MODEL, metric=PRIMARY, subject="all"))
    rows = rows[~ablations(rows["model_b"])]
    if len(rows):
        names = list(dict.fromkeys(rows["model_b"]))
        out.reading.append(difference_sentence(rows[~rows["model_b"].isin(MODEL_NAMES)]))
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
        values = [
            f"{scale * r[c]:+.3g}{unit}" if pd.notna(r[c]) else "–"
            for c in ("difference", "ci_low", "ci_high")
        ]
        apart = f", {r['exclude_s']:g} s out" if r["exclude_s"] else ""
        lines.append(
            [
                *(model_name(r["model_a"]), model_name(r["model_b"]), subject_name(r["subject"])),
                *(DIRECTIONS[r["direction"]], gallery_name(r) + apart, metric_name(r["metric"])),
                *(values[0], f"{values[1]} to {values[2]}", p_value(r.get("p_value"))),
            ]
        )
    columns = ["model", "minus", "subject", "direction", "gallery", "metric", "difference", "interval", "p"]
    out.blocks.append(table("Paired differences", columns, lines, text=6))


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
    table_rows = results.table("evaluation/ceilings.tsv")
    if table_rows is None:
        out.absent.append(
            "There are no ceilings (evaluation/ceilings.tsv): they need clips shown twice to a person, or clips seen by several "
            "people in the same regions."
        )
        return out
    rows = headline_rows(table_rows)
    pool = rows[rows["subject"] == "all"]
    out.reading.append(ceiling_sentence(pool))
    ours = headline_rows(results.metrics, model=MODEL, subject="all").assign(ceiling=MODEL)
    everything = pd.concat([pool, ours], ignore_index=True) if len(ours) else pool
    shown = everything[everything["metric"].isin(_SHOWN)]
    names = {c: CEILING_NAMES.get(c, model_name(c)) for c in dict.fromkeys(shown["ceiling"])}
    if names:
        out.blocks.append(
            intervals(
                shown,
                "ceiling",
                names,
                "Clips identified from the brain itself, without any model of the video, beside the fused model. Galleries may "
                "differ in size; black ticks are the chance of each.",
            )
        )
    leading = {
        "ceiling": [CEILING_NAMES.get(c, model_name(c)) for c in rows["ceiling"]],
        "subject": [subject_name(s) for s in rows["subject"]],
    }
    out.blocks.append(metric_table(rows, leading, "Every ceiling, full gallery"))
    return out


def ceiling_sentence(pool: pd.DataFrame) -> str:
    """What the brain itself allows in top-1, averaged over directions."""
    primary = pool[pool["metric"] == PRIMARY].groupby("ceiling", sort=False)[["value", "chance"]].mean()
    parts = [
        f"{CEILING_NAMES.get(c, c)}: {percent(r['value'])} (chance {percent(r['chance'])})"
        for c, r in primary.iterrows()
    ]
    if not parts:
        return "The brain's own ceilings were not scored with top-1."
    return (
        f"From the brain itself a clip is identified (top-1, both directions averaged) as {'; '.join(parts)}."
    )
