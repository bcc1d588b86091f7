"""A file of tensors and plain values that proves itself whole before anything is unpickled.

Layout, little-endian: magic, format version, step, length of the payload, sha256 of the payload,
and the first 8 bytes of the sha256 of all these; then the payload, what ``torch.save`` writes.
Magic, version and the header's own checksum stay where they are in every later version, so that
'written by a newer version' can be told from 'damaged'.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from phase2hpc.checkpointing.safe_load import Unexpected, screen
from phase2hpc.utils.atomic_io import PartialFile
from phase2hpc.utils.error_text import first_line
from phase2hpc.utils.regular_file import NotRegularFile, open_regular

MAGIC = b"PHASE2ST"
VERSION = 1
_FIELDS = struct.Struct("<8sIQQ32s")
_CHECK = 8
_HEADER = _FIELDS.size + _CHECK
DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool,
    }
)  # fmt: skip
# Of this one file, now and later; others (too many open files, say) are of the moment.
_UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP})


class CheckpointError(Exception):
    """No state can be had from the file; the message says why. suffix: of its name set aside."""

    suffix: ClassVar[str]


class CorruptCheckpoint(CheckpointError):
    """The file's bytes are not those that were written, or it is no file."""

    suffix = "damaged"


class NewerVersion(CheckpointError):
    """A later phase2hpc wrote it."""

    suffix = "newer-version"


class UnreadableCheckpoint(CheckpointError):
    """It must not be read, or the disk fails to."""

    suffix = "unreadable"


def to_plain(value: Any, where: str = "state") -> Any:
    """The same in what ``torch.load(weights_only=True)`` accepts: tensors on the CPU that hold no
    more than they show, dicts, lists, tuples and plain scalars; numpy's arrays become tensors, its
    scalars Python's. Tensors that are so already are not copied.

    Raises TypeError that names the place of anything else: better now than when it is read.
    """
    if isinstance(value, torch.Tensor):
        if value.dtype not in DTYPES or value.layout is not torch.strided:
            raise TypeError(f"{where}: a tensor of {value.dtype}, {value.layout} cannot be saved")
        tensor = value.detach().cpu().contiguous()
        # A view would be saved with all that lies behind it.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, np.ndarray):
        return to_plain(torch.from_numpy(value.copy()), where)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: the key {key!r} is neither text nor an integer")
        return {key: to_plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"{where}: a {type(value).__name__} cannot be saved")


def prepare_state(path: Path, state: Mapping[str, Any], step: int) -> PartialFile:
    """Write ``state`` whole, flushed and read back under a temporary name beside ``path``;
    ``commit`` puts it in place. Raises OSError and leaves nothing where it cannot be written."""
    buffer = io.BytesIO()
    torch.save(to_plain(state), buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).digest()
    fields = _FIELDS.pack(MAGIC, VERSION, step, len(payload), digest)
    partial = PartialFile(path)
    try:
        partial.write(fields + hashlib.sha256(fields).digest()[:_CHECK], payload)
    except BaseException:
        partial.discard()
        raise
    return partial


def read_step(path: Path) -> int:
    """The step in the header, which alone is read. Raises as ``read_state``."""
    with _open(path) as file:
        return _header(file)[0]


def read_state(path: Path) -> tuple[dict[str, Any], int]:
    """(state, step), tensors on the CPU.

    Raises CorruptCheckpoint, NewerVersion or UnreadableCheckpoint, FileNotFoundError where
    there is no file, and OSError where the system cannot say.
    """
    with _open(path) as file:
        step, length, digest = _header(file)
        # Before memory is asked for.
        found = os.fstat(file.fileno()).st_size - _HEADER
        if found != length:
            raise CorruptCheckpoint(f"{found} bytes of state where {length} were written")
        try:
            payload = file.read()
        except OSError as error:
            raise _not_readable(error) from error
    if hashlib.sha256(payload).digest() != digest:
        raise CorruptCheckpoint("the state's checksum differs")
    try:
        screen(payload)
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True, mmap=False)
    except Unexpected as what:
        raise CorruptCheckpoint(
            f"it holds other things than tensors and plain values: {what}"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        raise CorruptCheckpoint(f"torch cannot read it: {first_line(error)}") from None
    return state, step


def _open(path: Path) -> BinaryIO:
    """Open a file for reading, never waiting for the other end of what is none."""
    try:
        return open_regular(path)
    except NotRegularFile as error:
        raise CorruptCheckpoint(error.reason) from None
    except FileNotFoundError:
        if path.is_symlink():
            raise CorruptCheckpoint("it is a link to nothing") from None
        raise
    except OSError as error:
        raise _not_readable(error) from error


def _not_readable(error: OSError) -> Exception:
    if error.errno in _UNREADABLE:
        return UnreadableCheckpoint(f"cannot be read: {error.strerror}")
    return error


def _header(file: BinaryIO) -> tuple[int, int, bytes]:
    try:
        head = file.read(_HEADER)
    except OSError as error:
        raise _not_readable(error) from error
    fields, check = head[: _FIELDS.size], head[_FIELDS.size :]
    if len(head) < _HEADER:
        raise CorruptCheckpoint("the header is cut off")
    if hashlib.sha256(fields).digest()[:_CHECK] != check:
        raise CorruptCheckpoint("the header's checksum differs")
    magic, version, step, length, digest = _FIELDS.unpack(fields)
    if magic != MAGIC:
        raise CorruptCheckpoint("it does not begin as a state does")
    if version > VERSION:
        raise NewerVersion(f"written in format version {version}, this one reads up to {VERSION}")
    return step, length, digest
