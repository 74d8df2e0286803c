"""Work done ahead of its use: frames are decoded in threads while a model computes on those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 1, depth: int = 2
) -> Iterator[Result]:
    """Call a function for each task in threads, before the results are asked for.

    Parameters
    ----------
    function : callable
        Runs in other threads, which helps where it waits or computes outside the interpreter lock, as decoders do.
    tasks : iterable
        Taken in the caller's thread, one for each result that is asked for.
    workers : int
        Threads.
    depth : int
        Results that may wait. Beside them `workers` are being made, and one is in use.

    Yields
    ------
    object
        The results, in the order of the tasks.

    Raises
    ------
    BaseException
        Whatever `function` raised, in place of its result.

    Notes
    -----
    Close the iterator (``contextlib.closing``) where it may be left before its end: that ends the threads, once each has
    done what it is doing.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="neuroalign-ahead")
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > workers + depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
