"""Format 1 of checkpoint files (phase2hpc 0.1 and 0.2): a header of its own, then a torch archive.

Header, little-endian: magic, format version, step, length of the archive, sha256 of the archive,
and the first 8 bytes of the sha256 of all these. Read, never written.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import BinaryIO, NamedTuple

from phase2hpc.checkpointing.file_errors import CorruptCheckpoint, NewerVersion

MAGIC = b"PHASE2ST"
VERSION = 1
FIELDS = struct.Struct("<8sIQQ32s")
CHECK_SIZE = 8
HEADER_SIZE = FIELDS.size + CHECK_SIZE


class Header(NamedTuple):
    """length, digest: of the archive behind it, in bytes and as sha256."""

    step: int
    length: int
    digest: bytes


def is_legacy(file: BinaryIO) -> bool:
    """True if the file begins as one of this format; its position is then 0."""
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def read_header(file: BinaryIO) -> Header:
    """Raises CorruptCheckpoint and NewerVersion; the file is then at the archive."""
    header = file.read(HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        raise CorruptCheckpoint("the header is cut off")
    fields, check = header[: FIELDS.size], header[FIELDS.size :]
    if hashlib.sha256(fields).digest()[:CHECK_SIZE] != check:
        raise CorruptCheckpoint("the header's checksum differs")
    _, version, step, length, digest = FIELDS.unpack(fields)
    if version > VERSION:
        raise NewerVersion(f"written in format version {version} with a header")
    return Header(step, length, digest)


def read_payload(file: BinaryIO) -> tuple[bytes, int]:
    """(archive, step). Raises as ``read_header``."""
    header = read_header(file)
    # The size is compared before memory is allocated for it.
    length = os.fstat(file.fileno()).st_size - HEADER_SIZE
    if length != header.length:
        raise CorruptCheckpoint(f"{length} bytes of state where {header.length} were written")
    archive = file.read()
    if hashlib.sha256(archive).digest() != header.digest:
        raise CorruptCheckpoint("the state's checksum differs")
    return archive, header.step
