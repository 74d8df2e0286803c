"""The brain of one run on one grid, and how its slices are laid out: what the pictures of a run's page share.

Only 3-D images are read (mean BOLD, masks, T1w, template, atlas), all in the template's space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels, load_atlas
from neuroalign.fmri.images import read_image, to_grid
from neuroalign.fmri.preprocess.mask import tissue_classes

GRID_MM = 2.0
_MARGIN_MM = 8.0
_GAP, _FOOT = 2, 7  # between slices, and below them for their coordinate, in voxels
_WHITE_MATTER = 2
# Slices in a row: a sagittal one is wider than the others, so that all rows come out about as wide.
PLANES = {"axial": (2, 8), "coronal": (1, 8), "sagittal": (0, 6)}


@dataclass
class Region:
    """Where a region of the atlas lies in the run: voxels of the BOLD grid, in the brain mask and in all."""

    label: str
    level: str
    inside: int
    whole: int


@dataclass
class RunImages:
    """Images of one run on a common grid: axes along R, A and S, cubic voxels of `GRID_MM`.

    Attributes
    ----------
    affine : array of shape (4, 4)
        Voxel to template coordinates, mm.
    brain : bool array of shape (x, y, z)
        The run's brain mask.
    bold : array of shape (x, y, z)
        Mean BOLD.
    first_volume : bool
        Whether `bold` is the first volume, in want of a mean.
    t1w, t1w_white, t1w_brain : array of shape (x, y, z) or None
        The person's T1w image, its white matter and brain.
    template_brain, template_white : array of shape (x, y, z) or None
        Of the template: smooth, 0 to 1.
    levels : int array of shape (x, y, z)
        1 for the first level's regions and so on, 0 elsewhere.
    level_names : list of str
    regions : list of Region
    dice : float
        Overlap of the brain masks of run and template; NaN without a template.
    flips : tuple of bool or None
        Axes of the BOLD grid that run to L, P or I; None where its axes are not those of the body.
    """

    affine: np.ndarray
    brain: np.ndarray
    bold: np.ndarray
    first_volume: bool = False
    t1w: np.ndarray | None = None
    t1w_white: np.ndarray | None = None
    t1w_brain: np.ndarray | None = None
    template_brain: np.ndarray | None = None
    template_white: np.ndarray | None = None
    levels: np.ndarray | None = None
    level_names: list[str] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    dice: float = float("nan")
    flips: tuple[bool, bool, bool] | None = None
    absent: list[str] = field(default_factory=list)


def load_images(
    files: Mapping[str, str],
    *,
    space: str,
    atlas: AtlasConfig,
    levels: Mapping[str, str],
) -> RunImages:
    """Read the images of a run.

    Parameters
    ----------
    files : mapping of str to path
        `mask`, and `boldref` or `bold` (of which the first volume is read then); where there are any, `t1w` and
        `t1w_mask` in template space, and `template`, written by `template_outline`.
    space : str
        Name of the template space.
    atlas, levels
        Sections `fmri.atlas` and `fmri.levels`.

    Raises
    ------
    UserError
        If an image is missing or damaged.
    """
    bold, bold_affine, first = _mean_bold(files)
    if files.get("mask"):
        mask, mask_image = read_image(files["mask"], ndim=3)
        mask = to_grid(mask > 0, mask_image.affine, bold.shape, bold_affine)
    else:
        mask = bold > 0.2 * np.percentile(bold, 98)
    shape, affine = grid_around(mask, bold_affine)

    def moved(data: np.ndarray, of: np.ndarray, order: int = 1) -> np.ndarray:
        values = data.astype(np.float32) if order else data
        return to_grid(values, of, shape, affine, order=order)

    images = RunImages(
        affine, moved(mask, bold_affine) > 0.5, moved(bold, bold_affine), first, flips=_flips(bold_affine)
    )
    if not images.brain.any():
        raise UserError(f"The brain mask {files.get('mask')} is empty; make it again.")
    _add_t1w(images, files, moved)
    _add_template(images, files, space, moved)
    _add_atlas(images, atlas, space, levels, mask, bold_affine, moved)
    return images


def _mean_bold(files: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, bool]:
    if files.get("boldref"):
        data, image = read_image(files["boldref"], ndim=3)
        return data, image.affine, False
    import nibabel

    from neuroalign.fmri.images import image_problem

    if problem := image_problem(files["bold"]):
        raise UserError(problem)
    image = nibabel.load(files["bold"])
    # The beginning of the file is enough: the rest of a compressed one need not be read.
    return np.nan_to_num(np.asarray(image.dataobj[..., 0], np.float32)), image.affine, True


def grid_around(mask: np.ndarray, affine: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """A grid along R, A and S around a mask and a little more."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        raise UserError("The brain mask of the run is empty; make it again.")
    corners = np.array(np.meshgrid(*zip(voxels.min(0), voxels.max(0), strict=True))).reshape(3, -1).T
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    low, high = world.min(0) - _MARGIN_MM, world.max(0) + _MARGIN_MM
    grid = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    grid[:3, 3] = np.floor(low / GRID_MM) * GRID_MM
    return tuple(np.ceil((high - low) / GRID_MM).astype(int) + 1), grid


def _flips(affine: np.ndarray) -> tuple[bool, bool, bool] | None:
    import nibabel

    codes = nibabel.aff2axcodes(affine)
    if any(code not in pair for code, pair in zip(codes, ("RL", "AP", "SI"), strict=True)):
        return None
    return tuple(code in "LPI" for code in codes)


def _add_t1w(images: RunImages, files: Mapping[str, str], moved) -> None:
    if not files.get("t1w"):
        images.absent.append(
            "There is no T1w image in template space, so the alignment of BOLD and T1w is not shown."
        )
        return
    data, image = read_image(files["t1w"], ndim=3)
    images.t1w = moved(data, image.affine)
    brain = images.brain
    if files.get("t1w_mask"):
        mask, mask_image = read_image(files["t1w_mask"], ndim=3)
        brain = moved(mask > 0, mask_image.affine) > 0.5
    images.t1w_brain = smooth(brain)
    images.t1w_white = smooth(white_matter(images.t1w, brain))


def white_matter(data: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """White matter of a T1w image by its intensity inside the brain, bool; empty where the image tells nothing."""
    brain = brain & (data > 0)
    if np.unique(data[brain]).size < 10:
        return np.zeros(data.shape, bool)
    return tissue_classes(data, brain) == _WHITE_MATTER


def smooth(mask: np.ndarray, sigma: float = 0.6) -> np.ndarray:
    """A mask whose outline at one half is drawn without the steps of its voxels."""
    return gaussian_filter(mask.astype(np.float32), sigma)


def _add_template(images: RunImages, files: Mapping[str, str], space: str, moved) -> None:
    both, image = read_image(files["template"], ndim=4) if files.get("template") else (None, None)
    if both is None or not both.any():
        images.absent.append(
            f"There is no built-in template of '{space}' to draw the outline of: set fmri.preprocess.template."
        )
        return
    brain, white = (moved(both[..., k], image.affine) for k in range(2))
    images.template_brain, images.template_white = smooth(brain > 0.5), smooth(white > 0.5)
    # Over the whole template: what lies outside the run's own field of view counts as missing.
    whole = both[..., 0].sum() * abs(np.linalg.det(image.affine[:3, :3])) / GRID_MM**3
    images.dice = float(2 * ((brain > 0.5) & images.brain).sum() / (images.brain.sum() + whole))


def _add_atlas(
    images: RunImages,
    config: AtlasConfig,
    space: str,
    levels: Mapping[str, str],
    mask: np.ndarray,
    bold_affine: np.ndarray,
    moved,
) -> None:
    atlas = load_atlas(config, space)
    assigned = assign_levels(list(atlas.labels.values()), levels)
    number = {label: index for index, label in atlas.labels.items()}
    on_bold = to_grid(atlas.data, atlas.affine, mask.shape, bold_affine)
    size = max(number.values()) + 1
    shown = np.where((on_bold > 0) & (on_bold < size), on_bold, 0)
    whole, inside = np.bincount(shown.ravel(), minlength=size), np.bincount(shown[mask], minlength=size)
    painted = np.zeros(size, np.int16)
    for k, (level, labels) in enumerate(assigned.items(), start=1):
        for label in labels:
            painted[number[label]] = k
            images.regions.append(Region(label, level, int(inside[number[label]]), int(whole[number[label]])))
    images.level_names = list(assigned)
    fine = moved(atlas.data, atlas.affine, order=0)
    images.levels = painted[np.where((fine > 0) & (fine < size), fine, 0)]


@dataclass
class Layout:
    """Slices in three orientations, side by side in one picture; neurological: left is left.

    Parameters
    ----------
    brain : bool array of shape (x, y, z)
        On a grid along R, A and S; the slices are spread over it.
    affine : array of shape (4, 4)
    """

    brain: np.ndarray
    affine: np.ndarray

    def __post_init__(self):
        self._slices = {}
        for plane, (axis, count) in PLANES.items():
            across = tuple(a for a in range(3) if a != axis)
            where = np.flatnonzero(self.brain.any(axis=across))
            share = np.linspace(0.12, 0.88, count)
            self._slices[plane] = np.round(where[0] + share * (where[-1] - where[0])).astype(int)

    @property
    def _width(self) -> int:
        wide = self.brain.shape
        return max(count * (wide[0 if axis else 1] + _GAP) for axis, count in PLANES.values())

    def compose(self, volume: np.ndarray) -> np.ndarray:
        """The slices of a volume as one image, row 0 at the top."""
        bands = []
        for plane, (axis, count) in PLANES.items():
            tiles = [np.take(volume, k, axis=axis).T[::-1] for k in self._slices[plane]]
            # What a row has to spare is shared out between its slices.
            spare = _shares(self._width - count * tiles[0].shape[1], count)
            bands.append(
                np.hstack([np.pad(t, ((_GAP, _FOOT), s)) for t, s in zip(tiles, spare, strict=True)])
            )
        return np.vstack(bands)

    def labels(self) -> list[tuple[float, float, str, str]]:
        """Texts for the composed image: column, row, text, and how it is aligned (`left`, `right`, `center`)."""
        texts: list[tuple[float, float, str, str]] = []
        top = 0
        for plane, (axis, count) in PLANES.items():
            width, height = (n for k, n in enumerate(self.brain.shape) if k != axis)
            left = 0
            middle = top + _GAP + height / 2
            for n, (before, after) in enumerate(_shares(self._width - count * width, count)):
                where = self._slices[plane][n] * self.affine[axis, axis] + self.affine[axis, 3]
                left += before
                foot = top + _GAP + height + _FOOT / 2
                number = f"{where:.0f}".replace("-", "\N{MINUS SIGN}")
                texts.append((left + width / 2, foot, f"{'xyz'[axis]} = {number}", "center"))
                if n == 0:
                    first, last = "LR" if axis else "PA"
                    texts.append((left + 1, middle, first, "left"))
                    texts.append((left + width - 1, middle, last, "right"))
                left += width + after
            top += height + _GAP + _FOOT
        return texts


def _shares(spare: int, count: int) -> list[tuple[int, int]]:
    """Whole columns of padding before and after each of `count` tiles, which add up to `spare`."""
    edges = np.round(np.linspace(0, spare, 2 * count + 1)).astype(int)
    steps = np.diff(edges)
    return [(int(steps[2 * k]), int(steps[2 * k + 1])) for k in range(count)]


def t1w_beside(bold: str, space: str) -> dict[str, str]:
    """The T1w image in template space that lies beside a preprocessed run, and its mask, where there are any.

    fMRIPrep puts anatomy into the session where a person has one session only, else above the sessions.
    """
    folder = Path(bold).parent.parent
    person = next((p for p in (folder, *folder.parents) if p.name.startswith("sub-")), folder)
    for place in dict.fromkeys((folder / "anat", person / "anat")):
        found = sorted(place.glob(f"*_space-{space}*_desc-preproc_T1w.nii*"))
        if found:
            mask = Path(str(found[0]).replace("_desc-preproc_T1w", "_desc-brain_mask"))
            return {"t1w": str(found[0])} | ({"t1w_mask": str(mask)} if mask.is_file() else {})
    return {}
