"""Standard streams that accept any text, whatever the encoding of the terminal."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence

from phase2hpc.errors import InputError

# What our tables hold beyond ASCII, as it is written by hand.
_IN_ASCII = {"±": "+-", "–": "-", "−": "-", "×": "x", "…": "..."}
_HANDLER = "phase2hpc.unencodable"


def accept_any_text() -> None:
    """Write characters that stdout or stderr cannot encode in ASCII, or as backslash escapes.

    A table with a plus-minus sign, or a file name of another encoding, must not end a run.
    """
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        # None if closed (`>&-`); a notebook has streams of its own, which take all of Unicode.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    written = (
        _IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")
        for character in text
    )
    return "".join(written), error.end


def check_readable(texts: Sequence[str]) -> None:
    """Raise InputError for an argument or folder name that is not text in this locale's encoding.

    Its bytes could be used as they are, but no file of a run could name it.
    """
    for text in texts:
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(
                f"{text}: not readable as {sys.getfilesystemencoding()}, the encoding of this "
                "locale: set LC_ALL=C.UTF-8, or rename it"
            )
