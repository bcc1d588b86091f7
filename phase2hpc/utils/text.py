"""Texts from files that become names: of crystals, of properties."""

from __future__ import annotations

import unicodedata

MAX_NAME_LENGTH = 1000
# Controls, half characters, and the two separators that end a line as "\n" does.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name_problem(text: str) -> str | None:
    """Why a text cannot be an id or a property's name; None for one that can.

    A name goes into tables, logs and files of one line a crystal, so it is one line itself.
    """
    if not text:
        return "is empty"
    if len(text) > MAX_NAME_LENGTH:
        return f"has {len(text)} characters, more than {MAX_NAME_LENGTH}"
    # Of ASCII, what can be printed has no controls.
    if text.isprintable():
        return None
    found = next((c for c in text if unicodedata.category(c) in _UNFIT), None)
    if found is None:
        return None
    if unicodedata.category(found) == "Cs":
        return "is no valid Unicode"
    return f"holds the control character U+{ord(found):04X}"


def one_line(text: str) -> str:
    """The text with its controls, line ends and half characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNFIT else c
        for c in text
    )
