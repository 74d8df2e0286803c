"""The haemodynamic delays that stage 1 learned, or the lags that were swept, beside the true ones where data are simulated."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from neuroalign.report.lag_sweep import add_sweep
from neuroalign.report.results import Results
from neuroalign.report.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    Picture,
    Section,
    drawing,
    number,
    picture,
    plural,
    subject_name,
    table,
)


def section(results: Results) -> Section:
    """Delays per level and subject; their order and error against the truth."""
    out = Section("delays", "Haemodynamic delays")
    method = results.setting("hrf.method", "adaptive")
    learned = results.branch_tables("ntcl/delays.tsv")
    swept = results.table("pairs/lag_sweep.tsv")
    if method == "shift" and results.setting("hrf.shift_s") == "sweep" and swept is not None:
        truth = true_delays(results)
        add_sweep(out, swept, None if truth is None else truth[truth["subject"] == "all"])
        return out
    if method != "adaptive":
        out.absent.append(
            f"No delay is learned: hrf.method is '{method}', so brain and video already share a clock."
        )
        return out
    if learned is None:
        out.absent.append("There is no table of learned delays (models/<branch>/ntcl/delays.tsv).")
        return out
    learned = learned.groupby(["subject", "level"], sort=False)["delay_s"].agg(["mean", "std"]).reset_index()
    levels = _level_order(results, learned)
    truth = true_delays(results)
    out.reading.append(order_sentence(learned, truth, levels))
    if truth is None:
        out.absent.append("The true delays are not known: these data are not simulated.")
    else:
        out.reading.append(_error_sentence(learned, truth))
    out.blocks.append(_figure(learned, truth, levels))
    rows = []
    for row in learned.to_dict("records"):
        true = _of(truth, row["subject"], row["level"])
        error = row["mean"] - true
        rows.append(
            [
                subject_name(row["subject"]),
                row["level"],
                *(number(v) for v in (row["mean"], row["std"], true, error)),
            ]
        )
    columns = ["subject", "level", "learned (s)", "SD over branches", "true (s)", "error (s)"]
    out.blocks.append(
        table(
            f"Delays in seconds (mean over {plural(len(results.branches), 'trained branch', 'trained branches')})",
            columns,
            rows,
            text=2,
        )
    )
    return out


def true_delays(results: Results) -> pd.DataFrame | None:
    """True delays: columns subject, level, delay_s; the mean over subjects is added as ``all`` if absent."""
    truth = results.truth("delays.tsv")
    if truth is None or not {"level", "delay_s"} <= set(truth.columns):
        return None
    if "subject" not in truth:
        truth = truth.assign(subject="all")
    truth = truth[["subject", "level", "delay_s"]].assign(subject=truth["subject"].str.removeprefix("sub-"))
    if not (truth["subject"] == "all").any():
        group = truth.groupby("level", sort=False)["delay_s"].mean().reset_index().assign(subject="all")
        truth = pd.concat([truth, group], ignore_index=True)
    return truth


def order_sentence(learned: pd.DataFrame, truth: pd.DataFrame | None, levels: list[str]) -> str:
    """Whether the group delays stand in the right order (columns subject, level, mean)."""
    values = [_of(learned, "all", level, "mean") for level in levels]
    told = ", ".join(f"{level} {number(v)} s" for level, v in zip(levels, values, strict=True))
    if truth is not None:
        true = [_of(truth, "all", level) for level in levels]
        right = np.array_equal(np.argsort(values), np.argsort(true))
        return f"Learned delays of the group: {told}. " + (
            "They stand in the true order of the levels."
            if right
            else "They do not stand in the true order of the levels."
        )
    rising = all(a < b for a, b in itertools.pairwise(values))
    return f"Learned delays of the group: {told}. " + (
        "They rise along the hierarchy." if rising else "They do not rise along the hierarchy."
    )


def _error_sentence(learned: pd.DataFrame, truth: pd.DataFrame) -> str:
    both = learned.merge(truth, on=["subject", "level"])
    people = both[both["subject"] != "all"]
    group = both[both["subject"] == "all"]
    text = f"Mean absolute error of the group delays is {number((group['mean'] - group['delay_s']).abs().mean())} s"
    if len(people):
        text += f", of the subjects' {number((people['mean'] - people['delay_s']).abs().mean())} s"
    return text + "."


def _level_order(results: Results, learned: pd.DataFrame) -> list[str]:
    present = list(dict.fromkeys(learned["level"]))
    named = [level for level in results.setting("fmri.levels", {}) if level in present]
    return [*named, *(level for level in present if level not in named)]


def _of(frame: pd.DataFrame | None, subject: str, level: str, column: str = "delay_s") -> float:
    if frame is None:
        return float("nan")
    found = frame[(frame["subject"] == subject) & (frame["level"] == level)][column]
    return float(found.mean()) if len(found) else float("nan")


def _figure(learned: pd.DataFrame, truth: pd.DataFrame | None, levels: list[str]) -> Picture:
    people = [s for s in dict.fromkeys(learned["subject"]) if s != "all"]
    spread = np.linspace(-0.22, 0.22, len(people)) if len(people) > 1 else np.zeros(len(people))
    told = []
    with drawing(7.6, 1.3 + 0.62 * len(levels)) as figure:
        ax = figure.subplots()
        for y, level in enumerate(levels):
            for dy, subject in zip(spread, people, strict=True):
                mine, true = _of(learned, subject, level, "mean"), _of(truth, subject, level)
                ax.plot([mine, true], [y + dy, y + dy], color=MUTED, lw=0.8, zorder=1)
                ax.plot(mine, y + dy, "o", color=BLUE, ms=4, alpha=0.75, zorder=2)
                ax.plot(true, y + dy, "D", color=VERMILLION, ms=3.6, mfc="white", zorder=2)
            group, true = _of(learned, "all", level, "mean"), _of(truth, "all", level)
            ax.plot([group, group], [y - 0.36, y + 0.36], color=BLUE, lw=3, solid_capstyle="round")
            ax.plot([true, true], [y - 0.36, y + 0.36], color=VERMILLION, lw=2, ls=(0, (2, 1.2)))
            told.append(
                f"{level} learned {number(group)} s"
                + (f", true {number(true)} s" if truth is not None else "")
            )
        ax.plot([], [], color=BLUE, lw=3, label="learned, group")
        if people:
            ax.plot([], [], "o", color=BLUE, ms=4, label="learned, a subject")
        if truth is not None:
            ax.plot([], [], color=VERMILLION, lw=2, ls=(0, (2, 1.2)), label="true, group")
            if people:
                ax.plot([], [], "D", color=VERMILLION, mfc="white", ms=4, label="true, a subject")
        ax.set_yticks(range(len(levels)), levels)
        ax.set_ylim(len(levels) - 0.45, -0.55)
        ax.set_xlabel("delay of the response (s)", color=INK)
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=4)
        return picture(
            figure,
            f"Delay per level: {'; '.join(told)}.",
            "Delay at which each level of the brain is read. Thin lines join a subject's learned and true delay."
            if truth is not None
            else "Delay at which each level of the brain is read.",
        )
