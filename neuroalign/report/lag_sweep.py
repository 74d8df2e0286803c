"""The lag that was swept on validation clips: its curve, what was chosen, and the true delay where data are simulated."""

from __future__ import annotations

import pandas as pd

from neuroalign.report.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    Picture,
    Section,
    drawing,
    listed,
    number,
    picture,
    plural,
    table,
)

_ALL = "all levels"


def add_sweep(out: Section, curves: pd.DataFrame, truth: pd.DataFrame | None) -> None:
    """Add the sweep to a section.

    Parameters
    ----------
    out : Section
    curves : DataFrame
        ``pairs/lag_sweep.tsv``: `fold, level, lag_s, r, own, chosen`.
    truth : DataFrame, optional
        True delays of the group, columns `level` and `delay_s`.
    """
    curves = curves.assign(**{name: curves[name].astype(str) == "True" for name in ("own", "chosen")})
    true = {} if truth is None else dict(zip(truth["level"], truth["delay_s"], strict=True))
    chosen = curves[curves["chosen"]]
    levels = [level for level in dict.fromkeys(curves["level"]) if level != _ALL]
    out.reading.append(
        "The lag was swept on validation clips; test clips were not read. Levels are read at "
        + listed(f"{_range(chosen[chosen['level'] == level]['lag_s'])} s ({level})" for level in levels)
        + "."
    )
    flat = [level for level in levels if not chosen.loc[chosen["level"] == level, "own"].all()]
    if flat:
        out.reading.append(
            f"The film does not predict {listed(flat)} clearly enough to say when (in some fold): read at the lag of all "
            "levels together there."
        )
    judged = chosen[chosen["own"] & chosen["level"].isin(list(true))]
    if len(judged):
        error = (judged["lag_s"] - judged["level"].map(true)).abs()
        out.reading.append(
            f"Against the true time to peak the chosen lags are off by {number(error.mean())} s on average "
            f"({number(error.max())} s at most), where the level's own curve decided."
        )
    out.blocks.append(_figure(curves, levels, true))
    rows = [
        [
            str(row["fold"]),
            row["level"],
            number(row["lag_s"]),
            number(row["r"]),
            "its own" if row["own"] else "that of all levels",
            number(true.get(row["level"], float("nan"))),
        ]
        for row in chosen.to_dict("records")
    ]
    columns = ["fold", "level", "lag (s)", "correlation", "curve that decided", "true (s)"]
    folds = plural(chosen["fold"].nunique(), "fold")
    out.blocks.append(
        table(
            f"Lag per level ({folds}): correlation of predicted and measured responses to validation clips",
            columns,
            rows,
            text=2,
        )
    )


def _range(lags: pd.Series) -> str:
    low, high = lags.min(), lags.max()
    return number(low) if low == high else f"{number(low)}–{number(high)}"


def _figure(curves: pd.DataFrame, levels: list[str], true: dict[str, float]) -> Picture:
    shown = [*levels, _ALL]
    told = []
    with drawing(9.2, 2.9) as figure:
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for ax, level in zip(axes, shown, strict=True):
            part = curves[curves["level"] == level]
            for _, curve in part.groupby("fold"):
                ax.plot(curve["lag_s"], curve["r"], color=BLUE, lw=1.4, alpha=0.8)
                point = curve[curve["chosen"]]
                ax.plot(point["lag_s"], point["r"], "o", color=BLUE, ms=5)
            if level in true:
                ax.axvline(true[level], color=VERMILLION, lw=1.4, ls=(0, (2, 1.2)))
            ax.set_title(level, fontsize=9)
            ax.set_xlabel("lag (s)", color=INK, fontsize=8)
            told.append(f"{level} {_range(part.loc[part['chosen'], 'lag_s'])} s")
        axes[0].set_ylabel("correlation", color=MUTED, fontsize=8)
        figure.get_layout_engine().set(w_pad=0.06)
        known = " The dashed line is the true time to peak." if true else ""
        several = " One curve per fold." if curves["fold"].nunique() > 1 else ""
        return picture(
            figure,
            f"Correlation of predicted and measured validation responses against the lag; chosen: {'; '.join(told)}.",
            f"How well the film predicts the brain of validation clips at each lag. Dots are the lags chosen: the top of a "
            f"parabola through the points around the highest.{several}{known}",
        )
