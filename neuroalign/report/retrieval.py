"""Retrieval: the headline and its verdict, both directions in every gallery, and quantised against continuous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuroalign.report.plots import intervals, metric_table
from neuroalign.report.results import Results, above_chance, headline_rows, pick
from neuroalign.report.style import (
    DIRECTIONS,
    MODEL_NAMES,
    Section,
    Tile,
    Tiles,
    amount,
    interval,
    listed,
    model_name,
    percent,
    plural,
    subject_name,
)

MODEL = "neuroalign"
# Chosen beforehand, so that no report picks the metric that looks best.
PRIMARY = "top1"
_SHARES = ("top1", "top5", "top10")


# Percentile intervals over fewer blocks than this cover too little.
_FEW_BLOCKS = 10


def headline(results: Results) -> Section:
    """The verdict in plain words, the numbers that carry it, and every subject with chance and interval."""
    section = Section("headline", "In short")
    rows = headline_rows(results.metrics, model=MODEL)
    if rows.empty:
        section.absent.append("There are no retrieval results (evaluation/metrics.tsv) for NeuroAlign.")
        return section
    section.reading.append(verdict(rows))
    section.reading.append(_scope(rows))
    section.reading += few_blocks(results)
    section.blocks.append(Tiles(_tiles(rows)))
    people = _people(rows)
    shown = rows[rows["metric"].isin(["top1", "top5"])]
    level = 100 * float(results.setting("evaluate.confidence", 0.95))
    section.blocks.append(
        intervals(
            shown,
            "subject",
            people,
            f"Retrieval from the full test gallery by the fused model, per person. Lines are {level:.0f} % intervals "
            "(block bootstrap over time); the black tick is chance.",
        )
    )
    ordered = shown[shown["subject"].isin(people)]
    ordered = ordered.assign(order=ordered["subject"].map({s: i for i, s in enumerate(people)}))
    ordered = ordered.sort_values(["order", "direction", "metric"], kind="stable")
    section.blocks.append(
        metric_table(
            ordered,
            {"subject": [subject_name(s) for s in ordered["subject"]]},
            "Fused model, full gallery, per subject",
        )
    )
    return section


def verdict(rows: pd.DataFrame) -> str:
    """Whether the fused model beats chance, for whom and in which direction, from the full-gallery rows."""
    primary = rows[rows["metric"] == PRIMARY]
    people = primary[primary["subject"] != "all"]
    if people.empty:
        people = primary
    if people.empty:
        return "The evaluation holds no top-1 result, so no verdict can be given."
    wins = {
        d: [r["subject"] for r in people[people["direction"] == d].to_dict("records") if above_chance(r)]
        for d in DIRECTIONS
    }
    total = people["subject"].nunique()
    counts = {d: len(set(s)) for d, s in wins.items()}
    if all(c == total for c in counts.values()):
        who = "in the pool of subjects" if "all" in set(people["subject"]) else _everyone(total)
        return f"Above chance: the fused model beats chance (top-1) in both directions {who}."
    if not any(counts.values()):
        text = "At chance: the fused model does not beat chance (top-1) in any subject in either direction"
        pooled = primary[(primary["subject"] == "all")]
        names = [DIRECTIONS[r["direction"]] for r in pooled.to_dict("records") if above_chance(r)]
        return (
            f"{text}; pooled over subjects it does for {listed(names)}."
            if names
            else f"{text}, nor when pooled."
        )
    told = [
        f"{name} beats chance (top-1) in {counts[d]} of {total} subjects" for d, name in DIRECTIONS.items()
    ]
    names = [
        DIRECTIONS[r["direction"]]
        for r in primary[primary["subject"] == "all"].to_dict("records")
        if above_chance(r)
    ]
    pooled = f"; pooled over subjects, {listed(names)} {'does' if len(names) == 1 else 'do'}" if names else ""
    if 2 * min(counts.values()) < total:
        return f"Mostly at chance: {', '.join(told)}{pooled}."
    losers = sorted(set(people["subject"]) - (set(wins["fmri_to_video"]) & set(wins["video_to_fmri"])))
    return f"Mixed: {', '.join(told)}; not in both directions for {listed(subject_name(s) for s in losers)}{pooled}."


def few_blocks(results: Results) -> list[str]:
    """A caution where the bootstrap resamples too few blocks for its percentiles to be trusted."""
    clips = results.table("pairs/clips.tsv")
    block_s = results.setting("evaluate.block_s")
    if clips is None or not block_s:
        return []
    test = clips[clips["split"] == "test"]
    blocks = len(set(zip(test["stimulus"], (test["start_s"] // float(block_s)).astype(int), strict=True)))
    if not 0 < blocks < _FEW_BLOCKS:
        return []
    return [
        f"Careful: the test set holds only {blocks} blocks of {float(block_s):g} s, so that intervals may be too narrow."
    ]


def _scope(rows: pd.DataFrame) -> str:
    primary = rows[rows["metric"] == PRIMARY]
    pool = primary[primary["subject"] == "all"] if (primary["subject"] == "all").any() else primary
    told = [
        f"{DIRECTIONS[r['direction']]} {plural(int(r['n_queries']), 'query', 'queries')} against {r['gallery_size']:.0f} candidates"
        for r in pool.drop_duplicates("direction").to_dict("records")
    ]
    return f"{'; '.join(told)}. The test clips were used neither for training nor for choosing the model."


def _everyone(total: int) -> str:
    return (
        "in the one subject"
        if total == 1
        else "in both subjects"
        if total == 2
        else f"in all {total} subjects"
    )


def _people(rows: pd.DataFrame) -> dict[str, str]:
    subjects = sorted(set(rows["subject"]) - {"all"})
    pooled = ["all"] if (rows["subject"] == "all").any() else []
    return {s: subject_name(s) for s in [*subjects, *pooled]}


def _tiles(rows: pd.DataFrame) -> list[Tile]:
    pool = rows[rows["subject"] == "all"] if (rows["subject"] == "all").any() else rows
    tiles = []
    for metric in ("top1", "top5"):
        for direction, name in DIRECTIONS.items():
            found = pool[(pool["metric"] == metric) & (pool["direction"] == direction)]
            if found.empty:
                continue
            row = found.iloc[0].to_dict()
            tiles.append(
                Tile(
                    f"{name}, {metric.replace('top', 'top-')}",
                    percent(row["value"]),
                    f"chance {percent(row['chance'])} · {interval(metric, row['ci_low'], row['ci_high'])}",
                    above_chance(row),
                )
            )
    return tiles


def section(results: Results) -> Section:
    """Both directions, every gallery and exclusion, per subject; continuous, quantised and fused apart."""
    out = Section("retrieval", "Retrieval")
    metrics = results.metrics
    ours = pick(metrics, model=list(MODEL_NAMES), subject="all")
    if ours.empty:
        ours = pick(metrics, model=list(MODEL_NAMES))
        if ours.empty:
            out.absent.append("There are no retrieval results of NeuroAlign's own scores.")
            return out
    full = headline_rows(ours)
    parts = {m: model_name(m) for m in MODEL_NAMES if (full["model"] == m).any()}
    comparisons = results.table("evaluation/comparisons.tsv")
    out.reading.append(quantisation_sentence(full, comparisons))
    if (full["model"] == f"{MODEL}_video_only").any():
        out.reading.append(text_sentence(full, comparisons))
    weights = [results.description(branch, "vq").get("score") for branch in results.branches]
    if any(weights):
        out.reading.append(weights_sentence([w for w in weights if w]))
    out.blocks.append(
        intervals(
            full[full["metric"].isin(_SHARES)],
            "model",
            parts,
            "The fused score and its parts, all subjects pooled, full gallery. Black ticks are chance.",
        )
    )
    variants = _variants(pick(ours, model=MODEL))
    shares = variants[variants["metric"].isin(["top1", "top5"])]
    if shares["variant"].nunique() > 1:
        out.reading.append(_exclusion_sentence(pick(ours, model=MODEL)))
        out.blocks.append(
            intervals(
                shares,
                "variant",
                {v: v for v in dict.fromkeys(shares["variant"])},
                "The fused score in every gallery: all test clips, and N candidates drawn at random many times; with and "
                "without the neighbours in time of the true clip.",
            )
        )
    everything = _variants(pick(metrics, model=list(MODEL_NAMES)))
    out.blocks.append(
        metric_table(
            everything,
            {
                "model": [model_name(m) for m in everything["model"]],
                "subject": [subject_name(s) for s in everything["subject"]],
                "gallery": list(everything["variant"]),
            },
            "Every retrieval number of NeuroAlign",
        )
    )
    return out


def _variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Add a readable name of the gallery and of what is excluded."""
    names = []
    for row in rows.to_dict("records"):
        gallery = gallery_name(row)
        apart = float(row.get("exclude_s", 0) or 0)
        names.append(f"{gallery}, neighbours within {apart:g} s out" if apart else gallery)
    return rows.assign(variant=names)


def gallery_name(row: Mapping[str, Any]) -> str:
    """``all test clips``, ``clips of the same stimulus``, or ``50-way`` for drawn galleries."""
    if row["gallery"] == "full":
        return "all test clips"
    if row["gallery"] == "stimulus":
        return "clips of the same stimulus"
    return row["gallery"] if row["gallery"][:1].isdigit() else f"{float(row['gallery_size']):.0f}-way"


def quantisation_sentence(full: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> str:
    """What the quantised part adds, from pooled full-gallery rows; plain when it adds nothing.

    With `comparisons`, a gain counts only where a paired interval leaves out zero.
    """
    value = {m: full[(full["model"] == m) & (full["metric"] == PRIMARY)]["value"].mean() for m in MODEL_NAMES}
    fused, continuous, quantised = (value[m] for m in (MODEL, f"{MODEL}_continuous", f"{MODEL}_quantised"))
    if pd.isna(continuous) or pd.isna(quantised):
        return f"Averaged over directions, the fused score reaches {percent(fused)} top-1."
    numbers = (
        f"Averaged over directions, top-1 is {percent(continuous)} for the continuous part alone, {percent(quantised)} for "
        f"the quantised part alone and {percent(fused)} fused"
    )
    if fused > max(continuous, quantised):
        paired = headline_rows(
            pick(comparisons, model_a=MODEL, model_b="neuroalign_continuous", subject="all", metric=PRIMARY)
        )
        if len(paired) and not (paired["ci_low"] > 0).any():
            return (
                f"{numbers}: the gain over the continuous part is within its uncertainty, so it is not shown that "
                "quantisation helps on these data."
            )
        return f"{numbers}: quantisation helps on these data when the two are fused."
    if quantised > continuous:
        return f"{numbers}: the quantised part alone is the better one here, and fusing adds nothing to it."
    if fused == continuous:
        return f"{numbers}: quantisation does not help on these data; the fused score gains nothing from it."
    return f"{numbers}: quantisation does not help on these data; the continuous part alone does better."


def text_sentence(full: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> str:
    """What captions add to the score of the same model, from pooled full-gallery rows; plain when they add nothing."""
    primary = full[full["metric"] == PRIMARY].groupby("model")["value"].mean()
    with_text, without, alone = (primary[m] for m in (MODEL, f"{MODEL}_video_only", f"{MODEL}_text"))
    numbers = (
        f"Averaged over directions, top-1 is {percent(with_text)} with the clips' captions and {percent(without)} without "
        f"them; captions alone reach {percent(alone)}"
    )
    if with_text == without:
        return f"{numbers}: captions do not change the ranking on these data."
    paired = headline_rows(
        pick(comparisons, model_a=MODEL, model_b=f"{MODEL}_video_only", subject="all", metric=PRIMARY)
    )
    if len(paired) and (paired["ci_low"] > 0).any():
        return f"{numbers}: captions help on these data."
    if len(paired) and (paired["ci_high"] < 0).any():
        return f"{numbers}: captions do harm on these data."
    return f"{numbers}: the difference is within its uncertainty, so it is not shown that captions help on these data."


def weights_sentence(weights: list[Mapping[str, float]]) -> str:
    """The weights of the fused score that validation chose; plain when it left the quantised part out."""
    alpha = sum(w["alpha"] for w in weights) / len(weights)
    beta = sum(w["beta"] for w in weights) / len(weights)
    text = (
        f"Weights chosen on validation{' (mean over branches)' if len(weights) > 1 else ''}: {alpha:.2f} pooled, {beta:.2f} "
        f"quantised, {abs(1 - alpha - beta):.2f} late interaction"
    )
    if any("text" in w for w in weights):
        words = sum(w.get("text", 0.0) for w in weights) / len(weights)
        text += (
            f"; captions are added to the video {words:.2f} times" if words else "; captions got no weight"
        )
    return f"{text}; validation gave the quantised part no weight." if beta == 0 else f"{text}."


def _exclusion_sentence(rows: pd.DataFrame) -> str:
    full = pick(rows, gallery="full", metric=PRIMARY)
    by = full.groupby("exclude_s")[["value", "chance"]].mean()
    if len(by) < 2:
        return "Smaller galleries are easier: compare every number with the chance of its own gallery."
    first, last = by.iloc[0], by.iloc[-1]
    return (
        f"With neighbours within {by.index[-1]:g} s of the true clip left out, top-1 is {amount('top1', last['value'])} "
        f"(chance {percent(last['chance'])}) against {percent(first['value'])} (chance {percent(first['chance'])}) with them in."
    )
