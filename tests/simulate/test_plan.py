import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.dataset import Simulate
from neuroalign.simulate import PRESETS, plan_dataset
from neuroalign.simulate.plan import PRESENTATION_COLUMNS, RUN_COLUMNS, generator

any_settings = st.builds(
    Simulate,
    subjects=st.integers(1, 4),
    sessions=st.integers(1, 3),
    films=st.integers(2, 9),
    film_s=st.floats(20, 60),
    films_per_run=st.integers(1, 4),
    repeats=st.integers(1, 3),
    tr_s=st.floats(0.5, 3),
    seed=st.integers(0, 2**31),
)


@settings(deadline=None, max_examples=40)
@given(any_settings)
def test_every_film_is_shown_to_everyone_and_fits_its_run(simulate):
    plan = plan_dataset(simulate, "data/bids")
    assert list(plan.runs.columns) == list(RUN_COLUMNS)
    assert list(plan.presentations.columns) == list(PRESENTATION_COLUMNS)
    assert plan.runs["run_id"].is_unique
    assert len(set(plan.files)) == len(plan.files)
    assert len(set(plan.truth_files)) == len(plan.truth_files)
    for _, shown in plan.presentations.groupby("subject"):
        counts = shown["stimulus"].value_counts()
        assert set(counts.index) == set(plan.films)
        assert set(counts) <= {1, simulate.repeats}
    for run in plan.run_plans:
        ends = np.array(run.onsets) + simulate.film_s
        assert run.onsets[0] >= 6
        assert np.all(np.array(run.onsets[1:]) >= ends[:-1] + 8)
        assert run.volumes * simulate.tr_s >= ends[-1] + 12


def test_the_default_is_three_subjects_with_five_runs_each():
    plan = plan_dataset(Simulate(), "bids")
    assert plan.runs.groupby("subject").size().to_dict() == {"01": 5, "02": 5, "03": 5}
    assert set(plan.runs.query("subject == '01'")["session"]) == {"01", "02"}
    assert set(plan.runs.query("subject != '01'")["session"]) == {"01"}
    twice = plan.presentations.query("subject == '02'")["stimulus"].value_counts()
    assert sorted(twice[twice == 2].index) == ["film-07", "film-08"]
    assert {run.repeat for run in plan.run_plans} == {0, 1}


def test_onsets_are_not_on_the_volume_grid():
    plan = plan_dataset(Simulate(), "bids")
    phase = plan.presentations["onset"].to_numpy() % 2.0
    assert np.ptp(phase) > 1
    assert np.all((phase > 0.01) & (phase < 1.99))


def test_without_sessions_there_is_no_session_entity():
    plan = plan_dataset(Simulate(sessions=1), "bids")
    assert not any("ses-" in str(path) for path in plan.files)
    assert set(plan.runs["session"]) == {""}


def test_planning_is_deterministic_and_seeded():
    first, second = (plan_dataset(Simulate(seed=3), "a/bids") for _ in range(2))
    pd.testing.assert_frame_equal(first.presentations, second.presentations)
    other = plan_dataset(Simulate(seed=4), "a/bids")
    assert not first.presentations["onset"].equals(other.presentations["onset"])


def test_random_streams_differ_by_purpose_even_with_long_names():
    names = [f"sub-01_ses-01_task-film_run-{i}" for i in range(3)]
    draws = {generator(Simulate(), "motion", name).random() for name in names}
    assert len(draws) == 3


def test_truth_lies_beside_the_dataset_not_inside():
    plan = plan_dataset(Simulate(), "somewhere/bids")
    assert plan.truth_dir.parent == plan.bids_dir.parent
    assert not any(path.is_relative_to(plan.bids_dir) for path in plan.truth_files)


@pytest.mark.parametrize("preset", PRESETS)
def test_planning_imports_no_imaging_library(preset):
    code = (
        "import sys; from neuroalign.simulate import PRESETS, plan_dataset;"
        f"plan_dataset(PRESETS['{preset}'], 'bids');"
        "heavy = {'nibabel', 'nilearn', 'scipy.ndimage', 'PIL', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
