"""Films of which every cut is known: scenes of smooth random colours that pan, with noise, flashes, dissolves and fades."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import zoom

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


def film(scenes, joins=(), noise=0.0, seed=0) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
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
