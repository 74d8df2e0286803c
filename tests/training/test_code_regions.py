"""Which regions are active while the brain takes a code: against loops, and where one region decides."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest

import neuroalign
from neuroalign.models.embed import embed_brain
from neuroalign.training.code_regions import COLUMNS, code_regions, heard_volumes
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.vq import train_vq

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}


@pytest.fixture(scope="module", params=["adaptive", "aligned voxels"])
def trained(request, make_pairs, tiny, tmp_path_factory):
    """A model of both stages and its pairs, which have censored volumes that hold nothing."""
    voxels = request.param == "aligned voxels"
    pairs = make_pairs(
        subjects=2, clips=(24, 10, 3), delays=(4.5, 6.0), units=(6, 5), aligned=voxels, voxels=voxels
    )
    for windows in pairs.brain.values():
        windows.valid[::3, 2] = False
        for data in windows.levels.values():
            data[::3, 2] = np.nan
        if voxels:
            # Two regions per level, of voxels that differ by person.
            windows.unit_labels = {
                level: [f"{level}_{k % 2}@{k},0,0" for k in range(len(units))]
                for level, units in windows.unit_labels.items()
            }
    folder = tmp_path_factory.mktemp("branch")
    config = tiny({"epochs": 1}, {"epochs": 1, "codes": 6})
    train_ntcl(pairs, folder / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, folder / "ntcl", folder / "vq", config, 0, made_by={})
    return folder, neuroalign.load(folder), pairs


def test_the_table_is_written_and_equals_plain_loops(trained):
    folder, model, pairs = trained
    table = pd.read_csv(folder / "vq" / "code_regions.tsv", sep="\t")
    assert tuple(table.columns) == COLUMNS
    pd.testing.assert_frame_equal(table, code_regions(model, pairs), check_dtype=False, rtol=1e-4, atol=1e-5)
    level, code, region = table.iloc[len(table) // 2][["level", "code", "region"]]
    place = ["early", "intermediate"].index(level)
    taken, others = [], []
    for subject in pairs.subjects:
        for split in ("train", "validation"):
            windows, _ = pairs.of(subject, split)
            index = model.embed_fmri(windows, subject).index
            brain = model.brain_input(windows, subject)
            heard = heard_volumes(model.network, brain.times, brain.valid, brain.subject)
            for own, names in windows.unit_labels.items():
                units = [k for k, name in enumerate(names) if name.split("@")[0] == region]
                if not units:
                    continue
                scaler = model.scalers.brain[subject, own]
                at = ["early", "intermediate"].index(own)
                for i in range(len(windows.rows)):
                    for t in range(index.shape[1]):
                        x = 0.0
                        for v in np.flatnonzero(windows.valid[i]):
                            z = [
                                (windows.levels[own][i, v, u] - scaler.mean[u]) / scaler.std[u] for u in units
                            ]
                            x += heard[i, t, v, at] * np.mean(z)
                        (taken if index[i, t, place, 0] == code else others).append(x)
    found = table[(table["level"] == level) & (table["code"] == code) & (table["region"] == region)].iloc[0]
    assert found["tokens"] == len(taken)
    assert found["mean_z"] == pytest.approx(np.mean(taken), abs=1e-4)
    assert found["others_z"] == pytest.approx(np.mean(others), abs=1e-4)
    effect = (np.mean(taken) - np.mean(others)) / np.std(taken + others)
    assert found["effect"] == pytest.approx(effect, abs=1e-3)


def test_every_used_code_lists_every_region_those_of_its_own_level_first(trained):
    _, model, pairs = trained
    table = code_regions(model, pairs, codes=3)
    regions = {
        u.split("@")[0] for w in pairs.brain.values() for names in w.unit_labels.values() for u in names
    }
    for (level, _), part in table.groupby(["level", "code"]):
        assert set(part["region"]) == regions
        assert part["region_level"].iloc[0] == level
        assert part["tokens"].nunique() == 1
    assert (table.groupby("level")["code"].nunique() <= 3).all()
    tokens = table.drop_duplicates(["level", "code"]).groupby("level")["tokens"]
    assert all(part.is_monotonic_decreasing for _, part in tokens)


def test_what_a_step_hears_sums_to_one_over_valid_volumes_and_is_what_the_encoder_hears(trained):
    """With content-free attention, hearing one volume at a time adds up to the tokens that the encoder makes."""
    _, model, pairs = trained
    windows, _ = pairs.of(pairs.subjects[0], "train")
    brain = model.brain_input(windows, pairs.subjects[0])
    network = copy.deepcopy(model.network)
    if network.haemodynamic is not None:
        network.haemodynamic.query.data.zero_()
    heard = heard_volumes(network, brain.times, brain.valid, brain.subject)
    np.testing.assert_allclose(heard.sum(axis=2), 1.0, atol=1e-5)
    assert np.abs(heard.transpose(0, 2, 1, 3)[~windows.valid]).max() == 0
    if network.haemodynamic is not None:
        # Tokens also weigh volumes by their noise, which this leaves out: what is heard most is where the response peaks.
        peak = network.step_times + network.haemodynamic.log_delay.exp()[0]
        most = heard[0, :, :, 0].argmax(axis=1)
        assert np.abs(brain.times[0].numpy()[most] - peak.detach().numpy()).max() <= 3.0
        return
    encoder = network.encoders["fmri"]
    tokens = encoder.local_tokens(brain.levels, brain.times, brain.valid, network.step_times, brain.subject)
    for place, name in enumerate(encoder.levels):
        patches = encoder.patches[place](brain.levels[name], brain.subject).detach().numpy()
        own = np.einsum("ntv,nvd->ntd", heard[..., place], np.where(windows.valid[..., None], patches, 0))
        np.testing.assert_allclose(own, tokens[:, :, place].detach().numpy(), atol=1e-4)
    assert embed_brain(network, brain).index is not None


def test_regions_that_decide_a_code_stand_out(make_pairs, tiny, tmp_path):
    """Half of the regions tell the clip, the others are noise: their effects must lie far apart."""
    pairs = make_pairs(
        subjects=2, clips=(40, 15, 3), delays=(5.0,), units=(8,), aligned=True, latent=1, noise=0.2
    )
    rng = np.random.default_rng(0)
    for windows in pairs.brain.values():
        windows.levels["early"][..., 4:] = rng.standard_normal(windows.levels["early"][..., 4:].shape)
    config = tiny({"epochs": 1}, {"epochs": 1, "codes": 4, "depth": 1})
    train_ntcl(pairs, tmp_path / "ntcl", config, 0, made_by={}, geometry=GEOMETRY)
    train_vq(pairs, tmp_path / "ntcl", tmp_path / "vq", config, 0, made_by={})
    table = code_regions(neuroalign.load(tmp_path), pairs)
    size = table.assign(size=table["effect"].abs()).groupby("region")["size"].mean()
    told = [name for name in size.index if int(name.split("_")[1]) < 4]
    assert len(told) == 4
    assert size[told].min() > 1.4 * size.drop(told).max()
    assert size[told].mean() > 2 * size.drop(told).mean()
