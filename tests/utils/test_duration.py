"""Durations in Slurm's notation."""

import pytest

from phase2hpc.utils.duration import format_duration, parse_duration, parse_hours


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (-5, "0:00:00"), (61.9, "0:01:01"), (5400, "1:30:00"), (86399, "23:59:59"),
     (86400, "1-00:00:00"), (2 * 86400 + 3660, "2-01:01:00"), (float("inf"), "11574-01:46:40")],
)  # fmt: skip
def test_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    if 0 <= seconds < 1e9:
        assert parse_duration(text) == int(seconds)
        assert parse_hours(text) == pytest.approx(int(seconds) / 3600)


@pytest.mark.parametrize("text", ["UNLIMITED", "INVALID", "", "1", "1-02", "a:b"])
def test_what_slurm_writes_instead_of_a_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "hours"),
    [("2", 2.0), ("1-0", 24.0), ("1-12:30", 36.5), ("00:30:00", 0.5), ("0.5", None), ("x", None)],
)
def test_hours_of_a_user(text: str, hours: float | None) -> None:
    assert parse_hours(text) == hours


def test_hours_and_minutes_are_ambiguous() -> None:
    with pytest.raises(ValueError, match="HH:MM:SS"):
        parse_hours("12:30")
