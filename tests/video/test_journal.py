"""The side file of a job: whatever happens to it, it gives back whole parts or none."""

from __future__ import annotations

import fcntl
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.video.journal import Journal, side_file

PARTS = [b"one", b"", b"three" * 1000, b"\0" * 7]


@pytest.fixture(scope="module")
def destination(tmp_path_factory):
    return tmp_path_factory.mktemp("journal") / "film.h5"


def _write(destination, parts=PARTS, identity="a"):
    side_file(destination).unlink(missing_ok=True)
    with Journal(destination, identity) as journal:
        for part in parts:
            journal.append(part)


def _read(destination, identity="a"):
    with Journal(destination, identity) as journal:
        return list(journal)


def test_parts_come_back(destination):
    _write(destination)
    assert side_file(destination).name == ".film.h5.partial"
    assert _read(destination) == PARTS
    with Journal(destination, "a") as journal:
        assert journal.count == 4
        assert list(journal) == PARTS
        journal.append(b"more")
        assert list(journal) == [*PARTS, b"more"]
        journal.append(b"and more")
    assert _read(destination) == [*PARTS, b"more", b"and more"]


def test_parts_of_something_else_are_thrown_away(destination, caplog):
    _write(destination)
    with caplog.at_level("INFO"):
        assert _read(destination, "b") == []
    assert "starting over" in caplog.text
    assert _read(destination, "a") == []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_gives_the_parts_before(destination, data):
    _write(destination)
    content = side_file(destination).read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    rubbish = data.draw(st.binary(max_size=40))
    side_file(destination).write_bytes(content[:cut] + rubbish)
    found = _read(destination)
    assert found == PARTS[: len(found)]
    # What is there can be gone on with, and nothing of the rubbish comes back.
    with Journal(destination, "a") as journal:
        journal.append(b"next")
    assert _read(destination) == [*found, b"next"]
    if cut == len(content):
        assert found == PARTS


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_noticed(destination, data):
    _write(destination)
    content = bytearray(side_file(destination).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    side_file(destination).write_bytes(content)
    found = _read(destination)
    assert len(found) < len(PARTS)
    assert found == PARTS[: len(found)]


def test_a_second_job_keeps_to_itself(destination, caplog):
    _write(destination, PARTS[:1])
    with Journal(destination, "a") as first, Journal(destination, "a") as second:
        assert "another job holds it" in caplog.text
        assert (first.count, second.count) == (1, 0)
        second.append(b"second")
        first.append(b"first")
        second.remove()
        assert list(second) == [b"second"]
    assert _read(destination) == [b"one", b"first"]


def test_a_file_system_without_locks(destination, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    _write(destination, PARTS[:1])
    monkeypatch.setattr(fcntl, "flock", refuse)
    with Journal(destination, "a") as journal:
        assert journal.count == 0
        journal.append(b"here")
        assert list(journal) == [b"here"]
    assert "Function not implemented" in caplog.text


def test_a_file_deleted_while_waiting_for_it_is_made_anew(destination, monkeypatch):
    _write(destination, PARTS[:1])
    real, calls = fcntl.flock, []

    def late(file, operation):
        # The job that held it finishes between the opening and the locking.
        if not calls:
            os.unlink(side_file(destination))
        calls.append(operation)
        return real(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with Journal(destination, "a") as journal:
        assert len(calls) == 2
        journal.append(b"new")
    assert _read(destination) == [b"new"]


def test_removed_when_done(destination):
    _write(destination)
    with Journal(destination, "a") as journal:
        journal.remove()
        journal.remove()
    assert not side_file(destination).exists()
