"""The page of one run: is its brain where it should be, did the head move, is the signal sound."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from neuroalign.bids.derivatives import dataset_root
from neuroalign.bids.metadata import sidecar
from neuroalign.config.fmri import Fmri
from neuroalign.fmri.qc import RunQc, read_qc
from neuroalign.fmri.series import RoiSeries, read_series
from neuroalign.io import atomic_path, read_tsv
from neuroalign.report import run_quality_brain as brain
from neuroalign.report import run_quality_checks as numbers
from neuroalign.report.page import render
from neuroalign.report.run_quality_images import Layout, RunImages, load_images, t1w_beside
from neuroalign.report.run_quality_time import RunTimes, courses, regional
from neuroalign.report.style import Checks, Links, Section, plural, table

logger = logging.getLogger(__name__)

_SMALLEST = 12


def write_run_page(
    run_id: str,
    series_file: str | os.PathLike,
    quality_file: str | os.PathLike,
    files: Mapping[str, str],
    destination: str | os.PathLike,
    config: Fmri,
    *,
    shown: Sequence[tuple[float, float, str]] = (),
) -> None:
    """Write the quality page of a run as one self-contained HTML file.

    Parameters
    ----------
    run_id : str
    series_file, quality_file : path
        What extraction wrote.
    files : mapping of str to path
        What there is of `bold`, `boldref`, `mask`, `confounds`, `t1w` and `t1w_mask` in template space, and of
        `template` (see `template_outline`); empty for regional series. The series is not read, but for the first volume
        of `bold` where there is no `boldref`.
    destination : path
        The HTML file; written atomically.
    config : Fmri
        Section `fmri`.
    shown : sequence of (onset, duration, stimulus), optional
        What was shown when, seconds.

    Raises
    ------
    UserError
        If a file that is named is missing or damaged.
    """
    quality, series = read_qc(quality_file), read_series(series_file)
    images = _images(files, config)
    confounds = read_tsv(files["confounds"]) if files.get("confounds") else None
    metadata = sidecar(files["bold"], dataset_root(files["bold"])) if files.get("bold") else {}
    tr = float(series.attributes["tr"])
    facts = numbers.RunNumbers(tr, metadata.get("StartTime"), metadata.get("SliceTimingCorrected"))
    times = RunTimes(quality, tr, config.clean.fd_threshold_mm, confounds, tuple(shown))
    parts = [_glance(facts, quality, images)]
    if images is not None:
        layout = Layout(images.brain, images.affine)
        parts += [_alignment(images, layout), _regions(images, layout)]
    parts += [_time(times), _signal(series, quality, images, config), _limits()]
    html = render(parts, title=run_id, subtitle="Quality of one run")
    with atomic_path(destination) as temporary:
        temporary.write_text(html, encoding="utf-8")
    logger.info("%s: page of %.1f MB", run_id, len(html.encode()) / 1e6)


def _images(files: Mapping[str, str], config: Fmri) -> RunImages | None:
    if config.source == "timeseries":
        return None
    found = dict(files)
    if not found.get("t1w"):
        found |= t1w_beside(found["bold"], config.space)
    return load_images(
        found,
        space=config.space,
        atlas=config.atlas,
        levels=config.levels,
    )


def _glance(facts: numbers.RunNumbers, quality: RunQc, images: RunImages | None) -> Section:
    made = numbers.checks(facts, quality, images)
    return Section("glance", "At a glance", [numbers.verdict(made)], [Checks(made)])


def _alignment(images: RunImages, layout: Layout) -> Section:
    out = Section(
        "alignment",
        "Is the brain where it should be?",
        [
            "Every line should follow the edge that it is drawn over.",
            "Left in the picture is left in the head (L, R); coordinates are those of the template, in mm.",
        ],
        absent=list(images.absent),
    )
    normalised = brain.normalisation(images, layout)
    out.blocks += [block for block in (normalised, brain.coregistration(images, layout)) if block]
    return out


def _regions(images: RunImages, layout: Layout) -> Section:
    out = Section("regions", "Are the regions where they should be?")
    out.blocks += [brain.regions_map(images, layout), brain.coverage(images)]
    smallest = sorted(images.regions, key=lambda r: (r.inside / max(1, r.whole), r.inside))[:_SMALLEST]
    rows = [
        [r.label, r.level, str(r.inside), str(r.whole), f"{100 * r.inside / max(1, r.whole):.0f} %"]
        for r in smallest
    ]
    columns = ["region", "level", "voxels in the mask", "voxels in all", "covered"]
    out.blocks.append(table(f"The {plural(len(rows), 'region')} covered least", columns, rows, text=2))
    return out


def _time(times: RunTimes) -> Section:
    out = Section("time", "Did the head move, and what did the signal do?", blocks=[courses(times)])
    if times.quality.motion is None and times.quality.fd is None:
        out.absent.append("Motion is not known: no motion parameters came with this run.")
    return out


def _signal(series: RoiSeries, quality: RunQc, images: RunImages | None, config: Fmri) -> Section:
    out = Section("signal", "Is there signal?")
    if quality.tsnr:
        out.blocks.append(brain.tsnr_map(quality, images))
    else:
        out.absent.append("Temporal SNR is not known: only regional series were given, not images.")
    out.blocks.append(regional(series, quality, config.clean.high_pass_hz))
    return out


def _limits() -> Section:
    back = Links(
        "Other runs, and what was made of them:", [("report of the data set", "../report/index.html")]
    )
    return Section(
        "limits",
        "What the marks mean",
        ["Limits are habits of the field, not laws; they point to what to look at."],
        [numbers.limits_table(), back],
    )
