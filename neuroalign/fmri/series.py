"""The ROI series file: cleaned regional series of one run on the clock of its events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuroalign.errors import UserError
from neuroalign.io import atomic_hdf5, open_hdf5, read_attributes, read_strings, stamp

ATTRIBUTES = ("subject", "session", "task", "run", "tr", "space", "atlas", "source", "hrf_removed")


@dataclass
class RoiSeries:
    """Regional time series of one run.

    Attributes
    ----------
    levels : dict of str to array of shape (volumes, units)
        Float32 series per brain level, in visual-hierarchy order.
    unit_labels : dict of str to list of str
        A label per column of each level.
    times : array of shape (volumes,)
        Seconds at the middle of each volume's acquisition, on the clock of ``events.tsv``.
    keep : bool array of shape (volumes,)
        False where a volume is censored.
    attributes : dict
        `subject`, `session`, `task`, `run`, `tr`, `space`, `atlas`, `source`, `hrf_removed`.
    nuisance : float32 array of shape (volumes, n), optional
        Basis of what was regressed out, and
    band_hz : (high_pass, low_pass), optional
        the band-pass before, both of `clean.nuisance_space`; None where that is not known (`timeseries`).
    """

    levels: dict[str, np.ndarray]
    unit_labels: dict[str, list[str]]
    times: np.ndarray
    keep: np.ndarray
    attributes: dict[str, Any] = field(default_factory=dict)
    nuisance: np.ndarray | None = None
    band_hz: tuple[float, float] | None = None

    @property
    def repetition_time(self) -> float:
        """Seconds, as the file says, or else the median between volumes."""
        return float(self.attributes.get("tr") or np.median(np.diff(self.times)))

    def __post_init__(self):
        volumes = len(self.times)
        if len(self.keep) != volumes:
            raise ValueError(f"{volumes} times, but {len(self.keep)} keep flags")
        if self.nuisance is not None and len(self.nuisance) != volumes:
            raise ValueError(f"{volumes} times, but {len(self.nuisance)} rows of nuisance")
        for level, data in self.levels.items():
            if data.shape != (volumes, len(self.unit_labels[level])):
                raise ValueError(
                    f"level {level} has shape {data.shape}, expected ({volumes}, {len(self.unit_labels[level])})"
                )


def write_series(
    path: str | os.PathLike, series: RoiSeries, made_by: Mapping[str, Any] | None = None
) -> None:
    """Write a ROI series file atomically."""
    with atomic_hdf5(path) as file:
        for level, data in series.levels.items():
            group = file.create_group(f"levels/{level}", track_order=True)
            group.create_dataset("data", data=np.asarray(data, np.float32))
            group.create_dataset("unit_label", data=[str(v) for v in series.unit_labels[level]])
        # HDF5 lists groups alphabetically; the order of the hierarchy is kept beside them.
        file["levels"].attrs["order"] = list(series.levels)
        file.create_dataset("times", data=np.asarray(series.times, np.float64))
        file.create_dataset("keep", data=np.asarray(series.keep, bool))
        if series.nuisance is not None:
            dataset = file.create_dataset("nuisance", data=np.asarray(series.nuisance, np.float32))
            if series.band_hz:
                dataset.attrs["band_hz"] = series.band_hz
        for name in ATTRIBUTES:
            file.attrs[name] = series.attributes.get(name, "")
        stamp(file, made_by or {})


def read_series(path: str | os.PathLike) -> RoiSeries:
    """Read a ROI series file.

    Raises
    ------
    UserError
        If the file is missing, damaged, or not a ROI series.
    """
    with open_hdf5(path) as file:
        try:
            group = file["levels"]
            names = [str(n) for n in group.attrs.get("order", list(group))]
            nuisance = file.get("nuisance")
            band = () if nuisance is None else nuisance.attrs.get("band_hz", ())
            return RoiSeries(
                levels={n: group[n]["data"][()].astype(np.float32) for n in names},
                unit_labels={n: read_strings(group[n]["unit_label"]) for n in names},
                times=file["times"][()].astype(np.float64),
                keep=file["keep"][()].astype(bool),
                attributes=read_attributes(file, ATTRIBUTES),
                nuisance=None if nuisance is None else nuisance[()].astype(np.float32),
                band_hz=tuple(float(v) for v in band) or None,
            )
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a ROI series file ({error}); see docs/formats.md.") from error
