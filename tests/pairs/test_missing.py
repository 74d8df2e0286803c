"""Seconds that a damaged film lacks are censored: no clip needs them, and what that costs is told."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.fmri import Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.pairs.build import build_pairs
from neuroalign.pairs.missing import shorter_than_shown, whole_windows, without_clips
from neuroalign.pairs.store import read_pairs
from neuroalign.video.shards import Embedding, write_embedding

FILMS = {"a": 120.0, "b": 100.0, "c": 80.0}


class Material:
    """Two people who saw three films in a run each; a film can be broken at a second."""

    def __init__(self, folder):
        self.folder = folder
        self.rows, self.series, self.embeddings, self.records = [], {}, {}, {}
        for subject in ("01", "02"):
            for run, (film, length) in enumerate(FILMS.items(), 1):
                run_id = f"sub-{subject}_task-film_run-{run}"
                entities = {
                    "run_id": run_id,
                    "subject": subject,
                    "session": "",
                    "task": "film",
                    "run": str(run),
                }
                self.rows.append(
                    entities | {"onset": 6.0, "duration": length, "stimulus": film, "offset": 0.0}
                )
                times = np.arange(0.5, length + 30)
                data = np.stack([times] * 2, 1).astype(np.float32)
                item = RoiSeries(
                    {"early": data}, {"early": ["x", "y"]}, times, np.ones(len(times), bool), {"tr": 1.0}
                )
                self.series[run_id] = folder / f"{run_id}.h5"
                write_series(self.series[run_id], item)
        for film, length in FILMS.items():
            self.film(film, length)

    def film(self, name, claimed, at=None, window=1.0, stride=1.0):
        """Write the features and the record of a film that claims a length and may break before."""
        # What is left at 8 frames a second, and windows over it, the last reaching past the end by up to a half.
        kept = claimed if at is None else np.floor(at * 8) / 8
        count = max(1, int((kept - window / 2) / stride + 1e-6) + 1)
        times = np.arange(count) * stride + window / 2
        self.embeddings[name] = self.folder / f"{name}.h5"
        write_embedding(
            self.embeddings[name],
            Embedding({"z": times[:, None]}, times, None, {"window_s": window, "stride_s": stride}),
        )
        self.records[name] = self.folder / f"{name}.json"
        record = {
            "source": {"end_s": claimed},
            "mezzanine": {"duration_s": float(kept)},
            "damage": None if at is None else {"at_s": at, "reason": "the file is cut off"},
        }
        self.records[name].write_text(json.dumps(record))

    def build(self, **options):
        settings = {"clips": Clips(strategy="fixed"), "hrf": Hrf(), "split": Split(by="stimulus", guard_s=0)}
        return build_pairs(
            pd.DataFrame(self.rows),
            self.series,
            self.embeddings,
            self.folder / "pairs",
            **{"on_damage": "truncate"} | settings | options,
            records=self.records,
            made_by={},
        )

    @property
    def summary(self):
        return json.loads((self.folder / "pairs/summary.json").read_text())


@pytest.fixture
def material(tmp_path):
    return Material(tmp_path)


@pytest.mark.parametrize("at", [50.0, 50.3, 51.9, 52.0, 50.99])
def test_clips_that_need_missing_seconds_are_not_made(material, caplog, at):
    material.film("a", 120.0, at)
    with caplog.at_level(logging.WARNING):
        table = material.build()
    of_a = table[table["stimulus"] == "a"]
    ends = of_a["start_s"] + of_a["duration_s"]
    assert ends.max() <= at
    assert sorted(of_a["start_s"].unique()) == [4.0 * k for k in range(int(at // 4))]
    # Thirty clips for each of two people, had it been whole.
    found = material.summary["missing_video"]["a"]
    assert found == {"at_s": at, "reason": "the file is cut off", "clips": 2 * (30 - int(at // 4))}
    assert "'a' is damaged: it breaks at second" in caplog.text
    assert set(material.summary["missing_video"]) == {"a"}


def test_a_film_cut_short_before_is_refused_where_that_is_not_wanted_any_more(material):
    material.film("a", 120.0, 50.3)
    with pytest.raises(UserError, match=r"1 of 3 films were cut short .* \('a' at second 50\.3\)"):
        material.build(on_damage="error")


@pytest.mark.parametrize("on_damage", ["error", "truncate"])
def test_nothing_changes_for_whole_films(material, on_damage):
    table = material.build(on_damage=on_damage)
    assert len(table) == 2 * sum(int(length // 4) for length in FILMS.values())
    assert material.summary["missing_video"] == {}


def test_what_clips_hold_is_what_was_seen(material):
    material.film("a", 120.0, 50.4)
    material.build()
    pairs = read_pairs(material.folder / "pairs")
    for clip, data in zip(pairs.video.clip_ids, pairs.video.levels["z"], strict=True):
        start = float(clip.split("@")[1].split("+")[0])
        np.testing.assert_allclose(data[:, 0], start + pairs.video.step_times, atol=1e-3)


@pytest.mark.parametrize("at", [0.2, 1.0, 3.9])
def test_a_presentation_of_which_nothing_remains(material, at):
    material.film("a", 120.0, at)
    table = material.build()
    assert set(table["stimulus"]) == {"b", "c"}
    assert material.summary["missing_video"]["a"]["clips"] == 60
    assert read_pairs(material.folder / "pairs").clips["stimulus"].nunique() == 2


def test_one_clip_per_event(material):
    # Eight events of four seconds in every run.
    material.rows = [
        row | {"onset": 6.0 + 10 * k, "offset": 10.0 * k, "duration": 4.0}
        for row in material.rows
        for k in range(8)
    ]
    material.film("a", 120.0, 13.9)
    table = material.build(clips=Clips(strategy="events", duration_s=4))
    # A tenth of a clip may be missing from an event, because events are rounded, but not from a broken film.
    assert sorted(table[table["stimulus"] == "a"]["start_s"]) == [0.0, 0.0]
    assert material.summary["missing_video"]["a"]["clips"] == 2 * 7


def test_a_person_of_whom_nothing_is_left_is_named(material):
    material.rows = [r for r in material.rows if r["subject"] == "01" or r["stimulus"] == "a"]
    material.film("a", 120.0, 2.0)
    with pytest.raises(UserError, match=r"No usable clip is left of subject 02 .*damaged films"):
        material.build()


def test_nothing_left_at_all_is_one_sentence(material):
    for name, length in FILMS.items():
        material.film(name, length, 1.5)
    with pytest.raises(UserError, match=r"No clip is left: all need seconds .*'a' at second 1\.5"):
        material.build()


def test_a_film_of_unknown_length_is_missed_as_far_as_it_was_shown(material):
    material.film("a", 120.0, 50.0)
    record = json.loads(material.records["a"].read_text())
    record["source"]["end_s"] = None
    material.records["a"].write_text(json.dumps(record))
    for row in material.rows:
        if row["stimulus"] == "a" and row["subject"] == "02":
            row["duration"] = np.nan
    material.build()
    assert material.summary["missing_video"]["a"]["clips"] == 2 * (30 - 12)


@pytest.mark.parametrize(("window", "stride"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.75, 0.75)])
def test_no_window_is_made_of_fewer_seconds_than_it_says(window, stride):
    times = np.arange(40) * stride + window / 2
    features = Embedding({"z": times[:, None]}, times, times[:, None], {"window_s": window})
    for kept in (0.1, 5.0, 7.3, 9.999):
        whole = whole_windows(features, kept)
        assert (whole.times + window / 2 <= kept + 1e-6).all()
        assert (
            len(whole.times) == max(0, int((kept - window) / stride + 1e-6) + 1)
            if kept >= window
            else not len(whole.times)
        )
        assert len(whole.levels["z"]) == len(whole.low_level) == len(whole.times)


def test_films_that_end_before_the_events_say_are_named(caplog):
    shown = pd.DataFrame(
        {
            "stimulus": ["a", "a", "b", "c", "d"],
            "offset": [0.0, 50.0, 0.0, 0.0, 0.0],
            "duration": [90.0, 50.0, 10.9, 80.0, np.nan],
        }
    )
    with caplog.at_level(logging.WARNING):
        found = shorter_than_shown(shown, {"a": 60.0, "b": 10.0, "c": 80.0, "d": 5.0})
    assert found == {"a": {"lasts_s": 60.0, "shown_to_s": 100.0, "presentations": 2}}
    assert "1 of 4 films" in caplog.text
    assert "'a' lasts 60.0 s and is shown to second 100.0" in caplog.text


def test_stimuli_without_clips_are_named(caplog):
    shown = pd.DataFrame({"stimulus": ["long", "short", "long"]})
    with caplog.at_level(logging.WARNING):
        assert without_clips(shown, pd.DataFrame({"stimulus": ["long"]})) == ["short"]
    assert "1 of 2 stimuli give no clip (short)" in caplog.text
