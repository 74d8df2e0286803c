"""How the report looks: palette, figure style, number formats, and the blocks that sections are made of.

Sections return `Section` objects made of `Picture`, `Table`, `Tiles`, `Strips` and the like; the template alone turns
them into HTML and escapes every text. Figures become data URIs, so the report needs no other file.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import matplotlib
from matplotlib.figure import Figure

from neuroalign.config.variants import ABLATIONS, folder_of

# Okabe & Ito (2008): told apart with every common form of colour blindness, and in grey.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
INK, MUTED, GRID = "#22272e", "#6b7480", "#dfe3e8"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
SPLIT_COLOURS = {"train": BLUE, "validation": ORANGE, "test": VERMILLION, "guard": "#c9ced6"}
DIRECTIONS = {"fmri_to_video": "fMRI → video", "video_to_fmri": "video → fMRI"}
METRIC_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "top10": "top-10",
    "mrr": "MRR",
    "median_rank": "median rank",
}
MODEL_NAMES = {
    "neuroalign": "NeuroAlign (fused)",
    "neuroalign_continuous": "NeuroAlign, continuous part",
    "neuroalign_quantised": "NeuroAlign, quantised part",
    "neuroalign_video_only": "NeuroAlign without captions",
    "neuroalign_text": "NeuroAlign, captions alone",
}
_SPELT = {"infonce": "InfoNCE", "cca": "CCA", "mlp": "MLP"}

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    # Labels come from data sets: a dollar sign in one is a dollar sign, not mathematics.
    "text.parse_math": False,
    # Text as outlines: the same on every machine, and nothing in a label can act as markup.
    "svg.fonttype": "path",
    # Fixed, so that equal inputs give equal bytes.
    "svg.hashsalt": "neuroalign",
}


@dataclass
class Picture:
    """A figure: `src` is a data URI; `alt` says in words what it shows."""

    src: str
    alt: str
    caption: str
    kind: ClassVar[str] = "picture"


@dataclass
class Table:
    """A table behind a disclosure triangle; cells are text (`numeric` columns are set right-aligned)."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    opened: bool = False
    kind: ClassVar[str] = "table"


@dataclass
class Tile:
    """One number that matters: `label`, `value`, and what to hold it against."""

    label: str
    value: str
    note: str
    good: bool | None = None


@dataclass
class Tiles:
    """A row of large numbers."""

    tiles: list[Tile]
    kind: ClassVar[str] = "tiles"


@dataclass
class Clip:
    """A clip: a thumbnail (`src`, a data URI) or, without video, a tile with its time; `href` leads to its page."""

    label: str
    alt: str
    src: str | None = None
    correct: bool = False
    note: str = ""
    hue: int = 210
    href: str | None = None


@dataclass
class Strip:
    """A row of clips: what was asked (`query`, if any) and what came back (`clips`)."""

    title: str
    clips: list[Clip]
    query: Clip | None = None


@dataclass
class Strips:
    """Rows of clips under one caption."""

    caption: str
    strips: list[Strip]
    kind: ClassVar[str] = "strips"


@dataclass
class Card:
    """One thing described from several sides: facts in words, the clips that belong to it, and a picture."""

    title: str
    facts: list[str]
    clips: list[Clip]
    picture: Picture | None = None


@dataclass
class Cards:
    """Cards under one caption."""

    caption: str
    cards: list[Card]
    kind: ClassVar[str] = "cards"


@dataclass
class Sheet:
    """Pictures side by side in reading order, whole (a contact sheet): `clips` with labels, notes and links."""

    caption: str
    clips: list[Clip]
    kind: ClassVar[str] = "sheet"


@dataclass
class Code:
    """Preformatted text behind a disclosure triangle."""

    caption: str
    text: str
    kind: ClassVar[str] = "code"


@dataclass
class Check:
    """A number with a traffic light: `state` is ``good``, ``look``, ``bad`` or, where nothing is judged, empty."""

    label: str
    value: str
    remark: str
    state: str = ""


@dataclass
class Checks:
    """Numbers with traffic lights, side by side."""

    checks: list[Check]
    kind: ClassVar[str] = "checks"


@dataclass
class Links:
    """Pages beside this one: (text, relative address)."""

    caption: str
    links: list[tuple[str, str]]
    kind: ClassVar[str] = "links"


Block = Picture | Table | Tiles | Strips | Cards | Sheet | Code | Checks | Links


@dataclass
class Section:
    """A part of the report: a heading, what is to be seen (`reading`), the evidence, and what is absent."""

    key: str
    title: str
    reading: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


@contextmanager
def drawing(width: float, height: float, layout: str = "constrained") -> Iterator[Figure]:
    """A figure of `width` × `height` inches in the report's style; encode it inside the block.

    Laying it out by itself takes as long as drawing it: pages made by the thousand place their axes (layout ``none``).
    """
    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height), layout=layout)


def picture(figure: Figure, alt: str, caption: str, *, raster: bool | str = False) -> Picture:
    """Encode a figure as SVG, as PNG where it is mostly image, or (`raster` is ``"photo"``) as the smaller JPEG."""
    buffer = io.BytesIO()
    if raster == "photo":
        options = {"quality": 88, "optimize": True, "subsampling": 0}
        figure.savefig(buffer, format="jpeg", dpi=150, pil_kwargs=options)
        return Picture(data_uri(buffer.getvalue(), "image/jpeg"), alt, caption)
    if raster:
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return Picture(data_uri(buffer.getvalue(), "image/png"), alt, caption)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(data_uri(buffer.getvalue(), "image/svg+xml"), alt, caption)


def data_uri(content: bytes, media_type: str) -> str:
    """`content` as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def percent(value: float, digits: int = 1) -> str:
    """``0.1234`` as ``12.3 %``; a missing value as an en dash."""
    return "–" if _missing(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 2) -> str:
    """A plain number; a missing value as an en dash."""
    return "–" if _missing(value) else f"{value:.{digits}f}"


def amount(metric: str, value: float) -> str:
    """A metric's value in its own unit: shares in per cent, ranks as ranks, MRR as a plain number."""
    if metric.startswith("top"):
        return percent(value)
    return number(value, 1 if "rank" in metric else 3)


def interval(metric: str, low: float, high: float) -> str:
    """An interval in the metric's unit."""
    return "–" if _missing(low) or _missing(high) else f"{amount(metric, low)} to {amount(metric, high)}"


def p_value(value: float) -> str:
    """A p-value as it is usually printed."""
    if _missing(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def model_name(model: str) -> str:
    """A model's name for people."""
    for name, variant in ABLATIONS.items():
        whole = f"neuroalign_{folder_of('ablation', name)}"
        if model in (whole, f"{whole}_quantised"):
            return f"NeuroAlign without {variant.title}{', quantised part' if model != whole else ''}"
    return MODEL_NAMES.get(model) or " ".join(_SPELT.get(word, word) for word in model.split("_"))


def metric_name(metric: str) -> str:
    """A metric's name for people."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def subject_name(subject: str) -> str:
    """``all subjects`` for the pool, ``sub-01`` for one."""
    return "all subjects" if subject == "all" else f"sub-{subject}"


def listed(items: Iterable[str], limit: int = 6) -> str:
    """``a, b and c``; a long list is cut and says how much is left."""
    names = list(items)
    if len(names) > limit:
        names = [*names[: limit - 1], f"{len(names) - limit + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """``1 run``, ``2 runs``; `nouns` where the plural is not made with an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1, **kw) -> Table:
    """A `Table` whose first `text` columns are words and the rest numbers."""
    return Table(caption, list(columns), [list(r) for r in rows], frozenset(range(text, len(columns))), **kw)


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(float(value))
