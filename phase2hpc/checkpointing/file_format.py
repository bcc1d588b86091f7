"""Checkpoint files (``.pt``): torch archives with their checksum in the zip comment.

A file is what ``torch.save`` writes, a zip archive of stored records, so that
``torch.load(path, weights_only=True)`` reads it anywhere. The archive's comment, ASCII of fixed
length at the very end of the file, holds the format version, the step, the file's size, a short
checksum of these three, and the sha256 of everything before the digest:

    head -c -64 best.pt | sha256sum    # equals: tail -c 64 best.pt

The comment's length, its fields and their short checksum stay the same in every later version, so
that a file of a newer version can be told from a damaged one. Format 1 (``legacy_format``) is
read, and no longer written.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from phase2hpc.checkpointing import legacy_format
from phase2hpc.checkpointing.file_errors import (
    CorruptCheckpoint,
    NewerVersion,
    open_checkpoint,
    read_errors,
)
from phase2hpc.checkpointing.plain_values import to_plain
from phase2hpc.checkpointing.safe_load import ZIP_MAGIC, UnexpectedContent, check_archive
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.error_text import first_line

VERSION = 2
_FIELDS = "phase2hpc format {version:04d} step {step:020d} bytes {size:020d} check "
_COMMENT = re.compile(
    rb"(?P<fields>phase2hpc format (?P<version>\d{4}) step (?P<step>\d{20}) "
    rb"bytes (?P<size>\d{20}) check )(?P<check>[0-9a-f]{16}) sha256 (?P<digest>[0-9a-f]{64})"
)
_CHECK_CHARACTERS, _DIGEST_CHARACTERS = 16, 64
COMMENT_SIZE = (
    len(_FIELDS.format(version=0, step=0, size=0))
    + _CHECK_CHARACTERS
    + len(" sha256 ")
    + _DIGEST_CHARACTERS
)
# The last field of a zip archive's end record, which stands before the comment.
_COMMENT_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class _Seal:
    """The fields of the comment. size: of the whole file in bytes; digest: sha256 in hex."""

    step: int
    size: int
    digest: bytes


def prepare_state(path: Path, state: Mapping[str, Any], step: int) -> PartialFile:
    """Write ``state`` under a temporary name beside ``path``, flush it and read it back.

    ``commit`` of the result puts it in place. Raises TypeError for a state that could not be read
    again, and OSError, leaving nothing, where it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(to_plain(state), buffer)
    archive = buffer.getbuffer()[: -_COMMENT_LENGTH.size]
    comment = seal(archive, step)
    partial = PartialFile(path)
    try:
        partial.write(archive, comment)
    except BaseException:
        partial.discard()
        raise
    return partial


def seal(archive: memoryview | bytes, step: int) -> bytes:
    """The end of the file: the comment's length, which ``archive`` lacks, and the comment."""
    size = len(archive) + _COMMENT_LENGTH.size + COMMENT_SIZE
    fields = _FIELDS.format(version=VERSION, step=step, size=size).encode()
    begin = _COMMENT_LENGTH.pack(COMMENT_SIZE) + fields + _check(fields) + b" sha256 "
    digest = hashlib.sha256(archive)
    digest.update(begin)
    return begin + digest.hexdigest().encode()


def read_step(path: Path) -> int:
    """The step of a file, from its comment alone. Raises as ``read_state``."""
    with open_checkpoint(path) as file, read_errors():
        if legacy_format.is_legacy(file):
            return legacy_format.read_header(file).step
        return _read_seal(file).step


def read_state(path: Path) -> tuple[dict[str, Any], int]:
    """(state, step) of a file, tensors on the CPU.

    Raises CorruptCheckpoint, NewerVersion or UnreadableCheckpoint, FileNotFoundError where there
    is no file, and any other OSError where the fault is not the file's.
    """
    with open_checkpoint(path) as file, read_errors():
        if legacy_format.is_legacy(file):
            archive, step = legacy_format.read_payload(file)
            return _load(archive, comment_size=0), step
        expected = _read_seal(file)
        # The size is compared before memory is allocated for it.
        size = os.fstat(file.fileno()).st_size
        if size != expected.size:
            raise CorruptCheckpoint(f"it has {size} bytes where {expected.size} were written")
        file.seek(0)
        archive = file.read()
    covered = memoryview(archive)[:-_DIGEST_CHARACTERS]
    if hashlib.sha256(covered).hexdigest().encode() != expected.digest:
        raise CorruptCheckpoint("its checksum differs")
    return _load(archive, COMMENT_SIZE), expected.step


def _load(archive: bytes, comment_size: int) -> dict[str, Any]:
    try:
        check_archive(archive, comment_size)
        state: dict[str, Any] = torch.load(
            io.BytesIO(archive), map_location="cpu", weights_only=True, mmap=False
        )
    except UnexpectedContent as error:
        raise CorruptCheckpoint(
            f"it holds other things than tensors and plain values: {error}"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        raise CorruptCheckpoint(f"torch cannot read it: {first_line(error)}") from None
    return state


def _read_seal(file: BinaryIO) -> _Seal:
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
        raise CorruptCheckpoint("it does not begin as a torch archive")
    file.seek(max(0, size - COMMENT_SIZE))
    match = _COMMENT.fullmatch(file.read(COMMENT_SIZE))
    if match is None:
        raise CorruptCheckpoint(
            "no checksum at its end: cut off, appended to, or not written by phase2hpc"
        )
    if match["check"] != _check(match["fields"]):
        raise CorruptCheckpoint("the checksum of its last line differs")
    version = int(match["version"])
    if version > VERSION:
        raise NewerVersion(f"written in format version {version}, this one reads up to {VERSION}")
    return _Seal(int(match["step"]), int(match["size"]), match["digest"])


def _check(fields: bytes) -> bytes:
    return hashlib.sha256(fields).hexdigest()[:_CHECK_CHARACTERS].encode()
