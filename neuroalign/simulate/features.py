"""What the simulated brain sees: features of decoded frames and of the scene script, level by level."""

from __future__ import annotations

import os
import subprocess

import numpy as np

from neuroalign.simulate.scenes import HIGH_FEATURES, Scene, scene_features
from neuroalign.video.ffmpeg import ffmpeg_exe

LEVELS = ("early", "intermediate", "high")
FEATURE_HZ = 4.0
"""Features per second of film."""

DECODE_FPS = 12
DECODE_WIDTH, DECODE_HEIGHT = 96, 72
GRID_ROWS, GRID_COLUMNS = 4, 6

EARLY_FEATURES = tuple(
    f"{kind}_r{row}_c{column}"
    for kind in ("contrast", "motion")
    for row in range(GRID_ROWS)
    for column in range(GRID_COLUMNS)
)
_ORIENTATIONS = (0, 45, 90, 135)
INTERMEDIATE_FEATURES = (
    *(f"orientation_{angle}_{scale}" for scale in ("fine", "coarse") for angle in _ORIENTATIONS),
    *("texture_slope", "red_green", "blue_yellow", "saturation", "luminance", "colour_variety"),
    *("motion_left", "motion_right", "motion_up", "motion_down", "expansion", "contraction"),
)
FEATURE_NAMES = {"early": EARLY_FEATURES, "intermediate": INTERMEDIATE_FEATURES, "high": HIGH_FEATURES}


def decode(path: str | os.PathLike) -> np.ndarray:
    """Decode a film at low resolution.

    Returns
    -------
    float32 array of shape (frames, DECODE_HEIGHT, DECODE_WIDTH, 3)
        RGB between 0 and 1, `DECODE_FPS` frames per second.

    Raises
    ------
    RuntimeError
        If ffmpeg cannot decode the file.
    """
    filters = f"fps={DECODE_FPS},scale={DECODE_WIDTH}:{DECODE_HEIGHT}:flags=area"
    command = [ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(path), "-vf", filters]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ffmpeg could not decode {path}: {done.stderr.decode(errors='replace').strip()}")
    pixels = np.frombuffer(done.stdout, np.uint8).reshape(-1, DECODE_HEIGHT, DECODE_WIDTH, 3)
    return pixels.astype(np.float32) / 255


def film_features(path: str | os.PathLike, scenes: list[Scene], film_s: float) -> dict[str, np.ndarray]:
    """Features of one film for each level.

    Parameters
    ----------
    path : path
        The encoded film; the early and intermediate levels see its decoded frames.
    scenes : list of Scene
        Its script; the high level sees what is in the scenes.
    film_s : float
        Length of the film in seconds.

    Returns
    -------
    dict of str to array of shape (samples, features)
        Sample k covers the film from k / `FEATURE_HZ` to (k + 1) / `FEATURE_HZ` seconds. A blank grey screen
        has the value 0 in every feature.
    """
    pixels = decode(path)
    samples = round(film_s * FEATURE_HZ)
    times = (np.arange(samples) + 0.5) / FEATURE_HZ
    return {
        "early": _to_rate(early_features(pixels), samples),
        "intermediate": _to_rate(intermediate_features(pixels), samples),
        "high": scene_features(scenes, times),
    }


def early_features(pixels: np.ndarray) -> np.ndarray:
    """Contrast and motion energy in each cell of a grid over the visual field.

    Contrast is the standard deviation of luminance within a cell, motion energy the root mean square of its
    change between frames; both compressed by a square root, as responses of early visual cortex saturate.

    Parameters
    ----------
    pixels : array of shape (frames, height, width, 3)

    Returns
    -------
    array of shape (frames, 2 * GRID_ROWS * GRID_COLUMNS)
    """
    grey = _grey(pixels)
    change = np.zeros_like(grey)
    change[1:] = np.diff(grey, axis=0)
    cells = _cells(grey)
    contrast = cells.std(axis=(2, 4))
    motion = np.sqrt((_cells(change) ** 2).mean(axis=(2, 4)))
    return np.sqrt(np.concatenate([contrast, motion], axis=1).reshape(len(grey), 2, -1)).reshape(
        len(grey), -1
    )


def _grey(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.full(3, 1 / 3, np.float32)


def _cells(grey: np.ndarray) -> np.ndarray:
    frames, height, width = grey.shape
    return grey.reshape(frames, GRID_ROWS, height // GRID_ROWS, GRID_COLUMNS, width // GRID_COLUMNS)


def intermediate_features(pixels: np.ndarray) -> np.ndarray:
    """Texture (orientation energy at two scales and their ratio), colour, and motion of the whole field.

    Global motion is the least-squares solution of the brightness-constancy equation for a translation and an
    expansion of the whole frame (Lucas & Kanade, 1981; Horn & Schunck, 1981).

    Parameters
    ----------
    pixels : array of shape (frames, height, width, 3)

    Returns
    -------
    array of shape (frames, len(INTERMEDIATE_FEATURES))
    """
    grey = _grey(pixels)
    coarse = 0.25 * (grey[:, ::2, ::2] + grey[:, 1::2, ::2] + grey[:, ::2, 1::2] + grey[:, 1::2, 1::2])
    fine_energy, coarse_energy = _orientation_energy(grey), _orientation_energy(coarse)
    slope = np.log((coarse_energy.mean(1) + 1e-3) / (fine_energy.mean(1) + 1e-3))
    r, g, b = np.ascontiguousarray(np.moveaxis(pixels, 3, 0))
    spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    red_green, blue_yellow = r - g, b - (r + g) / 2
    colour = np.stack(
        [
            red_green.mean((1, 2)),
            blue_yellow.mean((1, 2)),
            spread.mean((1, 2)),
            grey.mean((1, 2)) - 0.5,
            red_green.std((1, 2)) + blue_yellow.std((1, 2)),
        ],
        axis=1,
    )
    x, y, expansion = _global_motion(coarse).T
    motion = np.sqrt(np.maximum(np.stack([-x, x, -y, y, expansion, -expansion], axis=1), 0))
    texture = np.sqrt(np.concatenate([fine_energy, coarse_energy], axis=1))
    return np.concatenate([texture, slope[:, None], colour, motion], axis=1)


def _orientation_energy(grey: np.ndarray) -> np.ndarray:
    dx = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    dy = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    angles = np.deg2rad(_ORIENTATIONS)
    # Squared half-wave-free derivatives in four directions, from three sums: (c dx + s dy)².
    xx, yy, xy = (dx * dx).mean((1, 2)), (dy * dy).mean((1, 2)), (dx * dy).mean((1, 2))
    c, s = np.cos(angles), np.sin(angles)
    return np.maximum(xx[:, None] * c**2 + yy[:, None] * s**2 + 2 * xy[:, None] * c * s, 0)


def _global_motion(grey: np.ndarray) -> np.ndarray:
    """Translation (x, y) in pixels per frame and expansion per frame, zero at cuts; (frames, 3)."""
    before, after = grey[:-1], grey[1:]
    mean = 0.5 * (before + after)
    dx = 0.5 * (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2])
    dy = 0.5 * (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1])
    dt = (after - before)[:, 1:-1, 1:-1]
    rows, columns = np.mgrid[-0.5 : 0.5 : dx.shape[1] * 1j, -0.5 : 0.5 : dx.shape[2] * 1j].astype(np.float32)
    design = np.stack([dx, dy, dx * columns + dy * rows], axis=1).reshape(len(dx), 3, -1)
    change = dt.reshape(len(dt), -1, 1)
    gram = design @ design.transpose(0, 2, 1) + 1e-4 * np.eye(3, dtype=np.float32)
    flow = -np.linalg.solve(gram, design @ change)[..., 0]
    # At a cut brightness constancy does not hold, and there is no motion to report.
    flow[np.abs(dt).mean((1, 2)) > 0.08] = 0
    return np.concatenate([np.zeros((1, 3)), np.clip(flow, -3, 3)])


def _to_rate(values: np.ndarray, samples: int) -> np.ndarray:
    """Average frames into the samples of the feature grid."""
    per_sample = round(DECODE_FPS / FEATURE_HZ)
    need = samples * per_sample
    if len(values) < need:
        values = np.concatenate([values, np.repeat(values[-1:], need - len(values), axis=0)])
    return values[:need].reshape(samples, per_sample, -1).mean(axis=1)
