"""What folds chose (lags, units) goes into trained models, so that whole runs are cut as the paired dataset was."""

from __future__ import annotations

import numpy as np
import pytest

import neuroalign
from neuroalign.config.fmri import Hrf, Selection
from neuroalign.config.pairs import Split
from neuroalign.config.train import Train
from neuroalign.errors import UserError
from neuroalign.fmri.series import read_series, write_series
from neuroalign.pairs.build import read_geometry
from neuroalign.pairs.store import read_pairs
from neuroalign.retrieve import retrieve
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.vq import train_vq

SPLIT = Split(by="stimulus", hold_out={"stimulus": ["film-4"]}, guard_s=8)
SELECTION = Selection(method="reliability", minimum_r=0.2)
CONFIG = Train(
    device="cpu",
    ntcl={"epochs": 1, "batch_size": 64, "encoder": {"dim": 16, "depth": 1, "heads": 2, "subject_rank": 2}},
    vq={"epochs": 1, "batch_size": 64, "codes": 16, "code_dim": 8},
)


@pytest.mark.slow
@pytest.mark.parametrize("own_labels", [False, True], ids=["same units", "units of one's own"])
def test_a_run_is_cut_and_its_units_chosen_as_in_training(make, own_labels, tmp_path):
    dataset = make(
        {"early": 4.5, "high": 6.0},
        films=4,
        film_s=60.0,
        repeats={"film-1": 3, "film-2": 2},
        deaf={"early": 3, "high": 5},
        own_labels=own_labels,
    )
    hrf = Hrf(method="shift", shift_s="sweep")
    folder = dataset.build(hrf=hrf, split=SPLIT, selection=SELECTION)
    pairs = read_pairs(folder)
    train_ntcl(pairs, tmp_path / "m" / "ntcl", CONFIG, 0, made_by={}, geometry=read_geometry(folder))
    train_vq(pairs, tmp_path / "m" / "ntcl", tmp_path / "m" / "vq", CONFIG, 0, made_by={})
    model = neuroalign.load(tmp_path / "m")
    assert model.geometry["lags_s"] == pairs.brain["01"].lags_s
    assert model.network.architecture.shared_units is not own_labels
    for subject, windows in pairs.brain.items():
        assert model.units_of(subject) == windows.unit_labels
        rows = pairs.clips.iloc[windows.rows]
        here = (rows["run"] == "2").to_numpy()
        series = read_series(dataset.series[f"sub-{subject}_task-film_run-2"])
        assert series.levels["early"].shape[1] > windows.levels["early"].shape[2]
        whole = model.embed_fmri(series, subject, rows["onset_s"].to_numpy()[here])
        cut = model.embed_fmri(windows.select(here), subject)
        np.testing.assert_allclose(whole.steps, cut.steps, atol=1e-4)
        shuffled = read_series(dataset.series[f"sub-{subject}_task-film_run-2"])
        for level, data in shuffled.levels.items():
            shuffled.levels[level] = data[:, ::-1]
            shuffled.unit_labels[level] = shuffled.unit_labels[level][::-1]
        again = model.embed_fmri(shuffled, subject, rows["onset_s"].to_numpy()[here])
        np.testing.assert_allclose(again.steps, whole.steps, atol=1e-5)
    runs = tmp_path / "runs"
    for run_id in ("sub-01_task-film_run-1", "sub-02_task-film_run-1"):
        write_series(runs / f"{run_id}_timeseries.h5", read_series(dataset.series[run_id]))
    query = runs / "sub-02_task-film_run-1_timeseries.h5"
    found = retrieve(tmp_path / "m", dataset.embeddings["film-1"], fmri=query, top=3)
    assert len(found) >= 3 * 10
    assert len(retrieve(tmp_path / "m", runs, video=dataset.embeddings["film-3"], top=2))
    other = read_series(query)
    other.unit_labels["high"] = [f"other-{label}" for label in other.unit_labels["high"]]
    with pytest.raises(UserError, match=r"Level 'high' has 8 units, but lacks '.*high@0,0,0' of the 3"):
        model.embed_fmri(other, "02", 20.0)
