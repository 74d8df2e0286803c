"""Drawings of the objects in the films: one recognisable, textured, shaded shape family per category."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import fft

SIZE = 240
"""Edge of a sprite in pixels."""

Colour = tuple[int, int, int]


def noise_field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    exponent: float = 1.0,
    stretch: float = 1.0,
    orientation: float = 0.0,
) -> np.ndarray:
    """A random texture whose amplitude spectrum falls as 1/f**exponent, as in natural images.

    Parameters
    ----------
    rng : Generator
    shape : (int, int)
        Height and width; powers of two are fastest.
    exponent : float
        1 is the value typical of photographs (Field, 1987).
    stretch, orientation : float
        Elongation of the texture (1 is isotropic) along `orientation` in radians.

    Returns
    -------
    float32 array of `shape`, zero mean and unit standard deviation; periodic.
    """
    fy = fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    fx = fft.rfftfreq(shape[1]).astype(np.float32)[None]
    along = fx * np.cos(orientation) + fy * np.sin(orientation)
    across = fy * np.cos(orientation) - fx * np.sin(orientation)
    radius = np.hypot(along * stretch, across / stretch)
    radius[0, 0] = np.inf
    white = rng.standard_normal(shape, dtype=np.float32)
    field = fft.irfft2(fft.rfft2(white) / radius**exponent, s=shape)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def colour(hue: float, saturation: float, value: float) -> Colour:
    """An RGB colour, 0 to 255, from hue, saturation and value between 0 and 1."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return int(255 * r), int(255 * g), int(255 * b)


def draw(category: str, seed: int) -> Image.Image:
    """Draw one object.

    Parameters
    ----------
    category : str
        One of `scenes.CATEGORIES`.
    seed : int
        Chooses the individual: proportions, colours, pose, texture.

    Returns
    -------
    RGBA image of `SIZE` x `SIZE` pixels, transparent around the object.
    """
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", (2 * SIZE, 2 * SIZE), (0, 0, 0, 0))
    _PAINTERS[category](_Brush(image), rng)
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return _textured(image, rng, _ROUGHNESS[category])


class _Brush:
    """ImageDraw in units of the sprite (0 to 1), so that painters read like proportions."""

    def __init__(self, image: Image.Image):
        self._draw = ImageDraw.Draw(image)
        self._scale = image.size[0]

    def _px(self, points):
        return [(x * self._scale, y * self._scale) for x, y in points]

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self._draw.ellipse(self._px([(x - rx, y - ry), (x + rx, y + ry)]), fill=(*fill, 255))

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, r: float = 0) -> None:
        corners = self._px([(left, top), (right, bottom)])
        self._draw.rounded_rectangle(corners, radius=r * self._scale, fill=(*fill, 255))

    def polygon(self, points, fill: Colour) -> None:
        self._draw.polygon(self._px(points), fill=(*fill, 255))

    def line(self, points, fill: Colour, width: float) -> None:
        pixels = max(1, round(width * self._scale))
        self._draw.line(self._px(points), fill=(*fill, 255), width=pixels, joint="curve")
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, fill)

    def arc(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill, width) -> None:
        corners = self._px([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.arc(corners, start, end, fill=(*fill, 255), width=max(1, round(width * self._scale)))


def _textured(image: Image.Image, rng: np.random.Generator, roughness: float) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    angle = rng.uniform(-0.9, 0.9)
    shade = 1.12 - 0.45 * (x * np.sin(angle) + y * np.cos(angle) * 0.6)
    grain = 1 + roughness * noise_field(rng, (256, 256), 0.8)[:SIZE, :SIZE]
    out = pixels.copy()
    out[..., :3] = np.clip(pixels[..., :3] * (shade * grain)[..., None], 0, 255)
    result = Image.fromarray(out.astype(np.uint8), "RGBA")
    result.putalpha(result.getchannel("A").filter(ImageFilter.GaussianBlur(0.8)))
    return result


def _skin(rng: np.random.Generator) -> Colour:
    return colour(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.95))


def _hair(rng: np.random.Generator) -> Colour:
    return colour(rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6))


def _cloth(rng: np.random.Generator) -> Colour:
    return colour(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9))


def _face(b: _Brush, rng: np.random.Generator) -> None:
    skin, hair = _skin(rng), _hair(rng)
    dark = tuple(int(c * 0.65) for c in skin)
    w, h, gap = rng.uniform(0.27, 0.33), rng.uniform(0.37, 0.43), rng.uniform(0.11, 0.14)
    long = rng.random() < 0.5
    b.ellipse(0.5, 0.42, w + 0.06, h + 0.03, hair)
    if long:
        b.box(0.5 - w - 0.06, 0.42, 0.5 + w + 0.06, 0.95, hair, 0.08)
    b.box(0.41, 0.8, 0.59, 1.0, dark)
    for side in (-1, 1):
        b.ellipse(0.5 + side * w, 0.52, 0.04, 0.07, dark)
    b.ellipse(0.5, 0.53, w, h, skin)
    b.polygon([(0.5 - w, 0.36), (0.5, 0.12), (0.5 + w, 0.36), (0.5, rng.uniform(0.24, 0.33))], hair)
    iris = colour(rng.choice([0.08, 0.3, 0.57]), 0.6, 0.5)
    for side in (-1, 1):
        x = 0.5 + side * gap
        b.ellipse(x, 0.47, 0.055, 0.032, (245, 245, 240))
        b.ellipse(x, 0.47, 0.028, 0.03, iris)
        b.ellipse(x, 0.47, 0.013, 0.015, (10, 10, 10))
        b.line([(x - 0.06, 0.405), (x + 0.06, 0.40)], hair, 0.018)
    b.polygon([(0.5, 0.48), (0.455, 0.63), (0.545, 0.63)], dark)
    smile = rng.uniform(0.02, 0.07)
    b.ellipse(0.5, 0.74, rng.uniform(0.07, 0.12), 0.012 + smile / 2, (150, 50, 55))
    b.line([(0.41, 0.735), (0.5, 0.735 + smile / 2), (0.59, 0.735)], (95, 30, 35), 0.01)


def _person(b: _Brush, rng: np.random.Generator) -> None:
    skin, top, legs, hair = _skin(rng), _cloth(rng), _cloth(rng), _hair(rng)
    stride, swing = rng.uniform(0.03, 0.16), rng.uniform(-0.12, 0.12)
    for side in (-1, 1):
        foot = 0.5 + side * stride
        b.line([(0.5 + side * 0.04, 0.55), (0.5 + side * stride * 0.6, 0.75), (foot, 0.95)], legs, 0.085)
        b.ellipse(foot + 0.02, 0.965, 0.055, 0.022, (35, 30, 30))
        hand = (0.5 + side * (0.17 + swing * side), 0.55)
        b.line([(0.5 + side * 0.1, 0.27), (0.5 + side * 0.17, 0.42), hand], top, 0.06)
        b.ellipse(*hand, 0.03, 0.03, skin)
    b.polygon([(0.38, 0.24), (0.62, 0.24), (0.585, 0.58), (0.415, 0.58)], top)
    b.box(0.46, 0.17, 0.54, 0.26, skin)
    b.ellipse(0.5, 0.115, 0.075, 0.09, skin)
    b.ellipse(0.5, 0.075, 0.08, 0.06, hair)


def _animal(b: _Brush, rng: np.random.Generator) -> None:
    fur = colour(rng.uniform(0.05, 0.12), rng.uniform(0.15, 0.75), rng.uniform(0.3, 0.9))
    mark = tuple(int(c * rng.uniform(0.35, 0.6)) for c in fur)
    body_y, long = rng.uniform(0.48, 0.56), rng.uniform(0.25, 0.31)
    for x in (-0.85, -0.5, 0.5, 0.85):
        foot = 0.5 + long * x + rng.uniform(-0.05, 0.05)
        b.line(
            [(0.5 + long * x * 0.9, body_y + 0.05), (foot, 0.88)], fur if x in (-0.5, 0.85) else mark, 0.06
        )
    b.line([(0.5 - long, body_y), (0.5 - long - 0.12, body_y + rng.uniform(-0.22, 0.12))], fur, 0.045)
    b.ellipse(0.5, body_y, long, rng.uniform(0.13, 0.17), fur)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(5, 14))):
            x, y = rng.uniform(-0.8, 0.8), rng.uniform(-0.08, 0.08)
            b.ellipse(
                0.5 + long * x * 0.9, body_y + y, rng.uniform(0.015, 0.04), rng.uniform(0.02, 0.045), mark
            )
    head_x, head_y = 0.5 + long + 0.06, body_y - rng.uniform(0.12, 0.26)
    b.line([(0.5 + long * 0.75, body_y - 0.03), (head_x, head_y)], fur, 0.13)
    pointed = rng.random() < 0.6
    for side in (-0.05, 0.04):
        if pointed:
            b.polygon(
                [
                    (head_x + side - 0.03, head_y - 0.05),
                    (head_x + side, head_y - 0.19),
                    (head_x + side + 0.035, head_y - 0.05),
                ],
                mark,
            )
        else:
            b.ellipse(head_x + side, head_y - 0.06, 0.03, 0.08, mark)
    b.ellipse(head_x, head_y, 0.1, 0.085, fur)
    b.ellipse(head_x + 0.08, head_y + 0.03, 0.06, 0.045, fur)
    b.ellipse(head_x + 0.13, head_y + 0.02, 0.018, 0.016, (20, 15, 15))
    b.ellipse(head_x + 0.03, head_y - 0.02, 0.016, 0.018, (15, 10, 10))


def _house(b: _Brush, rng: np.random.Generator) -> None:
    wall = colour(rng.uniform(0.02, 0.14), rng.uniform(0.1, 0.6), rng.uniform(0.55, 0.95))
    mortar = tuple(int(c * 0.82) for c in wall)
    roof = colour(rng.choice([0.02, 0.06, 0.6]), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.55))
    top, w = rng.uniform(0.28, 0.45), rng.uniform(0.3, 0.42)
    b.box(0.5 - w, top, 0.5 + w, 0.95, wall)
    for i, y in enumerate(np.arange(top + 0.03, 0.95, 0.03)):
        b.box(0.5 - w, y, 0.5 + w, y + 0.004, mortar)
        for x in np.arange(0.5 - w + 0.03 * (i % 2), 0.5 + w, 0.06):
            b.box(x, y, x + 0.004, min(y + 0.03, 0.95), mortar)
    if rng.random() < 0.7:
        b.box(0.5 + w * 0.45, 0.06, 0.5 + w * 0.65, top, mortar)
        b.polygon([(0.5 - w - 0.05, top), (0.5, rng.uniform(0.04, 0.12)), (0.5 + w + 0.05, top)], roof)
    else:
        b.box(0.5 - w - 0.03, top - 0.05, 0.5 + w + 0.03, top + 0.01, roof)
    glass = colour(0.57, rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.9))
    columns, rows = int(rng.integers(2, 5)), 2 if top < 0.36 else 1
    for row in range(rows):
        for column in range(columns):
            x = 0.5 - w + 2 * w * (column + 0.5) / columns
            y = top + 0.07 + row * 0.2
            b.box(x - 0.05, y, x + 0.05, y + 0.12, (240, 240, 235))
            b.box(x - 0.04, y + 0.01, x + 0.04, y + 0.11, glass)
            b.line([(x, y + 0.01), (x, y + 0.11)], (240, 240, 235), 0.008)
    b.box(0.44, 0.76, 0.56, 0.95, colour(rng.random(), 0.6, 0.35))


def _vehicle(b: _Brush, rng: np.random.Generator) -> None:
    paint = colour(rng.random(), rng.uniform(0.5, 0.95), rng.uniform(0.45, 0.95))
    glass = colour(0.56, 0.3, rng.uniform(0.5, 0.9))
    if rng.random() < 0.65:
        roof = rng.uniform(0.32, 0.38)
        b.polygon([(0.2, 0.53), (0.32, roof), (0.66, roof), (0.8, 0.53)], paint)
        b.polygon([(0.25, 0.52), (0.34, roof + 0.03), (0.48, roof + 0.03), (0.48, 0.52)], glass)
        b.polygon([(0.51, 0.52), (0.51, roof + 0.03), (0.64, roof + 0.03), (0.74, 0.52)], glass)
        b.box(0.05, 0.51, 0.95, 0.7, paint, 0.06)
        wheels = (0.25, 0.76)
    else:
        b.box(0.04, 0.22, 0.95, 0.72, paint, 0.04)
        for x in np.linspace(0.1, 0.78, 5):
            b.box(x, 0.29, x + 0.12, 0.45, glass, 0.01)
        b.box(0.04, 0.52, 0.95, 0.55, (235, 235, 235))
        wheels = (0.22, 0.78)
    b.ellipse(0.92, 0.6, 0.025, 0.03, (255, 240, 180))
    b.ellipse(0.075, 0.6, 0.02, 0.03, (200, 30, 30))
    for x in wheels:
        b.ellipse(x, 0.71, 0.1, 0.1, (25, 25, 28))
        b.ellipse(x, 0.71, 0.05, 0.05, (170, 170, 175))
        for angle in np.arange(5) * 2 * np.pi / 5:
            b.line([(x, 0.71), (x + 0.045 * np.cos(angle), 0.71 + 0.045 * np.sin(angle))], (90, 90, 95), 0.01)


def _plant(b: _Brush, rng: np.random.Generator) -> None:
    bark = colour(0.07, rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.45))
    hue = rng.uniform(0.2, 0.38) if rng.random() < 0.8 else rng.uniform(0.02, 0.1)
    flower = rng.random() < 0.35
    if flower:
        for x in rng.uniform(0.2, 0.8, 5):
            y = rng.uniform(0.2, 0.5)
            b.line([(0.5, 0.95), ((0.5 + x) / 2, 0.7), (x, y)], colour(0.3, 0.7, 0.45), 0.018)
            petal = colour(rng.random(), 0.7, 0.95)
            for angle in np.arange(7) * 2 * np.pi / 7:
                b.ellipse(x + 0.06 * np.cos(angle), y + 0.06 * np.sin(angle), 0.04, 0.04, petal)
            b.ellipse(x, y, 0.035, 0.035, (240, 200, 40))
        leaves, spread, top = 25, 0.2, 0.78
    else:
        b.polygon([(0.45, 0.97), (0.48, 0.4), (0.52, 0.4), (0.56, 0.97)], bark)
        for x in (-0.22, 0.2):
            b.line([(0.5, 0.62), (0.5 + x, 0.4)], bark, 0.03)
        leaves, spread, top = 110, 0.34, 0.36
    for _ in range(leaves):
        angle, r = rng.uniform(0, 2 * np.pi), spread * np.sqrt(rng.random())
        green = colour(hue + rng.normal(0, 0.02), rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.7))
        x, y = 0.5 + 1.1 * r * np.cos(angle), top + 0.85 * r * np.sin(angle)
        b.ellipse(x, y, rng.uniform(0.03, 0.06), rng.uniform(0.02, 0.045), green)


def _food(b: _Brush, rng: np.random.Generator) -> None:
    b.ellipse(0.5, 0.72, 0.46, 0.2, (225, 225, 230))
    b.ellipse(0.5, 0.71, 0.36, 0.14, (245, 245, 248))
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(3, 7))):
            x, y, r = rng.uniform(0.28, 0.72), rng.uniform(0.48, 0.7), rng.uniform(0.09, 0.15)
            skin = colour(rng.choice([0.0, 0.08, 0.15, 0.28, 0.8]), 0.85, rng.uniform(0.6, 0.95))
            b.ellipse(x, y, r, r, skin)
            b.ellipse(x - r / 3, y - r / 3, r / 5, r / 5, (255, 250, 235))
            b.line([(x, y - r), (x + 0.02, y - r - 0.05)], (80, 60, 30), 0.012)
    else:
        cream = colour(rng.uniform(0, 0.15), rng.uniform(0.1, 0.5), 0.95)
        sponge = colour(rng.uniform(0.05, 0.12), 0.6, rng.uniform(0.35, 0.85))
        layers = int(rng.integers(3, 6))
        for i in range(layers):
            y = 0.72 - i * 0.075
            b.ellipse(0.5, y, 0.26, 0.08, sponge)
            b.ellipse(0.5, y - 0.03, 0.26, 0.08, cream)
        for angle in np.arange(6) * np.pi / 3:
            x, y = 0.5 + 0.17 * np.cos(angle), 0.72 - layers * 0.075 + 0.05 + 0.05 * np.sin(angle)
            b.ellipse(x, y, 0.035, 0.04, (190, 20, 35))


def _tool(b: _Brush, rng: np.random.Generator) -> None:
    metal = colour(0.6, 0.08, rng.uniform(0.55, 0.85))
    shine = colour(0.6, 0.04, 0.95)
    grip = colour(rng.choice([0.0, 0.08, 0.13, 0.6]), 0.75, rng.uniform(0.4, 0.8))
    kind = rng.integers(3)
    if kind == 0:
        b.line([(0.3, 0.92), (0.6, 0.3)], grip, 0.08)
        b.polygon([(0.42, 0.12), (0.84, 0.3), (0.78, 0.44), (0.38, 0.26)], metal)
        b.polygon([(0.42, 0.12), (0.84, 0.3), (0.82, 0.33), (0.41, 0.16)], shine)
    elif kind == 1:
        for side in (-1, 1):
            b.line([(0.5 - side * 0.1, 0.08), (0.5, 0.5), (0.5 + side * 0.14, 0.75)], metal, 0.05)
            b.ellipse(0.5 + side * 0.16, 0.83, 0.11, 0.13, grip)
        for side in (-1, 1):
            b.ellipse(0.5 + side * 0.16, 0.83, 0.06, 0.08, (60, 60, 60))
        b.ellipse(0.5, 0.5, 0.03, 0.03, shine)
    else:
        b.line([(0.26, 0.86), (0.66, 0.34)], metal, 0.09)
        b.ellipse(0.7, 0.27, 0.16, 0.16, metal)
        b.polygon([(0.68, 0.24), (0.74, 0.05), (0.94, 0.2), (0.78, 0.32)], (70, 70, 75))
        b.line([(0.28, 0.82), (0.62, 0.38)], shine, 0.02)


_PAINTERS = {
    "face": _face,
    "person": _person,
    "animal": _animal,
    "house": _house,
    "vehicle": _vehicle,
    "plant": _plant,
    "food": _food,
    "tool": _tool,
}
_ROUGHNESS = {
    "face": 0.05,
    "person": 0.08,
    "animal": 0.16,
    "house": 0.1,
    "vehicle": 0.04,
    "plant": 0.18,
    "food": 0.08,
    "tool": 0.06,
}
