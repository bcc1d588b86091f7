"""Text of a source file, plain or compressed: gzip, bzip2, xz, or the one member of a zip archive.

The compression is found by content, not by name. Data are decompressed as they are read, so that
memory does not depend on the size of a file.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import IO, Any, TextIO

from phase2hpc.errors import InputError
from phase2hpc.utils.regular_file import open_regular
from phase2hpc.utils.text import one_line

# Characters of one record, line or frame: compressed, a few bytes may claim any number.
MAX_RECORD_BYTES = 1 << 26
# Ctrl-Z, with which DOS programs end a text.
DOS_END = b"\x1a"
# Exceptions of a file that is damaged as a whole, whichever way it is compressed.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeDecodeError)

_OPENERS: dict[str, tuple[bytes, Callable[..., Any]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ\0", lzma.open),
}
_ZIP = b"PK\x03\x04"


def plain_name(name: str) -> str:
    """A file's name without the suffix of its compression: ``a.cif`` of ``a.cif.gz``."""
    for suffix in (*_OPENERS, ".zip"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def decompressor(name: str, begin: bytes) -> Callable[..., Any] | None:
    """``gzip.open``, ``bz2.open`` or ``lzma.open`` for a file of these first bytes; where they say
    nothing, for its name. None for one that is not compressed."""
    for magic, opener in _OPENERS.values():
        if begin.startswith(magic):
            return opener
    for suffix, (_, opener) in _OPENERS.items():
        if name.lower().endswith(suffix):
            return opener
    return None


def content_name(path: Path) -> str:
    """The name that says the format: of a zip archive its member's, else ``plain_name``.

    Raises InputError for an archive without one member to read.
    """
    with open_regular(path) as file:
        if not _is_zip(file, path.name):
            return plain_name(path.name)
        with zipfile.ZipFile(file) as archive:
            return PurePosixPath(_member(str(path), archive)).name


def head(path: Path, size: int = 1 << 16) -> bytes:
    """The first bytes of a file's decompressed content; of a damaged file what can be read."""
    parts = b""
    try:
        with open_regular(path) as file, decompressed(file, str(path)) as content:
            while len(parts) < size and (more := content.read1(size - len(parts))):
                parts += more
    except DAMAGED:
        pass  # Reading the file as its name says names the damage.
    return parts


@contextmanager
def decompressed(file: Any, name: str) -> Iterator[Any]:
    """The content of a binary, seekable file, as a binary file with ``peek``.

    Raises InputError for a zip archive without one member to read; reading raises one of DAMAGED.
    """
    with ExitStack() as stack:
        if _is_zip(file, name):
            archive = stack.enter_context(zipfile.ZipFile(file))
            yield stack.enter_context(_open_member(name, archive))
            return
        opener = decompressor(name, file.read(6))
        file.seek(0)
        yield stack.enter_context(opener(file, "rb")) if opener else file


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 or (with its byte order mark) UTF-16, decompressed as it is read.

    Bytes that are not UTF-8 become lone surrogates, so that their line can be named. Raises
    InputError for a zip archive without one member to read.
    """
    with open_regular(path) as file, decompressed(file, str(path)) as data:
        if data.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            yield TextIOWrapper(data, encoding="utf-16", newline="")
        else:
            yield TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_zip(file: Any, name: str) -> bool:
    begin = file.read(len(_ZIP))
    file.seek(0)
    return bool(begin == _ZIP) or name.lower().endswith(".zip")


def _member(name: str, archive: zipfile.ZipFile) -> str:
    names = [
        member
        for member in archive.namelist()
        if not member.endswith("/") and not PurePosixPath(member).name.startswith(".")
    ]
    if len(names) > 1:
        names = [member for member in names if member.lower().endswith(".json")] or names
    if len(names) != 1:
        advice = "" if not names else ": unpack it and give its folder or one of its files"
        raise InputError(
            f"{name}: expected one .json in the archive, or one file, found {len(names)}{advice}"
        )
    return names[0]


def _open_member(name: str, archive: zipfile.ZipFile) -> IO[bytes]:
    member = _member(name, archive)
    try:
        return archive.open(member)
    # A password, or a compression that this Python does not know.
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"{name}: {one_line(member)} cannot be unpacked ({error})") from None


def bounded_lines(path: Path, handle: TextIO) -> Iterator[str]:
    """Lines of a text, without a DOS_END behind the last.

    Raises InputError for a line of MAX_RECORD_BYTES characters or more.
    """
    number = 0
    while line := handle.readline(MAX_RECORD_BYTES):
        number += 1
        if len(line) == MAX_RECORD_BYTES:
            raise InputError(f"{path}, line {number}: longer than {MAX_RECORD_BYTES} characters")
        if line := line.removesuffix(DOS_END.decode()):
            yield line


def is_unicode(text: str) -> bool:
    """False for a text with a lone surrogate, which JSON can write and no file can store."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
