"""fMRIPrep as the preprocessing engine: what it is asked, and which files it will have written.

Pure path arithmetic and text: the workflow imports this while it is parsed, before fMRIPrep has run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroalign.bids.naming import build_name, parse_entities, run_folder
from neuroalign.config import Config
from neuroalign.io import read_json

# Spaces of fMRIPrep that are surfaces: they give GIFTI files, which no volume atlas can be laid over.
SURFACES = ("fsaverage", "fsaverage5", "fsaverage6", "fsnative", "fsLR", "onavg")


def run_files(
    run_id: str, folder: str | os.PathLike, *, space: str, resolution: str | None = None
) -> dict[str, Path]:
    """Files that fMRIPrep (21 and later) writes for one run and that NeuroAlign reads.

    Parameters
    ----------
    run_id : str
        BIDS name up to the suffix, without the entities `echo` and `part`, which fMRIPrep drops, too: echoes are
        combined.
    folder : path
        Root of the derivatives.
    space : str
        Output space.
    resolution : str, optional
        Label of `res`, where the output space was asked for with one.

    Returns
    -------
    dict of str to Path
        `bold`, `bold_json`, `mask`, `boldref`, `confounds` and `confounds_json`.
    """
    entities = parse_entities(run_id)
    base = Path(folder) / run_folder(entities["sub"], entities.get("ses", ""))
    placed = {**entities, "space": space, "res": resolution or ""}
    return {
        "bold": base / build_name({**placed, "desc": "preproc"}, "bold", ".nii.gz"),
        "bold_json": base / build_name({**placed, "desc": "preproc"}, "bold", ".json"),
        "mask": base / build_name({**placed, "desc": "brain"}, "mask", ".nii.gz"),
        "boldref": base / build_name(placed, "boldref", ".nii.gz"),
        "confounds": base / build_name({**entities, "desc": "confounds"}, "timeseries", ".tsv"),
        "confounds_json": base / build_name({**entities, "desc": "confounds"}, "timeseries", ".json"),
    }


def reference_of(bold: str) -> str:
    """The mean image (``boldref``) that belongs to a preprocessed BOLD image, whether it is there or not."""
    return re.sub(r"(_desc-[A-Za-z0-9]+)?_bold(\.nii(?:\.gz)?)$", r"_boldref\2", bold)


@dataclass(frozen=True)
class Batch:
    """People with the same runs, who share one rule.

    Attributes
    ----------
    name : str
        Of the rule: ``fmriprep``, then ``fmriprep_2`` and so on for those whose runs differ.
    subjects : tuple of str
        Labels without prefix.
    outputs : tuple of str
        Paths with the wildcard ``{subject}``.
    """

    name: str
    subjects: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """The regular expression of the wildcard: rules of other batches make the same names for other people."""
        return "|".join(map(re.escape, self.subjects))


def batches(
    runs: Iterable[Mapping[str, Any]], folder: str, *, space: str, resolution: str | None
) -> list[Batch]:
    """The people of a run table by the outputs that fMRIPrep owes them, in the order of the table.

    A rule of Snakemake names its outputs by wildcards, but people may have different runs.
    """
    owed: dict[str, list[str]] = {}
    for run in runs:
        entities = parse_entities(run["run_id"]) | {"sub": "{subject}"}
        files = run_files(build_name(entities), folder, space=space, resolution=resolution)
        owed.setdefault(run["subject"], []).extend(str(path) for path in files.values())
    alike: dict[tuple[str, ...], list[str]] = {}
    for subject, outputs in owed.items():
        alike.setdefault(tuple(outputs), []).append(subject)
    return [
        Batch("fmriprep" if k == 1 else f"fmriprep_{k}", tuple(subjects), outputs)
        for k, (outputs, subjects) in enumerate(alike.items(), start=1)
    ]


def arguments(config: Config, runs: Iterable[Mapping[str, Any]]) -> str:
    """The part of the command line that decides what comes out, quoted for a shell.

    Parameters
    ----------
    config : Config
    runs : iterable of mapping
        The runs that are used: rows of the run table.

    Notes
    -----
    Paths, threads and memory are not among it: they change nothing in the outputs, so editing them reruns nothing.
    """
    fmri, chosen = config.fmri, config.fmri.preprocess.fmriprep
    words = ["--output-spaces", fmri.space + (f":res-{fmri.resolution}" if fmri.resolution else "")]
    if len(tasks := _asked(config, runs, "task")) == 1:
        words += ["--task-id", *tasks]
    if not chosen.fs_reconall:
        words.append("--fs-no-reconall")
    if chosen.skip_bids_validation:
        words.append("--skip-bids-validation")
    return shlex.join([*words, *shlex.split(chosen.options)])


def bids_filter(config: Config, runs: Iterable[Mapping[str, Any]]) -> str:
    """The BIDS filter file that fMRIPrep is given, as JSON; ``{}`` where it has nothing to say.

    Parameters
    ----------
    config : Config
    runs : iterable of mapping
        The runs that are used: rows of the run table.

    Notes
    -----
    The user's own file, if any, with what ``--task-id`` cannot say: several tasks, and sessions. A filter of runs is
    left to NeuroAlign, which then uses part of what fMRIPrep made.
    """
    own = config.dataset.filters.bids_filter_file
    queries: dict[str, Any] = read_json(own) if own else {}
    rows, wanted = list(runs), {}
    if len(tasks := _asked(config, rows, "task")) > 1:
        wanted["task"] = tasks
    if sessions := _asked(config, rows, "session"):
        wanted["session"] = sessions
    if wanted:
        # fMRIPrep adds these entities to its own query, which has the datatype and suffix.
        queries["bold"] = queries.get("bold", {}) | wanted
    return json.dumps(queries, sort_keys=True)


def _asked(config: Config, runs: Iterable[Mapping[str, Any]], entity: str) -> list[str]:
    """The labels that a filter chose, as the files have them: `1` finds `01`, which fMRIPrep has to be told."""
    if getattr(config.dataset.filters, entity) is None:
        return []
    return sorted({row[entity] for row in runs} - {""})


def surface_problem(space: str) -> str | None:
    """That a space is a surface, as a sentence, or None."""
    if space not in SURFACES:
        return None
    return (
        f"fmri.space '{space}' is a surface, and atlases are laid over volumes; set it to a volumetric space of "
        "TemplateFlow such as MNI152NLin2009cAsym."
    )


def license_file(config: Config) -> str:
    """FreeSurfer's license as an absolute path, whether it is there or not; empty if nothing names one."""
    home = os.environ.get("FREESURFER_HOME")
    beside = f"{home}/license.txt" if home and Path(home, "license.txt").is_file() else ""
    named = config.fmri.preprocess.fmriprep.fs_license or os.environ.get("FS_LICENSE") or beside
    return str(Path(named).expanduser().absolute()) if named else ""


def license_problem(config: Config) -> str | None:
    """What keeps fMRIPrep from finding FreeSurfer's license, as a sentence, or None."""
    file = license_file(config)
    get = "register for one at https://surfer.nmr.mgh.harvard.edu/registration.html (free)"
    if not file:
        return (
            "fMRIPrep needs a FreeSurfer license even without surfaces; set fmri.preprocess.fmriprep.fs_license to the file, "
            f"or {get}."
        )
    if not Path(file).is_file():
        return f"The FreeSurfer license {file} does not exist; correct fmri.preprocess.fmriprep.fs_license, or {get}."
    return None


@dataclass(frozen=True)
class Places:
    """Folders of the command line, absolute, so that they mean the same inside a container.

    Attributes
    ----------
    bids_dir, folder, work : str
        The dataset, the derivatives, and intermediate files.
    license : str
        FreeSurfer's license; empty if none is known.
    """

    bids_dir: str
    folder: str
    work: str
    license: str

    @classmethod
    def of(cls, config: Config, folder: str) -> Places:
        """The places of a configuration; `folder` is that of the derivatives."""
        work = config.fmri.preprocess.fmriprep.work_dir or f"{config.output_dir}/scratch/fmriprep"
        return cls(
            *(str(Path(p).expanduser().absolute()) for p in (config.dataset.bids_dir, folder, work)),
            license=license_file(config),
        )

    def bind(self, environment: dict[str, str]) -> None:
        """Make the places visible in containers: dataset and license read-only.

        Sets the variable that Apptainer adds to its ``--bind`` options (``SINGULARITY_BIND`` where only Singularity
        is there). Every job parses the workflow, so this reaches jobs on other nodes, too.
        """
        name = "APPTAINER_BIND" if shutil.which("apptainer") else "SINGULARITY_BIND"
        wanted = [f"{self.bids_dir}:{self.bids_dir}:ro", f"{Path(self.folder).parent}"]
        if Path(self.work).is_dir() and not Path(self.work).is_relative_to(Path(self.folder).parent):
            wanted.append(self.work)
        if self.license:
            wanted.append(f"{self.license}:{self.license}:ro")
        templates = environment.get("TEMPLATEFLOW_HOME")
        if templates and Path(templates).is_dir():
            wanted.append(templates)
        given = [bind for bind in environment.get(name, "").split(",") if bind]
        environment[name] = ",".join(dict.fromkeys([*given, *wanted]))
