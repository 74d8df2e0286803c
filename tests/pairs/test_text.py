"""Captions on clip steps: against a loop over steps, with gaps, and through files."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Hrf
from neuroalign.errors import UserError
from neuroalign.io import read_json
from neuroalign.pairs.store import read_pairs
from neuroalign.pairs.text import text_steps
from neuroalign.text.captions import Captions, write_captions


def captions(times, has_text, window_s=1.0, dim=3, seed=0, **attributes) -> Captions:
    has_text = np.asarray(has_text, bool)
    vectors = np.random.default_rng(seed).standard_normal((len(has_text), dim)).astype(np.float32)
    words = ["a dog" if has else "" for has in has_text]
    about = {"window_s": window_s, "stride_s": window_s, "hrf_convolved": False, **attributes}
    return Captions(words, np.where(has_text[:, None], vectors, 0), np.asarray(times, float), about)


def naive_step(item: Captions, centre: float, half: float) -> np.ndarray | None:
    """The rule of the docstring for one step."""
    known = [i for i in range(len(item.times)) if item.captions[i]]
    inside = [i for i in known if centre - half - 1e-6 <= item.times[i] < centre + half - 1e-6]
    if inside:
        return item.features[inside].mean(0)
    after = next((i for i in range(len(item.times)) if item.times[i] >= centre), None)
    before = None if after == 0 else (len(item.times) if after is None else after) - 1
    if before in known and after in known:
        weight = (centre - item.times[before]) / (item.times[after] - item.times[before])
        return item.features[before] * (1 - weight) + item.features[after] * weight
    reach = item.attributes["window_s"] / 2 + 1e-6
    near = [
        i for i in (before, after) if i is not None and i in known and abs(item.times[i] - centre) <= reach
    ]
    return item.features[near[0]] if near else None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=12),
    st.sampled_from([0.5, 1.0, 1.5, 3.0, 4.0]),
    st.floats(0, 8),
    st.sampled_from([1.0, 2.0]),
)
def test_steps_equal_a_loop(has_text, stride, start, step_s):
    item = captions((np.arange(len(has_text)) + 0.5) * stride, has_text, stride)
    data, present = text_steps(item, start, 4.0, step_s)
    for t, centre in enumerate(start + (np.arange(data.shape[1]) + 0.5) * step_s):
        # Half-way between two windows, which of them is nearest is decided by rounding.
        if abs((centre / stride) % 1) < 1e-3 or abs((centre / stride) % 1 - 1) < 1e-3:
            continue
        expected = naive_step(item, centre, step_s / 2)
        assert present[0, t] == (expected is not None)
        np.testing.assert_allclose(data[0, t], 0 if expected is None else expected, atol=1e-5)


def test_before_and_after_the_captions_there_is_no_text():
    item = captions([10.5, 11.5], [True, True])
    _, present = text_steps(item, [0.0, 9.0, 11.0, 30.0], 4.0, 1.0)
    assert present.sum(1).tolist() == [0, 2, 1, 0]


@pytest.fixture
def films(make):
    return make({"early": 5.0}, films=4, film_s=60.0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "captions"


def test_contents_hold_their_captions(films, folder):
    files = {}
    for number, film in enumerate(sorted(films.embeddings)[:-1]):
        times = np.arange(60) + 0.5
        has = np.arange(60) % 3 != 0
        words = np.where(has[:, None], np.stack([times, np.full(60, number)], 1), 0).astype(np.float32)
        item = Captions(["x" if h else "" for h in has], words, times, {"window_s": 1.0, "stride_s": 1.0})
        files[film] = folder / f"{film}.h5"
        write_captions(files[film], item)
    plain = read_pairs(films.build("plain"))
    pairs = read_pairs(films.build("words", caption_files=files))
    assert plain.video.text is None
    with h5py.File(films.root / "plain" / "video.h5") as file:
        assert "text" not in file
    assert pairs.video.clip_ids == plain.video.clip_ids
    about = pairs.clips.drop_duplicates("clip_id").set_index("clip_id").loc[pairs.video.clip_ids]
    seconds = about["start_s"].to_numpy()[:, None] + pairs.video.step_times
    film = about["stimulus"].to_numpy(str)[:, None]
    captioned = np.isin(film, list(files)) & (np.floor(seconds) % 3 != 0)
    np.testing.assert_array_equal(pairs.video.has_text, captioned)
    # float16 on disk.
    np.testing.assert_allclose(pairs.video.text[..., 0], np.where(captioned, seconds, 0), atol=0.04)
    chosen = pairs.video.select(np.array([3, 1]))
    np.testing.assert_array_equal(chosen.text, pairs.video.text[[3, 1]])
    np.testing.assert_array_equal(chosen.has_text, pairs.video.has_text[[3, 1]])
    assert chosen.clip_ids == [pairs.video.clip_ids[i] for i in (3, 1)]


def test_the_share_of_captions_is_told_by_split_and_none_is_a_warning(films, folder, caplog):
    times = np.arange(60) + 0.5
    has = np.arange(60) < 30
    plain = read_pairs(films.build("plain")).clips
    splits = plain.drop_duplicates("stimulus").set_index("stimulus")["split"]
    files = {film: folder / f"{film}.h5" for film, split in splits.items() if split == "train"}
    for path in files.values():
        write_captions(path, captions(times, has))
    with caplog.at_level(logging.WARNING):
        pairs = read_pairs(films.build("words", caption_files=files))
    shares = read_json(films.root / "words" / "summary.json")["captioned_by_split"]
    expected = {}
    for split, rows in pairs.clips.groupby("split"):
        expected[split] = pairs.video.has_text[pairs.video.rows_of(rows["clip_id"].unique())].mean()
    assert set(shares) == {"split"}
    assert shares["split"] == pytest.approx(expected)
    assert shares["split"]["train"] > 0
    for part in ("validation", "test"):
        assert shares["split"][part] == 0
        assert f"No clip of {part} (split) has a caption" in caplog.text
    assert "No clip of train" not in caplog.text


def test_convolved_features_want_convolved_captions(films, folder):
    times, name = np.arange(60) + 0.5, sorted(films.embeddings)[0]
    write_captions(folder / "late.h5", captions(times, np.ones(60), hrf_convolved=True))
    write_captions(folder / "early.h5", captions(times, np.ones(60)))
    for path in films.embeddings.values():
        with h5py.File(path, "a") as file:
            file.attrs["hrf_convolved"] = True
    films.build("a", hrf=Hrf(method="none"), caption_files={name: folder / "late.h5"})
    with pytest.raises(UserError, match=r"The features are HRF-convolved .* captions of 'film-1' are not"):
        films.build("b", hrf=Hrf(method="none"), caption_files={name: folder / "early.h5"})


def test_what_is_wrong_with_captions_is_a_sentence(films, folder):
    times = np.arange(60) + 0.5
    names = sorted(films.embeddings)

    def write(name, item):
        write_captions(folder / f"{name}.h5", item)
        return {name: folder / f"{name}.h5"}

    with pytest.raises(UserError, match="No clip has a caption"):
        films.build("a", caption_files=write(names[0], captions(times, np.zeros(60))))
    two = write(names[0], captions(times, np.ones(60))) | write(names[1], captions(times, np.ones(60), dim=5))
    with pytest.raises(UserError, match=r"embedded in 5 dimensions, those before it in 3"):
        films.build("b", caption_files=two)
    convolved = write(names[0], captions(times, np.ones(60), hrf_convolved=True))
    with pytest.raises(UserError, match=r"captions of 'film-1' are already HRF-convolved"):
        films.build("c", caption_files=convolved, hrf=Hrf(method="shift"))
    with pytest.raises(UserError, match="not a captions file"):
        films.build("d", caption_files={names[0]: films.embeddings[names[0]]})
