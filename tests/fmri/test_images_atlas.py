"""Unreadable images, and atlases that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Atlas as AtlasConfig
from neuroalign.config.levels import TABLES
from neuroalign.errors import UserError
from neuroalign.fmri.atlas import assign_levels, load_atlas
from neuroalign.fmri.images import image_problem, read_image, to_grid
from neuroalign.fmri.label_table import labels_beside


def test_missing_dangling_and_annexed_images_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / ".git/annex/objects/gone")
    with pytest.raises(UserError, match="datalad get"):
        read_image(tmp_path / "b.nii.gz")
    (tmp_path / "c.nii.gz").write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    with pytest.raises(UserError, match="git-annex pointer"):
        read_image(tmp_path / "c.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_images_are_noticed(save, name, share):
    path = save(name, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    assert image_problem(path, deep=True) is None
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in image_problem(path, deep=True)
    with pytest.raises(UserError, match="truncated"):
        read_image(path)


def test_not_finite_voxels_become_zero_and_dimensions_are_checked(save):
    data = np.full((4, 4, 4), np.nan, np.float32)
    assert (read_image(save("a.nii.gz", data))[0] == 0).all()
    with pytest.raises(UserError, match="dimensions"):
        read_image(save("a.nii.gz", data), ndim=4)


@pytest.mark.parametrize("shift_mm", [0.002, 0.03, 0.3, 1.9])
@pytest.mark.parametrize("order", [0, 1])
def test_a_shift_of_less_than_half_a_voxel_loses_no_edge(shift_mm, order):
    affine = np.diag([4.0, 4, 4, 1])
    data = np.random.default_rng(0).integers(1, 9, (6, 5, 4)).astype(np.float32)
    for sign in (1, -1):
        shifted = affine.copy()
        shifted[:3, 3] = sign * shift_mm
        found = to_grid(data, affine, data.shape, shifted, order=order)
        assert (found > 0).all()
        if order == 0:
            np.testing.assert_array_equal(found, data)
        assert (to_grid(data > 0, affine, data.shape, shifted)).all()


def test_grids_as_far_apart_as_rounding_are_one_grid():
    affine = np.diag([2.0, 2, 2, 1])
    data = np.ones((3, 4, 5), np.uint8)
    near, far = affine.copy(), affine.copy()
    near[:3, 3], far[0, 0] = 0.01, 2.02  # a hundredth of a voxel at the end of three is too much
    assert to_grid(data, affine, data.shape, near) is data
    assert to_grid(data, affine, data.shape, far) is not data


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_nearest_neighbour_is_the_voxel_a_point_lies_in(seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(1, 99, (5, 4, 3)).astype(np.int16)
    affine, target = np.eye(4), np.eye(4)
    affine[:3, :3] += rng.normal(scale=0.2, size=(3, 3))
    target[:3] += rng.normal(scale=0.3, size=(3, 4))
    shape = (6, 5, 7)
    found = to_grid(data, affine, shape, target)
    wanted = np.zeros(shape, np.int16)
    for voxel in np.ndindex(shape):
        at = np.linalg.solve(affine, target @ [*voxel, 1])[:3]
        nearest = np.floor(at + 0.5).astype(int)
        if ((nearest >= 0) & (nearest < data.shape)).all():
            wanted[voxel] = data[tuple(nearest)]
    np.testing.assert_array_equal(found, wanted)


@pytest.fixture
def atlas(save, grid, tmp_path):
    data = np.zeros(grid[0], np.int16)
    data[5:15, 5:15, 5:15], data[20:30, 20:30, 20:30], data[32:40, 40:50, 30:40] = 1, 2, 3
    path = save("atlas-A_space-S_res-4_dseg.nii.gz", data)
    (tmp_path / "atlas-A_dseg.tsv").write_text("index\tlabel\n1\tVis_1\n2\tDorsAttn_1\n3\tDefault_1\n")
    return path


def test_atlas_with_labels_beside_it(atlas, grid):
    assert labels_beside(atlas).name == "atlas-A_dseg.tsv"
    loaded = load_atlas(AtlasConfig(image=str(atlas)), "S")
    assert loaded.labels == {1: "Vis_1", 2: "DorsAttn_1", 3: "Default_1"}
    assert (loaded.on_grid(*grid, list(loaded.labels.values())) == loaded.data).all()


def test_atlas_in_another_space_is_refused(atlas, grid):
    with pytest.raises(UserError, match="another space"):
        load_atlas(AtlasConfig(image=str(atlas)), "MNI152NLin6Asym")
    loaded = load_atlas(AtlasConfig(image=str(atlas)), "S")
    elsewhere = grid[1].copy()
    elsewhere[:3, 3] += 150
    with pytest.raises(UserError, match="different spaces"):
        loaded.on_grid(grid[0], elsewhere, list(loaded.labels.values()))
    shape = (46, 55, 30)  # cuts the last region off
    with pytest.raises(UserError, match="Default_1"):
        loaded.on_grid(shape, grid[1], list(loaded.labels.values()))


def test_atlas_that_cannot_be_used_is_refused(atlas, tmp_path, save):
    with pytest.raises(UserError, match="No atlas"):
        load_atlas(AtlasConfig(), "S")
    with pytest.raises(UserError, match="unknown"):
        load_atlas(AtlasConfig(name="schafer"), "S")
    table = tmp_path / "atlas-A_dseg.tsv"
    table.write_text("index\tlabel\n1\tVis_1\n1\tVis_2\n")
    with pytest.raises(UserError, match="repeats"):
        load_atlas(AtlasConfig(image=str(atlas)), "S")
    table.write_text("number\tlabel\n1\tVis_1\n")
    with pytest.raises(UserError, match="columns"):
        load_atlas(AtlasConfig(image=str(atlas)), "S")
    table.unlink()
    with pytest.raises(UserError, match="label table"):
        load_atlas(AtlasConfig(image=str(atlas)), "S")


def test_levels_keep_order_and_refuse_overlap():
    labels = ["b_1", "a_1", "a_2", "c"]
    assert assign_levels(labels, {"high": "^a", "low": "^b"}) == {"high": ["a_1", "a_2"], "low": ["b_1"]}
    with pytest.raises(UserError, match="both 'one' and 'two'"):
        assign_levels(labels, {"one": "a", "two": "_1"})
    with pytest.raises(UserError, match="labels look like b_1"):
        assign_levels(labels, {"one": "Vis"})


def test_labels_unknown_to_a_table_are_warned_about(caplog):
    labels = ["L_V1_ROI", "L_MT_ROI", "L_7Pl_ROI", "L_4_ROI"]
    levels = TABLES["glasser"].patterns()
    assert assign_levels(labels, levels)["high"] == ["L_7Pl_ROI"]
    assert not caplog.records
    assign_levels([*labels, "L_Thalamus"], levels)
    assert "1 of 5 regions of the atlas are in no level of the table 'glasser'" in caplog.text
    assert "(L_Thalamus)" in caplog.text
    caplog.clear()
    assign_levels([*labels, "L_Thalamus"], {"early": "V1"})
    assert not caplog.records


def test_real_atlas_sorts_into_the_default_levels(shared_data):
    from neuroalign.config.fmri import Fmri

    (image,) = (shared_data / "atlas").glob("*.nii.gz")
    loaded = load_atlas(AtlasConfig(image=str(image)), "MNI152NLin2009cAsym")
    levels = assign_levels(list(loaded.labels.values()), Fmri().levels)
    assert sum(map(len, levels.values())) == 200
