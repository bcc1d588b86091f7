"""Incremental JSON reading in bounded memory.

Own parser on ``json.JSONDecoder``: ijson 3.6 (yajl2_c) was tried and refuses NaN, which pandas and
Python write, keeps the last of two equal keys without a word, and needs more than a minute for an
array nested 200,000 deep; on records of the sample it is 1.3 times as fast.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

import orjson

from phase2hpc.data.readers.text_files import MAX_RECORD_BYTES

# orjson reads larger integers as floating-point numbers, json exactly.
MAX_INTEGER = float(1 << 63)

Pairs = list[tuple[str, Any]]


def unique_keys(pairs: Pairs) -> dict[str, Any]:
    """A JSON object; ValueError where a key occurs twice, since either value may be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_repeated(pairs)!a} occurs twice")
    return found


def _repeated(pairs: Pairs) -> str:
    counts = Counter(key for key, _ in pairs)
    return max(counts, key=lambda key: counts[key])[:40]


def loads_unique(text: str) -> Any:
    """The value of a JSON text; ValueError where a key occurs twice in an object.

    orjson is three times as fast, and keeps the last of two equal keys. Every key has a colon, so
    that a text with as many colons as its value has keys repeats none.
    """
    try:
        value = orjson.loads(text)
    except ValueError:  # NaN and others that it refuses, or an error for json to describe
        value = None
    if value is None or text.count(":") != _count_keys(value):
        return json.loads(text, object_pairs_hook=unique_keys)
    return value


def _count_keys(value: Any) -> float:
    """Keys of all objects in a value; nan where a number is beyond the integers of orjson."""
    if isinstance(value, list):
        # Records hold lists of numbers and texts, or of objects.
        return sum(map(_count_keys, value)) if value and isinstance(value[0], dict) else 0
    if isinstance(value, dict):
        count: float = len(value)
        for inner in value.values():
            kind = type(inner)
            if kind is dict or kind is list:
                count += _count_keys(inner)
            elif kind is float and abs(inner) >= MAX_INTEGER:
                return math.nan
        return count
    return 0


def json_error(error: Exception) -> str:
    """The message for an exception of reading JSON."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


class JsonStream:
    """Reads a JSON document piece by piece: a large array or object is never whole in memory.

    repeated: a key that occurs twice in the value read last, "" where none does. An exception
    would end the whole document there.
    """

    def __init__(self, handle: TextIO, chunk: int = 1 << 20) -> None:
        self._handle, self._chunk = handle, chunk
        self._buffer, self._position, self._ended = "", 0, False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.repeated = ""

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self._position += 1
            if not self._more():
                return ""

    def peek_inside(self) -> str:
        """The character that ``peek`` would give after the next one (the first in an array)."""
        self.peek()
        after = self._position + 1
        while True:
            rest = self._buffer[after:].lstrip()
            if rest:
                return rest[0]
            after -= self._position
            if not self._more():
                return ""
            after += self._position

    def take(self, expected: str) -> str:
        """Step over one of the characters ``expected``, and return it."""
        if (found := self.peek()) not in expected or not found:
            raise json.JSONDecodeError(f"expected one of {expected!r}", found, 0)
        self._position += 1
        return found

    def value(self, longest: int = MAX_RECORD_BYTES) -> Any:
        """The next whole value; ValueError for one of more than ``longest`` characters."""
        self.peek()
        while True:
            self.repeated = ""
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError:
                if len(self._buffer) - self._position > longest:
                    raise ValueError(f"longer than {longest} characters") from None
                if not self._more():
                    raise
                continue
            # A number at the end of the buffer may go on.
            if end < len(self._buffer) or not self._more():
                self._position = end
                return value

    def array(self) -> Iterator[Any]:
        """The values of an array, one after another."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def keys(self) -> Iterator[str]:
        """The keys of an object; the caller reads the value after each."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"{str(key)[:40]!a} is no key of an object")
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def _object(self, pairs: Pairs) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.repeated = _repeated(pairs)
        return found

    def _more(self) -> bool:
        if self._ended:
            return False
        # The next piece is as long as what is unread, so that a long value is not tried too often.
        unread = len(self._buffer) - self._position
        piece = self._handle.read(max(self._chunk, unread))
        self._ended = not piece
        self._buffer = self._buffer[self._position :] + piece
        self._position = 0
        return not self._ended
