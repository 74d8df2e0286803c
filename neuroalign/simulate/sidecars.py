"""The text files of the dataset: descriptions, sidecars, participants, events."""

from __future__ import annotations

from typing import Any

import pandas as pd

from neuroalign import __version__
from neuroalign.config.dataset import Simulate
from neuroalign.simulate.bold import slice_timing
from neuroalign.simulate.plan import TASK, DatasetPlan, RunPlan, generator

GENERATOR = "neuroalign simulate"
"""`GeneratedBy` name by which the simulator recognises its own datasets."""


def dataset_description(simulate: Simulate) -> dict[str, Any]:
    """``dataset_description.json``."""
    return {
        "Name": "NeuroAlign demo dataset: simulated people watching films",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["NeuroAlign"],
        "Acknowledgements": "Anatomy after the ICBM152 2009a template as distributed with nilearn.",
        "HowToAcknowledge": "Simulated data: say so wherever they are shown.",
        "Funding": ["none"],
        "EthicsApprovals": ["not applicable: simulated data"],
        "ReferencesAndLinks": ["https://bids-specification.readthedocs.io"],
        "DatasetDOI": "n/a",
        "Keywords": ["fMRI", "films", "simulation"],
        "GeneratedBy": [
            {
                "Name": GENERATOR,
                "Version": __version__,
                "Description": "Settings: " + ", ".join(f"{k}={v}" for k, v in simulate.model_dump().items()),
            }
        ],
    }


def readme(plan: DatasetPlan) -> str:
    """``README``."""
    s = plan.simulate
    return f"""# Simulated people watching films

Nobody was scanned for this dataset: `neuroalign simulate` made it. {s.subjects} simulated people watched
{s.films} computer-drawn films of {s.film_s:g} s, {s.films_per_run} in a run; the films of one run were shown {s.repeats}
times. Between films a grey screen with a fixation point was shown.

The films in `stimuli/` are edited into shots with objects of several categories, textures, colours and motion.
The BOLD signal is driven by what is in the decoded frames and by what the scenes contain, at three levels
(early, intermediate, high visual regions), each with a haemodynamic delay of its own. Head motion, slow drift,
physiological and thermal noise are added, and each slice is sampled at its own time.

Anatomy is the MNI ICBM152 template, deformed for each person, with skull and scalp drawn around it.
Defacing is not needed. Onsets in the events files are relative to the start of the first volume, and no volumes
were discarded.

Seed {s.seed}, noise {s.noise:g}, voxels of {s.voxel_mm:g} mm, repetition time {s.tr_s:g} s. The same
settings give the same dataset. The ground truth lies beside this folder, in `truth`, not inside it.
"""


def changes() -> str:
    """``CHANGES``."""
    return f"{__version__} 2026-11-23\n  - Made by {GENERATOR} {__version__}.\n"


def participants(plan: DatasetPlan) -> pd.DataFrame:
    """``participants.tsv``."""
    rows = []
    for subject in plan.subjects:
        rng = generator(plan.simulate, "participant", subject)
        rows.append((f"sub-{subject}", int(rng.integers(20, 40)), str(rng.choice(["F", "M"])), "R"))
    return pd.DataFrame(rows, columns=["participant_id", "age", "sex", "handedness"])


PARTICIPANTS_COLUMNS = {
    "age": {"Description": "Invented age of the simulated participant.", "Units": "year"},
    "sex": {
        "Description": "Invented sex of the simulated participant.",
        "Levels": {"F": "female", "M": "male"},
    },
    "handedness": {
        "Description": "Invented handedness of the simulated participant.",
        "Levels": {"R": "right", "L": "left"},
    },
}

EVENTS_COLUMNS = {
    "trial_type": {
        "Description": "What was on the screen.",
        "Levels": {"film": "A film from start to end.", "fixation": "Grey screen with a fixation point."},
    },
    "stim_file": {"Description": "The film, relative to the stimuli folder; n/a during fixation."},
}


def bold_common(simulate: Simulate) -> dict[str, Any]:
    """``task-film_bold.json``: what all runs have in common."""
    return {
        "TaskName": TASK,
        "TaskDescription": "Passive viewing of short films without sound.",
        "Instructions": "Watch the films and lie still.",
        "CogAtlasID": "https://www.cognitiveatlas.org/task/id/trm_4c8991fad0a51",
        "RepetitionTime": float(simulate.tr_s),
    }


def bold_sidecar(simulate: Simulate, shape: tuple[int, ...]) -> dict[str, Any]:
    """Sidecar of a BOLD run."""
    times, multiband = slice_timing(simulate)
    spacing = 0.0005
    return {
        **_scanner(),
        "RepetitionTime": float(simulate.tr_s),
        "SliceTiming": [float(t) for t in times],
        "SliceEncodingDirection": "k",
        "MultibandAccelerationFactor": multiband,
        "EchoTime": 0.03,
        "FlipAngle": 77,
        "PhaseEncodingDirection": "j-",
        "EffectiveEchoSpacing": spacing,
        "TotalReadoutTime": round(spacing * (shape[1] - 1), 6),
        "NumberOfVolumesDiscardedByScanner": 0,
        "NumberOfVolumesDiscardedByUser": 0,
        "PulseSequenceType": "Gradient Echo EPI",
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "DelayTime": 0,
        "TaskName": TASK,
    }


def t1w_sidecar() -> dict[str, Any]:
    """Sidecar of a T1w image."""
    return {
        **_scanner(),
        "RepetitionTime": 2.3,
        "EchoTime": 0.003,
        "InversionTime": 0.9,
        "FlipAngle": 9,
        "PulseSequenceType": "MPRAGE",
        "ScanningSequence": "GR",
        "SequenceVariant": "MP",
    }


def _scanner() -> dict[str, Any]:
    return {
        "Manufacturer": "simulated",
        "ManufacturersModelName": GENERATOR,
        "MagneticFieldStrength": 3,
        "SoftwareVersions": __version__,
        "InstitutionName": "none (simulated)",
        "Modality": "MR",
    }


def events(simulate: Simulate, run: RunPlan) -> pd.DataFrame:
    """``events.tsv`` of a run: one row per film, and the fixation periods around them."""
    rows: list[tuple[float, float, str, str | None]] = []
    clock = 0.0
    end = run.volumes * simulate.tr_s
    for film, onset in zip(run.films, run.onsets, strict=True):
        rows.append((clock, onset - clock, "fixation", None))
        rows.append((onset, simulate.film_s, "film", f"{film}.mp4"))
        clock = onset + simulate.film_s
    rows.append((clock, end - clock, "fixation", None))
    table = pd.DataFrame(rows, columns=["onset", "duration", "trial_type", "stim_file"])
    return table.round({"onset": 4, "duration": 4})
