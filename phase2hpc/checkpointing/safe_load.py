"""Screening of a torch archive before ``torch.load`` unpickles it.

``torch.load(weights_only=True)`` executes no code of a file, but before torch 2.10 it trusts the
sizes and containers that a file claims, and can be made to read or write out of bounds
(CVE-2026-24747); and no version limits what a compressed record grows to. The archive is therefore
walked through without torch first: plain values, and tensors that lie within their records.
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

ZIP_MAGIC = b"PK\3\4"
FOLDER = "archive"
# Bytes of an item, by the name of torch's storage class.
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
# End of central directory: signature, four counts, size and offset of the directory, length of the
# comment. In a zip64 archive its locator and the zip64 end, with long numbers, stand before it.
_END = struct.Struct("<4s4HIIH")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_WRONG_PICKLE = (
    pickle.UnpicklingError, AttributeError, EOFError, LookupError, OverflowError, TypeError,
    ValueError,
)  # fmt: skip


class UnexpectedContent(Exception):
    """The archive holds content that no state has; the message names it."""


def check_archive(archive: bytes, comment_size: int = 0) -> None:
    """Check that ``archive`` is a dict of plain values and tensors, as ``torch.save`` writes it.

    comment_size: bytes of the archive's comment at its end, whose content the caller has checked.
    Raises UnexpectedContent.
    """
    if not _is_single_archive(archive, comment_size):
        raise UnexpectedContent("not one archive of torch")
    sizes: dict[str, int] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as records:
            seen = set()
            for record in records.infolist():
                match = _RECORDS.fullmatch(record.filename)
                if match is None or record.filename in seen:
                    raise UnexpectedContent(f"a record '{record.filename[:80]}'")
                if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                    raise UnexpectedContent("a compressed or encrypted record")
                if not record.file_size == record.compress_size <= len(archive):
                    raise UnexpectedContent("a record larger than the file")
                seen.add(record.filename)
                if match["key"]:
                    sizes[match["key"]] = record.file_size
            pickled = records.read(f"{FOLDER}/data.pkl")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, ValueError, EOFError) as error:
        raise UnexpectedContent(f"not an archive of torch ({error})") from None
    try:
        _check_opcodes(pickled)
        content = _DryRun(pickled, sizes).load()
    except _WRONG_PICKLE as error:
        raise UnexpectedContent(str(error) or type(error).__name__) from None
    if not isinstance(content, dict):
        raise UnexpectedContent("not a dict")


def _is_single_archive(archive: bytes, comment_size: int) -> bool:
    """True if the central directory lies where its end record says, right before that record.

    Otherwise readers that search for the directory in other ways would find another archive.
    """
    end = len(archive) - comment_size - _END.size
    if end < 0 or not archive.startswith(ZIP_MAGIC):
        return False
    signature, *_, size, offset, comment = _END.unpack_from(archive, end)
    if signature != b"PK\5\6" or comment != comment_size:
        return False
    locator = end - _ZIP64_LOCATOR.size
    if locator >= 0 and archive[locator : locator + 4] == b"PK\6\7":
        _, _, start, _ = _ZIP64_LOCATOR.unpack_from(archive, locator)
        end = locator - _ZIP64_END.size
        if start != end or end < 0 or archive[end : end + 4] != b"PK\6\6":
            return False
        *_, size, offset = _ZIP64_END.unpack_from(archive, end)
    return bool(offset + size == end)


def _check_opcodes(pickled: bytes) -> None:
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"the pickle instruction {opcode.name}")
        # The unpickler allocates its memo for the highest index.
        if opcode.name in _PUTS and argument > count:
            raise pickle.UnpicklingError("a memo index beyond the number of objects")


class _Storage:
    """Stand-in for a storage, without settable attributes or items. length: number of items."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


class _Tensor:
    """Stand-in for a tensor."""

    __slots__ = ()


class _DryRun(pickle.Unpickler):
    """Unpickler that builds the structure of a state with stand-ins for its tensors."""

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
            _refuse("a storage of an unknown type or device")
        if type(length) is not int or not 0 <= length * item_size == self._sizes[key]:
            _refuse("a storage of another size than its record")
        return _Storage(length)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> _Tensor:
    if type(storage) is not _Storage or requires_grad is not False or hooks != {}:
        _refuse("a tensor with gradient or hooks")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        _refuse("a tensor of negative offset, size or stride")
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
