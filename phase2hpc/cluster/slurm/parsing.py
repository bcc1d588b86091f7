"""Parsing of Slurm's notation: times, array elements, exit codes, empty values."""

from __future__ import annotations

import re
from datetime import datetime


def parse_duration(text: str) -> int | None:
    """Seconds of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for UNLIMITED, INVALID, ..."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + rest


def expand_array(job: str) -> list[str]:
    """The job ids of ``12``, ``12_3`` or ``12_[0-3,8-20:4%2]``."""
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    found = []
    for part in match[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found += [
            f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1, int(step or 1))
        ]
    return found


def parse_exit_code(text: str) -> int | None:
    """Exit code from ``code:signal`` (sacct) or a wait(2) status (squeue); 128 plus the signal's
    number for a job that was killed."""
    if match := re.fullmatch(r"(\d+):(\d+)", text.strip()):
        code, number = int(match[1]), int(match[2])
    elif text.strip().isdigit():
        code, number = int(text) >> 8, int(text) & 0x7F
    else:
        return None
    return 128 + number if number else code


def parse_value(text: str) -> str:
    """A value without blanks; empty for Slurm's notations of an empty value."""
    text = text.strip()
    return "" if text in ("None", "None assigned", "(null)", "N/A", "n/a") else text


def parse_time(text: str) -> datetime | None:
    """A time of Slurm's, in the local time zone; None for ``N/A`` and the like."""
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        return None
