"""The paired dataset on disk says what went in: windows, clips and provenance belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.fmri import Hrf
from neuroalign.config.pairs import Clips, Split
from neuroalign.errors import UserError
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.pairs.build import build_pairs, read_geometry
from neuroalign.pairs.store import read_pairs
from neuroalign.video.shards import Embedding, write_embedding

FILMS = {"a": 200.0, "b": 160.0, "c": 180.0}


@pytest.fixture
def material(tmp_path):
    """Two subjects, one run a film, the first with another TR; the signal of a unit is film time itself."""
    rows, series = [], {}
    for subject, tr in (("01", 2.0), ("02", 1.3)):
        for run, (film, length) in enumerate(FILMS.items(), 1):
            run_id = f"sub-{subject}_task-film_run-{run}"
            rows.append(
                {
                    **{"run_id": run_id, "subject": subject, "session": "", "task": "film", "run": str(run)},
                    **{"onset": 7.7, "duration": length, "stimulus": film, "offset": 0.0},
                }
            )
            times = (np.arange(int((length + 25) / tr)) + 0.5) * tr
            data = np.stack([times - 7.7] * 3, 1).astype(np.float32)
            units = list("xyz")
            keep = np.arange(len(times)) != 3
            item = RoiSeries(
                {"early": data, "high": data},
                {"early": units, "high": units},
                times,
                keep,
                {"tr": tr, "subject": subject},
            )
            series[run_id] = tmp_path / f"{run_id}.h5"
            write_series(series[run_id], item)
    embeddings = {}
    for film, length in FILMS.items():
        times = np.arange(int(length)) + 0.5
        embeddings[film] = tmp_path / f"{film}.h5"
        write_embedding(
            embeddings[film], Embedding({"z-low": times[:, None], "a-high": times[:, None] * [1, 1]}, times)
        )
    return pd.DataFrame(rows), series, embeddings


def build(material, out, **options):
    rows, series, embeddings = material
    settings = {"clips": Clips(strategy="fixed"), "hrf": Hrf(), "split": Split(by="stimulus")} | options
    return build_pairs(rows, series, embeddings, out, **settings, made_by={"config": "x"})


def test_brain_and_video_of_a_clip_are_the_same_seconds(material, tmp_path):
    table = build(material, tmp_path / "pairs")
    pairs = read_pairs(tmp_path / "pairs")
    assert list(pairs.clips["clip_id"]) == list(table["clip_id"])
    assert list(pairs.video.levels) == ["z-low", "a-high"]
    for subject, windows in pairs.brain.items():
        rows = pairs.clips.iloc[windows.rows]
        assert (rows["subject"] == subject).all()
        # The signal is film time, so volume time after clip start = signal - clip start.
        signal = windows.levels["early"][..., 0] - rows["start_s"].to_numpy()[:, None]
        np.testing.assert_allclose(signal[windows.valid], windows.times[windows.valid], atol=1e-3)
        video = pairs.video.levels["z-low"][pairs.video.rows_of(rows["clip_id"])][..., 0]
        np.testing.assert_allclose(
            video, rows["start_s"].to_numpy()[:, None] + pairs.video.step_times, atol=1e-4
        )
    assert not pairs.brain["01"].aligned
    assert read_geometry(tmp_path / "pairs")["duration_s"] == 4.0


@pytest.mark.parametrize(("guard", "reach"), [(6.0, 6.0), (40.0, 20.0)])
def test_the_surround_of_a_training_clip_holds_no_second_of_a_test_clip(material, tmp_path, guard, reach):
    """Features are film time: the mean around a clip says how far it reached, and the guard bounds it."""
    build(material, tmp_path / "pairs", split=Split(by="time", guard_s=guard))
    pairs = read_pairs(tmp_path / "pairs")
    assert read_geometry(tmp_path / "pairs")["surround_s"] == reach
    clips = pairs.clips.drop_duplicates("clip_id")
    for clip in clips.itertuples():
        row = pairs.video.rows_of([clip.clip_id])[0]
        seconds = np.arange(int(FILMS[clip.stimulus])) + 0.5
        near = seconds[(seconds > clip.start_s - reach) & (seconds < clip.start_s + 4 + reach)]
        assert pairs.video.surround["z-low"][row, 0] == pytest.approx(near.mean(), abs=1e-3)
        assert pairs.video.surround_share[row] == pytest.approx(len(near) / (4 + 2 * reach), abs=1e-6)
        tested = clips[(clips["split"] == "test") & (clips["stimulus"] == clip.stimulus)]
        if clip.split == "train":
            for start in tested["start_s"]:
                assert not ((near > start) & (near < start + 4)).any()


def test_parts_are_read_with_their_video(material, tmp_path):
    build(material, tmp_path / "pairs", hrf=Hrf(method="shift"))
    pairs = read_pairs(tmp_path / "pairs")
    windows, video_rows = pairs.of("02", "test")
    assert windows.aligned
    assert set(pairs.clips.iloc[windows.rows]["split"]) == {"test"}
    assert [pairs.video.clip_ids[r] for r in video_rows] == list(pairs.clips.iloc[windows.rows]["clip_id"])


def test_folds_are_read_one_at_a_time(material, tmp_path):
    build(material, tmp_path / "pairs", split=Split(by="stimulus", folds=3))
    parts = [
        set(read_pairs(tmp_path / "pairs", fold).clips.query("split == 'test'")["stimulus"])
        for fold in range(3)
    ]
    assert sorted(map(sorted, parts)) == [["a"], ["b"], ["c"]]


def test_the_same_input_gives_the_same_bytes(material, tmp_path):
    build(material, tmp_path / "one")
    build(material, tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_delay_is_not_counted_twice(material, tmp_path):
    times = np.arange(200) + 0.5
    write_embedding(
        material[2]["a"],
        Embedding(
            {"z-low": times[:, None], "a-high": times[:, None] * [1, 1]}, times, None, {"hrf_convolved": True}
        ),
    )
    with pytest.raises(UserError, match=r"hrf.method to none"):
        build(material, tmp_path / "pairs")


def test_a_subject_without_usable_clips_is_named(material, tmp_path):
    for run_id, path in material[1].items():
        if "sub-02" in run_id:
            short = RoiSeries(
                {"early": np.zeros((3, 1))}, {"early": ["x"]}, np.arange(3.0), np.ones(3, bool), {"tr": 1.0}
            )
            write_series(path, short)
    with pytest.raises(UserError, match="subject 02"):
        build(material, tmp_path / "pairs")
