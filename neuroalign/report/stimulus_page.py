"""The page of one stimulus: what the film looks like, what was done to it, what its features do over time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from neuroalign.io import atomic_path, open_hdf5, provenance, read_json, read_strings, write_json
from neuroalign.report import stimulus_checks as numbers
from neuroalign.report.page import render
from neuroalign.report.stimulus_features import LevelCourse
from neuroalign.report.stimulus_plots import Courses, courses, likeness
from neuroalign.report.style import Checks, Clip, Code, Links, Section, Sheet, Table, data_uri, plural
from neuroalign.video.look import Look, look_at
from neuroalign.video.shards import Embedding, read_embedding
from neuroalign.video.thumbnails import jpeg

logger = logging.getLogger(__name__)

_MOST_CAPTIONS = 2000
# Of the picture that stands for the stimulus on other pages.
_SMALL_HEIGHT = 64


def write_stimulus_page(
    stimulus: str, files: Mapping[str, str | os.PathLike], page: str | os.PathLike, record: str | os.PathLike
) -> None:
    """Write the page of a stimulus as one self-contained HTML file, and its numbers.

    Parameters
    ----------
    stimulus : str
    files : mapping of str to path
        `features`: an embedding file. Where there are pictures, `video` and `record`, both as `normalise` wrote them.
        Where there are captions, `captions` (docs/formats.md).
    page : path
        The HTML file; written atomically.
    record : path
        A JSON file: length, shots with the times of all transitions, features, the checks, and a small picture.

    Raises
    ------
    UserError
        If a file that is named is missing or damaged.
    """
    embedding = read_embedding(files["features"])
    found = read_json(files["record"]) if files.get("record") else None
    look = look_at(files["video"]) if files.get("video") else None
    captions = _Captions(files["captions"]) if files.get("captions") else None
    levels = [LevelCourse(name, data) for name, data in embedding.levels.items()]
    made = numbers.checks(embedding, levels, look, found)
    parts = [
        Section("glance", "At a glance", [numbers.verdict(made)], [Checks(made)]),
        _pictures(look, captions),
        _time(embedding, levels, look, captions),
    ]
    if found is not None:
        parts.append(_original(found))
    parts.append(_limits())
    html = render(parts, title=stimulus, subtitle="One stimulus and its features")
    with atomic_path(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    content = _numbers(stimulus, embedding, look, made)
    content["provenance"] = provenance(None, {name: path for name, path in files.items() if path})
    write_json(record, content)
    logger.info("%s: page of %.1f MB", stimulus, len(html.encode()) / 1e6)


class _Captions:
    """Captions of a stimulus's windows, and their embedding."""

    def __init__(self, path: str | os.PathLike):
        self.embedding = read_embedding(path)
        with open_hdf5(path) as file:
            self.texts = read_strings(file["captions"]) if "captions" in file else []
        self.texts += [""] * (len(self.embedding.times) - len(self.texts))

    def at(self, time_s: float) -> str:
        """The caption of the window whose centre is nearest."""
        return self.texts[int(np.abs(np.asarray(self.embedding.times) - time_s).argmin())]


def _pictures(look: Look | None, captions: _Captions | None) -> Section:
    out = Section("pictures", "What is to be seen?")
    if look is None:
        out.absent.append(
            "There are no pictures: the features were brought by the user (video.backbone: precomputed), and films are not looked "
            "at then."
        )
    else:
        edges = look.edges_s
        clips = []
        for time, frame in zip(look.times, look.pictures, strict=True):
            shot = int(np.searchsorted(edges, time, side="right"))
            label, alt = clock(time), f"Frame at {clock(time)}, shot {shot} of {len(edges) - 1}"
            note = captions.at(time) if captions is not None else ""
            clips.append(
                Clip(f"{label} {note}".strip(), f"{alt}. {note}".strip(), data_uri(jpeg(frame), "image/jpeg"))
            )
        how = (
            "the middle frame of every shot"
            if look.by_shot and len(edges) > 2
            else f"evenly spaced frames of {plural(len(edges) - 1, 'shot')}"
        )
        said = ", with the caption of the window there" if captions is not None else ""
        out.blocks.append(
            Sheet(f"Contact sheet, left to right: {how}; times in minutes and seconds{said}.", clips)
        )
        out.blocks.append(_transitions(look))
    if captions is not None:
        rows = [
            [f"{time:.2f}", text or "–"]
            for time, text in zip(captions.embedding.times, captions.texts, strict=True)
        ][:_MOST_CAPTIONS]
        columns = ["centre of the window (s)", "caption"]
        out.blocks.append(
            Table(f"Captions of {plural(len(captions.texts), 'window')}", columns, rows, frozenset({0}))
        )
    return out


def _transitions(look: Look) -> Table:
    fps, edges = look.film.fps, look.edges_s
    rows = [
        [
            str(k),
            t.kind,
            f"{t.start / fps:.3f}",
            f"{t.stop / fps:.3f}",
            str(t.frame),
            f"{edges[k + 1] - edges[k]:.3f}",
        ]
        for k, t in enumerate(look.transitions, 1)
    ]
    columns = ["", "kind", "from (s)", "to (s)", "first frame of the shot", "length of the shot (s)"]
    caption = f"Transitions: {plural(len(rows), 'was', 'were')} found"
    return Table(caption, columns, rows, frozenset({0, 2, 3, 4, 5}))


def _time(
    embedding: Embedding, levels: list[LevelCourse], look: Look | None, captions: _Captions | None
) -> Section:
    out = Section("features", "What do the features do?")
    drawn = [level for level in levels if level.drawable]
    if captions is not None and np.array_equal(captions.embedding.times, embedding.times):
        drawn += [
            level
            for level in (LevelCourse(n, d) for n, d in captions.embedding.levels.items())
            if level.drawable
        ]
    if not drawn:
        windows = plural(len(embedding.times), "window")
        out.absent.append(
            f"There is nothing to draw over time: {windows}, and no feature that differs between windows."
        )
        return out
    window = embedding.attributes.get("window_s")
    low_level = embedding.low_level
    if low_level is None:
        out.absent.append(
            "Light, contrast and motion are not known: the features came without them (/low_level)."
        )
    elif low_level.shape != (len(embedding.times), 3) or not np.isfinite(low_level).all():
        out.absent.append(
            "Light, contrast and motion are not drawn: /low_level needs three finite numbers per window."
        )
        embedding = replace(embedding, low_level=None)
    shown = Courses(
        embedding, drawn, look, float(window) if isinstance(window, (int, float)) else float("nan")
    )
    out.blocks.append(courses(shown))
    alike = likeness(shown)
    if alike is not None:
        out.blocks.append(alike)
    else:
        out.absent.append(
            "Windows are not compared with each other: that needs four windows and three features that vary."
        )
    return out


def _original(record: Mapping[str, Any]) -> Section:
    out = Section(
        "original", "What was the original, and what was done to it?", [numbers.what_was_done(record)]
    )
    warnings = [str(line) for line in record.get("warnings", [])]
    if warnings:
        out.blocks.append(
            Code(f"What ffmpeg complained of ({plural(len(warnings), 'line')})", "\n".join(warnings))
        )
    out.blocks.append(numbers.facts_table(record))
    return out


def _limits() -> Section:
    back = Links(
        "Other stimuli, and what was made of them:", [("report of the data set", "../../report/index.html")]
    )
    return Section(
        "limits",
        "What the marks mean",
        ["Limits are rules of thumb, not laws; they point to what to look at."],
        [numbers.limits_table(), back],
    )


def _numbers(stimulus: str, embedding: Embedding, look: Look | None, made: list) -> dict[str, Any]:
    """What other pages and other programs may want to know."""
    content: dict[str, Any] = {
        "stimulus": stimulus,
        "features": {
            "backbone": embedding.attributes.get("backbone", ""),
            "levels": {name: int(data.shape[1]) for name, data in embedding.levels.items()},
            "windows": len(embedding.times),
            "first_s": float(embedding.times[0]),
            "last_s": float(embedding.times[-1]),
        },
        "checks": [{"label": c.label, "value": c.value, "remark": c.remark, "state": c.state} for c in made],
        "film": None,
    }
    if look is not None:
        fps = look.film.fps
        content["film"] = {
            "duration_s": look.film.duration_s,
            "frames": look.film.n_frames,
            "fps": fps,
            "shots": len(look.transitions) + 1,
            "transitions": [
                {
                    "kind": t.kind,
                    "onset": t.start / fps,
                    "duration": (t.stop - t.start) / fps,
                    "first_frame": t.frame,
                }
                for t in look.transitions
            ],
            "still_s": look.still_s,
            "black_s": look.black_s,
            "picture": data_uri(jpeg(_small(look)), "image/jpeg"),
        }
    return content


def _small(look: Look) -> np.ndarray:
    """The picture that stands for the film: of those on its sheet the one with the most contrast, small."""
    from PIL import Image

    frame = max(look.pictures, key=lambda picture: float(picture.std()))
    width = max(1, round(_SMALL_HEIGHT * frame.shape[1] / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, _SMALL_HEIGHT)))


def clock(seconds: float) -> str:
    """``75.5`` as ``1:15.5``, ``3675`` as ``1:01:15``; whole seconds without a fraction."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    end = f"{rest:02.0f}" if rest == int(rest) else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{end}" if hours else f"{minutes}:{end}"
