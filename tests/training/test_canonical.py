"""The canonical analysis in bands, people's own part and whitening over steps, against naive versions and known worlds."""

import numpy as np
import pytest
import torch

from neuroalign.models.losses.contrast import Content
from neuroalign.training.canonical import (
    Canonical,
    Recipe,
    Samples,
    choose_personal,
    choose_recipe,
    choose_whitener,
    shrunk,
)


def linear_world(n=240, steps=4, people=1, own=0.0, hierarchy=False, noise=1.0, autocorrelation=0.0, seed=0):
    """People who all see the same clips of one film; units of two levels, features of two levels."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n, steps, 12))
    group = rng.standard_normal((12, 16)) / 3
    if hierarchy:
        group[:6, 8:] = 0
        group[6:, :8] = 0
    x, clip, subject = [], [], []
    for person in range(people):
        weights = group + own * rng.standard_normal((12, 16)) / 3
        e = rng.standard_normal((n, steps, 16))
        for t in range(1, steps):
            e[:, t] = autocorrelation * e[:, t - 1] + np.sqrt(1 - autocorrelation**2) * e[:, t]
        x.append(y @ weights + noise * e)
        clip.append(np.arange(n))
        subject.append(np.full(n, person))
    tensor = lambda v: torch.tensor(np.concatenate(v))  # noqa: E731
    samples = Samples(
        tensor(x).float(),
        torch.tensor(y).float(),
        tensor(clip),
        tensor(subject),
        True,
        ([8, 8], [6, 6]),
    )
    content = Content(torch.arange(n), torch.zeros(n, dtype=torch.long), torch.arange(n) * 40.0)
    return samples, content


def test_without_bands_it_is_the_naive_analysis():
    samples, _ = linear_world()
    x, y = samples.x.flatten(0, 1).double(), samples.y.flatten(0, 1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    recipe = Recipe(0.2, 0.4, 1.0)
    a, b = Canonical(x, y, torch.zeros(len(x), dtype=torch.long), samples.bands).maps(recipe, 5)
    cx, cy = shrunk(x.T @ x / len(x), 0.2), shrunk(y.T @ y / len(y), 0.4)

    def root(c):
        values, vectors = torch.linalg.eigh(c)
        return (vectors / values.sqrt()) @ vectors.T

    u, r, vt = torch.linalg.svd(root(cx) @ (x.T @ y / len(x)) @ root(cy))
    expected = (root(cx) @ u[:, :5] * r[:5]) @ (root(cy) @ vt.T[:, :5] * r[:5]).T
    torch.testing.assert_close((a[0] @ b.T).double(), expected, atol=1e-5, rtol=1e-4)


def test_bands_are_banded_ridge():
    samples, _ = linear_world()
    x, y = samples.x.flatten(0, 1).double(), samples.y.flatten(0, 1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    recipe = Recipe(0.2, 0.4, 1.0, other=0.3)
    analysis = Canonical(x, y, torch.zeros(len(x), dtype=torch.long), samples.bands)
    predictors = analysis._predict(recipe)
    cy = y.T @ y / len(y)
    values, vectors = torch.linalg.eigh(shrunk(cy, 0.4))
    root = (vectors * values.sqrt()) @ vectors.T
    for level, units in enumerate((slice(0, 8), slice(8, 16))):
        scale = torch.full((12,), 0.3, dtype=torch.float64)
        scale[6 * level : 6 * level + 6] = 1.0
        scaled = y * scale
        penalty = (0.4 + 1e-4) * cy.diagonal().mean()
        gram = 0.6 * scaled.T @ scaled / len(y) + penalty * torch.eye(12)
        weights = scale[:, None] * torch.linalg.solve(gram, scaled.T @ x[:, units] / len(y))
        torch.testing.assert_close(x[:, units].T @ y / len(y) @ predictors[level], weights.T @ root)


def test_the_hierarchy_is_believed_in_where_there_is_one():
    there, content = linear_world(hierarchy=True, n=160, noise=2.0)
    assert choose_recipe(there, content, 12).other < 1
    gain = [
        there.quality(
            there.fit(torch.arange(80)).maps(Recipe(0.1, 0.6, 1.0, other), 12), torch.arange(80, 160)
        )
        for other in (1.0, 0.3)
    ]
    assert gain[1] > gain[0]


@pytest.mark.parametrize(("own", "wanted"), [(0.0, False), (0.8, True)])
def test_people_get_maps_of_their_own_where_they_differ(own, wanted):
    samples, content = linear_world(people=4, own=own, noise=2.0, n=160)
    share, added = choose_personal(samples, content, Recipe(0.1, 0.3, 0.5), 12, 8)
    assert (share > 0) == wanted
    assert (added is not None) == wanted


def test_whitening_over_steps_undoes_autocorrelated_noise():
    samples, content = linear_world(autocorrelation=0.9, noise=6.0, steps=8)
    rows = torch.arange(len(samples.clip))
    found = samples.noise_whitener(rows)
    assert torch.equal(found, found.tril())
    # Of AR(1) noise the whitener takes each step's forecast from the step before away.
    assert -1.1 < float(found[5, 4] / found[5, 5]) < -0.4
    assert choose_whitener(samples, content, 12) is not None
    white, _ = linear_world(steps=8)
    off = white.noise_whitener(rows)
    assert float((off / off.diagonal().mean() - torch.eye(8)).abs().max()) < 0.15
