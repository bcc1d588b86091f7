"""What an archive of ``torch.save`` may hold, looked through before torch reads it.

``torch.load(weights_only=True)`` runs no code of the file's, but before torch 2.10 it believes
what the file says of sizes and containers, and can be led to write or read where it must not
(CVE-2026-24747); and no version limits what a packed record grows to. So a state is first walked
through without torch: plain values and tensors that lie within their records, nothing else.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, NoReturn

FOLDER = "archive"
# By the name of torch's storage class; every tensor that is saved is of one of these.
ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1,
}  # fmt: skip
_RECORDS = re.compile(
    rf"{FOLDER}/(data\.pkl|data/(?P<key>\d+)|version|byteorder|\.format_version"
    r"|\.storage_alignment|\.data/serialization_id)"
)
_PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
_OPCODES = _PUTS | {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET",
    "GLOBAL", "REDUCE", "BINPERSID",
}  # fmt: skip
# Ends of a zip archive: signature, six numbers, size and offset of the directory, comment's length;
# before it, where offsets are long, the place of a longer one, which holds them.
_END = struct.Struct("<4s4HIIH")
_PLACE_OF_LONG_END = struct.Struct("<4sIQI")
_LONG_END = struct.Struct("<4sQ2H2I4Q")
_WRONG_PICKLE = (
    pickle.UnpicklingError, AttributeError, EOFError, LookupError, OverflowError, TypeError,
    ValueError,
)  # fmt: skip


class Unexpected(Exception):
    """The archive holds what no state does; the message says what."""


def screen(archive: bytes) -> None:
    """Raises Unexpected unless ``archive`` is a dict of plain values and tensors, as saved."""
    if not _is_one_archive(archive):
        raise Unexpected("no archive of torch")
    sizes: dict[str, int] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as records:
            seen = set()
            for record in records.infolist():
                match = _RECORDS.fullmatch(record.filename)
                if match is None or record.filename in seen:
                    raise Unexpected(f"a record '{record.filename[:80]}'")
                if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                    raise Unexpected("a packed record")
                if not record.file_size == record.compress_size <= len(archive):
                    raise Unexpected("a record larger than the file")
                seen.add(record.filename)
                if match["key"]:
                    sizes[match["key"]] = record.file_size
            pickled = records.read(f"{FOLDER}/data.pkl")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, ValueError, EOFError) as error:
        raise Unexpected(f"no archive of torch ({error})") from None
    try:
        _check_opcodes(pickled)
        content = _DryRun(pickled, sizes).load()
    except _WRONG_PICKLE as error:
        raise Unexpected(str(error) or type(error).__name__) from None
    if not isinstance(content, dict):
        raise Unexpected("no dict")


def _is_one_archive(archive: bytes) -> bool:
    """Whether the directory lies where it says, at the end: readers that look for it in other ways
    would find another archive in bytes where it does not."""
    end = len(archive) - _END.size
    if end < 0 or not archive.startswith(b"PK\3\4"):
        return False
    signature, *_, size, offset, comment = _END.unpack_from(archive, end)
    if signature != b"PK\5\6" or comment:
        return False
    place = end - _PLACE_OF_LONG_END.size
    if place >= 0 and archive[place : place + 4] == b"PK\6\7":
        _, _, start, _ = _PLACE_OF_LONG_END.unpack_from(archive, place)
        end = place - _LONG_END.size
        if start != end or end < 0 or archive[end : end + 4] != b"PK\6\6":
            return False
        *_, size, offset = _LONG_END.unpack_from(archive, end)
    return bool(offset + size == end)


def _check_opcodes(pickled: bytes) -> None:
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"the pickle instruction {opcode.name}")
        # The unpickler makes room for as many objects as the highest number says.
        if opcode.name in _PUTS and argument > count:
            raise pickle.UnpicklingError("a pickle that numbers more objects than it has")


class _Storage:
    """Stands for a storage; takes no attributes and no items."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


class _Tensor:
    """Stands for a tensor."""

    __slots__ = ()


class _DryRun(pickle.Unpickler):
    """Reads the structure of a state, with stand-ins for its tensors."""

    def __init__(self, pickled: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in ITEM_SIZES:
            return ITEM_SIZES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _no_hooks
        _refuse(f"{module}.{name}"[:80])

    def persistent_load(self, pid: Any) -> _Storage:
        kind, item_size, key, place, length = pid
        if (kind, place) != ("storage", "cpu") or type(item_size) is not int:
            _refuse("a storage of no known kind")
        if type(length) is not int or not 0 <= length * item_size == self._sizes[key]:
            _refuse("a storage of another size than its record")
        return _Storage(length)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> _Tensor:
    if type(storage) is not _Storage or requires_grad is not False or hooks != {}:
        _refuse("a tensor with more than its numbers")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        _refuse("a tensor of negative size")
    if 0 in size:
        return _Tensor()
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if last >= storage.length:
        _refuse("a tensor that reaches beyond its storage")
    return _Tensor()


def _no_hooks() -> dict[str, Any]:
    return {}


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(what)
