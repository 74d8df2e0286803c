"""Quality of the BOLD series: framewise displacement, temporal SNR, and carpets of a typical and the worst run."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from neuroalign.errors import UserError
from neuroalign.fmri.qc import PLANES, RunQc, read_qc
from neuroalign.report.results import Results
from neuroalign.report.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    Links,
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

logger = logging.getLogger(__name__)

_MOST_MAPS = 6
_MOST_RUNS_DRAWN = 60
_CARPET_ROWS, _CARPET_COLUMNS = 300, 900


def section(results: Results) -> Section:
    """Motion per run, tSNR maps per subject, two carpets, and a table of every run."""
    out = Section("bold", "Quality of the BOLD")
    files = sorted((results.root / "roi").glob("*_qc.h5"))
    wanted = results.table("index/runs.tsv")
    if wanted is not None:
        # Files of runs that an earlier configuration used may still lie there.
        files = [f for f in files if f.name.removesuffix("_qc.h5") in set(wanted["run_id"])]
    if not files:
        out.absent.append(
            "There are no quality files (roi/<run>_qc.h5), so the quality of the BOLD is not shown."
        )
        return out
    threshold = float(results.setting("fmri.clean.fd_threshold_mm", 0.5))
    runs = summarise(files, out)
    if runs.empty:
        return out
    out.reading.extend(_sentences(runs, threshold))
    if runs["mean_fd"].notna().any():
        out.blocks.append(_motion(runs, threshold))
    else:
        out.absent.append("Motion is not known: no motion parameters came with these series.")
    chosen = _one_per_subject(runs)
    maps = {s: read_qc(f) for s, f in chosen.items()}
    maps = {s: q for s, q in maps.items() if q.tsnr}
    if maps:
        out.blocks.append(_tsnr(maps))
    else:
        out.absent.append("Temporal SNR is not known: only regional series were given, not images.")
    for label, file in _carpet_runs(runs).items():
        quality = read_qc(file)
        if quality.carpet.size:
            out.blocks.append(_carpet(label, quality, threshold))
    out.blocks.append(_runs_table(runs))
    pages = [run for run in sorted(runs["run_id"]) if (results.root / "quality" / f"{run}.html").is_file()]
    if pages:
        # The report lies in `report/` beside them: a copy of the results folder keeps the links.
        links = [(run, f"../quality/{run}.html") for run in pages]
        out.blocks.append(Links("A page of every run, with its brain and time courses:", links))
    return out


def summarise(files, out: Section | None = None) -> pd.DataFrame:
    """One row per quality file; a damaged file is named in the section instead of ending the report."""
    rows = []
    for file in files:
        try:
            quality = read_qc(file)
        except UserError as error:
            logger.warning("%s", error)
            if out is not None:
                out.absent.append(f"The quality file of one run could not be read: {file.name}.")
            continue
        fd = np.asarray(quality.fd, float) if quality.fd is not None else np.array([])
        known = fd[np.isfinite(fd)]
        rows.append(
            {
                "file": file,
                "run_id": quality.attributes["run_id"] or file.name.removesuffix("_qc.h5"),
                "subject": quality.attributes["subject"],
                "volumes": len(quality.keep),
                "kept": float(np.mean(quality.keep)) if len(quality.keep) else np.nan,
                "fd": known,
                "mean_fd": known.mean() if len(known) else np.nan,
                "max_fd": known.max() if len(known) else np.nan,
                "tsnr": quality.tsnr_median,
            }
        )
    return pd.DataFrame(rows)


def _sentences(runs: pd.DataFrame, threshold: float) -> list[str]:
    kept = (runs["kept"] * runs["volumes"]).sum() / max(1, runs["volumes"].sum())
    text = f"{plural(len(runs), 'run')}: {percent(kept)} of the volumes are kept after censoring"
    if runs["mean_fd"].notna().any():
        worst = runs.loc[runs["mean_fd"].idxmax()]
        text += (
            f"; the median run moves {number(runs['mean_fd'].median())} mm between volumes (mean framewise displacement), the "
            f"worst, {worst['run_id']}, {number(worst['mean_fd'])} mm"
        )
    sentences = [text + "."]
    restless = runs[runs["mean_fd"] > threshold]
    if len(restless):
        sentences.append(
            f"Mean displacement is above the censoring threshold of {threshold:g} mm in {listed(restless['run_id'])}."
        )
    if runs["tsnr"].notna().any():
        low, middle, high = runs["tsnr"].min(), runs["tsnr"].median(), runs["tsnr"].max()
        sentences.append(
            f"Median temporal SNR in the brain is {number(middle, 0)} (runs: {number(low, 0)} to {number(high, 0)})."
        )
    return sentences


def _one_per_subject(runs: pd.DataFrame) -> dict:
    """The run of median tSNR (or motion) of each subject, for the first few subjects."""
    chosen = {}
    for subject, part in list(runs.groupby("subject", sort=True))[:_MOST_MAPS]:
        order = part.sort_values(["tsnr", "mean_fd"], kind="stable")
        chosen[subject] = order["file"].iloc[len(order) // 2]
    return chosen


def _carpet_runs(runs: pd.DataFrame) -> dict:
    order = runs.sort_values(["mean_fd", "kept"], ascending=[True, False], kind="stable", na_position="first")
    middle, worst = order.iloc[(len(order) - 1) // 2], order.iloc[-1]
    chosen = {f"Typical run (median motion): {middle['run_id']}": middle["file"]}
    if len(order) > 1:
        chosen[f"Worst run (most motion): {worst['run_id']}"] = worst["file"]
    return chosen


def _motion(runs: pd.DataFrame, threshold: float) -> Picture:
    shown = runs[runs["mean_fd"].notna()]
    left_out = max(0, len(shown) - _MOST_RUNS_DRAWN)
    shown = (
        shown.sort_values("mean_fd", ascending=False)
        .head(_MOST_RUNS_DRAWN)
        .sort_values(["subject", "run_id"])
    )
    with drawing(9.2, 1.0 + 0.22 * len(shown)) as figure:
        ax = figure.subplots()
        box = ax.boxplot(
            list(shown["fd"]),
            orientation="horizontal",
            positions=range(len(shown)),
            widths=0.6,
            patch_artist=True,
            flierprops={"marker": ".", "markersize": 3, "markerfacecolor": MUTED, "markeredgecolor": "none"},
            medianprops={"color": INK},
            whiskerprops={"color": MUTED},
            capprops={"color": MUTED},
        )
        for patch in box["boxes"]:
            patch.set(facecolor=BLUE, alpha=0.55, edgecolor=BLUE)
        ax.axvline(
            threshold, color=VERMILLION, lw=1.4, ls="--", label=f"censoring threshold {threshold:g} mm"
        )
        ax.set_yticks(range(len(shown)), list(shown["run_id"]), fontsize=8)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xlim(left=0)
        ax.set_xlabel("framewise displacement (mm)")
        ax.grid(visible=False, axis="y")
        figure.legend(loc="outside lower right")
        more = f" The {left_out} calmest runs are not drawn." if left_out else ""
        return picture(
            figure,
            f"Box plots of framewise displacement of {len(shown)} runs; medians of runs lie between "
            f"{number(min(np.median(v) for v in shown['fd']))} and {number(max(np.median(v) for v in shown['fd']))} mm.",
            f"Head motion from volume to volume, per run.{more}",
        )


def _tsnr(maps: dict[str, RunQc]) -> Picture:
    mosaics = {subject: _mosaic(quality) for subject, quality in maps.items()}
    inside = np.concatenate([m[m > 0] for m in mosaics.values()])
    top = float(np.percentile(inside, 98)) if len(inside) else 1.0
    columns = 1 if len(maps) == 1 else 2
    rows = -(-len(maps) // columns)
    with drawing(9.2, 0.3 + (1.9 if columns == 2 else 3.4) * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, (subject, mosaic) in zip(axes.flat, mosaics.items(), strict=False):
            shown = np.ma.masked_less_equal(mosaic, 0)
            mesh = ax.imshow(shown, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
            ax.set_title(f"sub-{subject} · median {number(maps[subject].tsnr_median, 0)}", fontsize=9.5)
        figure.colorbar(mesh, ax=axes, shrink=0.8, label="temporal SNR", pad=0.02, aspect=30)
        told = listed((f"sub-{s} median {number(q.tsnr_median, 0)}" for s, q in maps.items()), 8)
        return picture(
            figure,
            f"Maps of temporal SNR in three planes: {told}.",
            "Temporal SNR (mean over standard deviation in time) through the middle of the brain: axial, coronal, sagittal; of "
            "each subject the run of median quality.",
            raster=True,
        )


def _mosaic(quality: RunQc) -> np.ndarray:
    """The three planes side by side, upright, cropped to the brain; zero outside."""
    tiles = []
    for plane in PLANES:
        if plane not in quality.tsnr:
            continue
        image = np.nan_to_num(np.asarray(quality.tsnr[plane], float)).T[::-1]
        rows, columns = np.flatnonzero((image > 0).any(1)), np.flatnonzero((image > 0).any(0))
        if len(rows):
            tiles.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    height = max((len(t) for t in tiles), default=1)
    gap = max(1, height // 12)
    padded = []
    for tile in tiles:
        above = (height - len(tile)) // 2
        padded.append(np.pad(tile, ((above, height - len(tile) - above), (0, gap))))
    return np.hstack(padded)[:, :-gap] if padded else np.zeros((1, 1))


def _carpet(label: str, quality: RunQc, threshold: float) -> Picture:
    carpet = _shrink(np.asarray(quality.carpet, np.float32))
    times = np.asarray(quality.times, float) / 60
    has_fd = quality.fd is not None and np.isfinite(quality.fd).any()
    with drawing(9.2, 3.0 if has_fd else 2.3) as figure:
        axes = (
            figure.subplots(2, 1, sharex=True, squeeze=False, height_ratios=[1, 3])[:, 0]
            if has_fd
            else [None, figure.subplots()]
        )
        edge = (times[0], times[-1]) if len(times) > 1 else (0, 1)
        if has_fd:
            axes[0].plot(times, quality.fd, color=INK, lw=0.9)
            axes[0].axhline(threshold, color=VERMILLION, lw=1, ls="--")
            axes[0].set_ylabel("FD (mm)")
            axes[0].set_ylim(bottom=0)
        ax = axes[1]
        limit = float(np.nanpercentile(np.abs(carpet), 96)) or 1.0
        extent = (*edge, carpet.shape[0], 0)
        ax.imshow(
            carpet,
            aspect="auto",
            cmap="gray",
            vmin=-limit,
            vmax=limit,
            extent=extent,
            interpolation="nearest",
        )
        dropped = np.flatnonzero(~np.asarray(quality.keep, bool))
        if len(dropped) and len(times) > 1:
            ax.plot(
                times[dropped],
                np.full(len(dropped), -0.02 * carpet.shape[0]),
                "|",
                color=VERMILLION,
                ms=6,
                clip_on=False,
            )
        ax.set_yticks([])
        ax.set_ylabel("voxels" if quality.tsnr else "regions")
        ax.set_xlabel("minutes")
        ax.grid(visible=False)
        return picture(
            figure,
            f"Carpet of {label}: {quality.carpet.shape[0]} rows over {len(quality.keep)} volumes, {len(dropped)} of them censored.",
            f"{label}. Every row is a time series before cleaning (z-scored); red ticks mark censored volumes"
            + (", the line above is framewise displacement." if has_fd else "."),
            raster=True,
        )


def _shrink(carpet: np.ndarray) -> np.ndarray:
    """Average neighbouring rows and columns so that the picture is not larger than a screen can show."""
    for axis, most in enumerate((_CARPET_ROWS, _CARPET_COLUMNS)):
        step = -(-carpet.shape[axis] // most)
        if step > 1:
            starts = np.arange(0, carpet.shape[axis], step)
            counts = np.diff(np.append(starts, carpet.shape[axis]))
            shape = (-1, 1) if axis == 0 else (1, -1)
            carpet = np.add.reduceat(carpet, starts, axis=axis) / counts.reshape(shape)
    return carpet


def _runs_table(runs: pd.DataFrame):
    rows = [
        [
            r["run_id"],
            str(r["volumes"]),
            percent(r["kept"]),
            number(r["mean_fd"]),
            number(r["max_fd"]),
            number(r["tsnr"], 0),
        ]
        for r in runs.sort_values("run_id").to_dict("records")
    ]
    return table(
        "Every run: volumes, share kept, framewise displacement, temporal SNR",
        ["run", "volumes", "kept", "mean FD (mm)", "largest FD (mm)", "median tSNR"],
        rows,
    )
