"""Work done ahead of its use: frames are decoded in a thread while a model computes on those before them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# How long the thread may take to notice that nobody wants more.
_NOTICE_S = 0.1


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Take items from an iterable in a thread, before they are asked for.

    Parameters
    ----------
    items : iterable
        Iterated in a thread of its own, which helps where making an item waits or computes outside the interpreter
        lock, as decoders do.
    depth : int
        Items that may wait. Beside them one is being made, and one is in use.

    Yields
    ------
    object
        The items, in their order.

    Raises
    ------
    BaseException
        Whatever `items` raised, once the items before it were given.

    Notes
    -----
    Close the iterator (``contextlib.closing``) where it may be left before its end: that ends the thread, after the item
    it is making.
    """
    line: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(depth)
    left = threading.Event()

    def put(item: Item | None, error: BaseException | None = None, last: bool = False) -> None:
        while not left.is_set():
            try:
                line.put((item, error, last), timeout=_NOTICE_S)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if left.is_set():
                    return
        except BaseException as error:
            put(None, error, last=True)
        else:
            put(None, last=True)

    thread = threading.Thread(target=work, name="neuroalign-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = line.get()
            if error is not None:
                raise error
            if last:
                return
            yield item
            del item
    finally:
        left.set()
        thread.join()
