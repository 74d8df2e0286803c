"""Rendering scene scripts into encoded films.

Frames are drawn at 12 per second and played at 24, as in hand-drawn animation; a moving camera crops a larger
textured background, objects move over it, and the light changes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import numpy as np
from PIL import Image

from neuroalign.io import atomic_path
from neuroalign.simulate.scenes import Scene, SceneObject
from neuroalign.simulate.sprites import SIZE, colour, draw, noise_field
from neuroalign.video.ffmpeg import ffmpeg_exe

WIDTH, HEIGHT = 320, 240
DRAWN_FPS, FPS = 12, 24

_MARGIN = 96


def render_film(path: str | os.PathLike, scenes: list[Scene]) -> None:
    """Render and encode one film: H.264, yuv420p, 320x240, 24 frames per second, no sound.

    Parameters
    ----------
    path : path
        The MP4 file to write (atomically).
    scenes : list of Scene
        The script, covering the film from 0 s to its end.

    Raises
    ------
    RuntimeError
        If ffmpeg fails; the message holds its own.
    """
    # One thread and bit-exact flags: the same script gives the same bytes on the same ffmpeg.
    source = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {DRAWN_FPS} -i -"
    target = f"-r {FPS} -c:v libx264 -preset superfast -crf 25 -g {FPS} -threads 1 -pix_fmt yuv420p"
    exact = "-map_metadata -1 -fflags +bitexact -flags:v +bitexact -movflags +faststart"
    with atomic_path(path) as temporary:
        command = [ffmpeg_exe(), "-v", "error", "-y", *f"{source} {target} {exact}".split(), str(temporary)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            for frame in frames(scenes):
                process.stdin.write(frame)
        except BrokenPipeError:
            pass  # ffmpeg has ended early; its message follows.
        _, message = process.communicate()
        if process.returncode:
            raise RuntimeError(f"ffmpeg could not encode {path}: {message.decode(errors='replace').strip()}")


def frames(scenes: list[Scene]) -> Iterator[bytes]:
    """RGB frames of a script as raw bytes, `DRAWN_FPS` per second."""
    for scene in scenes:
        shot = _Shot(scene)
        first, last = round(scene.start_s * DRAWN_FPS), round(scene.end_s * DRAWN_FPS)
        for index in range(last - first):
            yield shot.frame(index / DRAWN_FPS)


class _Shot:
    """What stays the same during a shot: the backdrop and the drawings of its objects."""

    def __init__(self, scene: Scene):
        self._scene = scene
        self._backdrop = _backdrop(scene)
        self._objects = []
        for thing in scene.objects:
            sprite = draw(thing.category, thing.seed)
            if thing.speed_x < 0:
                sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            self._objects.append((thing, sprite))

    def frame(self, t: float) -> bytes:
        """The frame `t` seconds after the cut."""
        scene = self._scene
        wide, high = self._backdrop.size
        magnification = float(np.exp(scene.zoom * t))
        w, h = WIDTH / magnification, HEIGHT / magnification
        x = np.clip(wide / 2 + scene.pan_x * t * HEIGHT - w / 2, 0, wide - w)
        y = np.clip(high / 2 + scene.pan_y * t * HEIGHT - h / 2, 0, high - h)
        image = self._backdrop.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
        for thing, sprite in self._objects:
            _place(image, sprite, thing, scene, t, magnification)
        gain = (
            scene.light * np.exp(scene.light_change * t) * (1 + scene.flicker * np.sin(2 * np.pi * 1.3 * t))
        )
        if gain > 1.15 or gain < 0.98:
            # Highlights are compressed, as by a camera, rather than clipped.
            table = (
                255 * (1 - np.exp(-np.arange(256) / 255 * 1.6 * gain)) / (1 - np.exp(-1.6 * max(gain, 1.0)))
            )
            image = image.point(np.tile(np.clip(table, 0, 255).astype(int), 3).tolist())
        return image.tobytes()


def _place(
    image: Image.Image, sprite: Image.Image, thing: SceneObject, scene: Scene, t: float, magnification: float
) -> None:
    size = thing.size * HEIGHT * magnification * float(np.exp(thing.growth * t))
    phase = (thing.seed % 628) / 100
    bob = thing.sway * np.sin(2 * np.pi * 0.8 * t + phase)
    lean = 40 * thing.sway * np.sin(2 * np.pi * 0.5 * t + phase)
    # The camera sweeps nearer things past faster than the backdrop.
    x = (thing.x + (thing.speed_x - 1.3 * scene.pan_x) * t) * HEIGHT - size / 2
    y = (thing.y + bob + (thing.speed_y - 1.3 * scene.pan_y) * t) * HEIGHT - size / 2
    edge = int(np.ceil(size)) + 2
    left, top = int(np.floor(x)), int(np.floor(y))
    scale, angle = SIZE / size, np.deg2rad(lean)
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    middle = np.array([x - left + size / 2, y - top + size / 2])
    shift = SIZE / 2 - np.array([[c, s], [-s, c]]) @ middle
    small = sprite.reduce(2) if scale > 2.2 else sprite
    factor = small.size[0] / SIZE
    matrix = np.array([c, s, shift[0], -s, c, shift[1]]) * factor
    patch = small.transform((edge, edge), Image.Transform.AFFINE, matrix.tolist(), Image.Resampling.BILINEAR)
    image.paste(patch, (left, top), patch)


_PALETTES = {  # hue, saturation and value of the upper and of the lower part, and where they meet
    "indoor": ((0.09, 0.3, 0.75), (0.07, 0.5, 0.45), 0.72),
    "street": ((0.58, 0.25, 0.85), (0.60, 0.06, 0.45), 0.55),
    "nature": ((0.56, 0.4, 0.9), (0.28, 0.55, 0.45), 0.45),
    "water": ((0.55, 0.25, 0.9), (0.55, 0.6, 0.5), 0.4),
}


def _backdrop(scene: Scene) -> Image.Image:
    rng = np.random.default_rng(scene.seed)
    wide, high = WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN
    upper, lower, horizon = _PALETTES[scene.setting]
    turn = 0.12 * (scene.hue - 0.5)
    sky = np.array(colour(upper[0] + turn, upper[1] * rng.uniform(0.6, 1.4), upper[2]), np.float32)
    ground = np.array(colour(lower[0] + turn, lower[1] * rng.uniform(0.6, 1.4), lower[2]), np.float32)
    rows = np.linspace(0, 1, high, dtype=np.float32)[:, None]
    ragged = 0.0 if scene.setting in ("indoor", "water") else 0.03
    ridge = horizon + rng.normal(0, 0.05) + ragged * noise_field(rng, (2, 512), 1.5)[:1, :wide]
    below = np.clip((rows - ridge) * 60, 0, 1)
    texture = noise_field(rng, (512, 512), scene.roughness, 1.6, scene.orientation)[:high, :wide]
    if scene.setting in ("indoor", "street"):
        # Built surroundings have edges: a lattice of panels or paving under the texture.
        pitch = float(rng.uniform(24, 70))
        columns = np.sign(np.sin(2 * np.pi * np.arange(wide) / pitch))[None]
        lines = np.sign(np.sin(2 * np.pi * np.arange(high) / (0.6 * pitch)))[:, None]
        texture = 0.6 * texture + rng.uniform(0.3, 0.9) * columns * np.where(rows < ridge.mean(), 1, lines)
    contrast = 0.13 + 0.12 * below * rng.uniform(0.6, 1.4)
    tint = noise_field(rng, (128, 128), 1.4)
    tint = np.repeat(np.repeat(tint, 4, 0), 4, 1)[:high, :wide]
    light = 1 + 0.25 * rng.normal() * (np.linspace(-0.5, 0.5, wide, dtype=np.float32)[None])
    base = sky * (1 - below[..., None]) + ground * below[..., None]
    pixels = base * (light * (1 + contrast * texture))[..., None]
    pixels += tint[..., None] * np.array([9, 0, -9], np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")
