"""Which frames make the clips of a window, whatever part of a film is asked for."""

from __future__ import annotations

import weakref

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.video.backbones._clips import Sampling, clips
from neuroalign.video.windows import window_grid


@settings(max_examples=200, deadline=None)
@given(
    frames=st.sampled_from([2, 4, 8, 16, 64]),
    rate=st.sampled_from([1.0, 4.0, 7.5, 8.0, 30.0]),
    fps=st.sampled_from([2.0, 8.0, 12.5, 24000 / 1001, 30.0]),
    window_s=st.sampled_from([0.5, 1.0, 1.3, 4.0, 10.0]),
    stride_s=st.sampled_from([0.25, 1.0, 2.7]),
    n_frames=st.integers(1, 400),
    data=st.data(),
)
def test_past_and_future_are_enough_for_any_part(frames, rate, fps, window_s, stride_s, n_frames, data):
    sampling = Sampling(frames, rate, fps, window_s)
    grid = window_grid(n_frames, fps, window_s, stride_s)
    first = data.draw(st.integers(0, len(grid) - 1))
    part = grid.part(first, data.draw(st.integers(first + 1, len(grid))))
    index = sampling.index(part)
    assert len(index) == len(part) * sampling.parts
    assert (np.diff(index, axis=1) >= 0).all()
    a, b = part.first_frame(sampling.past), part.end_frame(sampling.past)
    assert index.min() >= a
    assert index.max() < b
    # What is asked for is not much more than what is used.
    assert sampling.past <= max(0, (frames / rate / 2) * fps + 2)
    # The stream gives every clip its frames, whatever the batches.
    film = np.arange(n_frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    step = data.draw(st.integers(1, 50))
    batches = [(None, film[i : min(i + step, b)]) for i in range(a, b, step)]
    found = list(clips(batches, index, a, lambda f: f))
    np.testing.assert_array_equal(np.stack(found)[..., 0, 0, 0], film[index, 0, 0, 0])


def test_no_more_frames_are_held_than_a_clip_and_a_batch():
    """An hour of film, of which only the frames around the present are alive."""
    alive = []

    class Counted(np.ndarray):
        pass

    def batches():
        for i in range(0, 3600 * 8, 32):
            block = np.zeros((32, 1, 1, 3), np.uint8).view(Counted)
            alive.append(weakref.ref(block))
            yield np.arange(i, i + 32) / 8, block

    sampling = Sampling(64, 4.0, 8.0, 1.0)
    grid = window_grid(3600 * 8, 8.0, 1.0, 1.0)
    most = 0
    for _ in clips(batches(), sampling.index(grid), 0, lambda f: f):
        most = max(most, sum(ref() is not None for ref in alive[-40:]))
    # 16 seconds of 8 frames are 4 batches; one more at each end, and the one in hand.
    assert most <= 7


def test_the_last_frame_stands_still_after_the_film():
    sampling = Sampling(16, 7.5, 8.0, 1.0)
    grid = window_grid(8, 8.0, 1.0, 1.0)
    (index,) = sampling.index(grid)
    assert index.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]


def test_windows_longer_than_a_clip_are_covered():
    sampling = Sampling(16, 8.0, 8.0, 6.0)
    assert sampling.parts == 3
    index = sampling.index(window_grid(48, 8.0, 6.0, 6.0))
    assert np.concatenate(index).tolist() == list(range(48))


@settings(deadline=None)
@given(clips_long=st.floats(1.0, 4.0), frames=st.sampled_from([4, 16]), tubelet=st.sampled_from([1, 2]))
def test_every_moment_of_a_window_is_averaged_whatever_its_length(clips_long, frames, tubelet):
    """Half a window without a clip would be left out of its features."""
    rate, window_s = 8.0, clips_long * frames / 8.0
    sampling = Sampling(frames, rate, 8.0, window_s)
    assert sampling.parts == int(np.ceil(clips_long - 1e-6))
    groups = np.flatnonzero(sampling.tubelets(tubelet, "window"))
    middles = (np.arange(sampling.parts) + 0.5) * window_s / sampling.parts
    # From the first to the last moment that a clip's tokens see, half a frame more at each end.
    first = (groups[0] * tubelet - frames / 2) / rate
    last = ((groups[-1] + 1) * tubelet - frames / 2) / rate
    slack = tubelet / rate / 2 + 1e-6
    assert middles[0] + first <= slack
    assert middles[-1] + last >= window_s - slack
    assert (middles[1:] + first <= middles[:-1] + last + 2 * slack).all()


def test_clips_are_those_of_the_families_training():
    """VideoMAE: 16 frames, every fourth of 30 a second. V-JEPA 2: 4 a second, whatever the film's rate."""
    from neuroalign.video.backbones.videomae import RATE as VIDEOMAE
    from neuroalign.video.backbones.vjepa2 import RATE as VJEPA2

    for frames, rate, fps, step in ((16, VIDEOMAE, 30, 4), (64, VJEPA2, 24, 6), (64, VJEPA2, 8, 2)):
        grid = window_grid(60 * fps, float(fps), 1.0, 1.0)
        index = Sampling(frames, rate, float(fps), 1.0).index(grid)
        middle = index[len(index) // 2]
        assert len(middle) == frames
        assert set(np.diff(middle)) == {step}
        # The window is in the middle of its clip, to half a step.
        window = len(index) // 2
        centre = (grid.start[window] + grid.stop[window] - 1) / 2
        assert abs(middle.mean() - centre) <= step / 2
