"""Working ahead in threads: order, bounds, errors, and an end."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import count

import pytest

from neuroalign.video.prefetch import ahead


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("neuroalign-ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not _threads()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_all_results_in_order(n, workers):
    def square(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert list(ahead(square, range(n), workers)) == [i * i for i in range(n)]


def test_results_may_be_none():
    assert list(ahead(lambda _: None, range(3))) == [None] * 3


@pytest.mark.parametrize(("workers", "depth"), [(1, 1), (1, 3), (3, 2)])
def test_no_more_than_so_many_results_are_made_ahead(workers, depth):
    lock, begun, used, most = threading.Lock(), 0, 0, 0

    def make(i):
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - used)
        return i

    with closing(ahead(make, range(40), workers, depth)) as stream:
        for i in stream:
            # Long enough for the threads to do all that they may.
            time.sleep(0.01 if i < 10 else 0)
            with lock:
                used += 1
    assert begun == used == 40
    # One in use, and those that wait or are being made.
    assert depth + 1 < most <= workers + depth + 1


def test_work_goes_on_while_a_result_is_in_use():
    second = threading.Event()

    def make(i):
        if i == 1:
            second.set()
        return i

    with closing(ahead(make, range(5), 1, 1)) as stream:
        assert next(stream) == 0
        assert second.wait(5)


def test_workers_work_at_once():
    together = threading.Barrier(3)
    assert list(ahead(lambda i: together.wait(5) >= 0, range(6), workers=3)) == [True] * 6


def test_an_error_arrives_as_it_was_after_the_results_before_it():
    error = KeyError("as it was")

    def make(i):
        if i == 1:
            raise error
        return i

    stream = ahead(make, range(3))
    assert next(stream) == 0
    with pytest.raises(KeyError) as caught:
        next(stream)
    assert caught.value is error


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_ends_the_threads(taken, workers):
    with closing(ahead(bytes, count(1000), workers)) as stream:
        for _ in range(taken):
            next(stream)
    assert not _threads()


def test_an_error_of_the_user_ends_the_threads():
    def use():
        with closing(ahead(bytes, count())) as stream:
            for _ in stream:
                raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        use()
