"""Windows left on disk are the windows read into memory, whatever is asked for and however the shard is laid out."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Hrf, Selection
from neuroalign.config.pairs import Split
from neuroalign.pairs.store import BrainWindows, read_pairs, write_brain
from neuroalign.pairs.stored import StoredWindows, open_pairs


def shard(path, chunks=None) -> np.ndarray:
    """A shard of 40 windows of 3 volumes and 500 units, contiguous or in chunks."""
    data = np.random.default_rng(0).standard_normal((40, 3, 500)).astype(np.float32)
    labels = {"a": [str(i) for i in range(500)]}
    windows = BrainWindows(
        np.arange(40), {"a": data}, np.zeros((40, 3), np.float32), np.ones((40, 3), bool), labels, False
    )
    write_brain(path, windows)
    if chunks:
        with h5py.File(path, "a") as file:
            del file["levels/a/data"]
            file.create_dataset("levels/a/data", data=data, chunks=chunks)
    return data


def stored(path, units=None) -> StoredWindows:
    with h5py.File(path, "r") as file:
        return StoredWindows(path, file["levels/a/data"], units)


@pytest.fixture(scope="module", params=[None, (7, 3, 500)], ids=["contiguous", "chunked"])
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "sub-01.h5"
    return shard(path, request.param), stored(path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 39), max_size=60))
def test_any_rows_in_any_order_and_more_than_once(both, rows):
    array, windows = both
    np.testing.assert_array_equal(windows[np.array(rows, int)], array[np.array(rows, int)])


def test_it_looks_like_the_array(both):
    array, windows = both
    assert (windows.shape, windows.ndim, windows.dtype) == (array.shape, 3, array.dtype)
    assert (len(windows), windows.size) == (len(array), array.size)
    mask = np.arange(40) % 3 == 1
    for keep in (mask, slice(3, 9), slice(None), np.arange(40)[::-1]):
        np.testing.assert_array_equal(windows[keep], array[keep])
    np.testing.assert_array_equal(np.asarray(windows), array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(windows))[[2, 1]], array[[2, 1]])


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    import os

    array, seen = shard(tmp_path / "sub-01.h5"), []
    windows, read = stored(tmp_path / "sub-01.h5"), os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, views, at: (seen.append(len(views[0])), read(fd, views, at))[1]
    )
    np.testing.assert_array_equal(windows[[0, 39]], array[[0, 39]])
    assert sum(seen) == 2 * array[0].nbytes


def test_a_shard_made_anew_is_not_confused_with_the_one_before(tmp_path):
    path = tmp_path / "sub-01.h5"
    shard(path)
    stored(path)[[0]]
    data = np.full((5, 3, 500), 7, np.float32)
    write_brain(
        path,
        BrainWindows(np.arange(5), {"a": data}, np.zeros((5, 3)), np.ones((5, 3)), {"a": ["x"] * 500}, False),
    )
    np.testing.assert_array_equal(stored(path)[:], data)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hrf": Hrf(method="shift", shift_s="sweep")},
        {
            "hrf": Hrf(method="shift", shift_s="sweep"),
            "selection": Selection(method="reliability", minimum_r=0.2),
        },
    ],
    ids=["plain", "lag", "lag and units"],
)
def test_a_dataset_left_on_disk_is_the_dataset(make, options):
    dataset = make(
        {"early": 4.5, "high": 6.0}, films=4, repeats={"film-1": 3, "film-2": 2}, deaf={"early": 3}
    )
    split = Split(by="stimulus", hold_out={"stimulus": ["film-4"]}, guard_s=8)
    folder = dataset.build(split=split, **options)
    whole, lazy = read_pairs(folder), open_pairs(folder)
    assert lazy.subjects == whole.subjects
    assert lazy.same_units is whole.same_units
    for subject in whole.subjects:
        for split_name in ("train", "validation", "test"):
            (a, rows), (b, others) = whole.of(subject, split_name), lazy.of(subject, split_name)
            np.testing.assert_array_equal(rows, others)
            assert (a.aligned, a.lags_s, a.unit_labels) == (b.aligned, b.lags_s, b.unit_labels)
            for name in ("rows", "times", "valid"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert list(a.levels) == list(b.levels)
            for level in a.levels:
                assert isinstance(b.levels[level], np.ndarray)
                np.testing.assert_array_equal(a.levels[level], b.levels[level])
    assert all(isinstance(x, StoredWindows) for x in lazy.brain["01"].levels.values())
