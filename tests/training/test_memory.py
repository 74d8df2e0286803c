"""Windows that do not fit into memory: read and scaled batch by batch, the same numbers; scalers fitted person by person."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from neuroalign.config.train import Encoder
from neuroalign.models.model import BrainInput
from neuroalign.models.scaling import Moments, whitening
from neuroalign.pairs.stored import StoredWindows, open_pairs
from neuroalign.training.data import fit_scalers, take_batch, to_tensors
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.processes import Processes
from neuroalign.training.windows import NearbyWindows, ScaledWindows

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}
KINDS = pytest.mark.parametrize(
    "options", [{}, {"voxels": True}, {"aligned": True}], ids=["parcels", "voxels", "aligned"]
)


def uneven(make_pairs, **options):
    """People with windows of different length, and a censored volume whose content nobody knows."""
    pairs = make_pairs(clips=(20, 8, 4), subjects=3, units=(6, 5, 7), **options)
    second = pairs.brain["02"]
    if not second.aligned:
        second.levels = {level: x[:, :-2] for level, x in second.levels.items()}
        second.times, second.valid = second.times[:, :-2], second.valid[:, :-2]
    first = pairs.brain["01"]
    first.valid[:, 2] = False
    for data in first.levels.values():
        data[:, 2] = np.nan
    return pairs


def tensors(brain: BrainInput) -> list[torch.Tensor]:
    return [brain.times, brain.valid, brain.subject, *brain.levels.values()]


@KINDS
@pytest.mark.parametrize("whiten", [True, False])
def test_batches_read_from_disk_are_those_in_memory(make_pairs, on_disk, tmp_path, options, whiten):
    pairs = uneven(make_pairs, **options)
    stored = open_pairs(on_disk(pairs, tmp_path))
    config = Encoder(whiten=whiten, components=4)
    scalers, others = fit_scalers(pairs, config), fit_scalers(stored, config)
    assert list(scalers.arrays()) == list(others.arrays())
    for name, value in scalers.arrays().items():
        np.testing.assert_array_equal(value, others.arrays()[name], err_msg=name)
    whole, lazy = to_tensors(pairs, scalers), to_tensors(stored, scalers, memory_mb=0.001)
    assert isinstance(whole.train.brain, BrainInput)
    assert whole.ready
    assert isinstance(lazy.train.brain, ScaledWindows)
    assert not lazy.ready
    assert isinstance(stored.brain["01"].levels["early"], StoredWindows)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:31]
    for processes in (Processes(), Processes(1, 2)):
        a = take_batch(whole, whole.train, rows, processes)
        b = take_batch(lazy, lazy.train, rows, processes)
        for x, y in zip(tensors(a.brain), tensors(b.brain), strict=True):
            assert torch.equal(x, y)
            assert bool(x.isfinite().all())
        assert torch.equal(a.own, b.own)
        assert len(a.brain) == len(rows[processes.share(31)])


@KINDS
def test_scaled_windows_are_those_of_the_formula(make_pairs, options):
    """Against every subject's windows scaled at once, zeros in place of what is censored or padded."""
    pairs = uneven(make_pairs, **options)
    scalers = fit_scalers(pairs, Encoder(components=4))
    brain = to_tensors(pairs, scalers).validation.brain
    start = 0
    for number, subject in enumerate(pairs.subjects):
        windows, _ = pairs.of(subject, "validation")
        rows, end = slice(start, start + 8), windows.times.shape[1]
        start += 8
        assert (brain.subject[rows] == number).all()
        np.testing.assert_array_equal(brain.valid[rows, :end], windows.valid)
        assert not brain.valid[rows, end:].any()
        for level, data in windows.levels.items():
            clean = np.where(windows.valid[..., None], data, 0)
            scaler = scalers.brain[subject, level]
            expected = ((clean - scaler.mean) / scaler.std) @ scaler.matrix
            got = brain.levels[level][rows]
            np.testing.assert_allclose(got[:, :end, : expected.shape[-1]], expected, atol=1e-5)
            assert not got[:, end:].any()


def test_training_from_disk_is_training_in_memory(make_pairs, on_disk, tiny, tmp_path):
    pairs = make_pairs(clips=(20, 8, 4), subjects=2, units=(6, 5, 7))
    stored = open_pairs(on_disk(pairs, tmp_path / "pairs"))
    config = tiny({"epochs": 2, "encoder": {"dim": 8, "depth": 1, "heads": 2, "components": 4}})
    for name, data, memory in (("whole", pairs, None), ("lazy", stored, 0.001)):
        train_ntcl(data, tmp_path / name, config, 0, made_by={}, geometry=GEOMETRY, memory_mb=memory)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "lazy"))
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    history = [(tmp_path / name / "history.tsv").read_bytes() for name in ("whole", "lazy")]
    assert history[0] == history[1]


def test_only_what_fits_is_held_in_memory(make_pairs):
    pairs = make_pairs(clips=(40, 8, 4), subjects=2, units=(6, 5, 7))
    scalers = fit_scalers(pairs, Encoder(components=4))
    sizes = {
        split: ScaledWindows(pairs, scalers, split, pairs.subjects).bytes for split in ("train", "validation")
    }
    held = to_tensors(pairs, scalers).train.brain
    assert abs(sizes["train"] - sum(x.nbytes for x in tensors(held)[:2] + tensors(held)[3:])) == 0
    data = to_tensors(pairs, scalers, memory_mb=(sizes["train"] + 1) / 1e6)
    assert isinstance(data.validation.brain, BrainInput)
    assert isinstance(data.train.brain, ScaledWindows)
    data = to_tensors(pairs, scalers, memory_mb=(sizes["train"] + sizes["validation"]) / 1e6)
    assert isinstance(data.train.brain, BrainInput)


def test_windows_beside_a_gpu_without_room(make_pairs):
    pairs = make_pairs(clips=(10, 8, 4), subjects=1, units=(6, 5, 7))
    brain = to_tensors(pairs, fit_scalers(pairs, Encoder(components=4))).train.brain
    beside = NearbyWindows(brain, torch.device("meta"))
    assert beside.take(torch.arange(3)).times.device.type == "meta"
    assert len(beside) == 10
    assert torch.equal(beside.to(torch.device("cpu")).times, brain.times)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 30), st.integers(2, 30), st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
def test_whitening_of_parts_is_that_of_the_whole(n, inputs, parts, shrinkage, seed):
    """Fewer samples than inputs and more; against the eigenvectors of the covariance, as the formula has it."""
    x = np.random.default_rng(seed).standard_normal((n, inputs))
    x -= x.mean(axis=0)
    moments = Moments(n, inputs)
    for part in np.array_split(x, parts):
        moments.add(part)
    kept = min(3, inputs, n - 1)
    got = moments.whitening(3, shrinkage)
    np.testing.assert_allclose(got, whitening(x, 3, shrinkage), rtol=1e-4, atol=1e-5)
    values, vectors = np.linalg.eigh(x.T @ x / n)
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    expected = (vectors / np.sqrt(np.maximum(shrunk, 1e-12)))[:, ::-1][:, :kept]
    np.testing.assert_allclose(np.abs(got), np.abs(expected), rtol=1e-3, atol=1e-4)
