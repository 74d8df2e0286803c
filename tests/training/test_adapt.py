"""Adaptation to a new person, against people whose maps and delays are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import neuroalign
from neuroalign.errors import UserError
from neuroalign.models.subjects import with_subject
from neuroalign.pairs.store import PairedDataset
from neuroalign.training.adapt import adapt, careful_choice, margin
from neuroalign.training.adapt_maps import Group
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.validation import retrieval

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}
NEW = "05"


def hold_out(pairs: PairedDataset, subject: str = NEW) -> PairedDataset:
    """The same pairs with everything of one person in the test split."""
    clips = pairs.clips.copy()
    clips.loc[clips["subject"] == subject, "split"] = "test"
    return replace(pairs, clips=clips)


def later(pairs: PairedDataset, subject: str = NEW, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the person's first clips and of the last `count`."""
    rows = np.flatnonzero((pairs.clips["subject"] == subject).to_numpy())
    return rows[:-count], rows[-count:]


def top1(model, pairs: PairedDataset, rows: np.ndarray, subject: str = NEW) -> dict[str, float]:
    windows = pairs.brain[subject]
    windows = windows.select(np.isin(windows.rows, rows))
    contents = pairs.video.rows_of(pairs.clips["clip_id"].to_numpy()[windows.rows])
    gallery, own = np.unique(contents, return_inverse=True)
    scores = model.score(model.embed_fmri(windows, subject), model.embed_video(pairs.video.select(gallery)))
    return retrieval(scores, own)


@pytest.fixture(scope="module")
def parcels(make_pairs, tiny, tmp_path_factory):
    """A model of four people with delays about 5 s, and a fifth whose response is 1 s late and whose map is half their own."""
    pairs = hold_out(
        make_pairs(subjects=5, clips=(150, 30, 40), noise=3.5, shifts=(-0.2, 0.0, 0.2, 0.0, 1.0), seed=3)
    )
    folder = tmp_path_factory.mktemp("parcels")
    config = tiny({"epochs": 1, "encoder": {"dim": 32, "depth": 1, "heads": 2, "subject_rank": 4}})
    train_ntcl(pairs, folder, config, 0, made_by={}, geometry=GEOMETRY)
    return folder, pairs


@pytest.fixture(scope="module")
def curve(parcels):
    """The model and the person's later clips' retrieval, by minutes."""
    folder, pairs = parcels
    model = neuroalign.load(folder)
    first, last = later(pairs)
    group = Group.of(model, pairs)
    found = {m: adapt(model, pairs, NEW, m, rows=first, group=group) for m in (0, 1, 5, 10)}
    return model, pairs, last, found


def test_with_no_minutes_it_is_the_shared_model_bit_for_bit(curve):
    model, pairs, last, found = curve
    windows = pairs.brain[NEW].select(np.isin(pairs.brain[NEW].rows, last))
    before, after = model.embed_fmri(windows, NEW), found[0].model.embed_fmri(windows, NEW)
    np.testing.assert_array_equal(before.pooled, after.pooled)
    np.testing.assert_array_equal(before.steps, after.steps)
    assert not len(found[0].rows)


def test_nobody_else_changes(curve):
    model, pairs, _, found = curve
    for subject in ("01", "03", "somebody else"):
        windows = pairs.brain["01" if subject == "somebody else" else subject]
        before = model.embed_fmri(windows, subject)
        for one in found.values():
            np.testing.assert_allclose(
                one.model.embed_fmri(windows, subject).pooled, before.pooled, rtol=1e-5, atol=1e-6
            )


def test_minutes_help_and_one_minute_does_no_harm(curve, make_pairs):
    _, pairs, last, found = curve
    quality = {m: top1(one.model, pairs, last)["quality"] for m, one in found.items()}
    mrr = {m: top1(one.model, pairs, last)["mrr"] for m, one in found.items()}
    assert mrr[1] > mrr[0] - 0.03
    assert quality[10] > quality[0] + 0.03
    assert mrr[10] > 1.1 * mrr[0]


def test_the_delay_of_the_new_person_is_found(curve):
    _, _, _, found = curve
    assert found[0].chosen["shift_s"] == 0
    assert abs(found[10].chosen["shift_s"] - 1.0) < 0.35


@pytest.mark.slow
def test_it_approaches_somebody_who_was_trained_on(parcels, curve, tiny, tmp_path):
    """The oracle: a model that was trained on the new person's first clips together with everybody else's."""
    _, pairs = parcels
    first, last = later(pairs)
    clips = pairs.clips.copy()
    clips.loc[clips.index[first], "split"] = "train"
    clips.loc[clips["clip_id"].isin(clips["clip_id"].iloc[last]) & (clips["subject"] == NEW), "split"] = (
        "test"
    )
    config = tiny({"epochs": 1, "encoder": {"dim": 32, "depth": 1, "heads": 2, "subject_rank": 4}})
    train_ntcl(replace(pairs, clips=clips), tmp_path, config, 0, made_by={}, geometry=GEOMETRY)
    oracle = top1(neuroalign.load(tmp_path), pairs, last)["quality"]
    adapted = top1(curve[3][10].model, pairs, last)["quality"]
    assert adapted > oracle - 0.03


def test_test_windows_are_never_looked_at(parcels):
    folder, pairs = parcels
    model = neuroalign.load(folder)
    first, last = later(pairs)
    before = adapt(model, pairs, NEW, 5, rows=first)
    windows = pairs.brain[NEW]
    spoilt = np.isin(windows.rows, last)
    rng = np.random.default_rng(0)
    levels = {
        name: np.where(spoilt[:, None, None], 100 * rng.standard_normal(x.shape), x).astype(np.float32)
        for name, x in windows.levels.items()
    }
    other = replace(pairs, brain={**pairs.brain, NEW: replace(windows, levels=levels)})
    after = adapt(model, other, NEW, 5, rows=first)
    for name, value in before.model.network.state_dict().items():
        assert torch.equal(value, after.model.network.state_dict()[name]), name
    for key, scaler in before.model.scalers.brain.items():
        np.testing.assert_array_equal(scaler.mean, after.model.scalers.brain[key].mean)
    assert before.chosen == after.chosen


def test_it_is_saved_and_loaded_with_its_origin(curve, tmp_path):
    _, pairs, last, found = curve
    found[5].model.save(tmp_path)
    again = neuroalign.load(tmp_path)
    assert again.network.architecture.subjects[-1] == NEW
    assert again.network.architecture.adapted == 1
    windows = pairs.brain[NEW].select(np.isin(pairs.brain[NEW].rows, last))
    np.testing.assert_array_equal(
        again.embed_fmri(windows, NEW).pooled, found[5].model.embed_fmri(windows, NEW).pooled
    )
    record = json.loads((tmp_path / "model.json").read_text())["adapted"][NEW]
    assert record["minutes"] == 5
    assert record["clips"] == len(found[5].rows) == 75
    assert record["target"] in ("group", "video", None)


def test_other_units_are_scaled_to_the_group(parcels):
    """A scanner with another gain and offset: with the people's scales alike, means and deviations are the person's own."""
    folder, pairs = parcels
    model = neuroalign.load(folder)
    rng = np.random.default_rng(1)
    for scaler in model.scalers.brain.values():
        # People differ in scale by as much.
        scaler.mean = scaler.mean + rng.normal(0, 50, scaler.mean.shape).astype(np.float32)
        scaler.std = scaler.std * np.exp(rng.normal(0, 1, scaler.std.shape)).astype(np.float32)
    first, _ = later(pairs)
    windows = pairs.brain[NEW]
    levels = {name: 7 * x + 300 for name, x in windows.levels.items()}
    other = replace(pairs, brain={**pairs.brain, NEW: replace(windows, levels=levels)})
    found = adapt(model, other, NEW, 10, rows=first, group=Group.of(neuroalign.load(folder), pairs))
    used = replace(windows, levels=levels).select(np.isin(windows.rows, found.rows))
    for level in used.levels:
        scaler = found.model.scalers.brain[NEW, level]
        own = used.levels[level][used.valid]
        assert np.abs(scaler.mean - own.mean(0)).max() < 0.3 * own.std(0).mean()
        np.testing.assert_allclose(scaler.std, own.std(0), rtol=0.15)


@pytest.mark.slow
def test_voxels_of_a_new_person_are_recovered(make_pairs, tiny, tmp_path):
    """Units of one's own, more than anybody had: a map from nothing."""
    everybody = make_pairs(subjects=4, clips=(150, 25, 40), noise=0.7, voxels=True, seed=5)
    new = "04"
    known = replace(
        everybody,
        clips=everybody.clips.assign(
            split=np.where(everybody.clips["subject"] == new, "guard", everybody.clips["split"])
        ),
    )
    learned = replace(known, brain={s: w for s, w in known.brain.items() if s != new})
    config = tiny({"epochs": 1, "encoder": {"dim": 32, "depth": 1, "heads": 2}})
    train_ntcl(learned, tmp_path, config, 0, made_by={}, geometry=GEOMETRY)
    model = neuroalign.load(tmp_path)
    first, last = later(known, new)
    with pytest.raises(UserError, match="their own"):
        adapt(model, known, new, 0, rows=first)
    found = {m: adapt(model, known, new, m, rows=first) for m in (2, 10)}
    short, long = (top1(found[m].model, known, last, new) for m in (2, 10))
    chance = 1 / 60
    assert short["top1"] > 3 * chance
    assert long["top1"] > 15 * chance
    assert long["quality"] > short["quality"]
    widths = found[10].model.network.architecture.brain_levels
    assert min(widths.values()) == 23
    before, after = (
        model.embed_fmri(known.brain["01"], "01"),
        found[10].model.embed_fmri(known.brain["01"], "01"),
    )
    np.testing.assert_allclose(before.pooled, after.pooled, rtol=1e-4, atol=1e-5)
    found[10].model.save(tmp_path / "again")
    again = neuroalign.load(tmp_path / "again")
    assert again.units_of(new) == known.brain[new].unit_labels
    assert top1(again, known, last, new) == long


def test_without_the_people_of_the_model_the_clips_alone_are_enough(parcels):
    folder, pairs = parcels
    model = neuroalign.load(folder)
    first, last = later(pairs)
    clips = pairs.clips[pairs.clips["subject"] == NEW].reset_index(drop=True)
    windows = replace(pairs.brain[NEW], rows=np.arange(len(clips)))
    alone = PairedDataset(clips, {NEW: windows}, pairs.video)
    found = adapt(model, alone, f"sub-{NEW}", 10, rows=np.arange(len(first)))
    assert found.chosen["target"] in ("video", None)
    assert top1(found.model, pairs, last)["quality"] > top1(model, pairs, last)["quality"] - 0.02


def test_wrong_input_is_one_sentence(parcels):
    folder, pairs = parcels
    model = neuroalign.load(folder)
    with pytest.raises(UserError, match="hold no subject '5'"):
        adapt(model, pairs, "5")
    with pytest.raises(UserError, match="knows subject '01' already"):
        adapt(model, pairs, "01", 5)
    aligned = replace(pairs, brain={s: replace(w, aligned=True) for s, w in pairs.brain.items()})
    with pytest.raises(UserError, match="other windows"):
        adapt(model, aligned, NEW, 5)
    bare = replace(pairs.brain[NEW], levels={"early": pairs.brain[NEW].levels["early"]})
    with pytest.raises(UserError, match="lack level 'intermediate'"):
        adapt(model, replace(pairs, brain={**pairs.brain, NEW: bare}), NEW, 5)


def test_a_subject_term_is_added_to_a_model_without_one(make_pairs, tiny, tmp_path):
    pairs = hold_out(make_pairs(subjects=3, clips=(60, 15, 20), aligned=True), "03")
    config = tiny({"epochs": 1, "encoder": {"dim": 16, "depth": 0, "heads": 2, "subject_rank": 0}})
    train_ntcl(pairs, tmp_path, config, 0, made_by={}, geometry={**GEOMETRY, "hrf": {"method": "none"}})
    model = neuroalign.load(tmp_path)
    grown = with_subject(
        model, "03", {level: model.scalers.brain["", level] for level in ("early", "intermediate", "high")}
    )
    for subject in ("01", "03"):
        np.testing.assert_array_equal(
            model.embed_fmri(pairs.brain[subject], subject).pooled,
            grown.embed_fmri(pairs.brain[subject], subject).pooled,
        )
    found = adapt(model, pairs, "03", 4)
    assert found.chosen["shift_s"] == 0
    assert any(patch.up[-1].abs().sum() > 0 for patch in found.model.network.encoders["fmri"].patches)


def test_only_what_is_clearly_better_replaces_the_default():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(40)
    slightly, clearly = base + 0.2 * rng.standard_normal(40), base + 0.3 + 0.1 * rng.standard_normal(40)
    assert careful_choice(np.stack([base, slightly])) == 0
    assert careful_choice(np.stack([base, slightly, clearly, clearly + 0.1])) == 3
    scores = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(margin(scores, np.array([0, 1])), [np.sqrt(2), 0])
