"""The codebooks: how much of them is used, by which modality, and whether paired tokens share codes."""

from __future__ import annotations

import pandas as pd

from neuroalign.report import code_cards
from neuroalign.report.plots import share_axis
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
    table,
)
from neuroalign.report.thumbnails import ClipPictures

_MEASURES = {
    "perplexity": "perplexity",
    "used_share": "share of codes used",
    "same_code_share": "pairs taking the same code",
}


def section(results: Results, pictures: ClipPictures) -> Section:
    """Usage over epochs, use by modality, and what the most frequent codes stand for."""
    out = Section("codes", "Codes")
    usage = results.branch_tables("vq/usage.tsv")
    counts = results.branch_tables("vq/codes.tsv")
    if usage is None:
        out.absent.append("There is no record of code usage (models/<branch>/vq/usage.tsv).")
    else:
        size = int(results.setting("train.vq.codes", 0))
        out.reading.append(_usage_sentence(usage, size))
        out.blocks.append(_curves(usage, size))
        out.blocks.append(_table(usage))
    if counts is None:
        out.absent.append("There are no counts of codes by modality (models/<branch>/vq/codes.tsv).")
        return out
    out.reading.append(_modality_sentence(counts))
    out.blocks.append(_by_modality(counts))
    described = code_cards.cards(results, pictures, counts)
    if described:
        out.blocks.append(described)
    return out


def last_epoch(usage: pd.DataFrame) -> pd.DataFrame:
    """Usage at the last epoch, mean over branches, per level and depth."""
    final = usage[usage["epoch"] == usage.groupby("branch")["epoch"].transform("max")]
    measures = [m for m in (*_MEASURES, "same_code_chance") if m in final]
    return final.groupby(["level", "depth"], sort=False)[measures].mean().reset_index()


def _usage_sentence(usage: pd.DataFrame, size: int) -> str:
    final = last_epoch(usage)
    parts = []
    if "perplexity" in final:
        of = f" of {size} codes" if size else ""
        parts.append(
            f"the books' perplexity is {number(final['perplexity'].min(), 1)} to {number(final['perplexity'].max(), 1)}{of}"
        )
    if "used_share" in final:
        parts.append(f"{percent(final['used_share'].mean(), 0)} of the codes are used")
    if "same_code_share" in final:
        first = final[final["depth"] == final["depth"].min()]
        shared = [f"{percent(row['same_code_share'])} ({row['level']})" for _, row in first.iterrows()]
        parts.append(f"{listed(shared)} of paired brain and video tokens take the same first code")
        if "same_code_chance" in final:
            chance = [percent(value) for value in first["same_code_chance"]]
            weak = first[first["same_code_share"] < 2 * first["same_code_chance"]]["level"]
            parts.append(
                f"codes drawn at random would agree in {listed(chance)}"
                + (f", so codes carry little alignment at {listed(weak)}" if len(weak) else "")
            )
    return f"At the last epoch {'; '.join(parts)}."


def _curves(usage: pd.DataFrame, size: int) -> Picture:
    measures = [m for m in _MEASURES if m in usage]
    levels = list(dict.fromkeys(usage["level"]))
    depths = sorted(usage["depth"].unique())
    with drawing(9.2, 2.9) as figure:
        axes = figure.subplots(1, len(measures), squeeze=False)[0]
        for ax, measure in zip(axes, measures, strict=True):
            for k, level in enumerate(levels):
                for j, depth in enumerate(depths):
                    part = usage[(usage["level"] == level) & (usage["depth"] == depth)]
                    mean = part.groupby("epoch")[measure].mean()
                    style = ("-", "--", ":", "-.")[j % 4]
                    ax.plot(
                        mean.index, mean, style, color=CYCLE[k % len(CYCLE)], label=f"{level}, depth {depth}"
                    )
            ax.set_title(_MEASURES[measure])
            ax.set_xlabel("epoch", color=MUTED)
            if "share" in measure:
                share_axis(ax, "y")
            else:
                ax.set_ylim(0, size * 1.05 if size else None)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), fontsize=7.5)
        return picture(
            figure,
            f"Curves over epochs of {', '.join(_MEASURES[m] for m in measures)}, per level and residual depth.",
            "Use of the codebooks while training stage 2. The share of pairs taking the same code says whether the modalities "
            "are aligned, not only whether codes are in use.",
        )


def _table(usage: pd.DataFrame):
    final = last_epoch(usage)
    measures = [m for m in _MEASURES if m in final]
    rows = [
        [
            r["level"],
            str(r["depth"]),
            *(number(r[m], 1) if m == "perplexity" else percent(r[m]) for m in measures),
        ]
        for r in final.to_dict("records")
    ]
    return table("Codes at the last epoch", ["level", "depth", *(_MEASURES[m] for m in measures)], rows)


def _shares(counts: pd.DataFrame) -> pd.DataFrame:
    """Share of each modality's first-depth tokens per code: columns level, code, then the modalities."""
    first = counts[counts["depth"] == counts["depth"].min()]
    wide = first.pivot_table(
        index=["level", "code"], columns="modality", values="count", aggfunc="sum", fill_value=0, sort=False
    )
    return (wide / wide.groupby("level").transform("sum").clip(lower=1)).reset_index()


def _modalities(shares: pd.DataFrame) -> list[str]:
    """The modalities of `_shares`; text comes last."""
    return sorted((c for c in shares.columns if c not in ("level", "code")), key=lambda c: c == "text")


def _modality_sentence(counts: pd.DataFrame) -> str:
    shares = _shares(counts)
    modalities = _modalities(shares)
    if len(modalities) < 2:
        return f"Only {modalities[0] if modalities else 'no modality'} uses the codes."
    overlap = shares.groupby("level")[modalities].apply(lambda part: part.min(axis=1).sum()).mean()
    return (
        f"The modalities' use of the first codebook overlaps by {percent(overlap, 0)} (100 % would be equal use of every code by "
        f"{listed(modalities)})."
    )


def _by_modality(counts: pd.DataFrame) -> Picture:
    shares = _shares(counts)
    modalities = _modalities(shares)
    levels = list(dict.fromkeys(shares["level"]))
    with drawing(9.2, 2.7) as figure:
        axes = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
        for ax, level in zip(axes, levels, strict=True):
            part = shares[shares["level"] == level]
            part = part.loc[part[modalities].sum(axis=1).sort_values(ascending=False, kind="stable").index]
            for k, modality in enumerate(modalities):
                if k > 1:
                    ax.plot(range(len(part)), part[modality], ".", ms=3, color=CYCLE[k], label=modality)
                    continue
                sign = (1, -1)[k]
                ax.bar(
                    range(len(part)),
                    sign * part[modality],
                    width=1.0,
                    color=CYCLE[k],
                    label=modality,
                    alpha=0.85,
                )
            ax.axhline(0, color=MUTED, lw=0.7)
            ax.set_title(level)
            ax.set_xlabel("codes, most used first", color=MUTED)
            ax.grid(visible=False, axis="x")
        axes[0].yaxis.set_major_formatter(lambda v, _: f"{abs(100 * v):.0f} %")
        axes[0].set_ylabel("share of tokens")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        used = {m: int((shares[m] > 0).sum()) for m in modalities}
        told = ", ".join(f"{m} uses {plural(n, 'code')}" for m, n in used.items())
        return picture(
            figure,
            f"Mirrored bars of code use per level: {told}.",
            "Use of every code of the first codebook by each modality: a code shared by both reaches up and down alike."
            + (f" Dots are {listed(modalities[2:])}." if len(modalities) > 2 else ""),
        )
