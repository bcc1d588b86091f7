"""Iteration ahead of the consumer, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# Seconds between looks at whether the consumer is still there.
_PATIENCE = 0.5


def prefetched(items: Iterator[Item], ahead: int) -> Generator[Item, None, None]:
    """The items, taken by a thread up to ``ahead`` before they are asked for.

    An exception of ``items`` is raised in its place. ``items`` is closed, in its thread, if the
    consumer stops early.
    """
    # (item,) for an item, () for the end, an exception for itself.
    taken: queue.Queue[tuple[Item] | tuple[()] | BaseException] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(value: tuple[Item] | tuple[()] | BaseException) -> bool:
        while not stopped.is_set():
            try:
                taken.put(value, timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def take() -> None:
        try:
            for item in items:
                if not put((item,)):
                    break
            else:
                put(())
        except BaseException as error:  # raised by the consumer
            put(error)
        finally:
            if close := getattr(items, "close", None):
                close()

    thread = threading.Thread(target=take, name="prefetch", daemon=True)
    thread.start()
    try:
        while found := taken.get():
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stopped.set()
        thread.join(timeout=10 * _PATIENCE)
