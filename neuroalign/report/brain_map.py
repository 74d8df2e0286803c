"""Regional values as pictures: painted on slices of the atlas where there is an image of it, else as bars by region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from neuroalign.io import open_hdf5, read_strings
from neuroalign.report.style import MUTED

# Blue to red without the ends that are nearly black.
_COLOURS = ListedColormap(matplotlib.colormaps["RdBu_r"](np.linspace(0.06, 0.94, 256)))
_BRAIN, _WHITE, _NO_VALUE = (0.93, 0.94, 0.95), (0.87, 0.88, 0.90), (0.78, 0.80, 0.83)


@dataclass(frozen=True)
class RegionMap:
    """The slices of `region_map.write_region_map`.

    Attributes
    ----------
    region : int array of shape (rows, columns)
        Number of the region per pixel, 0 for none.
    brain, white : bool array of shape (rows, columns)
    numbers : dict of str to int
        By region label.
    texts : list of (column, row, text, alignment)
    """

    region: np.ndarray
    brain: np.ndarray
    white: np.ndarray
    numbers: dict[str, int]
    texts: list[tuple[float, float, str, str]]

    @classmethod
    def read(cls, path: Path) -> RegionMap | None:
        """Read a map; None where there is none."""
        if not path.is_file():
            return None
        with open_hdf5(path) as file:
            places = file["text_at"][()].tolist()
            words = zip(read_strings(file["text"]), read_strings(file["text_align"]), strict=True)
            return cls(
                file["region"][()],
                file["brain"][()] > 0,
                file["white"][()] > 0,
                dict(zip(read_strings(file["label"]), file["number"][()].tolist(), strict=True)),
                [(x, y, text, align) for (x, y), (text, align) in zip(places, words, strict=True)],
            )

    def knows(self, labels) -> bool:
        """Whether more than half of some regions are in the map: else it is of another atlas."""
        labels = list(labels)
        return sum(label in self.numbers for label in labels) > len(labels) / 2

    def height(self, width: float) -> float:
        """Inches that the slices take at a width in inches."""
        rows, columns = self.region.shape
        return width * rows / columns

    def paint(
        self,
        ax: Axes,
        values: Mapping[str, float],
        largest: float,
        pale: frozenset[str] | set[str] = frozenset(),
        *,
        words: bool = True,
    ) -> None:
        """Paint values on the slices.

        Parameters
        ----------
        ax : Axes
        values : mapping of region to float
            Regions without a value stay grey.
        largest : float
            Value of full colour, red; its negative is blue.
        pale : set of str
            Regions whose colour is washed out: their value may be nothing.
        words : bool
            Whether coordinates and sides are written.
        """
        picture = np.ones((*self.region.shape, 3))
        picture[self.brain], picture[self.white] = _BRAIN, _WHITE
        picture[self.region > 0] = _NO_VALUE
        colours = np.full((max([0, *self.numbers.values()]) + 1, 3), np.nan)
        scale = Normalize(-largest, largest, clip=True)
        for label, value in values.items():
            number = self.numbers.get(label)
            if number is not None and np.isfinite(value):
                colour = np.array(_COLOURS(scale(value))[:3])
                colours[number] = 0.35 * colour + 0.65 if label in pale else colour
        known = np.where(self.region < len(colours), self.region, 0)
        painted = np.isfinite(colours[known, 0]) & (known > 0)
        picture[painted] = colours[known[painted]]
        ax.imshow(picture, interpolation="nearest")
        if self.brain.any():
            ax.contour(self.brain, levels=[0.5], colors=[MUTED], linewidths=0.5)
        ax.set_axis_off()
        for x, y, text, align in self.texts if words else []:
            ax.text(
                x,
                y,
                text,
                color=MUTED,
                fontsize=6 if align == "center" else 7.5,
                ha=align,
                va="center",
            )

    @staticmethod
    def scale(figure: Figure, ax: Axes, largest: float, label: str) -> None:
        """A colour bar for `paint`."""
        bar = ScalarMappable(Normalize(-largest, largest), _COLOURS)
        figure.colorbar(bar, ax=ax, location="bottom", shrink=0.4, pad=0.02, aspect=40, label=label)


def bars(
    ax: Axes,
    values: Mapping[str, float],
    ranges: Mapping[str, tuple[float, float]],
    colours: Mapping[str, str],
) -> None:
    """Horizontal bars with intervals, the largest on top.

    Parameters
    ----------
    ax : Axes
    values : mapping of name to float
    ranges : mapping of name to (low, high)
        Names may be absent.
    colours : mapping of name to colour
    """
    names = sorted(values, key=lambda name: values[name])
    for y, name in enumerate(names):
        ax.barh(y, values[name], height=0.8, color=colours[name])
        if name in ranges and np.isfinite(ranges[name]).all():
            ax.plot(ranges[name], [y, y], color=MUTED, lw=1.1)
    ax.set_yticks(range(len(names)), names, fontsize=7.5)
    ax.axvline(0, color=MUTED, lw=0.7)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(visible=False, axis="y")
