"""Where the head is: the position at the start of each run, and its movement during the run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neuroalign.config.dataset import Simulate
from neuroalign.simulate.anatomy import rotation
from neuroalign.simulate.plan import RunPlan, generator

COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
HEAD_RADIUS_MM = 50.0
"""Radius of the sphere on which framewise displacement measures rotations (Power et al., 2012)."""

CONVENTION = {
    "columns": {
        **{f"trans_{axis}": f"Translation along {axis} in mm." for axis in "xyz"},
        **{f"rot_{axis}": f"Rotation about {axis} in radians." for axis in "xyz"},
        "framewise_displacement": "Sum of absolute differences to the volume before; rotations x 50 mm.",
    },
    "convention": (
        "Displacement of the head from its position in the first volume of the run, in world (RAS+) millimetres "
        "of the BOLD image: a point of the head at p in the first volume is at R (p - c) + c + t in this volume, "
        "with t = (trans_x, trans_y, trans_z), R = Rz(rot_z) Ry(rot_y) Rx(rot_x), and c the rotation centre below."
    ),
}


def head_motion(simulate: Simulate, run: RunPlan) -> np.ndarray:
    """Movement during a run: a random walk, breathing-like jitter, and a few small jolts.

    The size is that of cooperative adults: mean framewise displacement of 0.1 to 0.2 mm at noise = 1. It
    scales with `simulate.noise`; at 0 the head lies still.

    Returns
    -------
    array of shape (volumes, 6)
        Translations (mm) and rotations (rad) as in `CONVENTION`; the first row is zero.
    """
    rng = generator(simulate, "motion", run.run_id)
    # Heads nod (about x) and slide along the bore (z) more than they do anything else.
    unit = np.array([0.6, 0.8, 1.3, 1.4, 0.6, 0.7]) * np.array([1, 1, 1, *([1 / HEAD_RADIUS_MM] * 3)])
    walk = np.cumsum(rng.normal(0, 0.020, (run.volumes, 6)), axis=0)
    jitter = rng.normal(0, 0.012, (run.volumes, 6))
    jolts = np.zeros((run.volumes, 6))
    for _ in range(rng.poisson(run.volumes * simulate.tr_s / 120)):
        at = int(rng.integers(1, run.volumes))
        size = rng.normal(0, 0.22, 6)
        # Most of a jolt is undone within a few volumes; a part stays.
        decay = np.exp(-np.arange(run.volumes - at) / 3)[:, None]
        jolts[at:] += size * (0.3 + 0.7 * decay)
    position = (walk + jitter + jolts) * unit * simulate.noise
    return position - position[0]


def run_position(simulate: Simulate, run: RunPlan) -> np.ndarray:
    """Displacement of the head in a run's first volume from its place in the T1w image (mm, rad).

    People settle between runs (about 1 mm and 1 degree) and lie differently in another session (about 3 mm and 3
    degrees). It is part of the geometry and does not scale with the noise.
    """
    session = generator(simulate, "session position", run.subject, run.session)
    rng = generator(simulate, "run position", run.run_id)
    degree = np.pi / 180
    across = session.normal(0, 1, 6) * np.array([2, 3, 3, 3 * degree, 1.5 * degree, 1.5 * degree])
    within = rng.normal(0, 1, 6) * np.array([0.6, 0.6, 1, 0.8 * degree, 0.5 * degree, 0.5 * degree])
    return np.clip(across, -2.5 * 3, 2.5 * 3) + within


def rigid(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Matrix of a displacement, (4, 4): ``p -> R (p - c) + c + t`` (see `CONVENTION`)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(parameters[3:])
    matrix[:3, 3] = parameters[:3] + centre - matrix[:3, :3] @ centre
    return matrix


def framewise_displacement(motion: np.ndarray) -> np.ndarray:
    """Framewise displacement in mm after Power et al. (2012); the first volume has none (NaN)."""
    steps = np.abs(np.diff(motion, axis=0)) * np.array([1, 1, 1, *([HEAD_RADIUS_MM] * 3)])
    return np.concatenate([[np.nan], steps.sum(axis=1)])


def motion_table(motion: np.ndarray) -> pd.DataFrame:
    """Motion as a table with the columns of `CONVENTION`, one row per volume."""
    table = pd.DataFrame(np.round(motion, 6), columns=list(COLUMNS))
    table["framewise_displacement"] = np.round(framewise_displacement(motion), 5)
    return table
