"""Working ahead in a thread: order, bounds, errors, and an end."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from neuroalign.video.prefetch import ahead


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "neuroalign-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not _threads()


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_all_items_in_order(n):
    assert list(ahead(range(n))) == list(range(n))


def test_items_may_be_none():
    assert list(ahead([None, None])) == [None, None]


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_so_many_items_are_made_ahead(depth):
    made, used, most = 0, 0, 0

    def items():
        nonlocal made, most
        for i in range(30):
            made += 1
            # This one is in the making, and counts until its user asks for the next.
            most = max(most, made - used)
            yield i

    with closing(ahead(items(), depth)) as stream:
        for i in stream:
            time.sleep(0.01 if i < 10 else 0)
            used += 1
    assert made == used == 30
    # Those that wait, one being made, one in use.
    assert depth < most <= depth + 2


def test_work_goes_on_while_an_item_is_in_use():
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    with closing(ahead(items(), 1)) as stream:
        assert next(stream) == 1
        assert second.wait(5)


def test_an_error_arrives_as_it_was_after_the_items_before_it():
    error = KeyError("as it was")

    def items():
        yield 1
        raise error

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(KeyError) as caught:
        next(stream)
    assert caught.value is error


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_ends_the_thread(taken):
    def endless():
        while True:
            yield bytes(1000)

    with closing(ahead(endless(), 2)) as stream:
        for _ in range(taken):
            next(stream)
    assert not _threads()


def test_an_error_of_the_user_ends_the_thread():
    def use():
        with closing(ahead(iter(int, 1))) as stream:
            for _ in stream:
                raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        use()
