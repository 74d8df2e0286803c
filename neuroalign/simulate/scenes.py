"""Scene scripts: what is in each shot of a film, drawn before a single frame is rendered.

The scripts are part of the ground truth: the high level of the simulated brain responds to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuroalign.config.dataset import Simulate
from neuroalign.simulate.plan import generator

CATEGORIES = ("face", "person", "animal", "house", "vehicle", "plant", "food", "tool")
ANIMATE = ("face", "person", "animal")
SETTINGS = ("indoor", "street", "nature", "water")
SHOT_S = (2.0, 6.0)

# What tends to be where: films are not random collections of things.
_LIKELY = {
    "indoor": (3, 2, 1, 0, 0, 1, 3, 3),
    "street": (2, 3, 1, 3, 4, 1, 0, 0.5),
    "nature": (0.5, 1, 4, 1, 1, 4, 0, 0),
    "water": (1, 1.5, 2, 1.5, 2, 1, 0.5, 0.5),
}


@dataclass(frozen=True)
class SceneObject:
    """An object in a shot; positions and sizes are fractions of the frame's height, speeds per second."""

    category: str
    seed: int
    size: float
    x: float
    y: float
    speed_x: float
    speed_y: float
    sway: float
    growth: float


@dataclass(frozen=True)
class Scene:
    """One shot between two cuts.

    Attributes
    ----------
    film : str
    start_s, end_s : float
        Seconds from the start of the film.
    setting : str
        One of `SETTINGS`.
    objects : tuple of SceneObject
        From back to front.
    pan_x, pan_y : float
        Camera motion in frame heights per second.
    zoom : float
        Relative change of magnification per second.
    light, light_change, flicker : float
        Brightness at the start, its relative change per second, and the depth of a slow flicker.
    hue : float
        Colour cast, 0 to 1 round the colour circle.
    roughness, orientation : float
        Exponent of the background's amplitude spectrum, and the direction (radians) in which it is stretched.
    seed : int
        Seed of the background texture.
    """

    film: str
    start_s: float
    end_s: float
    setting: str
    objects: tuple[SceneObject, ...]
    pan_x: float
    pan_y: float
    zoom: float
    light: float
    light_change: float
    flicker: float
    hue: float
    roughness: float
    orientation: float
    seed: int


def write_script(simulate: Simulate, film: str) -> list[Scene]:
    """Draw the shots of one film.

    Shots last 2 to 6 s. Settings persist for a few shots, as in edited film, and favour certain categories.
    """
    rng = generator(simulate, "script", film)
    scenes: list[Scene] = []
    clock, setting = 0.0, str(rng.choice(SETTINGS))
    while clock < simulate.film_s:
        end = clock + float(np.round(rng.uniform(*SHOT_S) * 12) / 12)
        # No shot shorter than the shortest: the rest of the film joins the last shot.
        if simulate.film_s - end < SHOT_S[0]:
            end = float(simulate.film_s)
        if rng.random() < 0.4:
            setting = str(rng.choice(SETTINGS))
        scenes.append(_shot(rng, film, clock, end, setting))
        clock = end
    return scenes


def _shot(rng: np.random.Generator, film: str, start: float, end: float, setting: str) -> Scene:
    likely = np.asarray(_LIKELY[setting], float)
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    chosen = rng.choice(len(CATEGORIES), size=count, replace=False, p=likely / likely.sum())
    slots = rng.permutation(np.linspace(0.25, 1.08, 3))
    objects = tuple(
        _place(rng, CATEGORIES[c], slots[i], close_up=count == 1) for i, c in enumerate(sorted(chosen))
    )
    moving = rng.random() < 0.6
    pan = np.clip(rng.normal(0, 0.07, 2), -0.12, 0.12) * moving
    return Scene(
        film=film,
        start_s=start,
        end_s=end,
        setting=setting,
        objects=tuple(sorted(objects, key=lambda o: o.size)),
        pan_x=float(pan[0]),
        pan_y=float(0.4 * pan[1]),
        zoom=float(rng.normal(0, 0.03) * (rng.random() < 0.4)),
        light=float(np.exp(rng.normal(0, 0.18))),
        light_change=float(rng.normal(0, 0.05)),
        flicker=float(rng.uniform(0, 0.08) * (rng.random() < 0.3)),
        hue=float(rng.random()),
        roughness=float(rng.uniform(0.8, 1.6)),
        orientation=float(rng.uniform(0, np.pi)),
        seed=int(rng.integers(2**31)),
    )


def _place(rng: np.random.Generator, category: str, slot: float, close_up: bool) -> SceneObject:
    size = float(rng.uniform(0.5, 0.85) if close_up else rng.uniform(0.3, 0.55))
    lively = 1.6 if category in (*ANIMATE, "vehicle") else 0.4
    runs = category in ("vehicle", "animal", "person") and rng.random() < 0.6
    return SceneObject(
        category=category,
        seed=int(rng.integers(2**31)),
        size=size,
        x=float(rng.uniform(0.45, 0.9) if close_up else slot + rng.normal(0, 0.05)),
        y=float(rng.uniform(0.45, 0.7)),
        speed_x=float(rng.choice([-1, 1]) * rng.uniform(0.08, 0.25)) if runs else float(rng.normal(0, 0.01)),
        speed_y=float(rng.normal(0, 0.01)),
        sway=float(rng.uniform(0.005, 0.03) * lively),
        growth=float(rng.normal(0, 0.03) * lively),
    )


def scene_table(scenes: list[Scene]) -> pd.DataFrame:
    """Scripts as a table, one row per shot; `category` is that of the largest object."""
    rows = []
    for scene in scenes:
        biggest = max(scene.objects, key=lambda o: o.size)
        rows.append(
            {
                "film": scene.film,
                "start_s": round(scene.start_s, 4),
                "end_s": round(scene.end_s, 4),
                "category": biggest.category,
                "categories": ",".join(o.category for o in scene.objects),
                "setting": scene.setting,
                "objects": len(scene.objects),
                "largest_object": round(biggest.size, 4),
                "animate": any(o.category in ANIMATE for o in scene.objects),
                "pan_x": round(scene.pan_x, 5),
                "pan_y": round(scene.pan_y, 5),
                "zoom": round(scene.zoom, 5),
                "light": round(scene.light, 5),
            }
        )
    return pd.DataFrame(rows)


HIGH_FEATURES = (
    *(f"category_{c}" for c in CATEGORIES),
    *(f"setting_{s}" for s in SETTINGS),
    "animacy",
    "close_up",
    "crowd",
)


def scene_features(scenes: list[Scene], times: np.ndarray) -> np.ndarray:
    """Scene-level content at given times: presence of each category, setting, animacy, closeness, number.

    Parameters
    ----------
    scenes : list of Scene
        The script of one film.
    times : array of shape (samples,)
        Seconds from the start of the film.

    Returns
    -------
    array of shape (samples, len(HIGH_FEATURES))
        Category presence grows with the size of the object (0 when absent).
    """
    table = np.zeros((len(scenes), len(HIGH_FEATURES)))
    for row, scene in zip(table, scenes, strict=True):
        for thing in scene.objects:
            row[CATEGORIES.index(thing.category)] = 0.5 + thing.size
        row[len(CATEGORIES) + SETTINGS.index(scene.setting)] = 1
        row[-3] = sum(o.size for o in scene.objects if o.category in ANIMATE)
        row[-2] = max(o.size for o in scene.objects)
        row[-1] = len(scene.objects) - 1
    ends = np.array([scene.end_s for scene in scenes])
    return table[np.minimum(np.searchsorted(ends, times, side="right"), len(scenes) - 1)]
