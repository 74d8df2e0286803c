"""The hard simulated setting through the real stages: what is written is read as it was meant, and models lie where they should."""

from __future__ import annotations

import numpy as np
import pytest

from neuroalign.config.fmri import Fmri, Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.fmri.extract import extract_run
from neuroalign.pairs.build import build_pairs, read_geometry
from neuroalign.pairs.store import read_pairs
from neuroalign.plan import make_plan
from neuroalign.simulate.features import LEVELS
from neuroalign.simulate.neural import DELAYS_S, SIGNAL_PERCENT
from neuroalign.simulate.observer import ideal_scores
from neuroalign.simulate.responses import (
    BEFORE_S,
    STEP_S,
    Responses,
    delay_table,
    make_world,
    response_to,
    volume_times,
    write_world,
)


def paired(settings: Responses, folder):
    """A world, and its pairs after index, extract and pair."""
    world = make_world(settings)
    config = write_world(world, folder) | {"output_dir": str(folder / "results")}
    plan = make_plan(config)
    series = {}
    for row in plan.runs.to_dict("records"):
        path = folder / "roi" / f"{row['run_id']}.h5"
        extract_run(
            row,
            Fmri(**config["fmri"]),
            path,
            path.with_suffix(".qc.h5"),
            bids_dir=config["dataset"]["bids_dir"],
            preproc_dir=None,
        )
        series[row["run_id"]] = path
    build_pairs(
        plan.presentations,
        series,
        {film: folder / "features" / f"{film}.h5" for film in settings.films},
        folder / "pairs",
        clips=Clips(**config["clips"]),
        hrf=Hrf(**config["hrf"]),
        split=Split(**config["split"] | {"validation": 0.3}),
        made_by={},
    )
    return world, folder / "pairs"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    settings = Responses(people=2, train_films=2, test_films=1, film_s=80.0, units=3, features=4)
    world, folder = paired(settings, tmp_path_factory.mktemp("small"))
    return world, read_pairs(folder)


def test_windows_are_the_series_that_were_drawn(small):
    world, pairs = small
    windows, _ = pairs.of("02", "test")
    clips = pairs.clips.iloc[windows.rows]
    assert (clips["stimulus"] == world.settings.test[0]).all()
    assert clips["start_s"].tolist() == [4.0 * i for i in range(20)]
    assert list(windows.levels) == list(LEVELS)
    series = world.series["02", world.settings.test[0]]
    clock = volume_times(world.settings, len(series)) - world.onsets["02", world.settings.test[0]]
    scaled = (series - series.mean(0)) / series.std(0)
    found = np.concatenate(list(windows.levels.values()), axis=2)
    for row, start in enumerate(clips["start_s"]):
        used = (clock >= start) & (clock < start + 16)
        np.testing.assert_allclose(windows.times[row], clock[used] - start, atol=1e-4)
        np.testing.assert_allclose(found[row], scaled[used], rtol=0.02, atol=0.02)


def test_features_are_those_that_drive_the_brain(small):
    world, pairs = small
    film = world.settings.test[0]
    row = pairs.video.clip_ids.index(f"{film}@8.000+4.000")
    first = round((BEFORE_S + 8) / STEP_S)
    for level in LEVELS:
        seconds = world.films[film][level][first : first + 16].reshape(4, 4, -1).mean(axis=1)
        np.testing.assert_allclose(pairs.video.levels[level][row], seconds, rtol=1e-5, atol=1e-5)


def test_signals_have_the_size_and_the_delay_of_their_level():
    world = make_world(Responses(people=2, train_films=2, test_films=1, film_s=400.0, units=6, features=6))
    person = world.people["01"]
    at = np.arange(0.0, 400.0, 1.0)
    for level in LEVELS:
        signal = np.concatenate([response_to(person, film, level, at) for film in world.films.values()])
        assert signal.std(0).mean() == pytest.approx(SIGNAL_PERCENT[level], rel=0.15)
        pulse = {name: np.zeros_like(x) for name, x in world.films[world.settings.films[0]].items()}
        pulse[level][round(BEFORE_S / STEP_S)] = 1.0
        answer = np.abs(response_to(person, pulse, level, np.arange(0, 20, 0.05))).sum(1)
        assert 0.05 * answer.argmax() == pytest.approx(person.delays_s[level] + STEP_S / 2, abs=0.06)
    table = delay_table(world)
    assert set(table["subject"]) == {"all", "01", "02"}
    group = table[table["subject"] == "all"].set_index("level")["delay_s"]
    assert all(abs(group[level] - DELAYS_S[level]) < 0.6 for level in LEVELS)


@pytest.mark.slow
def test_ridge_is_below_neuroalign_and_neuroalign_below_the_ceiling(tmp_path):
    import neuroalign
    from neuroalign.config.train import Train
    from neuroalign.evaluation.baselines import run_baseline
    from neuroalign.models.score import score_pairs
    from neuroalign.training.ntcl import train_ntcl
    from neuroalign.training.validation import retrieval

    settings = Responses(people=3, train_films=3, test_films=1, film_s=320.0, units=20, features=8, noise=2.5)
    world, folder = paired(settings, tmp_path)
    pairs = read_pairs(folder)
    config = Train(device="cpu", ntcl={"epochs": 1})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=read_geometry(folder))
    own = np.arange(80)
    found = {"ridge": [], "neuroalign": [], "ideal": []}
    ridge = run_baseline("ridge", pairs)[0]
    clips = [(settings.test[0], 4.0 * i) for i in own]
    for subject, (_, _, parts) in score_pairs(neuroalign.load(tmp_path / "ntcl"), pairs).items():
        found["neuroalign"].append(retrieval(parts["fused"], own)["mrr"])
        found["ridge"].append(retrieval(ridge[subject].parts["score"], own)["mrr"])
        ideal = ideal_scores(world, subject, clips, clips, 4.0, (0.0, 12.0))
        found["ideal"].append(retrieval(ideal, own)["mrr"])
    mrr = {name: np.mean(values) for name, values in found.items()}
    assert 0.15 < mrr["ridge"] < mrr["neuroalign"] < mrr["ideal"], mrr
