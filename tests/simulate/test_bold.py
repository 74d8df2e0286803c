import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from neuroalign.config.dataset import Simulate
from neuroalign.fmri.series import read_series
from neuroalign.simulate import bold, noise
from neuroalign.simulate.anatomy import build_head
from neuroalign.simulate.atlas import demo_atlas, load_template
from neuroalign.simulate.motion import CONVENTION, framewise_displacement, head_motion, rigid
from neuroalign.simulate.plan import plan_dataset


@pytest.fixture(scope="module")
def head():
    template = load_template()
    labels, affine, _ = demo_atlas(template)
    return build_head(Simulate(), "01", template, labels, affine, 2.0)


@pytest.fixture(scope="module")
def parcels(silent):
    """Noise-free BOLD and, per voxel, the parcel that a careful anatomist would find there."""
    run = silent.run_plans[0]
    image = nib.load(silent.bids_dir / f"{run.func}_bold.nii.gz")
    template = load_template()
    labels, affine, table = demo_atlas(template)
    anatomy = build_head(silent.simulate, run.subject, template, labels, affine, 2.0)
    placed = json.loads((silent.truth_dir / "motion" / "motion.json").read_text())
    centre = np.array(placed["rotation_centre_mm"])
    position = rigid(np.array(placed["t1w_to_first_volume"][run.run_id]), centre)
    to_head = np.linalg.inv(anatomy.affine) @ np.linalg.inv(position) @ image.affine
    sampled = [
        ndimage.affine_transform(volume, to_head[:3, :3], to_head[:3, 3], image.shape[:3], order=order)
        for volume, order in ((anatomy.labels, 0), (anatomy.gm, 1))
    ]
    return run, image, np.where(sampled[1] > 0.4, sampled[0], 0), table


def test_the_header_says_what_the_sidecar_says(tiny):
    for row in tiny.runs.itertuples():
        image = nib.load(row.bold)
        sidecar = json.loads(Path(row.bold.replace(".nii.gz", ".json")).read_text())
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units() == ("mm", "sec")
        assert image.header.get_zooms() == pytest.approx((6, 6, 6, 2.0), abs=1e-5)
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert sidecar["RepetitionTime"] == 2.0
        assert len(sidecar["SliceTiming"]) == image.shape[2]
        assert 0 <= min(sidecar["SliceTiming"]) < max(sidecar["SliceTiming"]) < 2.0
        data = np.asarray(image.dataobj)
        assert data.min() >= 0
        assert 2000 < data.max() < 32767


@pytest.mark.parametrize(("tr", "voxel", "multiband"), [(2.0, 4.0, 2), (3.0, 4.0, 1), (0.8, 2.4, 6)])
def test_slices_fit_into_the_repetition_time(tr, voxel, multiband):
    times, together = bold.slice_timing(Simulate(tr_s=tr, voxel_mm=voxel))
    assert together == multiband
    _, counts = np.unique(times, return_counts=True)
    assert set(counts) == {multiband}
    assert times.max() < tr


def test_noise_free_regions_follow_the_truth(silent, parcels):
    run, image, labels, table = parcels
    data = image.get_fdata(dtype=np.float32)
    truth = read_series(silent.truth_dir / "signals" / f"{run.run_id}.h5")
    by_label = {
        label: truth.levels[level][:, column]
        for level, names in truth.unit_labels.items()
        for column, label in enumerate(names)
    }
    correlations, gains = [], []
    for index, label in zip(table["index"], table["label"], strict=True):
        mean = data[labels == index].mean(0)
        change = 100 * (mean / mean.mean() - 1)
        correlations.append(np.corrcoef(change, by_label[label])[0, 1])
        gains.append(np.polyfit(by_label[label], change, 1)[0])
    assert np.median(correlations) > 0.98
    assert np.min(correlations) > 0.9
    # Voxels of 6 mm hold white matter and fluid as well: regions show a part of the change in grey matter.
    assert 0.3 < np.median(gains) < 1.1


def test_each_slice_is_sampled_at_its_own_time(silent, parcels):
    run, image, labels, table = parcels
    data = image.get_fdata(dtype=np.float32)
    sidecar = json.loads((silent.bids_dir / f"{run.func}_bold.json").read_text())
    truth = read_series(silent.truth_dir / "signals" / f"{run.run_id}.h5")
    columns = {n: (level, c) for level, names in truth.unit_labels.items() for c, n in enumerate(names)}
    shifts = np.arange(-2, 2.01, 0.1)
    found, expected = [], []
    for z, time in enumerate(sidecar["SliceTiming"]):
        errors = np.zeros(len(shifts))
        voxels = 0
        for index, label in zip(table["index"], table["label"], strict=True):
            inside = labels[:, :, z] == index
            if inside.sum() < 8:
                continue
            voxels += inside.sum()
            mean = data[:, :, z][inside].mean(0)[3:-3]
            level, column = columns[label]
            for k, shift in enumerate(shifts):
                shifted = np.interp(truth.times + shift, truth.times, truth.levels[level][:, column])[3:-3]
                errors[k] -= inside.sum() * np.corrcoef(mean, shifted)[0, 1]
        if voxels > 60:
            found.append(shifts[errors.argmin()])
            expected.append(time - silent.simulate.tr_s / 2)
    assert len(found) > 10
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert np.abs(np.array(found) - expected).max() < 0.35


def test_the_true_motion_undoes_the_motion(head, monkeypatch):
    simulate = Simulate(noise=0, voxel_mm=4)
    run = plan_dataset(simulate, "bids").run_plans[0]
    motion = np.zeros((3, 6))
    motion[1] = [2.0, -3.0, 1.5, 0.04, -0.03, 0.05]
    motion[2] = [0, 4.0, 0, 0, 0, 0]
    monkeypatch.setattr(bold, "head_motion", lambda *_: motion)
    still = np.zeros((500, 60))
    acquired = bold.simulate_run(simulate, run, head, still, still, np.arange(60))
    volumes = acquired.data.T.astype(float)
    centre = bold.geometry(simulate).centre
    middle = (slice(8, -8), slice(8, -8), slice(12, -8))
    for t in (1, 2):
        forward = np.linalg.inv(acquired.affine) @ rigid(motion[t], centre) @ acquired.affine
        undone = ndimage.affine_transform(volumes[..., t], forward[:3, :3], forward[:3, 3], order=3)
        before = np.corrcoef(volumes[..., 0][middle].ravel(), volumes[..., t][middle].ravel())[0, 1]
        after = np.corrcoef(volumes[..., 0][middle].ravel(), undone[middle].ravel())[0, 1]
        assert after > 0.99
        assert 1 - after < 0.2 * (1 - before)


def test_motion_has_the_size_of_a_cooperative_adults():
    simulate = Simulate()
    runs = plan_dataset(simulate, "bids").run_plans
    displacement = [np.nanmean(framewise_displacement(head_motion(simulate, run))) for run in runs]
    assert 0.08 < np.mean(displacement) < 0.22
    assert len(set(displacement)) == len(runs)
    assert not head_motion(simulate.model_copy(update={"noise": 0.0}), runs[0]).any()
    assert set(CONVENTION["columns"]) >= {"trans_x", "rot_z"}


def test_framewise_displacement_by_hand():
    motion = np.array([[0, 0, 0, 0, 0, 0], [0.1, -0.2, 0, 0.001, 0, 0], [0.1, -0.2, 0.3, 0.001, 0, -0.002]])
    np.testing.assert_allclose(framewise_displacement(motion), [np.nan, 0.35, 0.4])


def test_temporal_snr_is_that_of_a_3t_scanner(head):
    simulate = Simulate(subjects=1, films=2, films_per_run=1, repeats=1)
    run = plan_dataset(simulate, "bids").run_plans[0]
    rng = np.random.default_rng(0)
    ongoing = ndimage.gaussian_filter1d(rng.standard_normal((1500, 60)), 20, axis=0)
    ongoing *= 0.5 / ongoing.std(0)
    acquired = bold.simulate_run(simulate, run, head, ongoing, ongoing, np.arange(60))
    data = acquired.data.astype(np.float32)
    mean = data.mean(0)
    time = np.linspace(-1, 1, len(data))
    basis, _ = np.linalg.qr(np.stack([time**k for k in range(3)], axis=1))
    flat = data.reshape(len(data), -1)
    sd = (flat - basis @ (basis.T @ flat)).std(0).reshape(mean.shape)
    tissue = (mean > 1500) & (mean < 2300)
    tsnr = mean[tissue] / sd[tissue]
    assert 45 < np.median(tsnr) < 95
    assert np.percentile(tsnr, 10) > 20


def test_noise_parts_have_their_sizes():
    rng = np.random.default_rng(0)
    shape = (200, 8, 20, 20)
    local = noise._local(rng, shape, 2.0)
    assert local.std() == pytest.approx(1, abs=0.1)
    lag = (local[1:] * local[:-1]).mean() / (local**2).mean()
    assert lag == pytest.approx(noise.AUTOCORRELATION, abs=0.03)
    data = np.zeros(shape, np.float32)
    empty = np.zeros(shape[1:], np.float32)
    noise.add_noise(rng, data, empty, empty, np.zeros(8), 2.0, 3.0, 1.0)
    # Air in a magnitude image: Rayleigh with mean sd * sqrt(pi / 2).
    sd = noise.GREY_MATTER / noise.THERMAL_SNR
    assert data.min() >= 0
    assert data.mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.01)


def test_noise_ceiling_is_in_the_published_range(tiny):
    table = pd.read_csv(tiny.truth_dir / "noise_ceiling.tsv", sep="\t")
    levels = table[table["unit"] == "all"].groupby("level")["truth_r"].mean()
    assert levels.between(0.3, 0.95).all()
    assert levels["early"] > levels["high"]


def test_heads_differ_between_people_but_not_between_resolutions(head):
    template = load_template()
    labels, affine, _ = demo_atlas(template)
    other = build_head(Simulate(), "02", template, labels, affine, 4.0)
    same = build_head(Simulate(), "01", template, labels, affine, 4.0)
    coarse = head.brain[::2, ::2, ::2]

    def dice(a, b):
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    assert dice(coarse, same.brain) > 0.93
    assert dice(coarse, other.brain) < dice(coarse, same.brain)
    # The scalp shines around a dark skull in the T1w image.
    outside = ndimage.distance_transform_edt(~head.brain) * 2
    skull, scalp = (np.median(head.t1[(outside > a) & (outside < b)]) for a, b in ((4, 6), (9, 11)))
    assert scalp > 3 * skull


def test_people_respond_alike_as_far_as_published_film_data_say(tiny):
    """Correlation between people = that of their noise-free signals times what noise leaves of each."""
    ceiling = pd.read_csv(tiny.truth_dir / "noise_ceiling.tsv", sep="\t", dtype={"subject": str})
    ceiling = ceiling.set_index(["subject", "unit"])["truth_r"]
    locked = {}
    for run in tiny.run_plans:
        truth = read_series(tiny.truth_dir / "signals" / f"{run.run_id}.h5")
        for film, onset in zip(run.films, run.onsets, strict=True):
            at = onset + np.arange(0, tiny.simulate.film_s + 8, 0.5)
            for level, names in truth.unit_labels.items():
                for name, series in zip(names, truth.levels[level].T, strict=True):
                    locked[run.subject, film, level, name] = np.interp(at, truth.times, series)
    expected = {"early": [], "intermediate": [], "high": []}
    for (subject, film, level, name), series in locked.items():
        if subject == "01":
            r = np.corrcoef(series, locked["02", film, level, name])[0, 1]
            expected[level].append(r * ceiling["01", name] * ceiling["02", name])
    mean = {level: np.mean(values) for level, values in expected.items()}
    assert mean["early"] > mean["high"]
    assert all(0.05 < value < 0.65 for value in mean.values()), mean
