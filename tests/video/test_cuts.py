"""Shots: every cut to the frame in films that were made of known ones, and nothing where there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from neuroalign.config.video import Video
from neuroalign.video.cuts import ShotDetector, Transition, frame_size, shot_edges
from neuroalign.video.decode import film, iterate_frames
from neuroalign.video.normalise import normalise

FPS = 8.0
REAL = (
    "bikes.mp4",
    "bigbuckbunny.mp4",
    "book.mkv",
    "carphone_pristine.mp4",
    "flipping_a_pancake.mkv",
    "nasa_13013.mp4",
)
# Seen by eye: cuts, and the middle of a dissolve.
WITHIN = {"bikes.mp4": [10, 25, 44, 60, 78], "nasa_13013.mp4": [44, 65]}

HEIGHT, WIDTH = 36, 64


@dataclass
class Scene:
    """A picture wider than the frame, over which the camera moves.

    Parameters
    ----------
    seed : int
    frames : int
    speed : float
        Pixels per frame of 64 pixels.
    flash : int
        Length in frames of a flash in its middle.
    light : float
        The light at its end, 1 at its beginning.
    """

    seed: int
    frames: int
    speed: float = 0.0
    flash: int = 0
    light: float = 1.0

    def render(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        span = int(WIDTH + abs(self.speed) * self.frames + 2)
        # Colours of large and small things: any two scenes have other colours in other places.
        field = sum(
            size
            * zoom(rng.random((HEIGHT // step + 1, span // step + 2, 3)), (step, step, 1), order=1)[
                :HEIGHT, :span
            ]
            for step, size in ((12, 0.8), (4, 0.3))
        )
        field = np.clip(field / 1.1 * rng.uniform(0.6, 1.0, 3) * 1.3 - 0.15, 0, 1)
        out = np.empty((self.frames, HEIGHT, WIDTH, 3))
        for k in range(self.frames):
            place = self.speed * k if self.speed >= 0 else span - WIDTH - 2 + self.speed * k
            low = int(place)
            part = (1 - place + low) * field[:, low : low + WIDTH] + (place - low) * field[
                :, low + 1 : low + 1 + WIDTH
            ]
            out[k] = part * (1 + (self.light - 1) * k / max(1, self.frames - 1))
        middle = self.frames // 2
        out[middle : middle + self.flash] = 0.25 * out[middle : middle + self.flash] + 0.75
        return out


def make_film(scenes, joins=(), noise=0.0, seed=0) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Frames, uint8, and the transitions: ("cut", b, b), ("dissolve" or "fade", first mixed, first after).

    Parameters
    ----------
    scenes : sequence of Scene
    joins : sequence of (kind, frames)
        Between each two; cuts where there are too few.
    noise : float
        Standard deviation of noise, of 255.
    """
    frames, truth = scenes[0].render(), []
    for k, scene in enumerate(scenes[1:]):
        kind, length = joins[k] if k < len(joins) else ("cut", 0)
        new, at = scene.render(), len(frames)
        if kind == "cut":
            frames, truth = np.concatenate([frames, new]), [*truth, ("cut", at, at)]
            continue
        if kind == "dissolve":
            share = np.arange(1, length + 1)[:, None, None, None] / (length + 1)
            mixed = (1 - share) * frames[-1] + share * new[0]
        else:
            # Down to black and up again; the middle frame is black.
            share = np.abs(np.linspace(-1, 1, 2 * length + 3)[1:-1])[:, None, None, None]
            old = np.arange(len(share)) <= length
            mixed = np.where(old[:, None, None, None], frames[-1], new[0]) * share
        truth.append((kind, at, at + len(mixed)))
        frames = np.concatenate([frames, mixed, new])
    rng = np.random.default_rng(seed)
    frames = 255 * frames + noise * rng.standard_normal(frames.shape)
    return np.clip(np.round(frames), 0, 255).astype(np.uint8), truth


def detect(frames: np.ndarray, fps: float = FPS, batch: int = 32) -> list[Transition]:
    shots = ShotDetector(fps)
    for first in range(0, len(frames), batch):
        shots.add(frames[first : first + batch])
    return shots.result()


def cuts_of(found: list[Transition]) -> list[int]:
    return [t.start for t in found if t.kind == "cut"]


scenes = st.builds(
    Scene,
    seed=st.integers(0, 2**31),
    frames=st.integers(10, 40),
    speed=st.floats(-3, 3),
    flash=st.integers(0, 2),
    light=st.floats(0.6, 1.5),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(scenes, min_size=1, max_size=5, unique_by=lambda s: s.seed), st.floats(0, 8), st.integers(1, 50)
)
def test_cuts_are_exact_and_pans_flashes_noise_and_slow_light_are_none(made, noise, batch):
    frames, truth = make_film(made, noise=noise)
    found = detect(frames, batch=batch)
    assert [(t.kind, t.start, t.stop) for t in found] == truth


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 5), min_size=2, max_size=12), st.integers(0, 2**20))
def test_short_shots_are_found_one_by_one(lengths, seed):
    frames, truth = make_film([Scene(seed + k, n) for k, n in enumerate(lengths)], noise=3)
    # A shot at either end of the film may be shorter still.
    assert cuts_of(detect(frames)) == [start for _, start, _ in truth]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**31), st.integers(10, 30)),
        min_size=2,
        max_size=4,
        unique_by=lambda s: s[0],
    ),
    st.lists(st.integers(4, 16), min_size=3, max_size=3),
)
def test_fades_are_one_transition_from_first_to_last_changed_frame(made, lengths):
    frames, truth = make_film([Scene(*s) for s in made], [("fade", n) for n in lengths], noise=2)
    found = detect(frames)
    assert [t.kind for t in found] == [kind for kind, _, _ in truth]
    for one, (_, start, stop) in zip(found, truth, strict=True):
        assert abs(one.start - start) <= 2
        assert abs(one.stop - stop) <= 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2**31), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(4, 16), min_size=3, max_size=3),
)
def test_dissolves_between_still_pictures(seeds, lengths):
    frames, truth = make_film([Scene(s, 12) for s in seeds], [("dissolve", n) for n in lengths], noise=2)
    found = detect(frames)
    assert [t.kind for t in found] == [kind for kind, _, _ in truth]
    for one, (_, start, stop) in zip(found, truth, strict=True):
        assert abs(one.start - start) <= 2
        assert abs(one.stop - stop) <= 2


def test_what_is_no_shot():
    still = Scene(1, 60).render()
    lit = np.concatenate([still[:30], np.clip(0.6 * still[30:], 0, 1)])
    inserted = still.copy()
    inserted[30:32] = Scene(2, 2).render()
    for frames in (still, lit, inserted):
        assert detect((255 * frames).round().astype(np.uint8)) == []


def test_part_of_the_picture_may_always_be_the_same():
    """A film in the left half of the frame, beside a panel that never changes."""
    frames, truth = make_film([Scene(k, 20) for k in range(4)], noise=2)
    panel = np.broadcast_to((255 * Scene(9, 1).render()).astype(np.uint8), frames.shape)
    wide = np.concatenate([frames, panel], axis=2)
    assert cuts_of(detect(wide)) == [start for _, start, _ in truth]


@pytest.mark.parametrize("fps", [2.0, 4.0, 12.5, 24.0])
def test_the_rate_does_not_matter(fps):
    frames, truth = make_film([Scene(k, int(3 * fps), speed=8 / fps) for k in range(4)], noise=2)
    assert cuts_of(detect(frames, fps)) == [start for _, start, _ in truth]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_films_of_few_frames(n):
    frames = (255 * Scene(3, n).render()).astype(np.uint8)
    shots = ShotDetector(FPS)
    shots.add(frames)
    assert shots.result() == []
    assert shots.change().shape == (n,)
    np.testing.assert_array_equal(shot_edges(shots.result(), n), [0, n])


def test_the_change_is_that_of_a_naive_comparison():
    """Histograms counted pixel by pixel: frames of pure colours differ wholly, equal frames not at all."""
    red, blue = np.zeros((2, 36, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    half = red.copy()
    half[:, :32] = blue[:, :32]
    shots = ShotDetector(FPS)
    shots.add(np.stack([red, red, blue, half]))
    # One colour all over has no layout to correlate. Of the half, half of the blocks keep their colour. Pure red and pure
    # blue share the share that is grey: 1 - 1.5 * 0.8 < 0, so none.
    np.testing.assert_allclose(shots.change(), [0, 0, 1, 0.5], atol=1e-6)


def test_memory_does_not_grow_with_the_frames():
    import tracemalloc

    frames = (255 * Scene(5, 32).render()).astype(np.uint8)
    shots = ShotDetector(FPS)
    shots.add(frames)
    tracemalloc.start()
    for _ in range(50):
        shots.add(frames)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Some tens of numbers a frame; one of the frames alone has 6912 values.
    assert grown < 1600 * 500


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """Real clips, normalised and small, by name."""
    folder = tmp_path_factory.mktemp("real")
    clips = {}
    for name in REAL:
        normalise(shared_data / "videos" / name, folder / f"{name}.mp4", folder / f"{name}.json", Video())
        source = film(folder / f"{name}.mp4")
        size = frame_size(source.width, source.height)
        clips[name] = np.concatenate([f for _, f in iterate_frames(folder / f"{name}.mp4", size)])
    return clips


def test_real_clips_have_the_shots_that_one_sees(real):
    for name, frames in real.items():
        found = detect(frames)
        assert [t.frame for t in found] == WITHIN.get(name, []), name


def test_real_clips_spliced_at_random(real):
    """Content, noise and motion are real; where it was cut is known."""
    rng = np.random.default_rng(0)
    small = {name: f[:, :, :48] for name, f in real.items() if name not in WITHIN}
    names = sorted(small)
    hits = total = false = 0
    for _ in range(30):
        order, parts = rng.permutation(names), []
        for name in order:
            length = int(rng.integers(8, 30))
            first = int(rng.integers(0, len(small[name]) - length + 1))
            parts.append(small[name][first : first + length])
        truth = set(np.cumsum([len(p) for p in parts])[:-1].tolist())
        found = set(cuts_of(detect(np.concatenate(parts))))
        hits, total, false = hits + len(found & truth), total + len(truth), false + len(found - truth)
    assert total == 90
    assert hits >= 0.97 * total
    assert false == 0


@pytest.mark.slow
def test_the_shots_of_a_simulated_film(tmp_path):
    """Of a film that no limit was chosen on: pans, zooms, flicker and changes of light included, every shot to the frame."""
    from neuroalign.config.dataset import Simulate
    from neuroalign.simulate.render import render_film
    from neuroalign.simulate.scenes import write_script

    script = write_script(Simulate(film_s=60, seed=11), "film-01")
    render_film(tmp_path / "in.mp4", script)
    normalise(tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "out.json", Video())
    source, shots = film(tmp_path / "out.mp4"), ShotDetector(FPS)
    for _, frames in iterate_frames(tmp_path / "out.mp4", frame_size(source.width, source.height)):
        shots.add(frames)
    # A frame is first seen at the tick after it begins.
    truth = [int(np.ceil(scene.start_s * FPS - 1e-6)) for scene in script[1:]]
    assert len(truth) >= 10
    assert cuts_of(shots.result()) == truth
