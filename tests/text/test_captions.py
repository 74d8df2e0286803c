"""The captions file."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from neuroalign.errors import UserError
from neuroalign.io import provenance
from neuroalign.text.captions import Captions, captions_at, read_captions, write_captions
from neuroalign.video.precomputed import find_features
from neuroalign.video.shards import read_embedding


@pytest.fixture
def captions():
    features = np.array([[1.0, -0.5], [0.0, 0.0], [0.25, 2.0]], np.float32)
    attributes = {"backbone": "tsv + m", "revision": "r", "window_s": 2.0, "stride_s": 2.0}
    attributes["hrf_convolved"] = False
    return Captions(["a dog runs", "", "Ein Kätzchen 🐈"], features, np.array([1.0, 3.0, 5.0]), attributes)


def test_what_is_written_is_read(captions, tmp_path):
    write_captions(tmp_path / "film.h5", captions, provenance({"source": "tsv"}))
    found = read_captions(tmp_path / "film.h5")
    assert found.captions == captions.captions
    assert found.attributes == captions.attributes
    np.testing.assert_array_equal(found.features, captions.features)
    np.testing.assert_array_equal(found.times, captions.times)
    assert found.has_text.tolist() == [True, False, True]
    with h5py.File(tmp_path / "film.h5") as file:
        assert file["levels/text/data"].dtype == np.float16
        assert file["has_text"].dtype == bool
        assert h5py.check_string_dtype(file["captions"].dtype).length is None
        assert json.loads(file.attrs["provenance"])["config"] == {"source": "tsv"}
    assert [p.name for p in tmp_path.iterdir()] == ["film.h5"]


def test_it_is_an_embedding_file(captions, tmp_path):
    write_captions(tmp_path / "film.h5", captions)
    assert find_features(tmp_path, "film") == tmp_path / "film.h5"
    embedding = read_embedding(tmp_path / "film.h5")
    assert list(embedding.levels) == ["text"]
    np.testing.assert_array_equal(embedding.levels["text"], captions.features)


def test_another_file_is_one_sentence(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["times"] = [0.5]
    with pytest.raises(UserError, match="not a captions file"):
        read_captions(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("captions", "features"),
    [(["a"], np.zeros((2, 3))), (["a", "b", "c"], np.zeros((2, 3))), (["a", ""], np.ones((2, 3)))],
)
def test_parts_that_disagree_are_refused(captions, features):
    with pytest.raises(ValueError, match="window"):
        Captions(captions, features, np.array([0.5, 1.5]))


def test_the_words_at_some_moments(captions):
    assert captions_at(captions, [0.0, 1.9, 3.0, 4.2, 6.0]) == [
        "a dog runs",
        "a dog runs",
        "",
        *["Ein Kätzchen 🐈"] * 2,
    ]
    assert captions_at(captions, [6.1, 100.0]) == ["", ""]


def test_reading_imports_no_torch():
    script = (
        "import sys, neuroalign.text.captions\n"
        "assert not {'torch', 'transformers', 'decord', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
