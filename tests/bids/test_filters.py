"""Filters take a part of the dataset, or say what there is."""

from __future__ import annotations

import re

import pytest
import yaml

from neuroalign.bids.index import build_index
from neuroalign.errors import UserError


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 5),
        ({"subject": "01"}, 3),
        ({"subject": "sub-01"}, 3),
        ({"subject": 1}, 3),
        ({"session": ["ses-a", "b"]}, 3),
        ({"session": "a"}, 2),
        ({"task": "film"}, 4),
        ({"task": ["task-film", "rest"]}, 5),
        ({"run": 1}, 3),
        ({"run": ["01", "run-2"]}, 4),
        ({"subject": "02", "run": "1"}, 1),
    ],
)
def test_filters_take_labels_with_or_without_prefix(bids, filters, expected):
    bids.run("sub-01_ses-a_task-film_run-01").run("sub-01_ses-a_task-film_run-02").run(
        "sub-01_ses-b_task-film_run-1"
    )
    bids.run("sub-02_task-film_run-1").run("sub-02_task-rest")
    assert len(build_index(bids.config(**filters)).runs) == expected


def test_a_number_names_a_padded_label_only_if_no_label_is_that_number(bids):
    bids.run("sub-1_task-film").run("sub-01_task-film")
    assert build_index(bids.config(subject=1)).runs["subject"].tolist() == ["1"]


def octal_trap(bids):
    return bids.run("sub-008_task-film_run-1").run("sub-010_task-film_run-010")


@pytest.mark.parametrize("written", ["{subject: 010}", "{subject: [008, 010]}", "{run: 010}"])
def test_a_label_that_yaml_reads_in_octal_is_refused(bids, written):
    octal_trap(bids)
    with pytest.raises(UserError, match=r"can mean '010', which YAML reads as 8 .* put the label in quotes"):
        build_index(bids.config(**yaml.safe_load(written)))


def test_a_declaration_with_a_label_that_yaml_reads_in_octal_is_refused(bids):
    octal_trap(bids)
    films = yaml.safe_load("[{stimulus: a.mp4, subject: 010}]")
    (problem,) = build_index(bids.config(presentations=films)).problems
    assert problem.startswith("dataset.presentations[0]: subject 8 can mean '010'")


@pytest.mark.parametrize(("written", "subject"), [('"010"', "010"), ("'8'", "008"), ("008", "008")])
def test_quoted_labels_and_those_that_are_no_octal_number_are_taken(bids, written, subject):
    octal_trap(bids)
    filters = yaml.safe_load(f"{{subject: {written}}}")
    assert build_index(bids.config(**filters)).runs["subject"].tolist() == [subject]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"task": "flim"}, "no run matches task 'flim'; found tasks: film, rest; did you mean 'film'?"),
        ({"task": ["film", "moive"]}, "no run matches task 'moive'; found tasks: film, rest"),
        ({"subject": "sub-03"}, "no run matches subject '03'; found subjects: 01, 02; did you mean '02'?"),
        ({"session": "1"}, "no run matches session '1'; found sessions: none"),
        ({"run": 3}, "no run matches run '3'; found runs: 1"),
        ({"subject": "02", "task": "rest"}, "no run matches the filters together (subject 02; task rest)"),
    ],
)
def test_a_filter_that_matches_nothing_names_what_there_is(bids, filters, sentence):
    bids.run("sub-01_task-film_run-1").run("sub-01_task-rest").run("sub-02_task-film_run-1")
    with pytest.raises(UserError, match=re.escape(sentence)):
        build_index(bids.config(**filters))
