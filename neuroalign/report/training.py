"""Training curves of both stages: every loss term on its own, training against validation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from neuroalign.report.results import Results
from neuroalign.report.style import (
    BLUE,
    MUTED,
    ORANGE,
    Picture,
    Section,
    drawing,
    listed,
    number,
    picture,
    table,
)

_STAGES = {"ntcl": "Stage 1 (NTCL)", "vq": "Stage 2 (vector quantisation)"}
_COLOURS = {"train": BLUE, "validation": ORANGE}
# Terms that are better when higher; the others are losses.
_SCORES = ("score", "quality", "mrr", "top", "accuracy", "perplexity", "share")


def section(results: Results) -> Section:
    """A panel per term and stage; how long each stage learned and where validation was best."""
    out = Section("training", "Training")
    for stage, name in _STAGES.items():
        history = results.branch_tables(f"{stage}/history.tsv")
        if history is None:
            out.absent.append(f"{name}: there is no history (models/<branch>/{stage}/history.tsv).")
            continue
        out.reading.append(stage_sentence(name, history))
        out.blocks.append(_curves(results, stage, history))
        out.blocks.append(_last(name, history))
    return out


def is_score(term: str) -> bool:
    """Whether a term is better when higher."""
    return any(part in term.lower() for part in _SCORES)


def criterion(history: pd.DataFrame) -> list[str]:
    """The validation terms (averaged if several) by which a stage chooses its epoch: quality, else MRR, else any score, else the total."""
    terms = list(dict.fromkeys(history[history["split"] == "validation"]["term"]))
    ranked = [
        [t for t in terms if t == "quality"],
        [t for t in terms if t in ("continuous_quality", "quantised_quality")],
        [t for t in terms if t == "mrr"],
        [t for t in terms if t.endswith("mrr")],
        [t for t in terms if is_score(t)][:1],
        [t for t in terms if t in ("total", "loss")][:1],
        terms[:1],
    ]
    return next((found for found in ranked if found), [])


def stage_sentence(name: str, history: pd.DataFrame) -> str:
    """How long a stage trained and when validation was best; says so when it was best at once or at the end."""
    terms = criterion(history)
    last = int(history["epoch"].max())
    if not terms:
        return f"{name} trained for {last} epochs; nothing was measured on validation."
    measured = history[(history["split"] == "validation") & history["term"].isin(terms)]
    curve = measured.groupby("epoch")["value"].mean().dropna()
    what = listed(map(_plain, terms))
    if curve.empty:
        return f"{name} trained for {last} epochs; its validation {what} is not a number anywhere."
    best = curve.idxmax() if is_score(terms[0]) else curve.idxmin()
    text = (
        f"{name}: validation {what}{' (averaged)' if len(terms) > 1 else ''} went from {number(curve.iloc[0], 3)} to "
        f"{number(curve.loc[best], 3)} at epoch {int(best)} (last epoch {last})"
    )
    if best == curve.index[0]:
        return f"{text}: validation never improved on its {'start' if best == 0 else 'first epoch'}."
    if best == curve.index[-1]:
        return f"{text}: it was still improving when training stopped."
    return f"{text}."


def _plain(term: str) -> str:
    return " ".join(
        {"mrr": "MRR", "top1": "top-1", "top5": "top-5"}.get(word, word) for word in term.split("_")
    )


def _curves(results: Results, stage: str, history: pd.DataFrame) -> Picture:
    first = criterion(history)
    best = _best_epochs(results, stage)
    terms = sorted(
        dict.fromkeys(history["term"]),
        key=lambda t: (t not in first, t not in ("total", "loss"), is_score(t)),
    )
    columns = min(4, len(terms))
    rows = math.ceil(len(terms) / columns)
    branches = list(dict.fromkeys(history["branch"]))
    name = _STAGES[stage]
    with drawing(9.2, 0.7 + 1.65 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, term in zip(axes.flat, terms, strict=False):
            for split, colour in _COLOURS.items():
                part = history[(history["term"] == term) & (history["split"] == split)]
                for _, curve in part.groupby("branch"):
                    mark = "o" if len(curve) == 1 else None
                    ax.plot(
                        curve["epoch"], curve["value"], color=colour, lw=0.8, alpha=0.4, marker=mark, ms=3
                    )
                mean = part.groupby("epoch")["value"].mean()
                ax.plot(mean.index, mean.to_numpy(), color=colour, lw=1.8)
            for epoch in best:
                ax.axvline(epoch, color=MUTED, lw=0.9, ls=":", zorder=0)
            ax.set_title(_plain(term), fontsize=9)
            ax.tick_params(labelsize=7.5)
        for ax in list(axes.flat)[len(terms) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel("epoch", fontsize=8, color=MUTED)
        handles = [Line2D([], [], color=colour, lw=1.8, label=split) for split, colour in _COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        many = (
            f" Thin lines are the {len(branches)} branches, thick ones their mean."
            if len(branches) > 1
            else ""
        )
        return picture(
            figure,
            f"{name}: curves over epochs of {listed(map(_plain, terms), 12)}, training and validation.",
            f"{name}, term by term.{many}" + (" The dotted line is the epoch that was kept." if best else ""),
        )


def _best_epochs(results: Results, stage: str) -> list[int]:
    """The epochs whose weights were kept, from the descriptions of the models."""
    found = [results.description(branch, stage).get("best_epoch") for branch in results.branches]
    return sorted({int(epoch) for epoch in found if epoch is not None})


def _last(name: str, history: pd.DataFrame):
    rows = []
    for (split, term), part in history.groupby(["split", "term"], sort=False):
        curve = part.groupby("epoch")["value"].mean()
        best = np.nanmax(curve) if is_score(term) else np.nanmin(curve)
        rows.append([_plain(term), split, *(number(v, 4) for v in (curve.iloc[0], best, curve.iloc[-1]))])
    return table(
        f"{name}: first, best and last value of every term",
        ["term", "split", "first", "best", "last"],
        rows,
        text=2,
    )
