"""Plots that several sections share: shares with intervals and chance, in both directions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from neuroalign.report.style import (
    CYCLE,
    DIRECTIONS,
    INK,
    MUTED,
    Picture,
    drawing,
    interval,
    listed,
    metric_name,
    model_name,
    p_value,
    percent,
    picture,
    table,
)
from neuroalign.report.style import amount as in_unit

_MARKERS = "osD^vP"


def share_axis(ax: Axes, axis: str = "x") -> None:
    """Label an axis of shares in per cent, starting at zero."""
    horizontal = axis == "x"
    one = ax.xaxis if horizontal else ax.yaxis
    one.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    one.set_major_locator(MaxNLocator(5))
    limits = ax.get_xlim() if horizontal else ax.get_ylim()
    (ax.set_xlim if horizontal else ax.set_ylim)(0, min(1.02, max(limits[1], 0.02)))
    ax.grid(visible=False, axis="y" if horizontal else "x")


def intervals(
    rows: pd.DataFrame,
    by: str,
    names: dict[str, str],
    caption: str,
    series: str = "metric",
    labels=metric_name,
) -> Picture:
    """Shares with intervals: a panel per direction, a line per entry of `by`, a mark per entry of `series`.

    Parameters
    ----------
    rows : DataFrame
        Metric rows with shares (``top1`` …).
    by : str
        Column whose values are the lines.
    names : dict of str to str
        Values of `by` in the order drawn, top to bottom, and their names.
    caption : str
    series : str
        Column told apart by colour and marker.
    labels : function of str
        Name of a value of `series`.
    """
    directions = [d for d in DIRECTIONS if (rows["direction"] == d).any()]
    kinds = list(dict.fromkeys(rows[series]))
    height = 1.15 + (0.22 + 0.14 * len(kinds)) * len(names)
    told: list[str] = []
    with drawing(9.2, height) as figure:
        panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        for ax, direction in zip(panels, directions, strict=True):
            for k, kind in enumerate(kinds):
                shift = (k - (len(kinds) - 1) / 2) * min(0.26, 0.75 / max(1, len(kinds)))
                for y, key in enumerate(names):
                    found = rows[
                        (rows[by] == key) & (rows["direction"] == direction) & (rows[series] == kind)
                    ]
                    if found.empty:
                        continue
                    row = found.iloc[0]
                    _mark(ax, row, y + shift, k, labels(kind) if not _named(ax, labels(kind)) else None)
                    told.append(
                        f"{names[key]}, {DIRECTIONS[direction]}, {labels(kind)}: {percent(row['value'])} "
                        f"(chance {percent(row['chance'])})"
                    )
            ax.set_title(DIRECTIONS[direction])
            ax.set_yticks(range(len(names)), list(names.values()))
            ax.set_ylim(len(names) - 0.5, -0.5)
            share_axis(ax)
        panels[0].plot([], [], color=INK, marker="|", markersize=9, ls="none", mew=1.6, label="chance")
        handles, texts = panels[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=min(6, len(texts)))
        return picture(figure, f"Dots with intervals. {listed(told, 12)}.", caption)


def _named(ax: Axes, label: str) -> bool:
    return label in ax.get_legend_handles_labels()[1]


def _mark(ax: Axes, row: pd.Series, y: float, k: int, label: str | None) -> None:
    colour = CYCLE[k % len(CYCLE)]
    if pd.notna(row["ci_low"]) and pd.notna(row["ci_high"]):
        ax.plot(
            [row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=2, alpha=0.55, solid_capstyle="round"
        )
    ax.plot(
        row["value"], y, _MARKERS[k % len(_MARKERS)], color=colour, ms=6, mec="white", mew=0.6, label=label
    )
    if pd.notna(row["chance"]):
        ax.plot(row["chance"], y, "|", color=INK, ms=8, mew=1.6)


def differences(rows: pd.DataFrame, names: list[str], caption: str) -> Picture:
    """Paired differences with intervals around a line at zero, a panel per direction (rows in order)."""
    directions = [d for d in DIRECTIONS if (rows["direction"] == d).any()]
    told = []
    with drawing(9.2, 1.2 + 0.3 * len(names)) as figure:
        panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        for ax, direction in zip(panels, directions, strict=True):
            ax.axvline(0, color=INK, lw=1)
            for y, name in enumerate(names):
                found = rows[(rows["direction"] == direction) & (rows["model_b"] == name)]
                if found.empty:
                    continue
                row = found.iloc[0]
                decided = row["ci_low"] > 0 or row["ci_high"] < 0
                colour = CYCLE[0] if row["difference"] > 0 else CYCLE[1]
                ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=2, alpha=0.55)
                face = colour if decided else "white"
                ax.plot(row["difference"], y, "o", color=colour, ms=6.5, mfc=face)
                told.append(
                    f"{model_name(name)}, {DIRECTIONS[direction]}: {100 * row['difference']:+.1f} points"
                )
            ax.set_title(DIRECTIONS[direction])
            ax.set_yticks(range(len(names)), [model_name(n) for n in names])
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:+.3g}" if v else "0"))
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_xlabel("difference in percentage points", color=MUTED)
            ax.grid(visible=False, axis="y")
        return picture(figure, f"Differences around zero. {listed(told, 12)}.", caption)


def metric_table(rows: pd.DataFrame, leading: dict[str, list[str]], caption: str, *, opened: bool = False):
    """Metric rows as a table in which chance stands beside every number.

    Parameters
    ----------
    rows : DataFrame
    leading : dict of str to list of str
        Leading columns: heading, and a text per row.
    caption : str
    opened : bool
        Whether the table is unfolded at first.
    """
    columns = [*leading, "direction", "metric", "value", "interval", "chance", "p", "queries", "candidates"]
    lines = []
    for i, row in enumerate(rows.to_dict("records")):
        metric = row["metric"]
        lines.append(
            [
                *(texts[i] for texts in leading.values()),
                DIRECTIONS.get(row["direction"], row["direction"]),
                metric_name(metric),
                in_unit(metric, row["value"]),
                interval(metric, row.get("ci_low"), row.get("ci_high")),
                in_unit(metric, row.get("chance")),
                p_value(row.get("p_value")),
                _count(row.get("n_queries")),
                _count(row.get("gallery_size")),
            ]
        )
    return table(caption, columns, lines, text=len(leading) + 2, opened=opened)


def _count(value) -> str:
    return "–" if value is None or pd.isna(value) else f"{float(value):,.0f}"
