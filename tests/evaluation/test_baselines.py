"""Every baseline finds a planted linear relation, at the planted lag, and learns nothing from test windows."""

import copy

import numpy as np
import pytest
from scipy.linalg import eigh

from neuroalign.errors import UserError
from neuroalign.evaluation.baselines import NAMES, run_baseline
from neuroalign.evaluation.baselines._data import lag_for, material
from neuroalign.evaluation.baselines.cca import Analysis
from neuroalign.evaluation.baselines.encoding import noise_whitener
from neuroalign.evaluation.baselines.infonce import infonce
from neuroalign.evaluation.retrieval import outranked
from neuroalign.pairs.linear import cosine, fit_ridge
from neuroalign.pairs.quality import rank_quality
from neuroalign.pairs.store import PairedDataset


def top1(pairs: PairedDataset, scores) -> float:
    hits = []
    for item in scores.values():
        truth = [item.gallery.index(c) for c in pairs.clips["clip_id"].iloc[item.clip_rows]]
        matrix = item.parts["score"]
        counts = outranked(matrix, np.zeros((len(item.gallery),) * 2, bool))
        hits.append(np.mean(counts.higher[np.arange(len(truth)), truth] == 0))
    return float(np.mean(hits))


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_relation_is_found(pairs, name):
    scores, chosen = run_baseline(name, pairs, seed=0)
    assert set(scores) == {"01", "02"}
    for subject, item in scores.items():
        test = pairs.clips[(pairs.clips["subject"] == subject) & (pairs.clips["split"] == "test")]
        assert list(item.clip_rows) == list(test.index)
        assert set(item.gallery) == set(test["clip_id"])
        assert len(item.gallery) == len(set(item.gallery)) == 24
        assert item.parts["score"].shape == (len(test), 24)
    assert top1(pairs, scores) > 0.5, "chance is 1 in 24"
    assert chosen["name"] == name


@pytest.mark.parametrize("name", ["ridge", "pooled_cca", "encoding", "linear_infonce"])
def test_test_windows_decide_nothing(pairs, name):
    """Other test windows of the same clips change no choice and no score but their own."""
    changed = PairedDataset(pairs.clips, copy.deepcopy(pairs.brain), pairs.video)
    is_test = (pairs.clips["split"] == "test").to_numpy()[changed.brain["02"].rows]
    for data in changed.brain["02"].levels.values():
        data[is_test] = 1e3 * np.random.default_rng(0).standard_normal(data[is_test].shape)
    before, chosen = run_baseline(name, pairs, seed=0)
    after, again = run_baseline(name, changed, seed=0)
    assert chosen == again
    assert np.array_equal(before["01"].parts["score"], after["01"].parts["score"])


def test_the_lag_is_found_on_validation(make):
    unaligned = make(aligned=False, noise=0.5)
    assert lag_for(unaligned) == (5.0,)
    assert lag_for(make()) == (0.0,)
    assert top1(unaligned, run_baseline("ridge", unaligned)[0]) > 0.5
    assert top1(unaligned, run_baseline("pooled_linear_infonce", unaligned)[0]) > 0.3


@pytest.mark.parametrize("name", ["ridge", "encoding", "pooled_linear_infonce"])
def test_one_beta_per_clip_is_compared_with_the_mean_of_its_steps(make, name):
    pairs = make(noise=0.3)
    for windows in pairs.brain.values():
        windows.levels = {k: data.mean(axis=1, keepdims=True) for k, data in windows.levels.items()}
        windows.times, windows.valid = windows.times[:, :1], windows.valid[:, :1]
    assert top1(pairs, run_baseline(name, pairs)[0]) > 0.4


def test_scaling_comes_from_training(pairs):
    data = material(pairs, (0.0,))
    for subject in pairs.subjects:
        train = data.subjects[subject]["train"].brain
        assert train.mean(axis=(0, 1)) == pytest.approx(np.zeros(20), abs=1e-5)
        assert train.std(axis=(0, 1)) == pytest.approx(np.ones(20), abs=1e-5)
    assert abs(data.subjects["01"]["test"].brain.std(axis=(0, 1)) - 1).max() > 1e-3


def test_pooled_baselines_refuse_units_that_differ(make):
    with pytest.raises(UserError, match="same units"):
        run_baseline("pooled_ridge", make(same_units=False))
    assert len(run_baseline("ridge", make(same_units=False))[0]) == 2


def test_unseen_subjects_need_a_pooled_baseline(make):
    unseen = make(subjects=3)
    unseen.clips.loc[unseen.clips["subject"] == "03", "split"] = "test"
    unseen.clips.loc[(unseen.clips["subject"] != "03") & (unseen.clips["split"] == "test"), "split"] = "guard"
    with pytest.raises(UserError, match="pooled variant"):
        run_baseline("ridge", unseen)
    scores, _ = run_baseline("pooled_ridge", unseen)
    assert set(scores) == {"03"}
    assert top1(unseen, scores) > 0.2


def test_an_unknown_name_suggests_the_nearest(pairs):
    with pytest.raises(UserError, match="did you mean 'ridge'"):
        run_baseline("rigde", pairs)


@pytest.mark.parametrize("shape", [(40, 10), (12, 30)])
def test_ridge_solves_the_normal_equations(shape):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape), rng.standard_normal((shape[0], 3))
    centred = x - x.mean(0)
    unit = np.trace(centred.T @ centred) / min(shape)
    weights = np.linalg.solve(
        centred.T @ centred + 0.7 * unit * np.eye(shape[1]), centred.T @ (y - y.mean(0))
    )
    new = rng.standard_normal((2, 5, shape[1]))
    assert fit_ridge(x, y)(0.7)(new) == pytest.approx((new - x.mean(0)) @ weights + y.mean(0))


def test_cca_matches_the_generalised_eigenproblem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    y = x[:, :4] + rng.standard_normal((200, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    model = Analysis(x, y).at(0.0)
    cxx, cyy, cxy = x.T @ x / 200, y.T @ y / 200, x.T @ y / 200
    values = eigh(cxy @ np.linalg.solve(cyy, cxy.T), cxx, eigvals_only=True)[::-1][:4]
    assert model.correlation == pytest.approx(np.sqrt(values))
    for k in range(4):
        assert np.corrcoef(x @ model.brain[:, k], y @ model.video[:, k])[0, 1] == pytest.approx(
            model.correlation[k]
        )


def test_noise_whitening_makes_noise_white():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    white = noise @ noise_whitener(noise, 0.0)
    assert np.cov(white.T, bias=True) == pytest.approx(np.eye(6), abs=1e-6)
    assert (noise * noise_whitener(noise, 1.0)).std(axis=0) == pytest.approx(np.ones(6))


def test_infonce_counts_every_presentation_as_a_positive():
    import torch

    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 3))
    truth = np.array([0, 0, 1, 2, 2])
    rows = [-np.log(np.exp(logits[i, t]) / np.exp(logits[i]).sum()) for i, t in enumerate(truth)]
    columns = [
        np.mean(
            [-np.log(np.exp(logits[i, c]) / np.exp(logits[:, c]).sum()) for i in np.flatnonzero(truth == c)]
        )
        for c in range(3)
    ]
    found = infonce(torch.from_numpy(logits), torch.from_numpy(truth))
    assert float(found) == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_scores_are_correlations_after_removing_the_gallery_mean():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 3, 2)) + 5, rng.standard_normal((6, 3, 2)) - 3
    found = cosine(a, b)
    x, y = (a - a.mean(0))[1].ravel(), (b - b.mean(0))[4].ravel()
    assert found[1, 4] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    assert rank_quality(cosine(b, b), np.arange(6)) == 1
