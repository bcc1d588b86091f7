"""Detection of a last value that is cut: a number with fewer digits is still a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DECIMALS = re.compile(r"[+-]?\d*\.(\d+)")


def ends_openly(data: bytes) -> bool:
    """True if the last byte of a file belongs to a value: most programs end a file with a line
    end."""
    return not data.rstrip(b"\0")[-1:].isspace()


def looks_truncated(last: str, others: Sequence[str]) -> bool:
    """True if ``last`` lacks decimals that all of ``others``, at least two, have in equal
    number."""
    matches = [_DECIMALS.fullmatch(value) for value in others]
    digits = {len(match[1]) if match else 0 for match in matches}
    if len(others) < 2 or len(digits) != 1:
        return False
    expected = digits.pop()
    found = _DECIMALS.fullmatch(last)
    return expected >= 3 and (len(found[1]) if found else 0) < expected
