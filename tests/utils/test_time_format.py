"""Durations and times as text."""

from datetime import UTC, datetime

import pytest

from phase2hpc.utils.time_format import format_duration, format_time, utc_now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.9, "0:00:59"),
        (3723, "1:02:03"),
        (86_400 * 2 + 3723, "2-01:02:03"),
        (-5, "0:00:00"),
        (float("inf"), "11574-01:46:40"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_times_are_local(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert format_time(datetime(2026, 1, 2, 20, 4, 5, tzinfo=UTC)) == "2026-01-03 05:04:05"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert utc_now().utcoffset().total_seconds() == 0
