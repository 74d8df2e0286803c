"""Runs of people watching films, with known delays and known reliable units, as files that `build_pairs` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.fmri import Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.fmri.series import RoiSeries, read_series, write_series
from neuroalign.pairs.build import build_pairs
from neuroalign.simulate.hrf import STEP_S, convolve
from neuroalign.video.shards import Embedding, write_embedding

FEATURES = 10


@dataclass
class Dataset:
    """What `build_pairs` takes, and where it lies."""

    root: Path
    presentations: pd.DataFrame
    series: dict[str, Path] = field(default_factory=dict)
    embeddings: dict[str, Path] = field(default_factory=dict)

    def build(self, name: str = "pairs", **options) -> Path:
        settings = {"clips": Clips(strategy="fixed"), "hrf": Hrf(), "split": Split(by="stimulus")} | options
        build_pairs(
            self.presentations, self.series, self.embeddings, self.root / name, **settings, made_by={}
        )
        return self.root / name

    def change_runs_of(self, films: set[str], change) -> None:
        """Rewrite the data of every run that shows one of these films."""
        for row in self.presentations[self.presentations["stimulus"].isin(films)].itertuples():
            series = read_series(self.series[row.run_id])
            series.levels = {level: change(data) for level, data in series.levels.items()}
            write_series(self.series[row.run_id], series)


def make_dataset(
    root: Path,
    delays: Mapping[str, float],
    *,
    tr: float = 1.5,
    subjects: int = 2,
    films: int = 6,
    film_s: float = 120.0,
    units: int = 8,
    noise: float = 1.0,
    repeats: Mapping[str, int] | None = None,
    deaf: Mapping[str, int] | None = None,
    pure: bool = False,
    own_labels: bool = False,
    seed: int = 0,
) -> Dataset:
    """Write series and features.

    Parameters
    ----------
    root : path
    delays : dict of level to float
        Seconds to the peak of the simulator's response; the plain delay with `pure`.
    repeats : dict of film to int
        How often a film is shown, in runs of its own (default once).
    deaf : dict of level to int
        The last so many units of a level do not answer to films.
    own_labels : bool
        Label units by subject, as voxels of native space would be.
    """
    rng = np.random.default_rng(seed)
    names = [f"film-{i + 1}" for i in range(films)]
    courses = {}
    for name in names:
        # One value a second, interpolated: content that changes within a clip.
        seconds = np.arange(int(film_s) + 1)
        values = rng.standard_normal((len(seconds), FEATURES))
        fine = np.arange(0, film_s, STEP_S)
        courses[name] = np.stack([np.interp(fine, seconds, v) for v in values.T], axis=1)
    shared = {level: rng.standard_normal((FEATURES, units)) for level in delays}
    dataset = Dataset(root, pd.DataFrame())
    rows = []
    for number in range(1, subjects + 1):
        subject = f"{number:02d}"
        weights = {level: w + 0.5 * rng.standard_normal(w.shape) for level, w in shared.items()}
        for level, count in (deaf or {}).items():
            weights[level][:, units - count :] = 0.0
        shown = [name for name in names for _ in range((repeats or {}).get(name, 1))]
        for run, film in enumerate(shown, 1):
            run_id = f"sub-{subject}_task-film_run-{run}"
            onset = 6.0 + rng.uniform(0, 2)
            times = (np.arange(int((film_s + 24) / tr)) + 0.5) * tr
            levels, labels = {}, {}
            for level, delay in delays.items():
                tail = np.repeat(courses[film][-1:], round(20 / STEP_S), axis=0)
                neural = np.concatenate([courses[film], tail]) @ weights[level]
                clock = np.arange(len(neural)) * STEP_S
                response = neural if pure else convolve(neural, delay)
                response = response / max(response.std(), 1e-9)
                lag = delay if pure else 0.0
                at = times - onset - lag
                signal = np.stack([np.interp(at, clock, r) for r in response.T], axis=1)
                levels[level] = (signal + noise * rng.standard_normal(signal.shape)).astype(np.float32)
                mark = f"s{subject}_" if own_labels else ""
                labels[level] = [f"{mark}{level}@{i},0,0" for i in range(units)]
            attributes = {"tr": tr, "subject": subject, "task": "film", "run": str(run)}
            series = RoiSeries(levels, labels, times, np.ones(len(times), bool), attributes)
            dataset.series[run_id] = root / f"{run_id}.h5"
            write_series(dataset.series[run_id], series)
            rows.append(
                {
                    **{"run_id": run_id, "subject": subject, "session": "", "task": "film", "run": str(run)},
                    **{"onset": onset, "duration": film_s, "stimulus": film, "offset": 0.0},
                }
            )
    dataset.presentations = pd.DataFrame(rows)
    for film, course in courses.items():
        per_step = round(0.5 / STEP_S)
        data = course[: len(course) // per_step * per_step].reshape(-1, per_step, FEATURES).mean(1)
        dataset.embeddings[film] = root / f"{film}.h5"
        times = (np.arange(len(data)) + 0.5) * 0.5
        write_embedding(dataset.embeddings[film], Embedding({"features": data.astype(np.float32)}, times))
    return dataset


@pytest.fixture
def make(tmp_path):
    """The builder, in a folder of the test's own."""
    return lambda *args, **kwargs: make_dataset(tmp_path, *args, **kwargs)
