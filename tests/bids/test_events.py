"""Events tables of all kinds."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.bids.events import (
    FRAME_S,
    PRESENTATION_COLUMNS,
    NoStimFile,
    presentations,
    read_events,
    stimulus_ids,
)
from neuroalign.errors import UserError

RUN = {"run_id": "sub-01_task-film", "subject": "01", "session": "", "task": "film", "run": ""}


def events(text: str) -> pd.DataFrame:
    """A table as `read_events` gives it, from text with spaces for tabs."""
    rows = "\n".join("\t".join(line.split()) for line in text.strip().splitlines())
    table = pd.read_csv(io.StringIO(rows), sep="\t", dtype={"stim_file": str, "trial_type": str})
    return table.assign(stim_file=table["stim_file"].fillna("")) if "stim_file" in table else table


def shown(text: str) -> pd.DataFrame:
    return presentations(RUN, events(text), "data/stimuli", "events.tsv")


def test_one_row_per_clip_skips_fixation_and_oddballs():
    table = shown(
        """
        onset duration stim_file trial_type
        8.0 3.0 train/0002.mp4 train
        4.0 3.0 train/0001.mp4 train
        12.0 3.0 n/a oddball
        """
    )
    assert list(table.columns) == list(PRESENTATION_COLUMNS)
    assert table["stimulus"].tolist() == ["train__0001", "train__0002"]
    assert table["stimulus_file"].tolist() == ["data/stimuli/train/0001.mp4", "data/stimuli/train/0002.mp4"]
    assert table["onset"].tolist() == [4.0, 8.0]
    assert table["trial_type"].tolist() == ["train", "train"]
    assert set(table["run_id"]) == {"sub-01_task-film"}


@pytest.mark.parametrize(
    "name",
    [
        "film.mp4",
        "stimuli/film.mp4",
        "/stimuli/film.mp4",
        "./film.mp4",
        "bids::stimuli/film.mp4",
        "../stimuli/film.mp4",
        "./../../stimuli/film.mp4",
        "a/../film.mp4",
    ],
)
def test_the_prefix_of_the_stimuli_folder_is_optional(name):
    assert shown(f"onset duration stim_file\n0 10 {name}")["stimulus_file"].tolist() == [
        "data/stimuli/film.mp4"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../film.mp4",
        "/etc/passwd",
        "stimuli/../../x.mp4",
        "a/../../b.mp4",
        "bids::../x.mp4",
        "../stimuli/../../x.mp4",
    ],
)
def test_a_stimulus_outside_the_folder_is_refused(name):
    with pytest.raises(UserError, match=r"events.tsv: stim_file .* points outside the stimuli folder"):
        shown(f"onset duration stim_file\n0 10 {name}")


def test_a_stimulus_that_is_the_folder_itself_is_refused():
    with pytest.raises(UserError, match="names no file"):
        shown("onset duration stim_file\n0 10 .")


def test_an_unknown_duration_stays_missing():
    table = shown("onset duration stim_file\n0 n/a a.mp4\n20 0 b.mp4\n40 5 c.mp4")
    assert table["duration"].isna().tolist() == [True, True, False]


def test_stim_offset_says_where_in_the_film_a_presentation_begins():
    table = shown(
        "onset duration stim_file stim_offset\n0 60 film.mp4 0\n70 60 film.mp4 60\n140 60 film.mp4 n/a"
    )
    assert table["offset"].tolist() == [0.0, 60.0, 0.0]


@pytest.mark.parametrize("durations", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_rows_of_frames_become_one_presentation(durations, offsets):
    step = 0.04
    lines = ["onset duration stim_file stim_offset trial_type"]
    for start, name in ((5.0, "a.mp4"), (15.0, "b.mp4"), (25.0, "a.mp4")):
        for frame in range(50):
            duration = step if durations else "n/a"
            offset = 30 + frame * step if offsets else "n/a"
            lines.append(f"{start + frame * step:.3f} {duration} {name} {offset} scene{frame // 20}")
    table = shown("\n".join(lines))
    assert table["stimulus"].tolist() == ["a", "b", "a"]
    np.testing.assert_allclose(table["onset"], [5, 15, 25])
    np.testing.assert_allclose(table["duration"], 2.0)
    np.testing.assert_allclose(table["offset"], 30 if offsets else 0)
    assert table["trial_type"].tolist() == ["scene0"] * 3


def test_clips_shown_twice_in_a_row_stay_two_presentations():
    assert len(shown("onset duration stim_file\n0 3 a.mp4\n3 3 a.mp4")) == 2


def test_a_row_per_response_is_no_repeat_of_the_film():
    table = shown(
        """
        onset duration stim_file stim_offset trial_type
        0 60 a.mp4 0 yes
        0 60 b.mp4 0 yes
        0 n/a a.mp4 0 no
        0 60 a.mp4 n/a no
        70 n/a a.mp4 0 yes
        70 60 a.mp4 0 no
        """
    )
    assert table["stimulus"].tolist() == ["a", "b", "a"]
    assert table["onset"].tolist() == [0.0, 0.0, 70.0]
    assert table["duration"].tolist() == [60.0] * 3
    assert table["trial_type"].tolist() == ["yes"] * 3


def test_frames_with_several_rows_each_are_one_presentation():
    rows = "\n".join(f"{frame * 0.1:.1f} .1 a.mp4" for frame in range(20) for _ in range(2))
    table = shown(f"onset duration stim_file\n{rows}")
    np.testing.assert_allclose(table[["onset", "duration"]], [[0.0, 2.0]])


@pytest.mark.parametrize("between", ["", "20 5 b.mp4\n", "20 70 b.mp4\n"])
def test_a_file_that_is_shown_twice_at_once_is_refused(between):
    with pytest.raises(
        UserError, match=r"^events.tsv: 'a.mp4' is shown from 10 to 70 s and again from 40 s; give"
    ):
        shown(f"onset duration stim_file\n10 60 a.mp4\n{between}40 60 a.mp4")


def test_a_short_showing_within_a_long_one_does_not_hide_it():
    with pytest.raises(UserError, match="is shown from 0 to 2 s and again"):
        shown("onset duration stim_file stim_offset\n0 2 a.mp4 0\n0 9 b.mp4 0\n1.9 1 a.mp4 5\n")


def test_different_files_at_once_are_told_only(caplog):
    caplog.set_level("INFO")
    table = shown("onset duration stim_file\n0 60 a.mp4\n10 5 b.mp4\n60 60 a.mp4\n119.97 9 a.mp4")
    assert table["stimulus"].tolist() == ["a", "b", "a", "a"]
    assert "events.tsv: 'a.mp4' is still shown when 'b.mp4' begins at 10 s" in caplog.text


def test_a_jump_in_the_film_ends_a_presentation():
    table = shown(
        "onset duration stim_file stim_offset\n0 .1 a.mp4 0\n.1 .1 a.mp4 .1\n.2 .1 a.mp4 60\n.3 .1 a.mp4 60.1"
    )
    assert table["offset"].tolist() == [0.0, 60.0]
    np.testing.assert_allclose(table["duration"], 0.2)


def test_a_missing_column_is_one_sentence_that_names_what_there_is():
    with pytest.raises(
        NoStimFile,
        match=r"no column 'stim_file' \(found: onset, duration, stimfile\); did you mean 'stimfile'",
    ):
        shown("onset duration stimfile\n0 3 a.mp4")
    with pytest.raises(UserError, match="no column 'duration'"):
        shown("onset stim_file\n0 a.mp4")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("soon 3 a.mp4 0", "onset is 'soon' in line 3"),
        ("n/a 3 a.mp4 0", "onset is 'n/a' in line 3"),
        ("5 long a.mp4 0", "duration is 'long' in line 3"),
        ("5 -3 a.mp4 0", "duration is negative in line 3"),
        ("5 3 a.mp4 -1", "stim_offset is negative in line 3"),
        ("inf 3 a.mp4 0", "onset is 'inf' in line 3"),
    ],
)
def test_a_wrong_number_is_named_with_its_line(row, sentence):
    with pytest.raises(UserError, match=sentence):
        shown(f"onset duration stim_file stim_offset\n0 3 a.mp4 0\n{row}")


def test_a_wrong_number_in_a_row_without_stimulus_does_not_matter():
    assert len(shown("onset duration stim_file\n0 3 a.mp4\nn/a n/a n/a")) == 1


def test_no_stimulus_at_all_gives_an_empty_table():
    table = shown("onset duration stim_file\n0 3 n/a")
    assert table.empty
    assert list(table.columns) == list(PRESENTATION_COLUMNS)


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path):
    path = tmp_path / "events.tsv"
    path.write_bytes("\ufeffonset\tduration\tstim_file\r\n1.5\t3\tclips\\0042.mp4\r\n".encode())
    table = presentations(RUN, read_events(path), "stimuli")
    assert table[["onset", "stimulus_file"]].values.tolist() == [[1.5, "stimuli/clips/0042.mp4"]]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1.0, 30.0), st.sampled_from(["a.mp4", "b.mp4", "n/a"]), st.integers(1, 40)),
        min_size=1,
        max_size=8,
    )
)
def test_presentations_survive_being_written_frame_by_frame(showings):
    """Each showing, written as one row or as many frame rows, gives the same table."""
    step = FRAME_S / 2
    whole, frames, onset = [], [], 0.0
    for gap, name, count in showings:
        onset += gap
        whole.append((onset, count * step, name))
        frames += [(onset + i * step, step, name) for i in range(count)]
        onset += count * step
    columns = ["onset", "duration", "stim_file"]
    tables = [
        presentations(RUN, pd.DataFrame(rows, columns=columns).replace("n/a", ""), "stimuli")
        for rows in (whole, frames)
    ]
    pd.testing.assert_frame_equal(*tables)


NAMES = st.lists(
    st.text("abA/._ é-1", min_size=1, max_size=8).map(lambda t: str(PurePosixPath("x" + t.strip("/ ")))),
    max_size=12,
)


@settings(deadline=None)
@given(NAMES)
def test_ids_are_safe_and_unique_even_where_case_is_ignored(names):
    ids = stimulus_ids(names)
    assert set(ids) == set(names)
    assert len({i.casefold() for i in ids.values()}) == len(ids)
    assert all(
        i
        and i[0] not in ".-"
        and not set(i) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        for i in ids.values()
    )
    assert ids == stimulus_ids(reversed(names))


def test_files_that_differ_by_extension_only_carry_it():
    assert stimulus_ids(["a/film.mp4", "a/film.avi", "b.mp4"]) == {
        "a/film.mp4": "a__film_mp4",
        "a/film.avi": "a__film_avi",
        "b.mp4": "b",
    }
