"""Pictures of one run in time: head motion, signal changes, the carpet, and what cleaning left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neuroalign.fmri.qc import RunQc
from neuroalign.fmri.series import RoiSeries
from neuroalign.report.run_quality_brain import level_colour
from neuroalign.report.style import BLUE, GREEN, INK, MUTED, VERMILLION, Picture, drawing, picture, plural

_CENSORED = "#f6d5c3"
_COLUMNS = 1200
_MOST_UNITS = 240
# Volumes above this standardised DVARS stand out (Power et al. 2012, in the standardised form of Nichols 2017).
DVARS_LIMIT = 1.5


@dataclass
class RunTimes:
    """What a run's pictures in time are drawn from.

    Attributes
    ----------
    quality : RunQc
    tr : float
        Seconds.
    threshold : float or None
        Framewise displacement above which volumes are censored, mm.
    confounds : DataFrame or None
        A row per volume, fMRIPrep's names.
    shown : sequence of (onset, duration, stimulus)
        Presentations, seconds; a duration may be NaN.
    """

    quality: RunQc
    tr: float
    threshold: float | None
    confounds: pd.DataFrame | None = None
    shown: Sequence[tuple[float, float, str]] = field(default_factory=tuple)

    def column(self, *names: str) -> np.ndarray | None:
        """The first of these columns that there is, one value per volume; None if there is none."""
        if self.confounds is None or len(self.confounds) != len(self.quality.keep):
            return None
        for name in names:
            if name in self.confounds and self.confounds[name].notna().any():
                return self.confounds[name].to_numpy(float)
        return None


def courses(run: RunTimes) -> Picture:
    """Motion, displacement, DVARS, tissue signals and the carpet over one axis of time."""
    quality = run.quality
    minutes = np.asarray(quality.times, float) / 60
    panels = _panels(run)
    carpet = np.asarray(quality.carpet, np.float32)
    heights = [*[1.0] * len(panels), 3.2, *([0.28] if run.shown else [])]
    half = run.tr / 120
    edges = (minutes[0] - half, minutes[-1] + half)
    with drawing(9.2, 0.6 + 0.95 * sum(heights)) as figure:
        axes = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        for ax, (label, lines, limit) in zip(axes, panels, strict=False):
            _censored(ax, minutes, quality.keep, half)
            for (name, values), colour in zip(lines.items(), (BLUE, VERMILLION, GREEN), strict=False):
                ax.plot(minutes, values, color=INK if len(lines) == 1 else colour, lw=1.0, label=name or None)
            if limit is not None:
                ax.axhline(limit, color=VERMILLION, lw=1, ls="--")
                ax.set_ylim(0, max(limit * 1.3, float(np.nanmax(next(iter(lines.values())))) * 1.08))
            ax.set_ylabel(label, fontsize=8.5)
            if len(lines) > 1:
                ax.legend(
                    loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2, fontsize=8, borderpad=0
                )
        _draw_carpet(axes[len(panels)], carpet, quality, edges)
        if run.shown:
            _draw_shown(axes[-1], run.shown)
        axes[0].set_xlim(edges)
        axes[-1].set_xlabel("minutes from the first volume, on the clock of the events")
        figure.align_ylabels(axes)
        dropped = int((~np.asarray(quality.keep, bool)).sum())
        return picture(
            figure,
            f"Time courses above a carpet of {len(carpet)} rows over {len(quality.keep)} volumes, {dropped} censored.",
            _advice(run, bool(panels)),
            raster="photo",
        )


def _panels(run: RunTimes) -> list[tuple[str, dict[str, np.ndarray], float | None]]:
    """Label, lines and threshold of every panel that there are data for."""
    panels: list[tuple[str, dict[str, np.ndarray], float | None]] = []
    motion = run.quality.motion
    if motion is not None:
        panels.append(
            (
                "shift (mm)",
                {k: motion[:, i] for i, k in enumerate(("x (right)", "y (front)", "z (up)"))},
                None,
            )
        )
        turned = np.rad2deg(motion[:, 3:])
        panels.append(
            ("turn (°)", {k: turned[:, i] for i, k in enumerate(("x (pitch)", "y (roll)", "z (yaw)"))}, None)
        )
    if run.quality.fd is not None:
        panels.append(("FD (mm)", {"": np.asarray(run.quality.fd, float)}, run.threshold))
    if (dvars := run.column("std_dvars")) is not None:
        panels.append(("std. DVARS", {"": dvars}, DVARS_LIMIT))
    elif (dvars := run.column("dvars")) is not None:
        panels.append(("DVARS", {"": dvars}, None))
    signals = {
        "global": run.column("global_signal"),
        "CSF": run.column("csf"),
        "white matter": run.column("white_matter"),
    }
    changes = {name: _percent(values) for name, values in signals.items() if values is not None}
    if changes:
        panels.append(("signal (%)", changes, None))
    return panels


def _percent(values: np.ndarray) -> np.ndarray:
    mean = np.nanmean(values)
    return 100 * (values / mean - 1) if abs(mean) > 1e-9 else values


def _advice(run: RunTimes, panels: bool) -> str:
    text = "Every row of the carpet is a series before cleaning (z-scored)"
    text += ", voxels spread evenly over the brain." if run.quality.tsnr else "."
    if panels:
        text += (
            " Vertical bands in the carpet below peaks of displacement are motion; bands without it are breathing or the "
            "scanner. Translations and rotations are relative to the run's reference."
        )
    text += " Shaded volumes (red ticks above the carpet) are censored."
    if run.shown:
        text += " The bar below it: when stimuli are shown."
    return text


def _censored(ax: Axes, minutes: np.ndarray, keep: np.ndarray, half: float) -> None:
    for start, stop in _stretches(~np.asarray(keep, bool)):
        ax.axvspan(minutes[start] - half, minutes[stop - 1] + half, color=_CENSORED, lw=0, zorder=0)


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last index of every run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _draw_carpet(ax: Axes, carpet: np.ndarray, quality: RunQc, edges: tuple[float, float]) -> None:
    step = -(-carpet.shape[1] // _COLUMNS)
    if step > 1:
        starts = np.arange(0, carpet.shape[1], step)
        counts = np.diff(np.append(starts, carpet.shape[1]))
        carpet = np.add.reduceat(carpet, starts, axis=1) / counts
    limit = float(np.nanpercentile(np.abs(carpet), 97)) if carpet.size else 1.0
    ax.imshow(
        carpet, aspect="auto", cmap="gray", vmin=-limit or -1, vmax=limit or 1,
        extent=(*edges, len(carpet), 0), interpolation="nearest",
    )  # fmt: skip
    minutes = np.asarray(quality.times, float) / 60
    dropped = np.flatnonzero(~np.asarray(quality.keep, bool))
    # An empty line without clipping would upset the layout.
    if len(dropped):
        heights = np.full(len(dropped), -0.02 * len(carpet))
        ax.plot(minutes[dropped], heights, "|", color=VERMILLION, ms=5, clip_on=False)
        ax.set_ylim(len(carpet), 0)
    ax.set_yticks([])
    ax.set_ylabel("voxels" if quality.tsnr else "regions", fontsize=8.5)
    ax.grid(visible=False)


def _draw_shown(ax: Axes, shown: Sequence[tuple[float, float, str]]) -> None:
    names = list(dict.fromkeys(name for _, _, name in shown))
    for onset, duration, name in shown:
        width = duration / 60 if np.isfinite(duration) else 0.02
        shade = 0.4 + 0.4 * (names.index(name) % 4) / 3
        ax.axvspan(onset / 60, onset / 60 + width, color=BLUE, alpha=shade, lw=0.3, ec="white")
    ax.set_yticks([])
    ax.set_ylabel("film", fontsize=8.5, rotation=0, ha="right", va="center")
    ax.grid(visible=False)


def regional(series: RoiSeries, quality: RunQc, high_pass_hz: float | None) -> Picture:
    """Correlations between regions and spectra by level, after cleaning; the spectrum before it in grey."""
    tr = float(series.attributes["tr"])
    chosen = {level: _spread(data, len(series.levels)) for level, data in series.levels.items()}
    kept = np.asarray(series.keep, bool)
    stacked = np.concatenate(list(chosen.values()), axis=1)[kept]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(stacked.T) if stacked.shape[1] > 1 else np.ones((1, 1))
    sizes = np.array([data.shape[1] for data in chosen.values()])
    borders = np.cumsum(sizes)
    with drawing(9.2, 4.1) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
        mesh = left.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        for border in borders[:-1]:
            left.axhline(border - 0.5, color=INK, lw=0.8)
            left.axvline(border - 0.5, color=INK, lw=0.8)
        middles = borders - sizes / 2 - 0.5
        left.set_xticks(middles, list(chosen), fontsize=8)
        left.set_yticks(middles, list(chosen), rotation=90, va="center", fontsize=8)
        left.tick_params(length=0)
        left.grid(visible=False)
        left.set_title("Correlation after cleaning")
        figure.colorbar(mesh, ax=left, shrink=0.8, pad=0.02)
        before = np.asarray(quality.carpet, float).T
        frequency, power = _spectrum(before, tr)
        right.plot(frequency, power, color=MUTED, lw=1.2, label="before cleaning")
        for k, (level, data) in enumerate(series.levels.items()):
            frequency, power = _spectrum(_spread(np.asarray(data, float), 1), tr)
            right.plot(frequency, power, color=level_colour(k), lw=1.4, label=level)
        if high_pass_hz:
            right.axvline(high_pass_hz, color=INK, lw=0.9, ls=":", label=f"high-pass {high_pass_hz:g} Hz")
        right.set_xlabel("frequency (Hz)")
        right.set_ylabel("share of the power")
        right.set_xlim(left=0)
        right.set_ylim(bottom=0)
        right.set_title("Spectrum")
        right.legend()
        between = correlation[np.triu_indices(len(correlation), 1)]
        between = between[np.isfinite(between)]
        typical = f", median {np.median(between):.2f}" if between.size else ""
        return picture(
            figure,
            f"Correlation matrix of {plural(len(correlation), 'region')}{typical}, and spectra by level.",
            "Left: correlations between cleaned series of kept volumes. One colour all over is a shared signal that cleaning "
            "left (motion, breathing); blocks along the diagonal are levels that belong together. Right: mean spectrum; a "
            "sharp peak may be breathing (0.2 to 0.4 Hz, or folded below half the sampling rate).",
            raster=True,
        )


def _spread(data: np.ndarray, shares: int) -> np.ndarray:
    """At most so many columns that a matrix of all levels stays readable, evenly spread; constant ones left out."""
    varying = data[:, np.ptp(data, axis=0) > 0] if data.size else data
    if not varying.shape[1]:
        varying = data
    most = max(1, _MOST_UNITS // shares)
    return varying[
        :, np.unique(np.linspace(0, varying.shape[1] - 1, min(most, varying.shape[1])).astype(int))
    ]


def _spectrum(series: np.ndarray, tr: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the mean share of power at each, smoothed over neighbours; series in columns."""
    centred = series - series.mean(axis=0)
    taper = np.hanning(len(series))[:, None]
    power = np.abs(np.fft.rfft(centred * taper, axis=0)) ** 2
    total = power.sum(axis=0)
    share = np.divide(power, total, out=np.zeros_like(power), where=total > 0).mean(axis=1)
    smooth = np.convolve(share, np.ones(3) / 3, mode="same")
    return np.fft.rfftfreq(len(series), tr), smooth
