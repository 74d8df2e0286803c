"""High dynamic range and wide gamut to what a standard screen shows, as one table of colours for ffmpeg's ``lut3d``.

Shown without it, a film in PQ or HLG looks washed out and pale. A table of our own works the same with every ffmpeg,
whichever libraries it was built with.

Steps (all published by the ITU): code values to light (BT.2100, PQ and HLG with its OOTF for a screen of 1000 cd/m²;
BT.1886 for standard range), primaries of the film to those of BT.709, compression of the highlights (the EETF of
BT.2390, on the largest of R, G and B, so that hues stay) from 1000 cd/m² to the 203 cd/m² that BT.2408 takes for the
white of standard screens, and the BT.1886 curve.
"""

from __future__ import annotations

import os

import numpy as np

SIZE = 33
PEAK = 1000.0  # cd/m², of the screen that HDR films are graded for unless they say otherwise
WHITE = 203.0  # cd/m², of a standard screen (BT.2408)
GAMMA = 2.4  # BT.1886

# Chromaticities (x, y) of red, green and blue; the white of all is D65.
PRIMARIES = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "displayp3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)


def needs_table(transfer: str, primaries: str) -> bool:
    """Whether a film of this transfer function and these primaries needs the table (names as in `probe.VideoInfo`)."""
    return transfer in ("pq", "hlg") or primaries in ("bt2020", "displayp3")


def write_table(path: str | os.PathLike, transfer: str, primaries: str) -> None:
    """Write the table as a ``.cube`` file, red changing fastest."""
    axis = np.linspace(0, 1, SIZE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    colours = to_standard(np.stack([red, green, blue], axis=-1).reshape(-1, 3), transfer, primaries)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"LUT_3D_SIZE {SIZE}\n")
        np.savetxt(file, colours, fmt="%.6f")


def to_standard(colours: np.ndarray, transfer: str, primaries: str) -> np.ndarray:
    """R'G'B' of a film as R'G'B' of a standard screen.

    Parameters
    ----------
    colours : array of shape (n, 3)
        Code values from 0 to 1.
    transfer : str
        ``pq`` or ``hlg``; anything else is standard range.
    primaries : str
        A key of `PRIMARIES`; others are taken for those of the standard that goes with `transfer`.

    Returns
    -------
    array of shape (n, 3)
        From 0 to 1, for BT.709 primaries and a BT.1886 screen.
    """
    high = transfer in ("pq", "hlg")
    light = {"pq": pq_light, "hlg": hlg_light}.get(transfer, lambda c: WHITE * c**GAMMA)(colours)
    source = primaries if primaries in PRIMARIES else "bt2020" if high else "bt709"
    light = np.maximum(light @ conversion(source, "bt709").T, 0)
    if high:
        largest = light.max(axis=1, keepdims=True)
        light = light * np.divide(compress(largest), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.clip(light / WHITE, 0, 1) ** (1 / GAMMA)


def conversion(source: str, target: str) -> np.ndarray:
    """The matrix from linear RGB of one set of primaries to that of another (SMPTE RP 177), shape (3, 3)."""
    return np.linalg.solve(_to_xyz(target), _to_xyz(source))


def _to_xyz(name: str) -> np.ndarray:
    def xyz(x: float, y: float) -> tuple[float, float, float]:
        return x / y, 1.0, (1 - x - y) / y

    columns = np.array([xyz(*p) for p in PRIMARIES[name]]).T
    return columns * np.linalg.solve(columns, np.array(xyz(*_D65)))


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def pq_light(code: np.ndarray) -> np.ndarray:
    """Light in cd/m² of PQ code values (SMPTE ST 2084)."""
    power = np.asarray(code, float) ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def pq_code(light: np.ndarray) -> np.ndarray:
    """PQ code values of light in cd/m²."""
    power = (np.asarray(light, float) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def hlg_light(code: np.ndarray) -> np.ndarray:
    """Light in cd/m² of HLG code values, (n, 3), on a screen of `PEAK` (BT.2100: inverse OETF, then OOTF, gamma 1.2)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return PEAK * luminance[:, None] ** 0.2 * scene


def compress(light: np.ndarray) -> np.ndarray:
    """Light of a screen of `PEAK` cd/m² on one of `WHITE` (the EETF of BT.2390: a knee in PQ, black unchanged)."""
    top = pq_code(PEAK)
    code = np.minimum(pq_code(light) / top, 1)
    most = pq_code(WHITE) / top
    knee = 1.5 * most - 0.5
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    bent = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    )
    return pq_light(np.where(code < knee, code, bent) * top)
