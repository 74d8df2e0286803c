"""Sections to HTML: the one place where markup is made."""

from __future__ import annotations

from pathlib import Path

import jinja2

from neuroalign import __version__
from neuroalign.report.style import Section

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    parts: list[Section], title: str, subtitle: str = "Matching brain activity to video, and back"
) -> str:
    """Fill the template; every text is escaped.

    Parameters
    ----------
    parts : list of Section
        At least one, in reading order.
    title, subtitle : str
        Of the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        title=title, subtitle=subtitle, sections=parts, css=css, version=__version__
    )
