"""Durations and times as text."""

from __future__ import annotations

from datetime import UTC, datetime

_MAX_SECONDS = 1e9


def utc_now() -> datetime:
    """The current time, with its zone."""
    return datetime.now(UTC)


def format_duration(seconds: float) -> str:
    """``1:02:03``, with days ``2-01:02:03``, as Slurm's squeue writes it."""
    minutes, rest = divmod(int(max(0.0, min(seconds, _MAX_SECONDS))), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-{hours:02d}" if days else f"{hours}") + f":{minutes:02d}:{rest:02d}"


def format_time(time: datetime) -> str:
    """``2026-11-26 13:45:02`` in this machine's time zone."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
