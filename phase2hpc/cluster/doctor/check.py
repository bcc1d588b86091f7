"""Result of a check, and the text of a list of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """``found``: the finding; ``advice``: what to do if it is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def warn(name: str, found: str, advice: str) -> Check:
    return Check(name, "warn", found, advice)


def fail(name: str, found: str, advice: str) -> Check:
    return Check(name, "fail", found, advice)


def checks_text(checks: Iterable[Check]) -> str:
    """One line per check with status, name and finding, its advice below."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        margin = " " * (width + 8)
        if check.advice:
            lines += textwrap.wrap(
                f"-> {check.advice}", 100, initial_indent=margin, subsequent_indent=f"{margin}   "
            )
    return "\n".join(lines)
