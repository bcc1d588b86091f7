"""A file of tensors and plain values that proves itself whole before anything is unpickled.

Layout, little-endian: magic, format version, step, length of the payload, sha256 of the payload,
and the first 8 bytes of the sha256 of all these; then the payload, what ``torch.save`` writes.
Magic, version and the header's own checksum stay where they are in every later version, so that
'written by a newer version' can be told from 'damaged'.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from phase2hpc.errors import InputError
from phase2hpc.files import PartialFile

MAGIC = b"PHASE2ST"
VERSION = 1
_FIELDS = struct.Struct("<8sIQQ32s")
_CHECK = 8


class Damaged(Exception):
    """The file's bytes are not those that were written; the message says what differs."""


def to_plain(value: Any, where: str = "state") -> Any:
    """A copy made of what ``torch.load(weights_only=True)`` accepts: CPU clones of tensors, dicts,
    lists, tuples and plain scalars; numpy's arrays become tensors, its scalars Python's.

    Raises TypeError that names the place of anything else: better now than when it is read.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
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
    """Write ``state`` whole and flushed under a temporary name beside ``path``; ``commit`` puts
    it in place. Raises OSError and leaves nothing where it cannot be written."""
    buffer = io.BytesIO()
    torch.save(to_plain(state), buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).digest()
    fields = _FIELDS.pack(MAGIC, VERSION, step, len(payload), digest)
    partial = PartialFile(path)
    try:
        with open(partial.path, "wb") as file:
            file.write(fields + hashlib.sha256(fields).digest()[:_CHECK])
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.discard()
        raise
    return partial


def read_step(path: Path) -> int:
    """The step in the header, which alone is read. Raises as ``read_state``."""
    with open(path, "rb") as file:
        return _header(file, path)[0]


def read_state(path: Path) -> tuple[dict[str, Any], int]:
    """(state, step), tensors on the CPU.

    Raises Damaged, InputError if a newer version wrote the file, OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        step, length, digest = _header(file, path)
        payload = file.read()
    if len(payload) != length:
        raise Damaged(f"{len(payload)} bytes of state where {length} were written")
    if hashlib.sha256(payload).digest() != digest:
        raise Damaged("the state's checksum differs")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Damaged("it holds other things than tensors and plain values") from None
    return state, step


def _header(file: BinaryIO, path: Path) -> tuple[int, int, bytes]:
    head = file.read(_FIELDS.size + _CHECK)
    fields, check = head[: _FIELDS.size], head[_FIELDS.size :]
    if len(head) < _FIELDS.size + _CHECK:
        raise Damaged("the header is cut off")
    if hashlib.sha256(fields).digest()[:_CHECK] != check:
        raise Damaged("the header's checksum differs")
    magic, version, step, length, digest = _FIELDS.unpack(fields)
    if magic != MAGIC:
        raise Damaged("it does not begin as a state does")
    if version > VERSION:
        raise InputError(
            f"{path}: written in format version {version}, this phase2hpc reads up to {VERSION}: "
            "update phase2hpc"
        )
    return step, length, digest
