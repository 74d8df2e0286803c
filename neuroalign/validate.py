"""Checking configuration and data before anything runs: every problem at once, each with what to do.

The checks of single files are those of the stages that read them; this module knows only what to check.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from neuroalign.bids.cache import load_index
from neuroalign.bids.filters import listed, select_shown
from neuroalign.bids.index import Index, build_index
from neuroalign.config import Config
from neuroalign.errors import MOST_SENTENCES, Problems, UserError, nearest
from neuroalign.io import not_here, open_hdf5

if TYPE_CHECKING:
    from neuroalign.fmri.timing import Clock

# Rows of a table that are enough to see what its columns are.
_GLANCE = 20


def validate(config: Config, *, deep: bool = False) -> list[str]:
    """Check a configuration and the data it names.

    Parameters
    ----------
    config : Config
    deep : bool
        Also read every compressed image, and every time series, to its end, which notices truncation.

    Returns
    -------
    list of str
        One sentence per problem, with what to do; empty if nothing is wrong. Of a dataset that is simulated the
        files are made by the workflow: there is only the output folder, the split and captions that are brought to check.
    """
    problems: list[str] = []
    _collect(problems, lambda: _output(config))
    if config.dataset.simulate:
        from neuroalign.simulate.plan import plan_dataset

        demo = plan_dataset(config.dataset.simulate, config.dataset.bids_dir)
        for check in (_split, _captions):
            _collect(
                problems,
                lambda check=check: check(
                    config, select_shown(demo.runs, demo.presentations, config.dataset.filters)[1]
                ),
            )
    else:
        index = _collect_index(problems, config)
        _collect(problems, lambda: _regions(config))
        if index is not None:
            problems += index.problems
            if config.fmri.source == "timeseries":
                _collect(problems, lambda: _series(config, index, deep))
            else:
                _collect(problems, lambda: _brain_files(config, index.runs, deep))
                _collect(problems, lambda: _timing(config, index))
            _collect(problems, lambda: _stimuli(config, index.presentations))
            _collect(problems, lambda: _captions(config, index.presentations))
            _collect(problems, lambda: _split(config, index.presentations))
    _collect(problems, lambda: _template(config))
    _collect(problems, lambda: _fmriprep(config))
    _collect(problems, lambda: _weights(config))
    return list(dict.fromkeys(problems))


def _collect(problems: list[str], check: Callable[[], Iterable[str]]) -> None:
    try:
        problems.extend(check())
    except UserError as error:
        problems.extend(_sentences(error))


def _sentences(error: UserError) -> list[str]:
    return error.problems if isinstance(error, Problems) else [str(error)]


def _collect_index(problems: list[str], config: Config) -> Index | None:
    """The index; from the cache where there is an output folder, so that a check leaves nothing new behind."""
    out = Path(config.output_dir)
    try:
        if out.is_dir() and os.access(out, os.W_OK):
            return load_index(config, out / "index" / ".cache")
        return build_index(config)
    except UserError as error:
        problems.extend(_sentences(error))
        return None


# --- folders --------------------------------------------------------------------------------------------------


def _output(config: Config) -> Iterator[str]:
    out = Path(config.output_dir)
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not existing.is_dir():
        yield f"output_dir {out} cannot be made, because {existing} is a file; set output_dir to another folder."
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"output_dir {out} cannot be written ({existing} is read-only for you); set output_dir to another folder."
    for key in ("bids_dir", "derivatives"):
        value = getattr(config.dataset, key)
        if value and config.dataset.simulate is None and out.resolve().is_relative_to(Path(value).resolve()):
            yield f"output_dir {out} lies inside dataset.{key} ({value}), which is only ever read; set it elsewhere."


def _template(config: Config) -> Iterator[str]:
    template = config.fmri.preprocess.template
    if config.fmri.source == "raw" and template:
        yield from _image(template, False, "fmri.preprocess.template")


def _fmriprep(config: Config) -> Iterator[str]:
    """What fMRIPrep would only notice in its jobs."""
    preprocess = config.fmri.preprocess
    if config.fmri.source != "raw" or preprocess.engine != "fmriprep":
        return
    from neuroalign.fmri.fmriprep import license_problem, surface_problem

    if problem := license_problem(config):
        yield problem
    image, work = preprocess.fmriprep.container, preprocess.fmriprep.work_dir
    if "://" not in image and not Path(image).is_file():
        yield (
            f"fmri.preprocess.fmriprep.container {image} is no file; set it to an image file (.sif) or to one of a registry, "
            "such as docker://nipreps/fmriprep:25.2.5."
        )
    if work and not Path(work).expanduser().is_dir():
        yield f"fmri.preprocess.fmriprep.work_dir {work} is not a folder; make it, or set another."
    if problem := surface_problem(config.fmri.space):
        yield problem


def _image(path: str, deep: bool, key: str = "") -> Iterator[str]:
    from neuroalign.fmri.images import image_problem

    if problem := image_problem(path, deep=deep):
        yield f"{key}: {problem}" if key else problem


def _orientation(path: str) -> Iterator[str]:
    from neuroalign.fmri.orientation import orientation_problem

    if problem := orientation_problem(path):
        yield problem


# --- brain ----------------------------------------------------------------------------------------------------


def _regions(config: Config) -> Iterator[str]:
    """The atlas: readable, in the space of the images, with labels that the levels' patterns match."""
    if config.fmri.source == "timeseries":
        return
    from neuroalign.fmri.atlas import assign_levels, load_atlas

    if config.fmri.atlas.image and (
        problems := list(_image(config.fmri.atlas.image, False, "fmri.atlas.image"))
    ):
        yield from problems
        return
    # An atlas by name is fetched here, while a person watches, rather than in a job on a node without network.
    atlas = load_atlas(config.fmri.atlas, config.fmri.space)
    assign_levels(list(atlas.labels.values()), config.fmri.levels)


def _brain_files(config: Config, runs: pd.DataFrame, deep: bool) -> Iterator[str]:
    """Files that are there but cannot be used; absent ones are problems of the index."""
    files = [*runs["bold"], *runs["t1w"]] if config.fmri.source == "raw" else [*runs["bold"], *runs["mask"]]
    for file in dict.fromkeys(files):
        if file and Path(file).exists():
            problems = list(_image(file, deep))
            yield from problems or _orientation(file)
    if config.fmri.source == "fmriprep" and config.fmri.clean.strategy != "none":
        without = runs.loc[runs["confounds"] == "", "run_id"]
        if len(without):
            yield (
                f"{listed(without)} {'has' if len(without) == 1 else 'have'} no *_desc-confounds_timeseries.tsv, which "
                f"fmri.clean.strategy '{config.fmri.clean.strategy}' needs; add it, or set the strategy to none."
            )


def _series(config: Config, index: Index, deep: bool) -> Iterator[str]:
    """Time series: readable, with regions for every level and rows on the clock; what many share is reported once."""
    from neuroalign.bids.naming import parse_entities
    from neuroalign.bids.raw_run import find_raw_run
    from neuroalign.bids.series_files import companions
    from neuroalign.fmri.atlas import assign_levels
    from neuroalign.fmri.series_tables import read_table
    from neuroalign.fmri.timeseries import extract_timeseries, on_the_clock, regions

    fmri, bids_dir = config.fmri, config.dataset.bids_dir
    latest = _latest(index)
    seen: set[tuple] = set()
    for run in index.runs.to_dict("records"):
        file = run["timeseries"]
        if not file or not Path(file).exists() or not_here(file):
            continue
        try:
            table = read_table(file, parse_entities(run["run_id"]), fmri.atlas.name, glance=_GLANCE)
            raw = find_raw_run(run["run_id"], bids_dir, run["raw_volumes"])
            columns = (table.values.shape[1], *(table.labels or ()), *table.levels)
            if columns not in seen:
                seen.add(columns)
                labels, levels, _ = regions(table, fmri, file, raw)
                if not table.levels or levels is not table.levels:
                    with _about(file):
                        assign_levels(labels, levels)
            _, _, clock = on_the_clock(table, file, raw, fmri, companions(file))
            if deep:
                extract_timeseries(run, fmri, bids_dir)
        except UserError as error:
            yield str(error)
            continue
        yield from _beyond_the_end(run, clock, latest)


@contextmanager
def _about(file: str) -> Iterator[None]:
    """Put the name of a file before an error's sentence."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _timing(config: Config, index: Index) -> Iterator[str]:
    """The number of volumes, of confounds, and presentations that begin after the last volume."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    from neuroalign.fmri.timing import image_clock

    latest = _latest(index)
    seen: set[frozenset[str]] = set()
    for run in index.runs.to_dict("records"):
        try:
            shape = nibabel.load(run["bold"]).shape
        except (OSError, EOFError, ValueError, ImageFileError):
            continue
        if len(shape) != 4 or shape[3] < 2:
            yield f"{run['bold']} has shape {shape}: a BOLD run needs four dimensions and several volumes."
            continue
        try:
            clock = image_clock(run, config.fmri.timing, config.dataset.bids_dir)
            if config.fmri.source == "fmriprep":
                _check_confounds(config, run, shape[3], seen)
        except UserError as error:
            yield str(error)
            continue
        yield from _beyond_the_end(run, clock, latest)


def _check_confounds(config: Config, run: dict[str, Any], volumes: int, seen: set[frozenset[str]]) -> None:
    """Raise what extraction would: of tables with the same kinds of columns, one is read as a whole.

    Raises
    ------
    UserError
        If the table has another number of rows than the image, or lacks columns of the strategy.
    """
    from neuroalign.fmri.clean import load_run_confounds

    path = Path(run["confounds"])
    if not run["confounds"] or not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        header, rows = next(lines, ""), sum(1 for line in lines if line.strip())
    # Outliers and components differ in number from run to run.
    kinds = frozenset(re.sub(r"\d+$", "", name) for name in header.split())
    if kinds not in seen or rows != volumes:
        seen.add(kinds)
        load_run_confounds(run["bold"], path, config.fmri.clean, volumes, timing=config.fmri.timing)


def _latest(index: Index) -> dict[str, float]:
    """When the last presentation of each run begins, seconds."""
    return index.presentations.groupby("run_id")["onset"].max().to_dict()


def _beyond_the_end(run: dict[str, Any], clock: Clock, latest: dict[str, float]) -> Iterator[str]:
    """A presentation that begins after the last volume: the events are of another run or in another unit."""
    onset, end = latest.get(run["run_id"], -math.inf), clock.times[-1] + clock.tr / 2
    if onset >= end:
        yield (
            f"{run['events'] or 'dataset.presentations'}: a stimulus begins at {onset:g} s, but "
            f"{run['timeseries'] or run['run_id']} ends at {end:g} s ({len(clock.times)} volumes of {clock.tr:g} s); "
            "onsets are seconds from the first volume of the raw run (fmri.timing)."
        )


# --- stimuli --------------------------------------------------------------------------------------------------


def _stimuli(config: Config, shown: pd.DataFrame) -> Iterator[str]:
    if config.video.backbone == "precomputed":
        yield from _features(config, shown)
        if config.text.source != "blip2":
            return
    yield from missing_stimuli(config, shown)
    outside = stray_stimuli(config, shown)
    yield from outside.values()
    from neuroalign.video.probe import Inspector

    files = {file for file in shown["stimulus_file"].unique() if os.path.lexists(file)}
    with Inspector() as inspector:
        for file in sorted(files - set(outside)):
            try:
                inspector.probe(file)
            except UserError as error:
                yield str(error)


def _captions(config: Config, shown: pd.DataFrame) -> Iterator[str]:
    """Captions that are missing, unusable, or on another clock than the film's."""
    if config.text.source != "tsv":
        return
    from neuroalign.text.tsv import captions_problems

    films = dict(zip(shown["stimulus"], shown["stimulus_file"], strict=True))
    guard_s = config.split.guard_s if config.split.by == "time" else None
    yield from captions_problems(config.text.captions_dir, films, guard_s)


def missing_stimuli(config: Config, shown: pd.DataFrame) -> Iterator[str]:
    """A sentence per stimulus file that is not there, or one for many.

    Parameters
    ----------
    config : Config
    shown : DataFrame
        Presentations.
    """
    files = list(shown["stimulus_file"].unique())
    missing = [file for file in files if not os.path.lexists(file)]
    folder = _stimuli_folder(config)
    if len(missing) > MOST_SENTENCES:
        yield (
            f"{len(missing)} of {len(files)} stimuli are missing, among them {', '.join(missing[:3])}; put the files "
            f"into {folder}, or set dataset.stimuli_dir to where they are."
        )
        return
    for file in missing:
        beside = os.listdir(Path(file).parent) if Path(file).parent.is_dir() else []
        yield (
            f"The stimulus {file} is missing: put the file there, or set dataset.stimuli_dir to where the stimuli "
            f"are{nearest(Path(file).name, beside) or '.'}"
        )


def stray_stimuli(config: Config, shown: pd.DataFrame) -> dict[str, str]:
    """The stimulus files that a link takes out of the dataset, each with a sentence.

    Parameters
    ----------
    config : Config
    shown : DataFrame
        Presentations.
    """
    from neuroalign.bids.links import strays

    return strays(shown["stimulus_file"].unique(), _stimuli_folder(config), config.dataset.bids_dir)


def _stimuli_folder(config: Config) -> str:
    return config.dataset.stimuli_dir or f"{config.dataset.bids_dir}/stimuli"


def _features(config: Config, shown: pd.DataFrame) -> Iterator[str]:
    """Features that are missing, unusable, or end before the stimulus does."""
    import numpy as np

    from neuroalign.pairs.build import convolved_twice
    from neuroalign.video.precomputed import find_all_features

    ends = (shown["offset"] + shown["duration"]).groupby(shown["stimulus"]).max()
    found, problems = find_all_features(config.video.precomputed_dir, list(ends.index))
    yield from problems
    for stimulus, path in found.items():
        end = ends[stimulus]
        with open_hdf5(path) as file:
            times, convolved = file["times"][()], bool(file.attrs.get("hrf_convolved", False))
        if convolved and config.hrf.method != "none":
            yield convolved_twice(stimulus, config.hrf.method)
        # The last window reaches half a step beyond its centre; one step more is rounding of the film's length.
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        if end > times[-1] + 2 * step:
            yield (
                f"{path} ends at {times[-1]:g} s, but '{stimulus}' is shown up to its second {end:g}; compute the "
                "features of the whole stimulus, or correct the durations in the events."
            )


def _split(config: Config, shown: pd.DataFrame) -> Iterator[str]:
    """Clips and their split as the events promise them: what is empty here is empty after preprocessing, too."""
    from neuroalign.pairs.clips import clip_table
    from neuroalign.pairs.reliability import unrepeated
    from neuroalign.pairs.splits import assign_splits

    # Presentations without a duration last as long as the stimulus, which is not known yet.
    if shown.empty or shown["duration"].isna().any():
        return
    lengths = (shown["offset"] + shown["duration"]).groupby(shown["stimulus"]).max()
    clips = assign_splits(clip_table(shown, lengths.to_dict(), config.clips), config.split)
    if config.fmri.selection.method == "reliability":
        yield from unrepeated(clips, config.split.folds)


def _weights(config: Config) -> Iterator[str]:
    """Weights that are named as a folder must be there; what a hub id names is fetched by a step of its own."""
    from neuroalign.video.weights import folder_problems, weights_request

    for request in weights_request(config).values():
        yield from folder_problems(request)
