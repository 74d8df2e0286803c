"""Codes as cards, contributions, and brain maps: what they say, and that they are drawn in the right place."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from neuroalign.config.fmri import Atlas
from neuroalign.io import write_tsv
from neuroalign.report import code_cards, codes, contributions
from neuroalign.report.brain_map import RegionMap
from neuroalign.report.region_map import write_region_map
from neuroalign.report.results import Results
from neuroalign.report.style import drawing, picture
from neuroalign.report.thumbnails import ClipPictures

REGIONS = {
    "left_early": (1, "early"),
    "right_early": (2, "early"),
    "left_high": (3, "high"),
    "right_high": (4, "high"),
}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Path:
    """Two slabs in each half of a ball-shaped brain of 3-mm voxels, with a template outline around them."""
    folder = tmp_path_factory.mktemp("atlas")
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -45
    x, y, z = (np.indices((31, 31, 31)) * 3 - 45).astype(float)
    ball = x**2 + y**2 + z**2 < 40**2
    data = np.zeros(ball.shape, np.int16)
    for number, (side, front) in enumerate(((-1, -1), (1, -1), (-1, 1), (1, 1)), start=1):
        data[ball & (side * x > 6) & (front * y > 6)] = number
    nib.save(nib.Nifti1Image(data, affine), folder / "atlas.nii.gz")
    table = pd.DataFrame({"index": [n for n, _ in REGIONS.values()], "label": list(REGIONS)})
    write_tsv(folder / "atlas.tsv", table)
    both = np.stack([ball, x**2 + y**2 + z**2 < 20**2], axis=-1).astype(np.uint8)
    nib.save(nib.Nifti1Image(both, affine), folder / "outline.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.uint8), affine), folder / "empty.nii.gz")
    return folder


def make_map(atlas: Path, destination: Path, outline: str = "outline.nii.gz") -> RegionMap:
    config = Atlas(image=str(atlas / "atlas.nii.gz"), labels=str(atlas / "atlas.tsv"))
    write_region_map(config, "MNI152NLin2009cAsym", atlas / outline, destination)
    return RegionMap.read(destination)


@pytest.mark.parametrize("outline", ["outline.nii.gz", "empty.nii.gz"])
def test_slices_hold_every_region_on_its_own_side(atlas, tmp_path, outline):
    found = make_map(atlas, tmp_path / "regions.h5", outline)
    assert found.numbers == {label: number for label, (number, _) in REGIONS.items()}
    assert found.knows(REGIONS)
    assert not found.knows(["other", "labels", "left_high"])
    assert set(np.unique(found.region)) == {0, 1, 2, 3, 4}
    # The first slice of the first row is axial and neurological: left is left, front is up.
    width = next(x for x, _, text, _ in found.texts if text == "R")
    height = next(y for _, y, text, _ in found.texts if text.startswith("z"))
    rows, columns = np.indices(found.region.shape)
    first = (columns < width) & (rows < height)
    centre = {n: np.argwhere(first & (found.region == n)).mean(axis=0) for n in (1, 2, 3, 4)}
    assert centre[1][1] < centre[2][1]
    assert centre[3][0] < centre[1][0]
    inside = found.brain[found.region > 0]
    assert inside.mean() > 0.95
    assert found.white.any() == (outline == "outline.nii.gz")
    assert RegionMap.read(tmp_path / "nothing.h5") is None


def pixels(src: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.split(",")[1]))).convert("RGB")).astype(int)


def reddish(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] - image[..., 2]) > 60


def test_values_are_painted_where_their_regions_are(atlas, tmp_path):
    found = make_map(atlas, tmp_path / "regions.h5")

    def painted(values: dict[str, float], pale: set[str] = frozenset()) -> np.ndarray:
        with drawing(6, found.height(6), layout="none") as figure:
            ax = figure.add_axes((0, 0, 1, 1))
            found.paint(ax, values, 1.0, pale, words=False)
            return pixels(picture(figure, "", "", raster=True).src)

    image = painted({"right_early": 1.0, "left_high": -1.0, "unknown": 1.0})
    rows, columns = np.indices(image.shape[:2])
    scale = found.region.shape / np.array(image.shape[:2])
    number = found.region[(rows * scale[0]).astype(int), (columns * scale[1]).astype(int)]
    red, blue = reddish(image), (image[..., 2] - image[..., 0]) > 60
    # Edges are smoothed, and the outline of the brain is drawn over them.
    assert red[number == 2].mean() > 0.85
    assert blue[number == 3].mean() > 0.85
    assert red[number != 2].mean() < 0.02
    assert blue[number != 3].mean() < 0.02
    # Full colour against washed out.
    assert reddish(painted({"right_early": 1.0}, {"right_early"}))[number == 2].mean() < 0.5


def contribution_rows(clear: bool = True) -> pd.DataFrame:
    rows = []

    def add(kind, name, level, value, low, high):
        for subject in ("all", "01", "02") if kind in ("whole", "single", "without") else ("all",):
            for metric in ("quality", "top1"):
                drop = 0.6 - value
                rows.append((kind, name, level, 1, subject, metric, value, drop, low, high, 80))

    add("whole", "all", "", 0.6, 0.0, 0.0)
    for level, alone, without in (("early", 0.5, 0.45), ("high", 0.3, 0.58)):
        add("single", level, level, alone, 0.05, 0.3)
        add("without", level, level, without, 0.05 if clear and level == "early" else -0.02, 0.2)
    add("network", "Vis", "", 0.5, 0.05, 0.15)
    for label, (number, level) in REGIONS.items():
        value = 0.4 if label == "left_early" else 0.6 - 0.001 * number
        add("region", label, level, value, 0.1 if label == "left_early" and clear else -0.01, 0.25)
    names = [
        "kind",
        "name",
        "level",
        "units",
        "subject",
        "metric",
        "value",
        "drop",
        "ci_low",
        "ci_high",
        "n_queries",
    ]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture
def folder(made, atlas, tmp_path) -> tuple[Path, dict]:
    """The synthetic results with contributions, clips and regions of codes, and a region map."""
    output = tmp_path / "results"
    shutil.copytree(made.output, output)
    write_tsv(output / "evaluation" / "contributions" / "seed-0.tsv", contribution_rows())
    make_map(atlas, output / "quality" / "template" / "regions.h5")
    model = output / "models" / "seed-0" / "vq"
    clips = [
        (level, 1, code, f"film-1@{4 * k}", 9 - k)
        for level in ("early", "high")
        for code in range(64)
        for k in range(3)
    ]
    write_tsv(
        model / "code_clips.tsv", pd.DataFrame(clips, columns=["level", "depth", "code", "clip_id", "count"])
    )
    regions = [
        (level, 1, code, label, own, 0.5, 0.0, 1.25 if label == "left_early" else -0.1 * number, 40)
        for level in ("early", "high")
        for code in range(64)
        for label, (number, own) in REGIONS.items()
    ]
    names = ["level", "depth", "code", "region", "region_level", "mean_z", "others_z", "effect", "tokens"]
    write_tsv(model / "code_regions.tsv", pd.DataFrame(regions, columns=names))
    return output, made.config


def test_contributions_are_told_and_mapped(folder):
    output, config = folder
    section = contributions.section(Results(output, config))
    text = " ".join(section.reading).replace("\N{NO-BREAK SPACE}", " ")
    assert "first in 60.0 % of the queries, single levels alone: early 50.0 % and high 30.0 %" in text
    assert "Leaving out early costs retrieval; no cost can be told for high." in text
    assert "1 of 4 regions cost retrieval" in text
    assert "most of all left_early" in text
    pictures = [block for block in section.blocks if block.kind == "picture"]
    assert len(pictures) == 3
    assert pictures[1].src.startswith("data:image/png")
    assert "largest is left_early with 20.00 points" in pictures[1].alt
    assert reddish(pixels(pictures[1].src)).any()
    tables = [block for block in section.blocks if block.kind == "table"]
    assert tables[0].rows[0][0] == "whole brain"
    assert tables[1].rows[0][:3] == ["left_early", "early", "20.00"]


def test_without_an_image_of_the_atlas_there_are_bars(folder):
    output, config = folder
    (output / "quality" / "template" / "regions.h5").unlink()
    section = contributions.section(Results(output, config))
    pictures = [block for block in section.blocks if block.kind == "picture"]
    assert pictures[1].src.startswith("data:image/svg")
    assert pictures[1].alt.startswith(
        "Bars of the drop in retrieval by occluded region; the largest is left_early"
    )


def test_a_cost_that_cannot_be_told_from_chance_is_not_claimed():
    pool = contribution_rows(clear=False)
    assert "No cost of leaving out any one level can be told from chance." in contributions.level_sentence(
        pool
    )
    regions = pool[(pool["kind"] == "region") & (pool["metric"] == "quality")]
    text = contributions.region_sentence(regions)
    assert "0 of 4 regions" in text
    assert "most of all" not in text


def test_contributions_that_were_not_measured_are_said_to_be_absent(made):
    section = contributions.section(Results(made.output, made.config))
    assert "contributions/<branch>.tsv" in section.absent[0]
    assert not section.blocks


def test_several_branches_are_averaged(folder):
    output, config = folder
    second = contribution_rows()
    second["value"] += 0.1
    write_tsv(output / "evaluation" / "contributions" / "seed-1.tsv", second)
    (output / "models" / "seed-1").mkdir()
    config = {**config, "train": {**config["train"], "seeds": [0, 1]}}
    found = contributions.read(Results(output, config))
    assert len(found) == len(second)
    whole = found[(found["kind"] == "whole") & (found["subject"] == "all")]
    np.testing.assert_allclose(whole["value"], 0.65)
    assert (whole["n_queries"] == 160).all()


def test_codes_become_cards_with_clips_regions_and_modalities(folder):
    output, config = folder
    results = Results(output, config)
    section = codes.section(results, ClipPictures(results))
    (block,) = [b for b in section.blocks if b.kind == "cards"]
    assert len(block.cards) == 4
    card = block.cards[0]
    assert card.title.startswith("early · code ")
    assert len(card.clips) == 3
    assert "tokens: fmri" in card.facts[0]
    minus = "\N{MINUS SIGN}"
    assert card.facts[1] == (
        "while 40 brain tokens take it, more active: left_early (+1.25); "
        f"less active: right_high ({minus}0.40), left_high ({minus}0.30) and right_early ({minus}0.20)"
    )
    assert reddish(pixels(card.picture.src)).any()


def test_a_fact_of_modalities_has_shares_and_weights():
    book = pd.DataFrame({"modality": ["fmri", "video"], "count": [30, 10], "weight": [0.8, 1.2]})
    assert (
        code_cards.modality_fact(book).replace("\N{NO-BREAK SPACE}", " ")
        == "40 tokens: fmri 75 %, weight 0.80; video 25 %, weight 1.20"
    )
    old = book.drop(columns="weight")
    assert "weight" not in code_cards.modality_fact(old)
