"""The page of a stimulus: its numbers are those of the files, and it is drawn from what there is."""

from __future__ import annotations

import base64
import io
import json
import re
from itertools import pairwise

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.io import write_tsv
from neuroalign.plan_stimuli import MOST_IN_REPORT
from neuroalign.report.results import Results
from neuroalign.report.stimuli import section
from neuroalign.report.stimuli_overview import MOST_PICTURES, read_seen, sheet, write_overview
from neuroalign.report.stimulus_checks import checks
from neuroalign.report.stimulus_features import LevelCourse, change_at, half_life, shrink
from neuroalign.report.stimulus_page import clock, write_stimulus_page
from neuroalign.video.look import MOST_PICTURES as MOST_ON_SHEET
from neuroalign.video.look import look_at, picture_times
from neuroalign.video.normalise import normalise
from neuroalign.video.shards import Embedding, write_embedding

FPS, SECONDS = 8, 12
# Seconds at which a picture of another colour begins; the fourth is still, and the fifth black.
COLOURS = {0.0: (200, 40, 40), 2.0: (40, 60, 200), 4.5: (40, 190, 60), 6.0: (230, 230, 210), 8.5: (0, 0, 0)}


def write_film(path) -> None:
    """Rectangles that move over a plain ground, another ground from each of the times of `COLOURS` on."""
    import av

    starts = np.array(list(COLOURS))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for k in range(FPS * SECONDS):
            shot = int((starts <= k / FPS).sum()) - 1
            picture = np.empty((120, 160, 3), np.uint8)
            picture[:] = COLOURS[starts[shot]]
            if shot < 4:
                left = 10 + (0 if shot == 3 else 3 * (k % 30))
                picture[20 * shot : 20 * shot + 40, left : left + 30] = 255 - picture[0, 0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def features(
    windows: int = SECONDS, dims=(6, 40), seed: int = 0, *, low_level: bool = True, **attributes
) -> Embedding:
    """Features that differ from shot to shot, and a little from window to window."""
    rng = np.random.default_rng(seed)
    times = np.arange(windows) + 0.5
    shot = np.searchsorted(list(COLOURS), times, side="right")
    levels = {
        name: (rng.normal(size=(9, dim))[shot] + 0.2 * rng.normal(size=(windows, dim))).astype(np.float32)
        for name, dim in zip(("early", "late"), dims, strict=True)
    }
    low = rng.uniform(1, 50, (windows, 3)).astype(np.float32) if low_level else None
    given = {"backbone": "made", "window_s": 1.0, "stride_s": 1.0, "hrf_convolved": False}
    return Embedding(levels, times, low, given | attributes)


class Made:
    """Writes pages into a folder, and reads them."""

    def __init__(self, folder):
        self.folder = folder
        write_film(folder / "in.mp4")
        self.film = {"video": folder / "film.mp4", "record": folder / "film.json"}
        normalise(folder / "in.mp4", self.film["video"], self.film["record"], Video(height=120))

    def write(
        self, embedding: Embedding, *, film: bool = True, name: str = "film", instead=None, **files
    ) -> tuple[str, dict]:
        write_embedding(self.folder / "features.h5", embedding)
        with h5py.File(self.folder / "features.h5", "r+") as file:
            for dataset, values in (instead or {}).items():
                del file[dataset]
                file[dataset] = values
        given = {"features": self.folder / "features.h5", **(self.film if film else {}), **files}
        page, record = self.folder / f"{name}.html", self.folder / f"{name}-look.json"
        write_stimulus_page(name, given, page, record)
        return page.read_text(encoding="utf-8"), json.loads(record.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("stimulus"))


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def images(html: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        for content in re.findall(r'<img src="data:image/(?:jpeg|png);base64,([^"]+)"', html)
    ]


def state(record: dict, label: str) -> str:
    return next(c["state"] for c in record["checks"] if c["label"] == label)


# --- pages --------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_files(made):
    html, record = made.write(features())
    film = record["film"]
    assert [t["onset"] for t in film["transitions"]] == list(COLOURS)[1:]
    assert (film["frames"], film["fps"], film["duration_s"], film["shots"]) == (96, 8.0, 12.0, 5)
    assert film["still_s"] == pytest.approx(SECONDS - 8.5, abs=0.3)
    assert film["black_s"] == pytest.approx(SECONDS - 8.5, abs=0.2)
    assert record["features"]["levels"] == {"early": 6, "late": 40}
    text = words(html)
    for told in (
        "96 frames at 8 a second, 160 × 120 pixels",
        "4 cuts",
        "made: 2 levels, 46 features",
        "0 of 46",
    ):
        assert told in text
    for start, stop in pairwise([*COLOURS, SECONDS]):
        assert f"{start:.3f}" in text or start == 0
        assert f"{stop - start:.3f}" in text
    assert state(record, "Still or black") == "look"
    assert state(record, "Time axis") == "good"


def test_the_contact_sheet_shows_every_shot_in_its_middle(made):
    html, _ = made.write(features())
    pictures = images(html)[: len(COLOURS)]
    for picture, colour in zip(pictures, COLOURS.values(), strict=True):
        np.testing.assert_allclose(picture[-10:, :].mean(axis=(0, 1)), colour, atol=12)
    edges = [*COLOURS, SECONDS]
    for start, stop in pairwise(edges):
        assert f"Frame at {clock((start + stop) / 2)}, shot" in html


def test_the_page_needs_nothing_else(made):
    html, _ = made.write(features())
    assert not re.findall(r"<(script|iframe|link rel=.stylesheet)", html)
    assert set(re.findall(r'href="([^#"][^"]*)"', html)) == {"data:,", "../../report/index.html"}
    assert all(src.startswith("data:image/") for src in re.findall(r'src="([^"]*)"', html))
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', html)
    assert len(alts) == len(COLOURS) + 2
    assert all(len(alt) > 20 for alt in alts)
    again, _ = made.write(features())
    assert again == html


def test_without_a_film_the_page_says_so_and_draws_the_features(made):
    html, record = made.write(features(low_level=False), film=False)
    text = words(html)
    assert "There are no pictures" in text
    assert "Light, contrast and motion are not known" in text
    assert record["film"] is None
    assert len(images(html)) == 2
    assert "Shots" not in {c["label"] for c in record["checks"]}


@pytest.mark.parametrize("low_level", [np.ones((3, 3)), np.ones((SECONDS, 2)), np.full((SECONDS, 3), np.nan)])
def test_numbers_of_light_that_do_not_fit_are_left_out(made, low_level):
    html, _ = made.write(features(), film=False, instead={"low_level": low_level})
    assert "/low_level needs three finite numbers per window" in words(html)
    assert len(images(html)) == 2


@pytest.mark.parametrize(("windows", "pictures"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_films_of_few_windows(made, windows, pictures):
    html, record = made.write(features(windows), film=False)
    assert len(images(html)) == pictures
    assert record["features"]["windows"] == windows


def test_one_feature_that_never_changes_is_not_drawn(made):
    embedding = features(dims=(1, 1), low_level=False)
    embedding.levels["early"][:] = 3.0
    html, record = made.write(embedding, film=False)
    assert len(images(html)) == 1
    assert state(record, "Constant features") == "bad"
    assert "all of early" in words(html)


def test_damage_and_complaints_are_told(made):
    record = json.loads(made.film["record"].read_text())
    told = made.folder / "told.json"
    told.write_text(json.dumps(record | {"warnings": ["[error] <b>bad</b> picture"]}))
    html, numbers = made.write(features(), record=told)
    assert state(numbers, "Original") == "look"
    assert "&lt;b&gt;bad&lt;/b&gt; picture" in html
    told.write_text(json.dumps(record | {"damage": {"at_s": 12.04, "reason": "it is cut off"}}))
    html, numbers = made.write(features(), record=told)
    assert "breaks at 12.0 s" in words(html)
    assert "it is cut off" in words(html)
    told.write_text(json.dumps(record | {"mezzanine": record["mezzanine"] | {"frames": 99}}))
    assert state(made.write(features(), record=told)[1], "Film") == "bad"


@pytest.mark.parametrize(
    ("windows", "shift", "expected"),
    [(12, 0.0, "good"), (11, 0.0, "good"), (9, 0.0, "bad"), (15, 0.0, "bad"), (12, 3.0, "bad")],
)
def test_features_must_cover_the_film(made, windows, shift, expected):
    embedding = features(windows)
    embedding.times = embedding.times + shift
    assert state(made.write(embedding)[1], "Time axis") == expected


@pytest.mark.parametrize(
    ("times", "window_s", "expected", "words"),
    [
        (np.arange(12) + 0.5, 1.0, "good", "is covered"),
        (np.arange(7) + 5.5, 1.0, "bad", "the first 5.0 s of the film have no features"),
        (np.arange(16) - 3.5, 1.0, "bad", "begin 4.0 s before the film"),
        (np.arange(3) * 4 + 0.5, 1.0, "look", "3 of every 4 s have no features"),
        (np.arange(12) + 1.0, 2.0, "good", "is covered"),
    ],
)
def test_where_the_film_has_no_features_is_told(made, times, window_s, expected, words):
    embedding = features(len(times))
    embedding.times, embedding.attributes = times, embedding.attributes | {"window_s": window_s}
    _, record = made.write(embedding)
    (check,) = (c for c in record["checks"] if c["label"] == "Time axis")
    assert check["state"] == expected
    assert words in check["remark"]


def test_windows_must_be_evenly_spaced(made):
    embedding = features()
    embedding.times = np.delete(np.arange(SECONDS + 1) + 0.5, 5)
    assert state(made.write(embedding, film=False)[1], "Time axis") == "bad"


def test_captions_stand_under_their_pictures(made):
    text = features(dims=(5, 5), low_level=False)
    text.levels = {"text": text.levels["late"]}
    write_embedding(made.folder / "captions.h5", text)
    said = [f"caption <{k}>" for k in range(SECONDS - 1)] + [""]
    with h5py.File(made.folder / "captions.h5", "a") as file:
        file["captions"] = said
    html, _ = made.write(features(), captions=made.folder / "captions.h5")
    middles = np.convolve([*COLOURS, SECONDS], [0.5, 0.5], "valid")
    for middle in middles[:-1]:
        assert f"{clock(middle)} caption &lt;{int(middle - 1e-6)}&gt;" in html
    assert "text with 5 features" in html


def test_missing_files_are_sentences(made, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        write_stimulus_page("x", {"features": tmp_path / "none.h5"}, tmp_path / "x.html", tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_changes_at_cuts_are_told_apart_from_those_of_another_film(made):
    look, own = look_at(made.film["video"]), features()
    other = features()
    other.levels = {name: np.roll(data, 1, axis=0) for name, data in own.levels.items()}
    ratios = {}
    for name, embedding in (("own", own), ("other", other)):
        levels = [LevelCourse(*pair) for pair in embedding.levels.items()]
        ratios[name] = float(
            next(c.value for c in checks(embedding, levels, look, None) if c.label == "Change at cuts")
        )
    assert ratios["own"] > 3
    assert ratios["other"] < 1


# --- numbers ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 30), st.integers(3, 12), st.integers(0, 2**20))
def test_changes_and_likeness_are_correlations(windows, dim, seed):
    data = np.random.default_rng(seed).normal(size=(windows, dim)).astype(np.float32)
    level = LevelCourse("x", data)
    z = (data - data.mean(axis=0)) / data.std(axis=0)
    r = np.corrcoef(z)
    np.testing.assert_allclose(level.change[1:], 1 - np.diag(r, 1), atol=2e-3)
    np.testing.assert_allclose(level.similarity(), r, atol=2e-3)
    lags = np.arange(windows // 2 + 1)
    np.testing.assert_allclose(level.alike(lags), [np.diag(r, lag).mean() for lag in lags], atol=2e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_shrinking_keeps_means_and_is_no_more_than_asked(n, most):
    data = np.arange(n, dtype=float)[None]
    small = shrink(data, most, axis=1)
    step = -(-n // most)
    naive = [data[0, k : k + step].mean() for k in range(0, n, step)]
    np.testing.assert_allclose(small[0], naive)
    assert small.shape[1] <= most


def test_a_carpet_holds_every_row_once_side_by_side_with_its_like():
    rng = np.random.default_rng(0)
    waves = np.stack([np.sin(np.arange(200) / 9), np.cos(np.arange(200) / 9)])
    kind = rng.integers(0, 2, 60)
    level = LevelCourse("x", (waves[kind].T + 0.05 * rng.normal(size=(200, 60))).astype(np.float32))
    carpet = level.carpet()
    np.testing.assert_allclose(np.sort(carpet[:, 7]), np.sort(level.z[7]), rtol=1e-6)
    is_first = np.array([abs(np.corrcoef(row, waves[0])[0, 1]) > 0.7 for row in carpet])
    assert (np.diff(is_first.astype(int)) != 0).sum() <= 2


def test_half_life_lies_between_the_lags():
    lags = np.arange(5) * 2.0
    assert half_life(lags, np.array([1.0, 0.8, 0.4, 0.2, 0.1])) == pytest.approx(2 + 2 * 0.75)
    assert np.isnan(half_life(lags, np.ones(5)))


def test_a_cut_lies_between_two_windows():
    change = np.array([np.nan, 0.1, 0.9, 0.1, 0.2])
    assert change_at(change, np.arange(5) + 0.5, np.array([2.0])) == (0.9, 0.1, 1)
    across, _, n = change_at(change, np.arange(5) + 0.5, np.array([0.2, 4.9]))
    assert np.isnan(across)
    assert n == 0


@pytest.mark.parametrize("shots", [1, 2, 36, 37, 500])
def test_a_contact_sheet_is_bounded(shots):
    times = picture_times(np.linspace(0, 1000, shots + 1), 1000.0)
    assert 1 <= len(times) <= MOST_ON_SHEET
    assert 0 < times[0] < times[-1] < 1000
    assert len(times) == shots or not 1 < shots <= MOST_ON_SHEET


def test_times_read_like_a_clock():
    assert [clock(t) for t in (3, 75.5, 59.96, 3675, 7322.25)] == [
        "0:03",
        "1:15.5",
        "1:00",
        "1:01:15",
        "2:02:02.2",
    ]


# --- many stimuli -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(made, tmp_path_factory):
    """Records of 40 stimuli, of which the last has a problem."""
    folder = tmp_path_factory.mktemp("many")
    _, record = made.write(features())
    files = []
    for k in range(40):
        one = json.loads(json.dumps(record | {"stimulus": f"clip-{k:02d}"}))
        if k == 39:
            one["checks"][0]["state"] = "bad"
        files.append(folder / f"clip-{k:02d}.json")
        files[-1].write_text(json.dumps(one))
    return files


def test_the_overview_has_a_picture_and_a_link_for_each(many, tmp_path):
    write_overview(many, tmp_path / "stimuli.html")
    html = (tmp_path / "stimuli.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(stimuli/clip-\d\d\.html)"', html)
    assert links == [f"stimuli/clip-{k:02d}.html" for k in range(40)]
    assert len(images(html)) == 40
    assert "40 stimuli, 8.0 min in all" in words(html)
    assert "200 shots were found, of 2.4 s on average" in words(html)
    assert len(html) < 40 * 12_000
    assert MOST_PICTURES * len(html) / 40 < 40e6


def test_few_places_are_for_those_that_want_a_look(many):
    shown = sheet(read_seen(many), "x", 5)
    assert [clip.href for clip in shown.clips] == [f"x/clip-{k:02d}.html" for k in (0, 1, 2, 3, 39)]
    assert "5 of 40" in shown.caption


def report_section(folder, config=None):
    return section(Results(folder, config or {}))


def test_the_report_shows_a_few_and_leads_to_all(many, tmp_path):
    stimuli = tmp_path / "quality" / "stimuli"
    stimuli.mkdir(parents=True)
    for file in many:
        (stimuli / file.name).write_text(file.read_text())
    (tmp_path / "quality" / "stimuli.html").touch()
    shown = report_section(tmp_path)
    assert len(shown.blocks[0].clips) == MOST_IN_REPORT
    assert shown.blocks[0].clips[-1].href == "../quality/stimuli/clip-39.html"
    assert shown.blocks[1].links == [("all stimuli", "../quality/stimuli.html")]
    assert shown.reading[1] == "1 of 40 has a problem: clip-39 (film)."
    # Those of an earlier configuration are not shown; few have a table of their numbers.
    table = pd.DataFrame({"stimulus": ["clip-01", "clip-02"], "run_id": "sub-01_task-x"})
    write_tsv(tmp_path / "index" / "presentations.tsv", table)
    shown = report_section(tmp_path)
    assert [clip.href for clip in shown.blocks[0].clips] == [
        f"../quality/stimuli/clip-0{k}.html" for k in (1, 2)
    ]
    assert [row[0] for row in shown.blocks[1].rows] == ["clip-01", "clip-02"]


def test_a_report_without_pages_of_stimuli_says_so(tmp_path):
    shown = report_section(tmp_path)
    assert not shown.blocks
    assert "quality/stimuli/" in shown.absent[0]


def test_names_with_spaces_and_signs_are_addresses(many):
    seen = read_seen(many[:1])
    seen[0].record = {**seen[0].record, "stimulus": "a film #2 <b>"}
    assert sheet(seen, "x", 5).clips[0].href == "x/a%20film%20%232%20%3Cb%3E.html"


def test_a_record_of_something_else_is_a_sentence(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="not the record of a stimulus's page"):
        read_seen([tmp_path / "a.json"])
