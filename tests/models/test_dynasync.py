"""DynaSyncMM-EMA against its sanity limits and a version written as plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.models.quantise.dynasync import DynaSyncCodebook

MODALITIES = ["fmri", "video", "text"]


def make_book(modalities=MODALITIES, codes=6, dim=4, seed=0, **options) -> DynaSyncCodebook:
    torch.manual_seed(seed)
    return DynaSyncCodebook(codes, dim, list(modalities), **options).double()


def make_tokens(sizes: dict[str, int], dim=4, seed=1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, dim, generator=generator, dtype=torch.float64) for m, n in sizes.items()}


def naive_update(state: dict, tokens: dict, decay: float, tau: float, dynamic: bool) -> dict:
    """The equations of the docstring, one token and one code at a time."""
    names, codes = list(state["error"]), state["codes"]
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    n = {m: np.zeros(len(codes)) for m in names}
    s = {m: np.zeros_like(codes) for m in names}
    q = {m: np.zeros(len(codes)) for m in names}
    for m in names:
        for x in tokens.get(m, []):
            k = int(np.argmax([x @ e for e in unit]))
            n[m][k] += 1
            s[m][k] += x
            q[m][k] += ((x - codes[k]) ** 2).sum()
    new = {key: {m: v.copy() for m, v in state[key].items()} for key in ("error", "seen")}
    for m in names:
        new["error"][m] = decay * state["error"][m] + (1 - decay) * q[m]
        new["seen"][m] = decay * state["seen"][m] + (1 - decay) * n[m]
    present = [m for m in names if n[m].sum() > 0]
    new["N"], new["S"] = decay * state["N"], decay * state["S"]
    for k in range(len(codes)):
        relative = {}
        shares = [new["seen"][m][k] / new["seen"][m].mean() for m in present]
        balance = min(shares) / max(shares) if shares and max(shares) > 0 else 0.0
        for m in present:
            mean = new["error"][m].sum() / new["seen"][m].sum()
            at = new["error"][m][k] / new["seen"][m][k] if new["seen"][m][k] > 0 else mean
            relative[m] = balance * (at / mean - 1)
        total = sum(np.exp(-relative[m] / tau) for m in present)
        for m in present:
            w = len(present) * np.exp(-relative[m] / tau) / total if dynamic else 1.0
            new["N"][k] += (1 - decay) * w * n[m][k]
            new["S"][k] += (1 - decay) * w * s[m][k]
    new["codes"] = new["S"] / new["N"][:, None]
    return new


@pytest.mark.parametrize("dynamic", [True, False])
def test_equals_naive_loops_over_several_steps_with_a_missing_modality(dynamic):
    book = make_book(decay=0.8, tau=0.4, dynamic=dynamic)
    zeros = {m: np.zeros(6) for m in MODALITIES}
    state = {
        "codes": book.codes.numpy().copy(),
        "N": book.count.numpy().copy(),
        "S": book.total.numpy().copy(),
        "error": zeros,
        "seen": {m: z.copy() for m, z in zeros.items()},
    }
    for step, sizes in enumerate(
        [{"fmri": 20, "video": 9, "text": 5}, {"fmri": 7, "text": 8}, {"video": 30}]
    ):
        tokens = make_tokens(sizes, seed=step)
        state = naive_update(state, {m: t.numpy() for m, t in tokens.items()}, 0.8, 0.4, dynamic)
        book.update(book.statistics(tokens))
        np.testing.assert_allclose(book.count, state["N"], rtol=1e-10)
        np.testing.assert_allclose(book.total, state["S"], rtol=1e-10)
        np.testing.assert_allclose(book.codes, state["codes"], rtol=1e-10)


def test_equal_errors_give_weights_of_one():
    book = make_book()
    book.error_count[:] = torch.rand(3, 6, dtype=torch.float64) + 0.5
    book.error[:] = 2.5 * book.error_count
    torch.testing.assert_close(book.weights(torch.tensor([True] * 3)), torch.ones(3, 6, dtype=torch.float64))


def test_one_modality_alone_is_the_plain_moving_average():
    dynamic, fixed = make_book(dynamic=True), make_book(dynamic=False)
    for step in range(5):
        tokens = make_tokens({"video": 40}, seed=step)
        for book in (dynamic, fixed):
            book.update(book.statistics(tokens))
    torch.testing.assert_close(dynamic.codes, fixed.codes)
    assert float(dynamic.weights(torch.tensor([False, True, False]))[1].std()) == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_weights_sum_to_the_number_of_modalities_present(errors, present):
    book = make_book()
    book.error_count[:] = 1.0
    book.error[:] = torch.tensor(errors, dtype=torch.float64)[:, None] * torch.rand(3, 6, dtype=torch.float64)
    here = torch.tensor(present)
    weights = book.weights(here)
    torch.testing.assert_close(weights.sum(0), torch.full((6,), float(here.sum()), dtype=torch.float64))
    assert bool((weights[~here] == 0).all())


def test_the_modality_with_the_smaller_relative_error_leads():
    book = make_book()
    book.error_count[:] = 1.0
    book.error[:] = 1.0
    book.error[0, 2] = 0.2
    weights = book.weights(torch.tensor([True] * 3))
    assert weights[0, 2] > 1 > weights[1, 2]


def test_order_of_modalities_does_not_matter():
    one, other = make_book(MODALITIES), make_book(MODALITIES[::-1])
    for step in range(4):
        tokens = make_tokens({"fmri": 12, "video": 20, "text": 6}, seed=step)
        one.update(one.statistics(tokens))
        other.update(other.statistics(dict(reversed(tokens.items()))))
    torch.testing.assert_close(one.codes, other.codes)
    torch.testing.assert_close(one.count, other.count)


def test_statistics_of_two_halves_sum_to_the_whole():
    whole, processes = make_book(), make_book()
    tokens = make_tokens({"fmri": 30, "video": 21})
    halves = [{m: t[i::2] for m, t in tokens.items()} for i in range(2)]
    parts = [processes.statistics(h) for h in halves]
    # What an all-reduce does: each process ends up with the sum over processes.
    by_id = {id(t): getattr(parts[1], n) for n in ("count", "total", "error") for t in [getattr(parts[0], n)]}
    processes.update(parts[0], reduce=lambda tensor: tensor + by_id[id(tensor)])
    whole.update(whole.statistics(tokens))
    torch.testing.assert_close(whole.codes, processes.codes)
    torch.testing.assert_close(whole.error, processes.error)
    added = parts[0] + parts[1]
    torch.testing.assert_close(added.total, parts[0].total + parts[1].total)


def test_missing_or_empty_modality_counts_nothing():
    book = make_book()
    statistics = book.statistics({"fmri": torch.zeros(0, 4, dtype=torch.float64)})
    assert float(statistics.count.sum()) == 0
    before = book.codes.clone()
    book.update(statistics)
    torch.testing.assert_close(book.codes, before)


def test_a_dead_code_restarts_with_its_count_sum_and_errors():
    book = make_book(["fmri"], codes=2, dim=2, revive_after=3, decay=0.5)
    book.codes[:] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    book.total[:] = book.codes * book.count[:, None]
    live = torch.tensor([[1.0, 0.1], [1.0, -0.1]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        book.update(book.statistics({"fmri": live}), live, generator)
    assert book.codes[1, 0] == -1.0
    book.update(book.statistics({"fmri": live}), live, generator)
    assert any(torch.equal(book.codes[1], row) for row in live)
    torch.testing.assert_close(book.total[1], book.codes[1] * book.count[1])
    assert float(book.error[0, 1]) == float(book.error_count[0, 1]) == float(book.idle[1]) == 0
    revived = book.codes[1].clone()
    book.update(book.statistics({}))
    torch.testing.assert_close(book.codes[1], revived)


def test_kmeans_start_keeps_codes_equal_to_sum_over_count():
    book = make_book(["fmri"], codes=8)
    tokens = make_tokens({"fmri": 200})["fmri"]
    error_before = book.statistics({"fmri": tokens}).error.sum()
    book.start_from(tokens, torch.Generator().manual_seed(0))
    torch.testing.assert_close(book.codes, book.total / book.count[:, None])
    assert book.statistics({"fmri": tokens}).error.sum() < 0.7 * error_before


def test_more_codes_than_tokens_start_without_failing():
    book = make_book(["fmri"], codes=16)
    book.start_from(make_tokens({"fmri": 5})["fmri"], torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(book.codes).all())
