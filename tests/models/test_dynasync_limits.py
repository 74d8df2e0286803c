"""DynaSyncMM-EMA: its limits as properties, plain EMA VQ written independently, restarts that last, noisy modalities."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.models.quantise.dynasync import DynaSyncCodebook
from neuroalign.models.quantise.residual import TokenQuantiser

CODES, DIM = 6, 4
STATE = ("codes", "count", "total", "error", "error_count", "idle")


def make_book(modalities=("fmri", "video", "text"), seed=0, **options) -> DynaSyncCodebook:
    torch.manual_seed(seed)
    return DynaSyncCodebook(CODES, DIM, list(modalities), **options).double()


def draw(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(one: DynaSyncCodebook, other: DynaSyncCodebook, but: tuple[str, ...] = ()) -> None:
    for name in STATE:
        if name not in but:
            torch.testing.assert_close(getattr(one, name), getattr(other, name), msg=name)


class PlainEma:
    """EMA vector quantisation of pooled tokens with cosine assignment: N, S and e = S/N of METHOD section 3, all weights 1."""

    def __init__(self, codes: np.ndarray, decay: float):
        self.e, self.N, self.S, self.decay = codes.copy(), np.ones(len(codes)), codes.copy(), decay

    def step(self, tokens: np.ndarray) -> None:
        n, s = np.zeros(len(self.e)), np.zeros_like(self.e)
        for x in tokens:
            cosines = [x @ e / (np.linalg.norm(x) * np.linalg.norm(e)) for e in self.e]
            k = int(np.argmax(cosines))
            n[k] += 1
            s[k] += x
        for k in range(len(self.e)):
            self.N[k] = self.decay * self.N[k] + (1 - self.decay) * n[k]
            self.S[k] = self.decay * self.S[k] + (1 - self.decay) * s[k]
            self.e[k] = self.S[k] / self.N[k]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=6),
    st.floats(0.5, 0.99),
    st.floats(0.05, 5),
    st.integers(0, 99),
)
def test_one_modality_is_plain_ema_vq_whatever_tau(sizes, decay, tau, seed):
    book = make_book(seed=seed, decay=decay, tau=tau)
    plain = PlainEma(book.codes.numpy(), decay)
    for step, n in enumerate(sizes):
        tokens = draw(n, 100 * seed + step)
        book.update(book.statistics({"video": tokens}))
        plain.step(tokens.numpy())
        np.testing.assert_allclose(book.codes, plain.e, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(book.count, plain.N, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.floats(0.05, 5), st.integers(0, 99))
def test_modalities_with_equal_errors_are_plain_ema_vq_of_all_tokens(sizes, tau, seed):
    """Three modalities with the same tokens, in different orders, err alike at every code: all weights must be 1."""
    book = make_book(seed=seed, decay=0.9, tau=tau)
    plain = PlainEma(book.codes.numpy(), 0.9)
    for step, n in enumerate(sizes):
        tokens = draw(n, 100 * seed + step)
        book.update(book.statistics({"fmri": tokens, "video": tokens.flip(0), "text": tokens.roll(1, 0)}))
        plain.step(np.concatenate([tokens.numpy()] * 3))
        np.testing.assert_allclose(book.codes, plain.e, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(book.weights(torch.tensor([True] * 3)), torch.ones(3, CODES).double())


@settings(max_examples=20, deadline=None)
@given(
    st.permutations(["fmri", "video", "text"]),
    st.permutations(["fmri", "video", "text"]),
    st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_neither_order_of_modalities_nor_of_tokens_matters(names, given_as, sizes, seed):
    one, other = make_book(seed=seed, decay=0.8), make_book(names, seed=seed, decay=0.8)
    order = [names.index(m) for m in one.modalities]
    for step, counts in enumerate(sizes):
        tokens = {
            m: draw(n, 1000 * seed + 10 * step + k)
            for k, (m, n) in enumerate(zip(one.modalities, counts, strict=True))
        }
        one.update(one.statistics(tokens))
        other.update(other.statistics({m: tokens[m].flip(0) for m in given_as}))
    assert_same(one, other, but=("error", "error_count"))
    torch.testing.assert_close(one.error, other.error[order])
    torch.testing.assert_close(one.error_count, other.error_count[order])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6),
    st.integers(0, 99),
    st.data(),
)
def test_summed_statistics_of_any_two_parts_give_the_state_of_the_whole(sizes, seed, data):
    """What processes with a part of the batch each must agree on, dead codes and dynamic weights included."""
    options = {"seed": seed, "decay": 0.8, "revive_after": 2}
    whole, summed = make_book(**options), make_book(**options)
    live = draw(5, seed)
    dice = [torch.Generator().manual_seed(seed) for _ in range(2)]
    for step, counts in enumerate(sizes):
        tokens = {
            m: draw(n, 1000 * seed + 10 * step + k)
            for k, (m, n) in enumerate(zip(("fmri", "video"), counts, strict=True))
        }
        cuts = {m: data.draw(st.integers(0, len(t))) for m, t in tokens.items()}
        first = summed.statistics({m: t[: cuts[m]] for m, t in tokens.items()})
        second = summed.statistics({m: t[cuts[m] :] for m, t in tokens.items()})
        whole.update(whole.statistics(tokens), live, dice[0])
        summed.update(first + second, live, dice[1])
    assert_same(whole, summed)


def test_averaging_the_codes_of_two_halves_would_not_do():
    """Guards the property above against a reduction that only looks right: codes of halves averaged differ from the whole's."""
    tokens = {"fmri": draw(30, 1), "video": 3 * draw(30, 2)}
    whole, halves = make_book(), [make_book() for _ in range(2)]
    whole.update(whole.statistics(tokens))
    for k, half in enumerate(halves):
        half.update(half.statistics({m: t[15 * k : 15 * (k + 1)] for m, t in tokens.items()}))
    mean = (halves[0].codes + halves[1].codes) / 2
    assert not torch.allclose(mean, whole.codes, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_missing_tokens_count_nothing_whatever_they_hold(clips, steps, seed):
    """A batch whose missing text is garbage and one without those rows leave the same codebooks, restarts included."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(2):
        torch.manual_seed(seed)
        options = {"codes": 5, "code_dim": 3, "decay": 0.7, "tau": 0.3, "dynamic": True, "revive_after": 1}
        made.append(TokenQuantiser(1, 4, ["fmri", "text"], depth=2, **options))
    fmri, text = (torch.randn(clips, steps, 1, 4, generator=generator) for _ in range(2))
    present = torch.rand(clips, steps, generator=generator) < 0.6
    garbage = torch.where(present[..., None, None], text, 1e4 * torch.randn(text.shape, generator=generator))
    dice = [torch.Generator().manual_seed(seed) for _ in range(2)]
    masked, removed = made
    masked.update({"fmri": masked("fmri", fmri), "text": masked("text", garbage)}, dice[0], {"text": present})
    kept = text[present][:, None]
    removed.update({"fmri": removed("fmri", fmri), "text": removed("text", kept)}, dice[1])
    for one, other in zip(masked.buffers(), removed.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_restart_lasts_while_other_codes_go_on_learning():
    """The restarted code keeps its place without tokens, then follows the plain average of the tokens that it wins."""
    book = make_book(["fmri"], revive_after=3, decay=0.9)
    axes = torch.eye(DIM, dtype=torch.float64)
    book.codes[:] = torch.stack([axes[0], -axes[0], axes[2], axes[3], -axes[2], -axes[3]])
    book.total[:] = book.codes * book.count[:, None]
    used = torch.arange(CODES) != 1
    generator = torch.Generator().manual_seed(0)
    live = axes[1:2] + 0.01 * draw(1, 3)
    busy = (book.codes[used].repeat(4, 1) + 0.05 * draw(20, 4)).clone()
    for _ in range(3):
        book.update(book.statistics({"fmri": busy}), live, generator)
    torch.testing.assert_close(book.codes[1], live[0])
    torch.testing.assert_close(book.total[1], book.count[1] * live[0])
    for _ in range(2):
        book.update(book.statistics({"fmri": busy}), -live, generator)
        torch.testing.assert_close(book.codes[1], live[0])
    near = axes[1] + 0.05 * draw(10, 5)
    n, s = float(book.count[1]), book.total[1].numpy().copy()
    for _ in range(4):
        book.update(book.statistics({"fmri": torch.cat([busy, near])}), live, generator)
        n, s = 0.9 * n + 0.1 * len(near), 0.9 * s + 0.1 * near.numpy().sum(0)
        np.testing.assert_allclose(book.codes[1], s / n, rtol=1e-9)
    assert float(book.idle[1]) == 0
    assert float(book.error_count[0, 1]) > 0


def test_a_restart_of_the_vector_alone_would_be_undone():
    """Why count and sum restart too: with the old sum kept, one step brings the dead code back."""
    book = make_book(["fmri"], decay=0.9)
    place = draw(1, 0)[0]
    old = book.codes[1].clone()
    book.codes[1] = place
    book.update(book.statistics({}))
    torch.testing.assert_close(book.codes[1], old)


def test_errors_name_what_is_wrong():
    book = make_book(["fmri", "video"])
    with pytest.raises(
        ValueError, match=r"fmri has shape \(3, 5\), but \(tokens, dim\) is needed with dim = 4"
    ):
        book.statistics({"fmri": torch.zeros(3, 5)})
    with pytest.raises(ValueError, match="knows fmri, video, not 'txt'"):
        book.statistics({"txt": torch.zeros(3, DIM)})


# --- noisy modalities: what the dynamic weights are for ----------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark(root):
    """The benchmark of the dynamic weights, of which the tests take a small part."""
    spec = importlib.util.spec_from_file_location(
        "dynamic_weights", root / "benchmarks" / "dynamic_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def centre_ratio(benchmark, case, **options) -> np.ndarray:
    """Distance of codes to true centres, dynamic over fixed weights, per seed."""
    options = {"codes": 16, "steps": 60, "decay": 0.95, **options}
    found = [
        [benchmark.run(case, seed, dynamic=dynamic, **options)["centre"] for dynamic in (True, False)]
        for seed in range(2)
    ]
    return np.array([dynamic / fixed for dynamic, fixed in found])


def test_where_a_modality_is_noisy_at_some_codes_dynamic_weights_give_a_better_codebook(benchmark):
    helped = [case for case in benchmark.CASES if "half" in case.name]
    assert len(helped) == 3
    for case in helped:
        ratio = centre_ratio(benchmark, case)
        assert (ratio < 0.9).all(), (case.name, ratio)


def test_equal_or_even_noise_is_nothing_for_dynamic_weights_to_act_on(benchmark):
    """Errors count relative to the modality's own mean: a modality that is noisier everywhere keeps its say (docs/meaning.md)."""
    for case in benchmark.CASES[:2]:
        np.testing.assert_allclose(centre_ratio(benchmark, case), 1.0, atol=0.1)


def test_the_noisy_modality_gets_less_weight_at_its_noisy_codes_only(benchmark):
    found = benchmark.run(benchmark.CASES[3], 0, dynamic=True, codes=16, steps=60)
    assert found["weight_a"] > 1.02
    even = benchmark.run(benchmark.CASES[0], 0, dynamic=True, codes=16, steps=60)
    assert even["weight_a"] == pytest.approx(1.0, abs=0.02)
