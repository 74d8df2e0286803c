"""Every baseline finds a planted linear relation, at the planted lag, and learns nothing from test windows."""

import copy

import numpy as np
import pytest
from scipy.linalg import eigh

from neuroalign.errors import UserError
from neuroalign.evaluation.baselines import NAMES, banded_ridge, ridge, run_baseline
from neuroalign.evaluation.baselines._choose import PURGE_S, training_folds
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


def test_ridge_equals_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 7)), rng.standard_normal((50, 3))
    unit = np.square(x - x.mean(0)).sum() / 7
    reference = Ridge(alpha=2.5 * unit).fit(x, y)
    assert fit_ridge(x, y)(2.5)(x) == pytest.approx(reference.predict(x))


def test_shrunk_cca_matches_the_generalised_eigenproblem():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 6)) * np.arange(1, 7)
    y = x[:, :4] + 3 * rng.standard_normal((80, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    cxx, cyy = (0.7 * c + 0.3 * np.trace(c) / len(c) * np.eye(len(c)) for c in (x.T @ x / 80, y.T @ y / 80))
    cxy = x.T @ y / 80
    values = eigh(cxy @ np.linalg.solve(cyy, cxy.T), cxx, eigvals_only=True)[::-1][:4]
    assert Analysis(x, y).at(0.3).correlation == pytest.approx(np.sqrt(values))


def test_settings_are_judged_on_parts_of_the_training_clips_alone_away_from_what_is_fitted(make):
    data = material(make(), (0.0,))
    judged = []
    for fit, held in training_folds(data):
        for subject in data.trained():
            own = data.subjects[subject]["train"]
            assert set(fit[subject].rows) | set(held[subject].rows) <= set(own.rows)
            gap = np.abs(data.start_s[fit[subject].contents][:, None] - data.start_s[held[subject].contents])
            assert gap.min() > PURGE_S, "one film: neighbours are left out"
        judged.append(held["01"].rows)
    assert len(judged) == 4
    assert sorted(np.concatenate(judged)) == sorted(data.subjects["01"]["train"].rows)


def test_the_best_setting_is_that_of_a_plain_loop(make):
    data = material(make(subjects=1, noise=3.0), (0.0,))
    alpha, value = ridge.choose_alpha(data)
    means = []
    for option in ridge.ALPHAS:
        found = []
        for fit, held in training_folds(data):
            x, y = (v.reshape(-1, v.shape[2]) for v in (fit["01"].brain, data.video[fit["01"].contents]))
            predicted = fit_ridge(x, y)(option)(held["01"].brain)
            gallery, truth = np.unique(held["01"].contents, return_inverse=True)
            found.append(rank_quality(cosine(predicted, data.video[gallery]), truth))
        means.append(np.mean(found))
    assert value == pytest.approx(max(means))
    assert alpha == ridge.ALPHAS[int(np.argmax(np.round(means, 6)))]


def test_too_few_clips_leave_the_defaults(make):
    few = make()
    late = (few.clips["split"] == "train") & (few.clips["start_s"] >= 40)
    few.clips.loc[late, "split"] = "guard"
    _, chosen = run_baseline("pooled_cca", few)
    assert (chosen["shrinkage"], chosen["dimensions"], chosen["quality"]) == (0.3, 40, None)


def test_banded_ridge_gives_a_level_of_noise_a_penalty_of_its_own(make):
    """himalaya's weights of units that hold nothing are near zero beside those of units that do."""
    noisy = make(noise=0.3)
    rng = np.random.default_rng(0)
    for windows in noisy.brain.values():
        windows.levels["early"] = rng.standard_normal(windows.levels["early"].shape).astype(np.float32)
    data = material(noisy, (0.0,))
    model = banded_ridge._fit(data, data.training()["01"], 0)
    size = np.square(model.coef_).mean(axis=1)
    assert size[:8].mean() < 0.05 * size[8:].mean()


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
