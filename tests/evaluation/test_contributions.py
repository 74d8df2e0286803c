"""Contributions of levels and regions: one region carries everything, and the numbers agree with the evaluator's."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.evaluate import Evaluate
from neuroalign.errors import UserError
from neuroalign.evaluation.contributions import COLUMNS, contributions, query_values
from neuroalign.evaluation.retrieval import near_clips, outranked
from neuroalign.evaluation.retrieval import query_values as metric_values
from neuroalign.evaluation.scores import SubjectScores
from neuroalign.evaluation.trials import DIRECTIONS, make_trials, order_scores
from neuroalign.models.scaling import Scaler
from neuroalign.models.score import Embedding
from neuroalign.pairs.regions import network_of, region_of, units_by_region
from neuroalign.pairs.store import BrainWindows, PairedDataset, VideoWindows
from neuroalign.training.validation import query_quality

LABELS = {
    "early": ["LH_Vis_1", "LH_Vis_2", "RH_Vis_1"],
    "high": ["LH_Default_PFC_1", "RH_Cont_1", "RH_Default_Temp_1", "RH_Default_Temp_2"],
}
CARRIER = "RH_Vis_1"
CONFIG = Evaluate(bootstrap=200, block_s=8)


@dataclass
class LinearReader:
    """A model that is a matched filter: it adds up the z-scored units with known weights, and compares by correlation."""

    weights: dict[str, np.ndarray]
    scalers: SimpleNamespace
    passes: list[int] = field(default_factory=list)

    def units_of(self, subject):
        return LABELS

    def embed_fmri(self, windows: BrainWindows, subject: str) -> Embedding:
        self.passes.append(len(windows.rows))
        total = 0.0
        for level, x in windows.levels.items():
            scaler = self.scalers.brain[subject, level]
            total = total + ((x - scaler.mean) / scaler.std) @ self.weights[level]
        return Embedding(total.astype(np.float32), total[..., None].astype(np.float32))

    def embed_video(self, video: VideoWindows) -> Embedding:
        x = video.levels["latent"][..., 0]
        return Embedding(x, x[..., None])

    def score(self, brain: Embedding, video: Embedding) -> np.ndarray:
        b, v = (x.pooled - x.pooled.mean(1, keepdims=True) for x in (brain, video))
        norms = [np.linalg.norm(x, axis=1, keepdims=True) + 1e-6 for x in (b, v)]
        return (b / norms[0]) @ (v / norms[1]).T


def carried_by_one_region(
    subjects=("01", "02"), n=24, steps=6, repeats=1
) -> tuple[LinearReader, PairedDataset]:
    """Every region hears the film's latent course times its gain, which is 0 but for `CARRIER`; all others are noise."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, steps)).astype(np.float32)
    gains = {level: np.array([float(u == CARRIER) for u in units]) for level, units in LABELS.items()}
    rows, brain, scalers = [], {}, {}
    for subject in subjects:
        first = len(rows)
        shown = np.tile(np.arange(n), repeats)
        for k, clip in enumerate(shown):
            about = (
                "film",
                4.0 * clip,
                4.0,
                subject,
                "",
                "film",
                f"{k // n}",
                4.0 * clip,
                "test",
                "film",
                k // n,
            )
            rows.append((f"clip{clip:02d}", *about))
        levels = {}
        for level, gain in gains.items():
            # Scale and offset of a unit are its own, and its training mean is not 0.
            mean, std = rng.uniform(50, 90, len(gain)), rng.uniform(2, 5, len(gain))
            z = latent[shown][..., None] * gain + 0.4 * rng.standard_normal((len(shown), steps, len(gain)))
            levels[level] = (mean + std * z).astype(np.float32)
            scalers[subject, level] = Scaler(mean.astype(np.float32), std.astype(np.float32))
        times = np.tile(np.arange(steps) + 0.5, (len(shown), 1)).astype(np.float32)
        brain[subject] = BrainWindows(
            np.arange(first, len(rows)), levels, times, np.ones(times.shape, bool), LABELS, True
        )
    names = ("clip_id", "stimulus", "start_s", "duration_s", "subject", "session", "task", "run", "onset_s")
    clips = pd.DataFrame(rows, columns=[*names, "split", "group", "repeat"])
    video = VideoWindows(
        [f"clip{k:02d}" for k in range(n)], {"latent": latent[..., None]}, np.arange(steps) + 0.5
    )
    # The reader listens a little to everything, so that occluding noise changes scores but loses nothing.
    weights = {level: gain + 0.2 for level, gain in gains.items()}
    return LinearReader(weights, SimpleNamespace(brain=scalers)), PairedDataset(clips, brain, video)


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    return contributions(*carried_by_one_region(), CONFIG)


def row(
    found: pd.DataFrame, kind: str, name: str, metric: str = "quality", subject: str = "all"
) -> pd.Series:
    here = (found["kind"] == kind) & (found["name"] == name)
    here &= (found["metric"] == metric) & (found["subject"] == subject)
    assert here.sum() == 1
    return found[here].iloc[0]


def test_the_region_that_carries_everything_is_found(found):
    assert list(found) == list(COLUMNS)
    regions = found[(found["kind"] == "region") & (found["metric"] == "quality")].set_index("name")
    assert set(regions.index) == {u for units in LABELS.values() for u in units}
    assert regions["drop"].idxmax() == CARRIER
    assert regions.loc[CARRIER, "drop"] > 0.4
    assert regions.loc[CARRIER, "ci_low"] > 0.3
    assert regions.drop(CARRIER)["drop"].abs().max() < 0.1
    assert row(found, "whole", "all", "top1")["value"] > 0.6
    # About chance is left: 1/24.
    assert row(found, "region", CARRIER, "top1")["value"] < 0.2


def test_levels_and_networks_that_hold_it(found):
    whole = row(found, "whole", "all")["value"]
    assert row(found, "single", "early")["value"] > whole - 0.1
    assert row(found, "single", "high")["value"] < 0.5
    assert row(found, "without", "early")["value"] == pytest.approx(row(found, "single", "high")["value"])
    assert row(found, "network", "Vis")["units"] == 3
    assert row(found, "network", "Vis")["value"] == pytest.approx(row(found, "without", "early")["value"])
    assert set(found[found["kind"] == "network"]["name"]) == {"Vis", "Default", "Cont"}
    for kind, name in (("single", "early"), ("without", "early"), ("whole", "all")):
        people = [row(found, kind, name, subject=s)["value"] for s in ("01", "02")]
        assert row(found, kind, name)["value"] == pytest.approx(np.mean(people))


def test_drops_are_differences_and_the_whole_brain_loses_nothing(found):
    wide = found[found["subject"] == "all"].set_index(["kind", "name", "metric"])
    for metric in ("quality", "top1"):
        whole = wide.loc[("whole", "all", metric), "value"]
        rows = wide.xs(metric, level="metric")
        np.testing.assert_allclose(rows["drop"], whole - rows["value"], atol=1e-9)
        assert (rows["ci_low"] <= rows["drop"] + 1e-9).all()
        assert (rows["ci_high"] >= rows["drop"] - 1e-9).all()
    assert wide.loc[("whole", "all", "quality"), ["drop", "ci_low", "ci_high"]].abs().max() == 0


def test_occluding_is_the_training_mean_of_the_windows_done_by_hand(found):
    model, pairs = carried_by_one_region()
    qualities = []
    for subject in pairs.subjects:
        windows, rows = pairs.of(subject, "test")
        windows = windows.select(np.arange(len(windows.rows)))
        windows.levels["early"][..., 2] = model.scalers.brain[subject, "early"].mean[2]
        scores = model.score(
            model.embed_fmri(windows, subject), model.embed_video(pairs.video.select(np.unique(rows)))
        )
        # An independent version of the criterion: training's own.
        qualities.append(query_quality(scores, rows).mean())
    assert row(found, "region", CARRIER)["value"] == pytest.approx(np.mean(qualities), abs=1e-6)


def test_several_occlusions_share_a_pass_and_the_data_stay_as_they_were():
    model, pairs = carried_by_one_region(subjects=("01",))
    before = {level: x.copy() for level, x in pairs.brain["01"].levels.items()}
    contributions(model, pairs, CONFIG)
    # 15 occlusions (whole, 4 of levels, 3 networks, 7 regions) of 24 windows.
    assert model.passes == [15 * 24]
    for level, x in before.items():
        np.testing.assert_array_equal(pairs.brain["01"].levels[level], x)


def test_no_test_window_is_one_sentence():
    model, pairs = carried_by_one_region()
    with pytest.raises(UserError, match="validation split holds no clip"):
        contributions(model, pairs, CONFIG, "validation")


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 8), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_query_values_equal_those_of_the_evaluator(clips, repeats, seed, tied):
    """Top-1 of both directions, repeats and ties included, as `trials` and `retrieval` compute it."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(clips)] * repeats)
    scores = rng.standard_normal((len(truth), clips)).astype(np.float32)
    if tied:
        scores = np.round(scores)
    table = pd.DataFrame(
        {
            "clip_id": [f"c{k}" for k in truth],
            "stimulus": "film",
            "start_s": 4.0 * truth,
            "duration_s": 4.0,
            **dict.fromkeys(("subject", "session", "task", "run"), "1"),
            "onset_s": 4.0 * np.arange(len(truth)),
            "split": "test",
        }
    )
    item = order_scores(
        SubjectScores(np.arange(len(truth)), [f"c{k}" for k in range(clips)], {"fused": scores}), table
    )
    expected = []
    for direction in DIRECTIONS:
        t = make_trials(item, "fused", table, "1", 0, direction)
        near = near_clips(t.stimulus, t.start_s, t.duration_s, 0.0)
        expected.append(metric_values("top1", *outranked(t.scores, near).at(t.query, t.candidate)))
    np.testing.assert_allclose(query_values(scores, truth)[1], np.concatenate(expected))


def test_regions_and_networks_by_label():
    assert region_of("LH_Vis_1@3,4,5") == region_of("LH_Vis_1") == "LH_Vis_1"
    assert {k: v.tolist() for k, v in units_by_region(["a@1,1,1", "b", "a@2,1,1"]).items()} == {
        "a": [0, 2],
        "b": [1],
    }
    for label, network in {
        "7Networks_LH_Default_PFC_1": "Default",
        "RH_SalVentAttn_Med_2": "SalVentAttn",
        "17Networks_LH_VisCent_ExStr_1": "VisCent",
        "RH_TempPar_3": "TempPar",
        "Left_Hippocampus": "",
        "left_early_1": "",
    }.items():
        assert network_of(label) == network
