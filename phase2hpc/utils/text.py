"""Checks of names that come from files, and escapes of control characters."""

from __future__ import annotations

import unicodedata

MAX_NAME_LENGTH = 1000
# Control characters, surrogates, and the Unicode line and paragraph separators.
_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name_problem(text: str) -> str | None:
    """The reason why a text cannot be an id or a property name; None if it can.

    Names go into tables, logs and files with one line per crystal, so they must be one line.
    """
    if not text:
        return "is empty"
    if len(text) > MAX_NAME_LENGTH:
        return f"has {len(text)} characters, more than {MAX_NAME_LENGTH}"
    # A fast path: printable text has no control characters.
    if text.isprintable():
        return None
    found = next((c for c in text if unicodedata.category(c) in _FORBIDDEN), None)
    if found is None:
        return None
    if unicodedata.category(found) == "Cs":
        return "is not valid Unicode"
    return f"contains the control character U+{ord(found):04X}"


def one_line(text: str) -> str:
    """The text with control characters, line ends and surrogates as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _FORBIDDEN else c
        for c in text
    )
