"""Iteration ahead in a thread: order, errors, end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from phase2hpc.utils.prefetch import prefetched


def test_all_items_in_order() -> None:
    assert list(prefetched(iter(range(1000)), 7)) == list(range(1000))
    assert list(prefetched(iter([None, 0, (), ""]), 1)) == [None, 0, (), ""]
    assert list(prefetched(iter([]), 1)) == []


def test_at_most_as_many_ahead_as_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    ahead = prefetched(items(), 5)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(taken) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # Five wait, one is on its way.
    assert taken == list(range(7))
    ahead.close()


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("second")

    ahead = prefetched(items(), 5)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="second"):
        next(ahead)


def test_items_are_closed_if_the_consumer_stops() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = prefetched(items(), 2)
    next(ahead)
    ahead.close()
    assert closed.wait(5)
