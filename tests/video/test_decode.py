"""Sequential decoding and thumbnails of mezzanines."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import pytest
from PIL import Image

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.decode import FilmReader, film, iterate_frames
from neuroalign.video.normalise import normalise
from neuroalign.video.thumbnails import thumbnail, thumbnails


@pytest.fixture(scope="module")
def numbered(write_numbered, tmp_path_factory):
    """Ten seconds whose frame `i` shows `i`."""
    folder = tmp_path_factory.mktemp("numbered")
    write_numbered(folder / "in.mp4", [Fraction(k, 8) for k in range(80)])
    normalise(folder / "in.mp4", folder / "out.mp4", folder / "out.json", Video(height=64))
    return folder / "out.mp4"


def _open(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_size_and_rate(mezzanine):
    found = film(mezzanine)
    assert (found.n_frames, found.fps, found.width, found.height) == (48, 8.0, 298, 224)
    assert found.duration_s == 6.0


@pytest.mark.parametrize("batch", [1, 7, 32, 500])
def test_every_frame_once_in_order_with_its_time(numbered, read_number, batch):
    times, numbers = [], []
    for t, frames in iterate_frames(numbered, batch=batch):
        assert 1 <= len(frames) <= batch
        assert frames.dtype == np.uint8
        times.extend(t)
        numbers.extend(read_number(f) for f in frames)
    assert numbers == list(range(80))
    np.testing.assert_allclose(times, np.arange(80) / 8)


@pytest.mark.parametrize("size", [(96, 96), (48, 48), (72, 40), (49, 33), (341, 256), (160, 64)])
def test_frames_are_scaled_as_asked(numbered, read_number, size):
    frames = np.concatenate([f for _, f in iterate_frames(numbered, size, batch=33)])
    assert frames.shape == (80, size[1], size[0], 3)
    assert [read_number(f) for f in frames] == list(range(80))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("size", [None, (96, 96), (48, 48)])
def test_going_on_anywhere_gives_the_frames_asked_for(long_film, read_number, threads, size):
    reader = FilmReader(long_film, size, threads)
    rng = np.random.default_rng(threads)
    for first in (0, 767, *rng.integers(0, 760, 40)):
        index = np.arange(first, min(first + rng.integers(1, 9), 768))
        assert [read_number(frame) for frame in reader.read(index)] == index.tolist()


def test_several_readers_of_a_film_at_once(long_film, read_number):
    def work(worker):
        reader, numbers = FilmReader(long_film, (96, 96)), []
        for first in range(16 * worker, 768, 64):
            numbers += [read_number(frame) for frame in reader.read(range(first, first + 16))]
        return numbers

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert sorted(chain.from_iterable(found)) == list(range(768))
    assert found[1][:17] == [*range(16, 32), 80]


def test_a_film_that_breaks_is_told_with_its_second(long_film, tmp_path):
    content = bytearray(long_film.read_bytes())
    # The index lies at the end or the beginning; the middle is pictures.
    middle = len(content) // 2
    content[middle : middle + len(content) // 8] = bytes(len(content) // 8)
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be decoded near second \d"):
        for _ in iterate_frames(tmp_path / "broken.mp4"):
            pass


def test_pictures_equal_another_decoder(mezzanine):
    ours = np.concatenate([f for _, f in iterate_frames(mezzanine)])
    with av.open(str(mezzanine)) as container:
        theirs = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() < 2


def test_a_file_that_is_no_film(tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(UserError, match="normalise it again"):
        film(tmp_path / "text.mp4")
    with pytest.raises(UserError, match="does not exist"):
        next(iterate_frames(tmp_path / "none.mp4"))


def test_thumbnails_are_of_the_times_asked_for(numbered, read_number):
    times = [9.9, 0.0, 3.125, 3.13, 3.12, -1.0, 99.0, 3.125]
    pictures = [_open(jpeg) for jpeg in thumbnails(numbered, times, height=64)]
    assert [read_number(p) for p in pictures] == [79, 0, 25, 25, 24, 0, 79, 25]
    assert {p.shape for p in pictures} == {(64, 160, 3)}
    assert thumbnails(numbered, []) == []


def test_thumbnail_height(numbered):
    assert _open(thumbnail(numbered, 1.0)).shape == (72, 180, 3)
