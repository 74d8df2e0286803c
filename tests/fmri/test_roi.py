"""The pass over a run: reading in blocks against nibabel, and sums against the naive computation."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.errors import UserError
from neuroalign.fmri import images
from neuroalign.fmri.images import VolumeReader
from neuroalign.fmri.roi import (
    Columns,
    RegionMeans,
    TemporalSnr,
    extract_means,
    extract_voxels,
    stream,
    varying_voxels,
)

SHAPE = (7, 5, 4)


def blocks(data: np.ndarray, sizes: list[int]):
    """Cut (volumes, voxels) at the running sums of `sizes`, repeated as needed."""
    first = 0
    while first < len(data):
        for size in sizes:
            if first < len(data):
                yield first, data[first : first + size].copy()
                first += size


def whole(reader: VolumeReader, voxels=None) -> np.ndarray:
    parts = [values for _, values in reader.read(voxels)]
    return np.concatenate(parts)


def naive_snr(data: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Mean over standard deviation after removing a quadratic, by least squares over the whole series."""
    kept = data[keep].astype(float)
    ramp = np.linspace(-1, 1, len(data))[keep]
    drift = np.column_stack([np.ones_like(ramp), ramp, ramp**2])
    left = kept - drift @ np.linalg.lstsq(drift, kept, rcond=None)[0]
    return kept.mean(axis=0) / left.std(axis=0, ddof=1)


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    volumes=st.integers(12, 40),
    sizes=sizes,
    baseline=st.sampled_from([0.5, 1e3, 1e5]),
    drift=st.sampled_from([0.0, 10.0, 1e4]),
)
def test_running_snr_equals_least_squares_over_the_series(seed, volumes, sizes, baseline, drift):
    rng = np.random.default_rng(seed)
    data = baseline + rng.normal(size=(volumes, 6)) + drift * np.linspace(0, 1, volumes)[:, None] ** 2
    keep = rng.random(volumes) > 0.3
    keep[:8] = True
    sink = TemporalSnr(keep, slice(None))
    stream(blocks(data, sizes), [sink])
    np.testing.assert_allclose(sink.ratio(), naive_snr(data, keep), rtol=1e-6)


def test_a_gap_of_censored_volumes_does_not_bend_the_drift():
    rng = np.random.default_rng(0)
    data = 1000 + rng.normal(size=(60, 4)) + 200 * np.linspace(0, 1, 60)[:, None]
    keep = np.ones(60, bool)
    keep[10:35] = False
    sink = TemporalSnr(keep, slice(None))
    stream(blocks(data, [7]), [sink])
    assert (sink.ratio() > 700).all()  # squeezed together, the ramp has a step that no quadratic follows
    np.testing.assert_allclose(sink.ratio(), naive_snr(data, keep), rtol=1e-6)


def test_snr_survives_an_outlier_as_first_volume_and_voxels_without_noise():
    rng = np.random.default_rng(0)
    data = 1000 + rng.normal(size=(50, 3))
    data[0] += 1e6
    data[:, 2] = 7.0
    keep = np.ones(50, bool)
    sink = TemporalSnr(keep, np.array([0, 1, 2]))
    stream(blocks(data, [4]), [sink])
    np.testing.assert_allclose(sink.ratio()[:2], naive_snr(data, keep)[:2], rtol=1e-6)
    assert sink.ratio()[2] == 0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), sizes=sizes)
def test_region_means_do_not_depend_on_blocks(seed, sizes):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(23, 30))
    region = rng.integers(-1, 4, 30)
    means, columns = RegionMeans(23, region, 5), Columns(23, np.array([3, 0]))
    stream(blocks(data, sizes), [means, columns])
    for number in range(5):
        inside = region == number
        assert means.sizes[number] == inside.sum()
        wanted = data[:, inside].mean(axis=1) if inside.any() else np.zeros(23)
        np.testing.assert_allclose(means.means[:, number], wanted, atol=1e-12)
    np.testing.assert_array_equal(columns.series, data[:, [3, 0]].astype(np.float32))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [("i2", None, None), ("i2", 0.03, -5.0), (">i2", 2.0, 0.0), ("u1", 0.5, 10.0), ("i4", None, None), ("f4", None, None),
     (">f4", None, None), ("f8", 3.0, 1.0)],
)  # fmt: skip
def test_reader_gives_what_nibabel_gives(tmp_path, monkeypatch, suffix, dtype, slope, inter):
    monkeypatch.setattr(images, "_BLOCK", 3 * np.prod(SHAPE) * np.dtype(dtype).itemsize)
    rng = np.random.default_rng(0)
    stored = rng.uniform(0, 200, (*SHAPE, 10)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        stored[1, 2, 3, 4], stored[0, 0, 0, 0] = np.nan, -np.inf
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = nib.Nifti1Image(stored, np.eye(4), header)
    image.header.set_slope_inter(slope, inter)
    path = tmp_path / f"a{suffix}"
    with nib.openers.Opener(
        path, "wb"
    ) as file:  # stored values as they are: `nib.save` would scale them again
        head = image.header.copy()
        head["vox_offset"], head["magic"] = 352, b"n+1"
        head["scl_slope"], head["scl_inter"] = slope or 1.0, inter or 0.0
        file.write(head.binaryblock + bytes(4) + stored.tobytes(order="F"))
    wanted = np.nan_to_num(np.asarray(nib.load(path).dataobj, float), nan=0, posinf=0, neginf=0)
    reader = VolumeReader(path)
    assert reader.shape == (*SHAPE, 10)
    got = whole(reader).reshape(10, *SHAPE[::-1]).T
    np.testing.assert_allclose(got, wanted, rtol=1e-7)
    chosen = np.array([77, 3, 3, 139])
    flat = wanted.reshape(-1, 10, order="F")
    np.testing.assert_allclose(whole(reader, chosen), flat[chosen].T, rtol=1e-7)
    assert [first for first, _ in reader.read()] == [0, 3, 6, 9]


def test_gzip_of_several_members_with_padding_and_of_long_runs_of_zeros(tmp_path, save):
    data = np.zeros((40, 40, 40, 40), np.int16)
    data[3, 4, 5] = np.arange(40)
    content = nib.Nifti1Image(data, np.eye(4)).to_bytes()
    buffer = io.BytesIO()
    for part in (content[:100], content[100:5000], content[5000:]):
        buffer.write(gzip.compress(part))
    path = tmp_path / "members.nii.gz"
    path.write_bytes(buffer.getvalue() + bytes(512))
    voxel = np.array([np.ravel_multi_index((3, 4, 5), (40, 40, 40), order="F")])
    assert whole(VolumeReader(path), voxel)[:, 0].tolist() == list(range(40))
    assert images.image_problem(path, deep=True) is None


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_truncation_found_on_the_way_is_the_usual_sentence(save, name, share):
    path = save(name, np.random.default_rng(0).normal(size=(*SHAPE, 50)).astype(np.float32))
    content = path.read_bytes()
    cut = content[: int(len(content) * share)]
    path.write_bytes(cut)
    with pytest.raises(UserError, match=r"a\.nii(\.gz)? is truncated or no readable NIfTI image"):
        whole(VolumeReader(path))


def test_damage_that_only_the_checksum_shows(save):
    path = save("a.nii.gz", np.random.default_rng(0).normal(size=(*SHAPE, 50)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[-6] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or no readable"):
        whole(VolumeReader(path))


def test_reader_refuses_what_is_no_series(save, tmp_path):
    with pytest.raises(UserError, match="3 dimensions where 4"):
        VolumeReader(save("b.nii.gz", np.zeros(SHAPE, np.float32)))
    with pytest.raises(UserError, match="complex64 values"):
        VolumeReader(save("c.nii.gz", np.zeros((*SHAPE, 2), np.complex64)))
    with pytest.raises(UserError, match="does not exist"):
        VolumeReader(tmp_path / "gone.nii.gz")


@pytest.fixture
def run(save):
    """A run on disk, its data, a mask and parcels that reach outside it."""
    rng = np.random.default_rng(3)
    data = np.rint(1000 + 10 * rng.normal(size=(*SHAPE, 30))).astype(np.int16)
    mask = rng.random(SHAPE) > 0.4
    parcels = rng.integers(0, 5, SHAPE) * 10
    parcels[~mask & (parcels == 40)] = 0
    mask[parcels == 30] = False
    return VolumeReader(save("run.nii.gz", data)), data, mask, parcels


def test_one_pass_gives_means_noise_and_carpet(run):
    volumes, data, mask, parcels = run
    keep = np.arange(30) != 4
    found = extract_means(volumes, mask, keep, parcels, [40, 10, 30])
    for column, number in enumerate([40, 10]):
        inside = mask & (parcels == number)
        np.testing.assert_allclose(found.series[:, column], data[inside].mean(axis=0), rtol=1e-12)
    assert (found.series[:, 2] == 0).all()
    np.testing.assert_allclose(found.snr[mask], naive_snr(data[mask].T.astype(float), keep), rtol=1e-5)
    assert (found.snr[~mask] == 0).all()
    brain = data.transpose(2, 1, 0, 3)[mask.T].astype(float)  # x runs fastest
    z = (brain - brain.mean(axis=1, keepdims=True)) / brain.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found.carpet, z, atol=5e-3)


@pytest.mark.parametrize("value", [np.nan, 0.0, -np.inf, np.inf])
@pytest.mark.parametrize("at", [[0, 1], [11], [4, 13, 29]])
@pytest.mark.parametrize("units", ["means", "voxels"])
def test_volumes_without_an_image_are_found_and_spoil_nothing(save, monkeypatch, value, at, units):
    monkeypatch.setattr(images, "_BLOCK", 4 * np.prod(SHAPE) * 4)
    rng = np.random.default_rng(0)
    data = (1000 + rng.normal(size=(*SHAPE, 30)) + np.linspace(0, 60, 30)).astype(np.float32)
    mask = rng.random(SHAPE) > 0.4
    data[mask, 7] = np.where(np.arange(mask.sum()) == 3, 5, 0)  # one voxel of signal is an image still
    data[..., at] = np.where(mask, value, 3.0)[..., None]
    keep = np.ones(30, bool)
    keep[[7, 20]] = False
    volumes = VolumeReader(save("run.nii.gz", data))
    found = (
        extract_means(volumes, mask, keep, mask.astype(int), [1])
        if units == "means"
        else extract_voxels(volumes, mask, keep, np.argwhere(~mask)[:3])
    )
    assert np.flatnonzero(found.lost).tolist() == at
    kept = keep & ~found.lost
    np.testing.assert_allclose(found.snr[mask], naive_snr(data[mask].T.astype(float), kept), rtol=1e-5)
    without = np.nan_to_num(data.transpose(2, 1, 0, 3)[mask.T][:, ~found.lost].astype(float))
    z = (without - without.mean(axis=1, keepdims=True)) / without.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found.carpet[:, ~found.lost], np.clip(z, -6, 6), atol=5e-3)


def test_a_run_without_any_image(save):
    mask = np.ones(SHAPE, bool)
    volumes = VolumeReader(save("run.nii.gz", np.full((*SHAPE, 12), np.nan, np.float32)))
    found = extract_means(volumes, mask, np.ones(12, bool), mask.astype(int), [1])
    assert found.lost.all()
    assert (found.snr == 0).all()


def test_voxels_keep_their_order_and_may_leave_the_mask(run):
    volumes, data, mask, _ = run
    where = np.argwhere(~mask)[::-1][:10]
    found = extract_voxels(volumes, mask, np.ones(30, bool), where)
    np.testing.assert_array_equal(found.series, data[tuple(where.T)].T)
    np.testing.assert_allclose(
        found.snr[mask], naive_snr(data[mask].T.astype(float), np.ones(30, bool)), rtol=1e-5
    )


@pytest.mark.parametrize("lost", [0, 5])
def test_a_lost_volume_makes_no_voxel_vary(save, lost):
    data = np.full((*SHAPE, 12), 3, np.float32)
    data[0, 0, 0], data[2, 1, 0] = 7, np.arange(12)
    data[..., lost] = 0
    assert np.argwhere(varying_voxels(VolumeReader(save("v.nii.gz", data)))).tolist() == [[2, 1, 0]]


def test_varying_voxels(save):
    data = np.full((*SHAPE, 12), 3, np.float32)
    data[2, 1, 0, 11] = 4
    data[0, 0, 0, :] = np.nan
    assert np.argwhere(varying_voxels(VolumeReader(save("v.nii.gz", data)))).tolist() == [[2, 1, 0]]
