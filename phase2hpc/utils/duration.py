"""Durations in Slurm's notation."""

from __future__ import annotations

import re

# Longer than any job; a time estimate may be absurd.
_MAX_SECONDS = 1e9


def format_duration(seconds: float) -> str:
    """``H:MM:SS``, or ``D-HH:MM:SS`` from one day on; fractions of a second are cut."""
    minutes, rest = divmod(int(max(0.0, min(seconds, _MAX_SECONDS))), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-{hours:02d}" if days else f"{hours}") + f":{minutes:02d}:{rest:02d}"


def parse_duration(text: str) -> int | None:
    """Seconds of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``, as Slurm prints them; None for
    anything else (UNLIMITED, INVALID)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + rest


def parse_hours(text: str) -> float | None:
    """Hours of ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``, ``HH:MM:SS`` or ``HH``; None for anything
    else.

    Raises ValueError for ``12:30``, which Slurm reads as minutes and seconds and people do not.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d?))?(?::(\d\d?))?", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if match[1] is None and match[3] is not None and match[4] is None:
        raise ValueError("ambiguous (minutes and seconds, or hours and minutes): write HH:MM:SS")
    return 24 * days + hours + minutes / 60 + seconds / 3600
