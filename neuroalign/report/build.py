"""Putting the report together: read, draw, fill the template, write one file."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuroalign.io import atomic_path
from neuroalign.report import (
    adaptation,
    bold_quality,
    codes,
    contributions,
    controls,
    dataset,
    delays,
    gallery,
    provenance,
    retrieval,
    stimuli,
    summary,
    training,
)
from neuroalign.report.page import render
from neuroalign.report.results import Results
from neuroalign.report.style import Section
from neuroalign.report.thumbnails import ClipPictures

logger = logging.getLogger(__name__)


def build_report(
    output_dir: str | Path,
    destination: str | Path,
    config: Mapping[str, Any],
    *,
    truth_dir: str | Path | None = None,
) -> None:
    """Write the report of a workflow's results as one self-contained HTML file.

    Parameters
    ----------
    output_dir : path
        The workflow's output folder (``index/``, ``roi/``, ``stimuli/``, ``pairs/``, ``models/``, ``evaluation/``).
    destination : path
        The HTML file; written atomically. It refers to no other file and no other host, and needs no script.
    config : mapping
        The full plain configuration (`Config.plain`).
    truth_dir : path, optional
        Ground truth of a simulated data set (``delays.tsv``).

    Notes
    -----
    What is absent is said in its section; only a damaged table ends the report.

    Raises
    ------
    UserError
        If a table is there but cannot be read.
    """
    results = Results(Path(output_dir), config, Path(truth_dir) if truth_dir else None)
    html = render(sections(results), title=str(results.setting("report.title", "NeuroAlign report")))
    with atomic_path(destination) as temporary:
        temporary.write_text(html, encoding="utf-8")
    logger.info("report written to %s (%.1f MB)", destination, len(html.encode()) / 1e6)


def sections(results: Results) -> list[Section]:
    """All sections in reading order."""
    pictures = ClipPictures(results)
    order: list[Callable[[Results], Section]] = [
        retrieval.headline,
        dataset.section,
        stimuli.section,
        bold_quality.section,
        delays.section,
        training.section,
        retrieval.section,
        functools.partial(gallery.section, pictures=pictures),
        contributions.section,
        functools.partial(codes.section, pictures=pictures),
        summary.section,
        controls.section,
        controls.baselines,
        controls.ceilings,
        adaptation.section,
        provenance.section,
    ]
    made = []
    for make in order:
        made.append(make(results))
        logger.info("section '%s' made", made[-1].title)
    return made
