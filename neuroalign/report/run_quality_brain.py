"""Pictures of one run's brain: is it aligned, are the regions where they should be, where is the signal good."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuroalign.fmri.qc import RunQc
from neuroalign.report.run_quality_images import PLANES, Layout, RunImages, smooth
from neuroalign.report.style import (
    BLUE,
    MUTED,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    drawing,
    listed,
    number,
    picture,
)

_WIDTH = 9.2
_LEVEL_COLOURS = (SKY, ORANGE, "#CC79A7", "#009E73", "#F0E442", BLUE)
_MOST_REGIONS_NAMED = 40


def normalisation(images: RunImages, layout: Layout) -> Picture | None:
    """Outlines of the template over the person's T1w image, or over the mean BOLD without one."""
    if images.template_brain is None:
        return None
    over, what = (
        (images.t1w, "the person's T1w image") if images.t1w is not None else (images.bold, "the mean BOLD")
    )
    lines = [
        (images.template_brain, SKY, "brain of the template"),
        (images.template_white, ORANGE, "white matter of the template"),
    ]
    return _overlay(
        layout,
        over,
        images.brain,
        lines,
        f"Normalisation: outlines of the template over {what}. Blue should follow the brain's edge, orange the border "
        "of its white matter (person and template differ in their folds: large structures count, such as ventricles "
        "and the outer edge).",
    )


def coregistration(images: RunImages, layout: Layout) -> Picture:
    """Borders of the T1w image over the mean BOLD, with the run's brain mask."""
    lines = [(smooth(images.brain), SKY, "brain mask of the run")]
    if images.t1w_white is not None:
        lines.append((images.t1w_white, ORANGE, "white matter of the T1w image"))
        advice = (
            "Coregistration: the T1w image's white matter over the mean BOLD, which is darker inside orange where both are "
            "aligned (BOLD of grey matter and CSF is brighter). Blue should hold the whole brain and nothing else."
        )
    else:
        advice = "Brain mask over the mean BOLD: blue should hold the whole brain and nothing else."
    if images.first_volume:
        advice += " There is no mean image beside the run (boldref): this is its first volume."
    return _overlay(layout, images.bold, images.brain, lines, advice)


def regions_map(images: RunImages, layout: Layout) -> Picture:
    """The levels' regions painted over the mean BOLD."""
    with drawing(_WIDTH, _height(layout)) as figure:
        ax = figure.subplots()
        _background(ax, layout, images.bold, images.brain)
        painted = layout.compose(images.levels)
        colours = np.zeros((*painted.shape, 4))
        for k in range(1, len(images.level_names) + 1):
            colours[painted == k] = to_rgba(level_colour(k - 1), 0.6)
        ax.imshow(colours, interpolation="nearest")
        _labels(ax, layout)
        handles = [Patch(color=level_colour(k), label=name) for k, name in enumerate(images.level_names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
        return picture(
            figure,
            f"Mean BOLD in three orientations with the regions of {listed(images.level_names)} painted on.",
            "Regions over the mean BOLD, by level. Colour outside the brain, or where the BOLD is dark (frontal floor, "
            "temporal poles), holds little signal.",
            raster="photo",
        )


def level_colour(k: int) -> str:
    """The colour of the level number `k`, from 0."""
    return _LEVEL_COLOURS[k % len(_LEVEL_COLOURS)]


def coverage(images: RunImages) -> Picture:
    """Voxels of every region, in and outside the brain mask."""
    order = sorted(images.regions, key=lambda r: (images.level_names.index(r.level), -r.inside, r.label))
    named = len(order) <= _MOST_REGIONS_NAMED
    with drawing(_WIDTH, 2.9 if named else 2.4) as figure:
        ax = figure.subplots()
        where = np.arange(len(order))
        colours = [level_colour(images.level_names.index(r.level)) for r in order]
        ax.bar(where, [r.inside for r in order], width=0.9, color=colours)
        part = [k for k, r in enumerate(order) if r.inside < r.whole]
        bottom = [order[k].inside for k in part]
        lost = [order[k].whole - order[k].inside for k in part]
        ax.bar(part, lost, bottom=bottom, width=0.9, color="white", edgecolor=MUTED, lw=0.6)
        ax.set_xlim(-0.7, len(order) - 0.3)
        if named:
            ax.set_xticks(where, [r.label for r in order], rotation=90, fontsize=6)
        else:
            ax.set_xticks([])
            ax.set_xlabel(f"{len(order)} regions, by level and size", color=MUTED)
        ax.set_ylabel("voxels")
        ax.grid(visible=False, axis="x")
        handles = [Patch(color=level_colour(k), label=name) for k, name in enumerate(images.level_names)]
        handles.append(Patch(facecolor="white", edgecolor=MUTED, label="outside the brain mask"))
        figure.legend(handles=handles, loc="outside upper right", ncols=5)
        smallest = min(order, key=lambda r: r.inside)
        return picture(
            figure,
            f"Bars of the voxels of {len(order)} regions; the smallest, {smallest.label}, has {smallest.inside}.",
            "Voxels of every region on the BOLD grid. Regions of a few voxels are noisy, and white parts hold no signal.",
        )


def tsnr_map(quality: RunQc, images: RunImages | None) -> Picture:
    """Temporal SNR in the three middle slices that extraction kept."""
    flips = images.flips if images is not None else None
    tiles = {plane: np.asarray(quality.tsnr[plane], float) for plane in PLANES if plane in quality.tsnr}
    inside = np.concatenate([t[t > 0] for t in tiles.values()])
    top = float(np.percentile(inside, 98)) if inside.size else 1.0
    with drawing(_WIDTH, 3.0) as figure:
        grid = figure.add_gridspec(1, len(tiles) + 1, width_ratios=[*[1] * len(tiles), 1.1])
        for k, (plane, tile) in enumerate(tiles.items()):
            ax = figure.add_subplot(grid[0, k])
            axis = PLANES[plane][0]
            for direction, of in enumerate(a for a in range(3) if a != axis):
                if flips is not None and flips[of]:
                    tile = np.flip(tile, axis=direction)
            rows, columns = np.flatnonzero((tile > 0).any(1)), np.flatnonzero((tile > 0).any(0))
            if len(rows):
                tile = tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            shown = np.ma.masked_less_equal(tile.T, 0)
            mesh = ax.imshow(shown, origin="lower", cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
            ax.set_title(plane, fontsize=9, color=MUTED, fontweight="normal", loc="center")
            ax.set_axis_off()
            if flips is not None:
                for x, text in zip((-0.02, 1.02), ("PA" if axis == 0 else "LR"), strict=True):
                    side = "right" if x < 0 else "left"
                    ax.text(x, 0.5, text, transform=ax.transAxes, ha=side, va="center", color=MUTED)
        figure.colorbar(
            mesh, ax=figure.axes, shrink=0.75, pad=0.01, aspect=25, location="left", label="temporal SNR"
        )
        ax = figure.add_subplot(grid[0, len(tiles)])
        ax.hist(inside, bins=40, color=SKY)
        ax.axvline(
            quality.tsnr_median, color=VERMILLION, lw=1.4, label=f"median {number(quality.tsnr_median, 0)}"
        )
        ax.set_xlabel("temporal SNR of these slices")
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.legend(loc="upper right")
        return picture(
            figure,
            f"Temporal SNR in three slices; the median over the brain is {number(quality.tsnr_median, 0)}.",
            "Temporal SNR: mean over standard deviation in time, after slow drift is taken out. Stripes or a dark half "
            "point to hardware, a dark rim to head motion, dark frontal floor and temporal poles to dropout.",
            raster=True,
        )


def _height(layout: Layout) -> float:
    rows, columns = layout.compose(layout.brain).shape
    return _WIDTH * rows / columns + 0.35


def _overlay(layout: Layout, over: np.ndarray, brain: np.ndarray, lines: list, caption: str) -> Picture:
    with drawing(_WIDTH, _height(layout)) as figure:
        ax = figure.subplots()
        _background(ax, layout, over, brain)
        handles = []
        for volume, colour, label in lines:
            ax.contour(layout.compose(volume), levels=[0.5], colors=[colour], linewidths=0.8)
            handles.append(Line2D([], [], color=colour, label=label))
        _labels(ax, layout)
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return picture(figure, f"Slices in three orientations. {caption}", caption, raster="photo")


def _background(ax: Axes, layout: Layout, volume: np.ndarray, brain: np.ndarray) -> None:
    values = volume[brain]
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    # A little below the darkest of the brain, so that it stands out from the air around it.
    low = max(0.0, low - 0.25 * (high - low))
    ax.imshow(
        layout.compose(volume), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear"
    )
    ax.set_axis_off()


def _labels(ax: Axes, layout: Layout) -> None:
    for column, row, text, align in layout.labels():
        size = 6.5 if align == "center" else 8
        ax.text(column, row, text, color="white", fontsize=size, ha=align, va="center")
