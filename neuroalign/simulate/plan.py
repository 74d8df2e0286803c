"""What the simulated dataset consists of: subjects, sessions, runs, films, onsets and file names.

No imaging library is imported here: a workflow plans the dataset every time it is parsed.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from neuroalign.config.dataset import Simulate

TASK = "film"
LEAD_S = 6.0
GAP_S = 8.0
TAIL_S = 12.0
ATLAS_SPACE = "MNI152NLin2009aSym"
ATLAS_IMAGE = f"atlas-demo_space-{ATLAS_SPACE}_dseg.nii.gz"
ATLAS_LABELS = f"atlas-demo_space-{ATLAS_SPACE}_dseg.tsv"

PRESETS = {
    "tiny": Simulate(
        subjects=2, sessions=1, films=3, film_s=20, films_per_run=1, repeats=2, voxel_mm=6, tr_s=2.0
    ),
    "small": Simulate(),
    "large": Simulate(
        subjects=10, sessions=2, films=24, film_s=300, films_per_run=2, repeats=3, tr_s=1.5, voxel_mm=2.4
    ),
}

RUN_COLUMNS = (
    "run_id",
    "subject",
    "session",
    "task",
    "run",
    "tr",
    "bold",
    "t1w",
    "events",
    "mask",
    "confounds",
    "timeseries",
    "raw_volumes",
)
PRESENTATION_COLUMNS = (
    "run_id",
    "subject",
    "session",
    "task",
    "run",
    "onset",
    "duration",
    "stimulus",
    "stimulus_file",
    "offset",
    "trial_type",
)


@dataclass(frozen=True)
class RunPlan:
    """One run: which films are shown when.

    Attributes
    ----------
    run_id : str
        BIDS name up to the suffix.
    subject, session, run : str
        Labels; `session` is empty when the dataset has none.
    films : tuple of str
        Names of the films in order of presentation.
    onsets : tuple of float
        Onset of each film in seconds from the start of the first volume.
    volumes : int
    repeat : int
        How often this content was shown to this subject before.
    """

    run_id: str
    subject: str
    session: str
    run: str
    films: tuple[str, ...]
    onsets: tuple[float, ...]
    volumes: int
    repeat: int

    @property
    def func(self) -> str:
        """Folder and name of the functional files, relative to the dataset, up to the suffix."""
        return f"{_folder(self.subject, self.session)}/func/{self.run_id}"


@dataclass(frozen=True)
class DatasetPlan:
    """Everything the simulator will write.

    Attributes
    ----------
    simulate : Simulate
    bids_dir, truth_dir : Path
        The dataset, and the ground truth beside it.
    runs, presentations : DataFrame
        The tables of the `index` stage (``runs.tsv`` and ``presentations.tsv``).
    files, truth_files : list of Path
        Every file below `bids_dir` and `truth_dir`.
    run_plans : list of RunPlan
    films : list of str
        Names of the films (file names without extension).
    """

    simulate: Simulate
    bids_dir: Path
    truth_dir: Path
    runs: pd.DataFrame
    presentations: pd.DataFrame
    files: list[Path]
    truth_files: list[Path]
    run_plans: list[RunPlan]
    films: list[str]

    @property
    def subjects(self) -> list[str]:
        """Subject labels without prefix."""
        return list(dict.fromkeys(plan.subject for plan in self.run_plans))

    @property
    def atlas_image(self) -> Path:
        """The demo parcellation (template space)."""
        return self.truth_dir / ATLAS_IMAGE

    @property
    def atlas_labels(self) -> Path:
        """The table of its labels."""
        return self.truth_dir / ATLAS_LABELS


def plan_dataset(simulate: Simulate, bids_dir: str | os.PathLike) -> DatasetPlan:
    """Plan the dataset: the same settings always give the same plan, and nothing is written.

    Parameters
    ----------
    simulate : Simulate
        The settings (`dataset.simulate` of the configuration, or one of `PRESETS`).
    bids_dir : path
        Where the dataset will be. The ground truth goes to the folder ``truth`` beside it.

    Returns
    -------
    DatasetPlan
    """
    bids_dir = Path(bids_dir)
    truth_dir = bids_dir.parent / "truth"
    films = film_names(simulate)
    run_plans = [plan for index in range(simulate.subjects) for plan in _plan_subject(simulate, films, index)]
    runs, presentations = _tables(simulate, run_plans, bids_dir)
    return DatasetPlan(
        simulate=simulate,
        bids_dir=bids_dir,
        truth_dir=truth_dir,
        runs=runs,
        presentations=presentations,
        files=[bids_dir / name for name in _dataset_names(run_plans, films)],
        truth_files=[truth_dir / name for name in _truth_names(run_plans)],
        run_plans=run_plans,
        films=films,
    )


def film_names(simulate: Simulate) -> list[str]:
    """Names of the films: ``film-01``, ``film-02``, …"""
    width = max(2, len(str(simulate.films)))
    return [f"film-{i + 1:0{width}d}" for i in range(simulate.films)]


class Seeded(Protocol):
    """Settings that hold the seed of everything that is drawn with them."""

    @property
    def seed(self) -> int: ...


def generator(simulate: Seeded, *key: int | str) -> np.random.Generator:
    """An independent random generator for one purpose (`key`), reproducible from the dataset's seed.

    Separate streams keep, for instance, the films the same when only the number of subjects changes.
    """
    name = "/".join(str(part) for part in key).encode()
    return np.random.default_rng([simulate.seed, *hashlib.blake2b(name, digest_size=16).digest()])


def anat_name(subject: str, session: str) -> str:
    """Path of a subject's T1w image relative to the dataset, up to the suffix."""
    entities = f"sub-{subject}_ses-{session}" if session else f"sub-{subject}"
    return f"{_folder(subject, session)}/anat/{entities}"


def first_session(simulate: Simulate) -> str:
    """The session that holds the anatomical image; empty when the dataset has no sessions."""
    return "01" if simulate.sessions > 1 else ""


def _folder(subject: str, session: str) -> str:
    return f"sub-{subject}/ses-{session}" if session else f"sub-{subject}"


def _plan_subject(simulate: Simulate, films: list[str], index: int) -> list[RunPlan]:
    size = simulate.films_per_run
    contents = [tuple(films[i : i + size]) for i in range(0, len(films), size)]
    shown = contents + [contents[-1]] * (simulate.repeats - 1)
    subject = f"{index + 1:0{max(2, len(str(simulate.subjects)))}d}"
    rng = generator(simulate, "order", subject)
    shown = [shown[i] for i in rng.permutation(len(shown))]
    sessions = simulate.sessions if index == 0 else 1
    seen: dict[tuple[str, ...], int] = {}
    plans = []
    for s, part in enumerate(np.array_split(np.arange(len(shown)), sessions)):
        session = f"{s + 1:02d}" if simulate.sessions > 1 else ""
        for number, position in enumerate(part, start=1):
            content = shown[position]
            onsets = _onsets(simulate, rng, len(content))
            entities = f"sub-{subject}" + (f"_ses-{session}" if session else "")
            plans.append(
                RunPlan(
                    run_id=f"{entities}_task-{TASK}_run-{number}",
                    subject=subject,
                    session=session,
                    run=str(number),
                    films=content,
                    onsets=onsets,
                    volumes=math.ceil((onsets[-1] + simulate.film_s + TAIL_S) / simulate.tr_s),
                    repeat=seen.get(content, 0),
                )
            )
            seen[content] = seen.get(content, 0) + 1
    return plans


def _onsets(simulate: Simulate, rng: np.random.Generator, count: int) -> tuple[float, ...]:
    # Onsets are jittered by up to a TR: stimulus computers do not wait for whole volumes in every lab, and
    # an alignment that rounds to volumes should show.
    onsets, clock = [], LEAD_S
    for _ in range(count):
        onset = round(clock + rng.uniform(0.1, max(0.2, 0.95 * simulate.tr_s)), 3)
        onsets.append(onset)
        clock = onset + simulate.film_s + GAP_S
    return tuple(onsets)


def _tables(
    simulate: Simulate, run_plans: list[RunPlan], bids_dir: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs, presentations = [], []
    for plan in run_plans:
        labels = (plan.run_id, plan.subject, plan.session, TASK, plan.run)
        t1w = f"{anat_name(plan.subject, first_session(simulate))}_T1w.nii.gz"
        runs.append(
            (
                *labels,
                float(simulate.tr_s),
                str(bids_dir / f"{plan.func}_bold.nii.gz"),
                str(bids_dir / t1w),
                str(bids_dir / f"{plan.func}_events.tsv"),
                "",
                "",
                "",
                str(plan.volumes),
            )
        )
        for film, onset in zip(plan.films, plan.onsets, strict=True):
            path = str(bids_dir / "stimuli" / f"{film}.mp4")
            presentations.append((*labels, onset, float(simulate.film_s), film, path, 0.0, TASK))
    return (
        pd.DataFrame(runs, columns=list(RUN_COLUMNS)),
        pd.DataFrame(presentations, columns=list(PRESENTATION_COLUMNS)),
    )


def _dataset_names(run_plans: list[RunPlan], films: list[str]) -> list[str]:
    names = [
        "dataset_description.json",
        "README",
        "CHANGES",
        "participants.tsv",
        "participants.json",
        f"task-{TASK}_bold.json",
        f"task-{TASK}_events.json",
    ]
    names += [f"stimuli/{film}.mp4" for film in films]
    first = {}
    for plan in run_plans:
        first.setdefault(plan.subject, plan.session)
    for subject, session in first.items():
        names += [f"{anat_name(subject, session)}_T1w{suffix}" for suffix in (".nii.gz", ".json")]
    for plan in run_plans:
        names += [f"{plan.func}_{suffix}" for suffix in ("bold.nii.gz", "bold.json", "events.tsv")]
    return names


def _truth_names(run_plans: list[RunPlan]) -> list[str]:
    names = [
        "dataset.json",
        "delays.tsv",
        "scenes.tsv",
        "noise_ceiling.tsv",
        "weights.h5",
        "motion/motion.json",
        ATLAS_IMAGE,
        ATLAS_LABELS,
    ]
    for plan in run_plans:
        names += [f"signals/{plan.run_id}.h5", f"motion/{plan.run_id}.tsv"]
    return names
