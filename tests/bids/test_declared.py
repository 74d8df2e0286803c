"""Films without events, declared in the configuration."""

from __future__ import annotations

import re

import numpy as np
import pytest

from neuroalign.bids.declared import is_rest
from neuroalign.bids.index import build_index
from neuroalign.errors import UserError

FILM = "onset\tduration\tstim_file\n0\t10\tfilm.mp4\n"
BARE = "onset\tduration\ttrial_type\n0\t3\tbutton\n"
ODDBALLS = "onset\tduration\tstim_file\n0\t3\tn/a\n"


def shown(index) -> dict[str, list[tuple]]:
    """Per run: stimulus, onset, duration (None where open), offset."""
    rows: dict[str, list[tuple]] = {}
    for row in index.presentations.to_dict("records"):
        duration = None if np.isnan(row["duration"]) else row["duration"]
        rows.setdefault(row["run_id"], []).append((row["stimulus"], row["onset"], duration, row["offset"]))
    return rows


def test_a_declared_film_fills_in_where_events_tell_nothing(bids):
    bids.run("sub-01_task-film", events=None).run("sub-02_task-film", events=BARE)
    bids.run("sub-03_task-film", events=ODDBALLS).run("sub-04_task-film", events=FILM)
    films = [{"stimulus": "stimuli/long/a film.mp4", "onset": 6.0, "duration": 300, "offset": 12.5}]
    index = build_index(bids.config(presentations=films))
    assert index.problems == []
    declared = ("long__a-film", 6.0, 300.0, 12.5)
    assert shown(index) == {
        **{f"sub-0{n}_task-film": [declared] for n in (1, 2, 3)},
        "sub-04_task-film": [("film", 0.0, 10.0, 0.0)],
    }
    assert index.presentations["stimulus_file"][0] == str(bids.root / "stimuli/long/a film.mp4")
    # A table that is not used is no input of anything.
    assert index.runs["events"].map(bool).tolist() == [False, False, False, True]


def test_events_are_replaced_only_where_that_is_said(bids):
    bids.run("sub-01_task-film", events=FILM).run("sub-02_task-film", events=FILM)
    films = [
        {"stimulus": "new.mp4", "subject": 1, "replace_events": True, "duration": 20},
        {"stimulus": "more.mp4", "onset": 20},
    ]
    index = build_index(bids.config(presentations=films))
    assert index.problems == []
    assert shown(index) == {
        "sub-01_task-film": [("new", 0.0, 20.0, 0.0), ("more", 20.0, None, 0.0)],
        "sub-02_task-film": [("film", 0.0, 10.0, 0.0)],
    }


def test_a_broken_table_is_told_unless_it_is_replaced(bids):
    bids.run("sub-01_task-film", events="onset\tduration\tstim_file\nsoon\t3\ta.mp4\n")
    film = {"stimulus": "new.mp4"}
    (problem,) = build_index(bids.config(presentations=[film])).problems
    assert "onset is 'soon' in line 2" in problem
    assert build_index(bids.config(presentations=[film | {"replace_events": True}])).problems == []


def test_labels_say_which_runs_and_several_films_follow_each_other(bids):
    for session in ("a", "b"):
        for run in (1, 2):
            bids.run(f"sub-01_ses-{session}_task-film_run-0{run}", events=None)
    films = [
        {"stimulus": "one.mp4", "session": "a", "run": 1, "duration": 60},
        {"stimulus": "two.mp4", "session": "ses-a", "run": "01", "onset": 60.0},
        {"stimulus": "three.mp4", "session": ["a"], "run": 2},
        {"stimulus": "four.mp4", "session": "b", "task": "film"},
    ]
    index = build_index(bids.config(presentations=films))
    assert index.problems == []
    assert {run[7:]: [s for s, *_ in items] for run, items in shown(index).items()} == {
        "ses-a_task-film_run-01": ["one", "two"],
        "ses-a_task-film_run-02": ["three"],
        "ses-b_task-film_run-01": ["four"],
        "ses-b_task-film_run-02": ["four"],
    }


def test_rest_shows_nothing_unless_it_is_named(bids):
    bids.run("sub-01_task-film", events=None).run("sub-01_task-rest", events=None)
    film = {"stimulus": "a.mp4"}
    assert build_index(bids.config(presentations=[film])).runs["task"].tolist() == ["film"]
    films = [film, film | {"task": ["rest"]}]
    assert build_index(bids.config(presentations=films)).runs["task"].tolist() == ["film", "rest"]


@pytest.mark.parametrize(
    ("task", "rest"),
    [
        *(
            (task, True)
            for task in ("rest", "Rest", "REST", "rest1", "REST2", "restEO", "restAP", "rest+film")
        ),
        *(
            (task, True)
            for task in ("resting", "restingstate", "RestingState", "restingStateRun2", "reststate")
        ),
        *(
            (task, True)
            for task in ("resteyesopen", "restEyesClosed", "restopen", "restclosed", "resteo", "restpre")
        ),
        *(
            (task, False)
            for task in ("restaurant", "Restaurant", "RESTAURANT", "restless", "restore", "forrest")
        ),
        *((task, False) for task in ("restoration2", "restopera", "film", "")),
    ],
)
def test_rest_is_told_by_whole_words(task, rest):
    assert is_rest(task) is rest


def test_a_film_whose_name_begins_like_rest_is_shown(bids):
    bids.run("sub-01_task-restaurant", events=None).run("sub-01_task-restEO", events=None)
    index = build_index(bids.config(presentations=[{"stimulus": "a.mp4"}]))
    assert (index.problems, index.runs["task"].tolist()) == ([], ["restaurant"])


def test_a_declaration_for_a_filtered_out_run_is_no_error(bids):
    bids.run("sub-01_task-film", events=None).run("sub-02_task-film", events=None)
    films = [{"stimulus": "a.mp4", "subject": "01"}, {"stimulus": "b.mp4", "subject": "02"}]
    index = build_index(bids.config(presentations=films, subject="01"))
    assert index.problems == []
    assert list(shown(index)) == ["sub-01_task-film"]


def test_a_declaration_that_events_win_over_is_logged(bids, caplog):
    bids.run("sub-01_task-film", events=FILM)
    index = build_index(bids.config(presentations=[{"stimulus": "a.mp4"}]))
    assert index.problems == []
    assert "not used for sub-01_task-film, whose events name stimuli; set replace_events" in caplog.text


A = {"stimulus": "a.mp4", "duration": 60}
OVERLAP = r"dataset.presentations\[0\] and \[1\] overlap in sub-01_task-film, sub-02_task-film; correct"


@pytest.mark.parametrize(
    ("films", "sentence"),
    [
        (
            [{"stimulus": "a.mp4", "task": "flim"}],
            r"dataset.presentations\[0\]: no run matches task 'flim'; found tasks: film; did you mean 'film'",
        ),
        (
            [A, {"stimulus": "b.mp4", "subject": "01", "run": 1}],
            r"dataset.presentations\[1\]: no run matches run '1'; found runs: none",
        ),
        (
            [{"stimulus": "../a.mp4"}],
            r"dataset.presentations\[0\]: stimulus '../a.mp4' points outside the stimuli",
        ),
        ([{"stimulus": "/etc/x"}], r"dataset.presentations\[0\]: stimulus '/etc/x' points outside"),
        ([{"stimulus": "."}], r"dataset.presentations\[0\]: stimulus '.' names no file"),
        ([A, {"stimulus": "b.mp4", "onset": 30}], OVERLAP),
        ([{"stimulus": "b.mp4"}, {"stimulus": "a.mp4"}], OVERLAP),
        (
            [A, {"stimulus": "b.mp4", "onset": 60, "duration": 1}, {"stimulus": "c.mp4", "onset": 59}],
            r"dataset.presentations\[0\] and \[2\] overlap",
        ),
    ],
)
def test_a_wrong_declaration_is_a_sentence(bids, films, sentence):
    bids.run("sub-01_task-film", events=None).run("sub-02_task-film", events=None)
    problems = build_index(bids.config(presentations=films)).problems
    assert [p for p in problems if re.search(sentence, p)], problems


def test_a_long_film_under_two_short_ones_overlaps_with_both(bids):
    bids.run("sub-01_task-film", events=None)
    shorts = [{"stimulus": "b.mp4", "onset": t, "duration": 5} for t in (10, 20)]
    problems = build_index(bids.config(presentations=[A, *shorts])).problems
    assert [re.findall(r"\[(\d)\]", p) for p in problems] == [["0", "1"], ["0", "2"]]


def test_declarations_that_hold_for_no_run_together_are_told(bids):
    bids.run("sub-01_task-film_run-1", events=FILM).run("sub-02_task-film_run-2", events=FILM)
    (problem,) = build_index(bids.config(presentations=[A | {"subject": "01", "run": 2}])).problems
    assert problem == (
        "dataset.presentations[0] (a.mp4) holds for no run (subject 01; run 2); correct its labels."
    )


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"stimulsu": "a.mp4"}, "unknown key 'dataset.presentations.0.stimulsu'; did you mean 'stimulus'"),
        ({"onset": 3}, "dataset.presentations.0.stimulus"),
        ({"stimulus": "a.mp4", "duration": 0}, "dataset.presentations.0.duration"),
        ({"stimulus": "a.mp4", "offset": -1}, "dataset.presentations.0.offset"),
    ],
)
def test_a_misspelt_declaration_is_refused_with_its_place(bids, entry, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        bids.config(presentations=[entry])
