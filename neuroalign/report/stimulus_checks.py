"""The numbers of one stimulus with a remark each, and what `normalise` found and did in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroalign.report.stimulus_features import LevelCourse, change_at, step_s
from neuroalign.report.style import Check, Table, listed, number, percent, plural
from neuroalign.video.look import Look
from neuroalign.video.shards import Embedding

# Worth a look from here on. A title or a pause may well be still or black; a film that broke is, too.
STILL_S, BLACK_S = 5.0, 3.0
CONSTANT = 0.1
# Changes at cuts against changes elsewhere, where there are so many cuts.
FOLLOWS, FEW_CUTS = 1.2, 5

_SOURCES = [
    ["still or black", f"a look from {STILL_S:g} s of one picture or {BLACK_S:g} s of black on", "titles are still, too"],
    [
        "time axis",
        "bad where features begin more than a window after the film or end more than one before it, or reach beyond it; where windows "
        "are not evenly spaced; a look where they leave gaps",
        "clips there would have no features, or those of another moment",
    ],
    ["constant features", f"a look where more than {percent(CONSTANT, 0)} never change, bad where all of a level do", "they cannot tell one clip from another"],
    [
        "features at cuts",
        f"a look where, with {FEW_CUTS} cuts or more, features change less than {FOLLOWS:g} times as much across them as within "
        "shots (medians, of the level that follows best)",
        "features of another film, or with another clock, do not change where this film cuts",
    ],
]  # fmt: skip


def limits_table() -> Table:
    """The limits, and what is behind them; all are rules of thumb of this project."""
    rows = [list(row) for row in _SOURCES]
    return Table("Limits of the marks (rules of thumb of this project)", ["number", "limits", "why"], rows)


def checks(
    embedding: Embedding, levels: list[LevelCourse], look: Look | None, record: Mapping[str, Any] | None
) -> list[Check]:
    """All checks that this stimulus has data for.

    Parameters
    ----------
    embedding : Embedding
    levels : list of LevelCourse
        Those of the embedding.
    look : Look or None
        None where there are no pictures.
    record : mapping or None
        What `normalise` wrote beside the film.
    """
    made = []
    if look is not None:
        made.append(_film(look, record))
    if record is not None:
        made.append(_original(record))
    if look is not None:
        made += [_shots(look), _still(look)]
    made += [_windows(embedding, levels), _time_axis(embedding, look), _constant(levels)]
    if look is not None and len(look.transitions) and not embedding.attributes.get("hrf_convolved"):
        follows = _follows(embedding, levels, look)
        made += [follows] if follows else []
    return made


def verdict(made: list[Check]) -> str:
    """The page's first sentence."""
    bad, look = (
        [c.label[0].lower() + c.label[1:] for c in made if c.state == state] for state in ("bad", "look")
    )
    if bad:
        more = f"; have a look at {listed(look)}, too" if look else ""
        return f"This stimulus has a problem: {listed(bad)}{more}."
    if look:
        return f"Have a look at {listed(look)}; the other numbers are as they should be."
    return "The numbers are as they should be; the pictures below are what decides."


def what_was_done(record: Mapping[str, Any]) -> str:
    """What `normalise` did to this film, as a sentence."""
    steps = [str(step) for step in record.get("done", [])]
    return (
        f"What was done to the original: {'; '.join(steps)}."
        if steps
        else "Nothing had to be done to the original."
    )


def facts_table(record: Mapping[str, Any]) -> Table:
    """What `normalise` found in the original, and what it wrote."""
    source, made = record.get("source", {}), record.get("mezzanine", {})
    rows = [
        ["container", _text(source.get("container")), "mp4"],
        ["codec", f"{_text(source.get('codec'))}, {_text(source.get('pixel_format'))}", "h264, yuv420p"],
        ["size (pixels)", _size(source), _size(made)],
        ["frames per second", _plain(source.get("fps")), _plain(made.get("fps"))],
        ["frames", _plain(source.get("frames") or None), _plain(made.get("frames"))],
        ["length (s)", _plain(source.get("end_s")), _plain(made.get("duration_s"))],
        ["turned by (degrees)", _plain(source.get("rotation")), "0"],
        ["width of a pixel over its height", _plain(source.get("sample_aspect")), "1"],
        ["time of its beginning (s)", _plain(source.get("start_s")), "0"],
        ["streams", ", ".join(f"{n} {kind}" for kind, n in Counter(source.get("streams", [])).items()) or "–", "1 video"],
    ]  # fmt: skip
    return Table(
        "The original, and the normalised film that everything else reads",
        ["", "original", "normalised"],
        rows,
    )


def _text(value: Any) -> str:
    return str(value) if value else "–"


def _plain(value: Any) -> str:
    return "–" if value is None else f"{float(value):.6g}"


def _size(found: Mapping[str, Any]) -> str:
    return f"{found['width']} × {found['height']}" if found.get("width") and found.get("height") else "–"


def _film(look: Look, record: Mapping[str, Any] | None) -> Check:
    film = look.film
    remark = f"{plural(film.n_frames, 'frame')} at {film.fps:g} a second, {film.width} × {film.height} pixels"
    expected = (record or {}).get("mezzanine", {}).get("frames")
    if expected is not None and expected != film.n_frames:
        return Check(
            "Film", _length(film.duration_s), f"{remark}; {expected} were written: normalise it again", "bad"
        )
    return Check("Film", _length(film.duration_s), remark)


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _original(record: Mapping[str, Any]) -> Check:
    source = record.get("source", {})
    what = f"{_size(source)}, {_text(source.get('codec'))}, {_plain(source.get('fps'))} frames a second"
    warnings, damage = record.get("warnings", []), record.get("damage")
    if damage:
        remark = f"{what}; {damage.get('reason') or 'damaged'}: what comes after is missing"
        return Check("Original", f"breaks at {_length(float(damage['at_s']))}", remark, "look")
    if warnings:
        return Check(
            "Original",
            "complaints",
            f"{what}; ffmpeg warned {plural(len(warnings), 'time')}: see below",
            "look",
        )
    return Check("Original", "whole", what, "good")


def _shots(look: Look) -> Check:
    lengths = np.diff(look.edges_s)
    kinds = Counter(t.kind for t in look.transitions)
    names = {"cut": ("cut", "cuts"), "dissolve": ("dissolve", "dissolves"), "fade": ("fade", "fades")}
    told = ", ".join(plural(kinds[k], *words) for k, words in names.items() if kinds[k])
    if not told:
        return Check("Shots", "1", "no cut was found")
    return Check(
        "Shots", f"{len(lengths):,}", f"{told}; median length {number(float(np.median(lengths)), 1)} s"
    )


def _still(look: Look) -> Check:
    remark = f"longest stretch of one picture; {number(look.black_s, 1)} s of black"
    state = "look" if look.still_s >= STILL_S or look.black_s >= BLACK_S else "good"
    return Check("Still or black", f"{number(look.still_s, 1)} s", remark, state)


def _windows(embedding: Embedding, levels: list[LevelCourse]) -> Check:
    window, stride = (embedding.attributes.get(k) for k in ("window_s", "stride_s"))
    remark = (
        f"{embedding.attributes.get('backbone') or 'features of the user'}: {plural(len(levels), 'level')}, "
    )
    remark += f"{sum(level.data.shape[1] for level in levels):,} features"
    if isinstance(window, (int, float)) and isinstance(stride, (int, float)):
        remark += f"; {window:g} s long, one every {stride:g} s"
    if embedding.attributes.get("hrf_convolved"):
        remark += "; convolved with a haemodynamic response"
    return Check("Windows", f"{len(embedding.times):,}", remark)


def _time_axis(embedding: Embedding, look: Look | None) -> Check:
    times = np.asarray(embedding.times, float)
    step = step_s(times)
    window = embedding.attributes.get("window_s")
    window = float(window) if isinstance(window, (int, float)) else (step if np.isfinite(step) else 1.0)
    span = f"{times[0]:.4g} to {times[-1]:.4g} s"
    remark = "centres of the first and the last window"
    steps = np.diff(times)
    if len(steps) and np.ptp(steps) > 0.02 * step:
        return Check(
            "Time axis",
            span,
            f"{remark}; from window to window {steps.min():.3g} to {steps.max():.3g} s",
            "bad",
        )
    room = max(window, step if np.isfinite(step) else window)
    before = times[0] - window / 2
    if before > room:
        return Check(
            "Time axis", span, f"{remark}; the first {before:.1f} s of the film have no features", "bad"
        )
    if -before > room:
        return Check("Time axis", span, f"{remark}; they begin {-before:.1f} s before the film", "bad")
    if look is not None:
        missing = look.film.duration_s - times[-1] - window / 2
        if missing > room:
            return Check(
                "Time axis", span, f"{remark}; the last {missing:.1f} s of the film have no features", "bad"
            )
        if -missing > room:
            return Check(
                "Time axis", span, f"{remark}; the film ends {-missing:.1f} s before the features", "bad"
            )
    if step - window > 0.02 * step:
        gap = f"{step - window:.3g} of every {step:.3g} s have no features"
        return Check("Time axis", span, f"{remark}; {gap}, because windows are {window:.3g} s long", "look")
    return Check("Time axis", span, remark if look is None else f"{remark}; the film is covered", "good")


def _constant(levels: list[LevelCourse]) -> Check:
    dims = sum(level.data.shape[1] for level in levels)
    if len(levels[0].data) < 2:
        return Check("Constant features", "–", "one window: nothing can change")
    constant = {level.name: int((~level.varying).sum()) for level in levels}
    share = sum(constant.values()) / max(1, dims)
    dead = [level.name for level in levels if not level.varying.any()]
    remark = f"{sum(constant.values()):,} of {dims:,} are the same in all windows"
    if dead:
        return Check("Constant features", percent(share), f"{remark}; all of {listed(dead)}", "bad")
    return Check("Constant features", percent(share), remark, "look" if share > CONSTANT else "good")


def _follows(embedding: Embedding, levels: list[LevelCourse], look: Look) -> Check | None:
    """Change of features across cuts over that within shots, of the level that follows best."""
    ratios = []
    for level in (level for level in levels if level.comparable):
        across, within, n = change_at(level.change, np.asarray(embedding.times, float), look.edges_s[1:-1])
        if n and np.isfinite(within) and within > 0:
            ratios.append((across / within, level.name, n))
    if not ratios:
        return None
    ratio, name, n = max(ratios)
    remark = f"times the change within shots ({name}, medians, {plural(n, 'step')} across a cut)"
    state = "" if n < FEW_CUTS else "good" if ratio >= FOLLOWS else "look"
    return Check("Change at cuts", number(ratio, 1), remark, state)
