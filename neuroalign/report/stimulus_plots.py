"""Pictures of one stimulus in time: the film, its light and motion, its features, and how long they stay alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroalign.report.stimulus_features import LevelCourse, half_life, lags_of, step_s
from neuroalign.report.style import CYCLE, INK, MUTED, VERMILLION, Picture, drawing, picture, plural
from neuroalign.video.look import Look
from neuroalign.video.shards import Embedding

_MOST_CARPETS = 6
# More cuts than this would hide the curves that they cross.
_MOST_LINES = 80
_LOW_LEVEL = ("light\n(mean L*)", "contrast\n(SD of L*)", "motion\n(ΔL*/frame)")
# Inches: of the figure, of its margins, between panels. Standard deviations: of the colour scale.
_WIDTH, _LEFT, _RIGHT, _GAP, _BELOW = 9.2, 0.85, 0.85, 0.13, 0.45
_Z = 2


@dataclass
class Courses:
    """What the pictures in time are drawn from.

    Attributes
    ----------
    embedding : Embedding
    levels : list of LevelCourse
        Levels of the embedding, and the text of the captions where there is one, that vary.
    look : Look or None
    window_s : float
        Length of a window; NaN where the file does not say.
    """

    embedding: Embedding
    levels: list[LevelCourse]
    look: Look | None
    window_s: float

    @property
    def times(self) -> np.ndarray:
        """Centres of the windows, seconds."""
        return np.asarray(self.embedding.times, float)

    @property
    def end_s(self) -> float:
        """Where the time axis ends."""
        if self.look is not None:
            return max(self.look.film.duration_s, float(self.times[-1]))
        return self.edges_s[-1]

    @property
    def edges_s(self) -> tuple[float, float]:
        """Left and right edge of pictures whose columns are the windows, in seconds."""
        step = step_s(self.times)
        half = step / 2 if np.isfinite(step) else (self.window_s if np.isfinite(self.window_s) else 1.0) / 2
        return float(self.times[0]) - half, float(self.times[-1]) + half

    @property
    def cuts_s(self) -> np.ndarray:
        """Where shots begin, but for the first; seconds."""
        return self.look.edges_s[1:-1] if self.look is not None else np.array([])

    def drawn(self) -> list[LevelCourse]:
        """Levels that get a carpet: all, or some from early to late."""
        if len(self.levels) <= _MOST_CARPETS:
            return self.levels
        places = np.linspace(0, len(self.levels) - 1, _MOST_CARPETS).round().astype(int)
        return [self.levels[k] for k in places]


def time_axis(end_s: float) -> tuple[float, str]:
    """Seconds per unit of the axis of time, and its label."""
    return (
        (1.0, "seconds from the beginning of the film")
        if end_s <= 240
        else (60.0, "minutes from the beginning of the film")
    )


def courses(shown: Courses) -> Picture:
    """The film, its shots, light, contrast and motion, carpets of features and their changes over one axis of time."""
    unit, label = time_axis(shown.end_s)
    drawn, low_level = shown.drawn(), shown.embedding.low_level
    lines = [(k, level) for k, level in enumerate(drawn) if level.comparable]
    heights = [0.55, 0.2] if shown.look is not None else []
    heights += [0.62] * (3 if low_level is not None else 0) + [1.2] * len(drawn) + [0.95] * bool(lines)
    with drawing(_WIDTH, sum(heights) + _GAP * len(heights) + _BELOW, "none") as figure:
        grid = _stack(figure, heights)
        axes = iter(grid)
        if shown.look is not None:
            _strip(next(axes), shown.look, unit)
            _shots(next(axes), shown.look, unit)
        if low_level is not None:
            for k, text in enumerate(_LOW_LEVEL):
                ax = next(axes)
                _line(ax, shown.times / unit, low_level[:, k], INK)
                ax.set_ylim(0, 1.08 * max(1e-3, float(low_level[:, k].max())))
                _cut_lines(ax, shown, unit, text)
        for k, level in enumerate(drawn):
            mesh = _carpet(next(axes), level, shown, unit, CYCLE[k % len(CYCLE)])
        _scale(figure, grid[len(heights) - bool(lines) - len(drawn)], mesh)
        if lines:
            ax = next(axes)
            for k, level in lines:
                _line(ax, shown.times / unit, level.change, CYCLE[k % len(CYCLE)], level.name)
            ax.set_ylim(bottom=0)
            if len(lines) > 1:
                ax.legend(
                    loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.0, fontsize=8, borderpad=0
                )
            _cut_lines(ax, shown, unit, "change of\nfeatures (1 − r)")
        for ax in grid:
            ax.set_xlim(0, shown.end_s / unit)
            ax.yaxis.set_label_coords(-0.055, 0.5)
        for ax in grid[:-1]:
            ax.xaxis.set_visible(False)
        grid[-1].set_xlabel(label)
        return picture(figure, _alt(shown, drawn), _advice(shown, drawn, bool(lines)), raster="photo")


def _stack(figure: Figure, heights: Sequence[float]) -> list[Axes]:
    """Axes of so many inches one below the other, from the upper edge on."""
    high = figure.get_figheight()
    axes, top = [], high - _GAP / 2
    for height in heights:
        box = (_LEFT / _WIDTH, (top - height) / high, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, height / high)
        axes.append(figure.add_axes(box))
        top -= height + _GAP
    return axes


def _scale(figure: Figure, beside: Axes, mesh) -> None:
    """The colour scale of all carpets, beside the first."""
    bar = figure.colorbar(mesh, cax=beside.inset_axes((1.012, 0.0, 0.012, 1.0)), ticks=[-_Z, 0, _Z])
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.set_label("z", fontsize=8, rotation=0, labelpad=3)
    bar.outline.set_visible(False)


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str | None = None) -> None:
    marker = "o" if np.isfinite(y).sum() <= 30 else ""
    ax.plot(x, y, color=colour, lw=1.0 if len(x) < 1500 else 0.6, marker=marker, ms=3.5, label=label)


def _strip(ax: Axes, look: Look, unit: float) -> None:
    """Frames side by side; each fills the stretch of time from whose middle it is."""
    film = np.concatenate(
        [np.pad(f, ((0, 0), (1, 1), (0, 0)), constant_values=255) for f in look.strip], axis=1
    )
    ax.imshow(film, aspect="auto", extent=(0, look.film.duration_s / unit, 0, 1), interpolation="antialiased")
    _bare(ax)


def _shots(ax: Axes, look: Look, unit: float) -> None:
    edges = look.edges_s / unit
    for k, (start, stop) in enumerate(pairwise(edges)):
        ax.axvspan(start, stop, color=("#8d99a6", "#d3d9df")[k % 2], lw=0)
    for transition in look.transitions:
        if transition.kind != "cut":
            ax.axvspan(
                *(f / look.film.fps / unit for f in (transition.start, transition.stop)),
                color="#E69F00",
                lw=0,
            )
    ax.set_ylabel("shots", fontsize=8, rotation=0, ha="right", va="center")
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.tick_params(bottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _cut_lines(ax: Axes, shown: Courses, unit: float, label: str) -> None:
    """Cuts behind a panel of curves, and its label."""
    cuts = shown.cuts_s
    if 0 < len(cuts) <= _MOST_LINES:
        ax.vlines(
            cuts / unit,
            0,
            1,
            transform=ax.get_xaxis_transform(),
            color=VERMILLION,
            lw=0.7,
            alpha=0.6,
            zorder=0,
        )
    ax.set_ylabel(label, fontsize=8)
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(labelsize=8)


def _carpet(ax: Axes, level: LevelCourse, shown: Courses, unit: float, colour: str):
    carpet = level.carpet()
    left, right = (edge / unit for edge in shown.edges_s)
    mesh = ax.imshow(
        carpet, aspect="auto", cmap="RdBu_r", vmin=-_Z, vmax=_Z, extent=(left, right, len(carpet), 0),
        interpolation="nearest",
    )  # fmt: skip
    if len(shown.cuts_s):
        # Ticks above the upper edge, which hide nothing.
        ax.vlines(
            shown.cuts_s / unit,
            1.0,
            1.06,
            transform=ax.get_xaxis_transform(),
            color=VERMILLION,
            lw=0.9,
            clip_on=False,
        )
    ax.set_ylabel(f"{level.name}\n({plural(int(level.varying.sum()), 'feature')})", fontsize=8, color=colour)
    ax.set_yticks([])
    ax.grid(visible=False)
    return mesh


def _alt(shown: Courses, drawn: Sequence[LevelCourse]) -> str:
    told = [f"{level.name} with {plural(int(level.varying.sum()), 'feature')}" for level in drawn]
    text = f"Over {shown.end_s:.1f} s of film, one above the other: "
    if shown.look is not None:
        text += (
            f"a strip of {plural(len(shown.look.strip), 'frame')}, {plural(len(shown.cuts_s) + 1, 'shot')}, "
        )
    if shown.embedding.low_level is not None:
        text += "light, contrast and motion, "
    return text + f"and features in {plural(len(shown.times), 'window')}: {', '.join(told)}."


def _advice(shown: Courses, drawn: Sequence[LevelCourse], lines: bool) -> str:
    text = ""
    if shown.look is not None:
        text += "Bars in turn dark and light are the shots that were found, orange where one turns into the next gradually"
        text += "; red lines and ticks are their beginnings. " if len(shown.cuts_s) else ". "
    text += (
        "Every row of a carpet is a feature (z-scored over the film), in an order that puts those side by side that go "
        "together; a column is a window. "
    )
    if len(drawn) < len(shown.levels):
        text += f"Of {len(shown.levels)} levels {len(drawn)} are drawn. "
    if lines:
        text += (
            "The change is one minus the correlation of a window's features with those of the window before: 0 where "
            "nothing changes, 1 where the two have nothing in common. "
        )
    if shown.look is not None and len(shown.cuts_s):
        text += "Features that belong to this film change where it cuts."
    return text.strip()


def likeness(shown: Courses) -> Picture | None:
    """Every window against every other by the last level, and how fast each level becomes unlike itself."""
    levels = [level for level in shown.drawn() if level.comparable]
    if not levels or len(shown.times) < 4:
        return None
    unit, _ = time_axis(shown.end_s)
    name, last = ("s", "min")[unit == 60.0], levels[-1]
    lags = lags_of(len(shown.times))
    lags_s = lags * step_s(shown.times)
    left_edge, right_edge = (edge / unit for edge in shown.edges_s)
    halves = []
    with drawing(_WIDTH, 3.9, "none") as figure:
        left, right = figure.add_axes((0.065, 0.13, 0.35, 0.79)), figure.add_axes((0.585, 0.13, 0.4, 0.79))
        mesh = left.imshow(
            last.similarity(), cmap="RdBu_r", vmin=-1, vmax=1, extent=(left_edge, right_edge, right_edge, left_edge),
            interpolation="nearest", aspect="auto",
        )  # fmt: skip
        if len(shown.cuts_s):
            cuts = shown.cuts_s / unit
            left.vlines(
                cuts, 1.0, 1.03, transform=left.get_xaxis_transform(), color=VERMILLION, lw=0.8, clip_on=False
            )
        left.set_xlabel(f"time ({name})")
        left.set_ylabel(f"time ({name})")
        left.grid(visible=False)
        left.set_title(f"Windows alike in {last.name}", pad=9)
        bar = figure.colorbar(mesh, cax=left.inset_axes((1.03, 0.15, 0.03, 0.7)), ticks=[-1, 0, 1])
        bar.set_label("correlation of features", labelpad=0)
        bar.outline.set_visible(False)
        right.axhline(0, color=MUTED, lw=0.8)
        for k, level in enumerate(shown.drawn()):
            if level.comparable:
                alike = level.alike(lags)
                halves.append((level.name, half_life(lags_s, alike)))
                _line(right, lags_s, alike, CYCLE[k % len(CYCLE)], level.name)
        right.set_xlabel("distance in time (s)")
        right.set_ylabel("mean correlation of features")
        right.set_xlim(0, float(lags_s[-1]))
        right.set_ylim(top=1.02)
        right.set_title("How long features stay alike", pad=9)
        if len(levels) > 1:
            right.legend()
        told = ", ".join(f"{n} {h:.1f} s" for n, h in halves if np.isfinite(h))
        fallen = f" The correlation has fallen to a half after: {told}." if told else ""
        return picture(
            figure,
            f"Matrix of correlations between {plural(len(shown.times), 'window')}, and the mean correlation by distance in "
            f"time.{fallen}",
            "Left: red squares along the diagonal are stretches that stay alike (shots, scenes); red away from it is something "
            f"that comes back. Right: mean over the film.{fallen} Clips closer than that are hard to tell apart, and "
            "neighbours on two sides of a split are not independent.",
            raster=True,
        )
