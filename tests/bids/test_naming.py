"""Names: round trips, order, identity of runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.bids.naming import (
    ENTITY_ORDER,
    bare_label,
    build_name,
    parse_entities,
    parse_name,
    plain_index,
    run_folder,
    run_id,
)

LABELS = st.text("abcXYZ0189+", min_size=1, max_size=8)
ENTITIES = st.dictionaries(st.sampled_from([*ENTITY_ORDER, "desc", "own"]), LABELS, min_size=1, max_size=8)


@settings(deadline=None)
@given(ENTITIES, st.sampled_from(["bold", "T1w", "events"]), st.sampled_from(["", ".nii.gz", ".tsv", ".h5"]))
def test_a_name_is_what_it_was_built_from(entities, suffix, extension):
    parsed = parse_name("some/folder/" + build_name(entities, suffix, extension))
    assert (dict(parsed.entities), parsed.suffix, parsed.extension) == (entities, suffix, extension)
    assert parse_name(str(parsed)) == parsed


@settings(deadline=None)
@given(ENTITIES)
def test_entities_come_in_bids_order_whatever_the_order_given(entities):
    name = build_name(dict(reversed(entities.items())), "bold")
    assert name == build_name(entities, "bold")
    keys = [key for key in parse_entities(name) if key in ENTITY_ORDER]
    assert keys == sorted(keys, key=ENTITY_ORDER.index)
    if "desc" in entities:
        assert list(parse_entities(name))[-1] == "desc"


@settings(deadline=None)
@given(LABELS, LABELS, LABELS, st.integers(1, 99))
def test_a_run_id_gives_its_entities_back(subject, session, task, run):
    identity = run_id(f"sub-{subject}", session, f"task-{task}", str(run))
    assert parse_entities(identity) == {"sub": subject, "ses": session, "task": task, "run": str(run)}


def test_run_ids_leave_out_what_is_absent_and_versions_of_one_acquisition():
    assert run_id("01", task="film") == "sub-01_task-film"
    assert run_id("01", "02", "film", "1", acq="fast", echo="2") == "sub-01_ses-02_task-film_acq-fast_run-1"
    assert run_folder("01") == "sub-01/func"
    assert run_folder("sub-01", "ses-02") == "sub-01/ses-02/func"


@pytest.mark.parametrize("name", ["sub-01", "sub_bold.nii", "sub-01_sub-02_bold.nii", "sub-_bold.nii", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="not a BIDS file name"):
        parse_name(name)


def test_padding_of_indices_does_not_distinguish_runs():
    assert plain_index("01") == plain_index("1") == "1"
    assert plain_index("0a") == "0a"
    assert parse_name("sub-01_run-01_bold.nii").key() == parse_name("sub-01_run-1_bold.nii").key()
    assert parse_name("sub-01_run-1_bold.nii").key() != parse_name("sub-1_run-1_bold.nii").key()
    assert bare_label("subject", "sub-01") == "01"
