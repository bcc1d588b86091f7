"""How Slurm writes lengths of time, arrays, exit codes and nothing."""

from __future__ import annotations

import re
from datetime import datetime


def seconds(text: str) -> int | None:
    """Slurm's D-HH:MM:SS, HH:MM:SS or MM:SS; None for UNLIMITED, INVALID and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + rest


def elements(job: str) -> list[str]:
    """The ids that '12', '12_3' or '12_[0-3,8-20:4%2]' stands for."""
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


def exit_code(text: str) -> int | None:
    """From 'code:signal' (sacct), or a status as wait(2) gives it (squeue): the code, or 128 and
    the signal's number."""
    if match := re.fullmatch(r"(\d+):(\d+)", text.strip()):
        code, number = int(match[1]), int(match[2])
    elif text.strip().isdigit():
        code, number = int(text) >> 8, int(text) & 0x7F
    else:
        return None
    return 128 + number if number else code


def said(text: str) -> str:
    """Nothing for the words by which Slurm says so."""
    text = text.strip()
    return "" if text in ("None", "None assigned", "(null)", "N/A", "n/a") else text


def local_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        return None
