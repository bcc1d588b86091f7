"""Tolerant CIF parser for files that the CIF grammar does not allow.

Many files have syntax errors that do not concern the structure: a comma after a closing quote,
text before the first data block, a tag without a value, a quoted text over several lines, a
ragged loop of something else. Each error is attached to the item in which it stands and is
raised only when that item is used (``Block.item``). gemmi stops at the first one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from phase2hpc.data.readers.cif.block import NO_LOOP, Block, Item

# A pure Python parser for the rare file: larger ones keep the error of the strict parser.
MAX_CHARACTERS = 2 * 2**20
# A quoted text may end at most this many lines further down.
MAX_QUOTED_LINES = 10
# Written behind the last value by programs that end a file with a word of their own.
_END_TAGS = ("_end", "_eof")
# Free text, which some programs write without quotes.
_UNQUOTED_NAMES = re.compile(r"_(?:symmetry_)?space_group[._]name_\S+$", re.IGNORECASE)

_TOKEN = re.compile(
    rf"""
    (?P<comment>   \#[^\n]*)
  | (?P<field>     ^;.*?^;(?=\s|\Z))
  | (?P<openfield> ^;)
  | (?P<quoted>    '[^\n]*?'(?=[,;]?(?:\s|\Z)) | "[^\n]*?"(?=[,;]?(?:\s|\Z)))[,;]?
  | (?P<multiline> (?P<quote>['"])[^\n]*(?:\n(?!\s*(?:_|loop_|data_|;|\#))[^\n]*?)
                   {{1,{MAX_QUOTED_LINES}}}?(?P=quote)(?=[,;]?(?:\s|\Z)))[,;]?
  | (?P<open>      ['"][^\n]*)
  | (?P<keyword>   (?:data_|save_)\S* | (?:loop_|global_|stop_)(?=\s|\Z))
  | (?P<tag>       _\S+)
  | (?P<value>     \S+)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    start: int


def parse_leniently(text: str) -> list[Block] | None:
    """Blocks of a CIF with syntax errors; None where tolerance would be guessing.

    That is text without a data block, with tags before the first one, or with a text field that
    is not closed and may have swallowed anything.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    return _Parser(text).blocks()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._tokens = self._tokenise()
        self._token: _Token | None = next(self._tokens, None)
        self._loops = 0

    def _tokenise(self) -> Iterator[_Token]:
        for match in _TOKEN.finditer(self._text):
            kind = str(match.lastgroup)
            if kind == "quote":
                kind = "multiline"
            if kind != "comment":
                yield _Token(kind, match[kind], match.start())

    def _advance(self) -> _Token | None:
        self._token = next(self._tokens, None)
        return self._token

    def _line(self, start: int) -> int:
        return bisect_right(self._line_ends, start) + 1

    def blocks(self) -> list[Block] | None:
        blocks: list[Block] = []
        while self._token is not None:
            token = self._token
            if token.kind == "openfield":
                return None
            if token.kind == "keyword":
                word = token.text.lower()
                if word.startswith("data_") or word == "global_":
                    blocks.append(Block(token.text[5:] if word != "global_" else ""))
                    self._advance()
                elif not blocks:
                    return None
                elif word == "loop_":
                    self._read_loop(blocks[-1])
                elif word.startswith("save_") and len(word) > len("save_"):
                    self._skip_frame()
                else:
                    self._advance()
            elif token.kind == "tag":
                if not blocks:
                    return None
                self._read_pair(blocks[-1])
            else:  # text before the first block
                if blocks:
                    blocks[-1].has_faults = True
                self._advance()
        return blocks or None

    def _skip_frame(self) -> None:
        while (token := self._advance()) is not None and token.text.lower() != "save_":
            pass

    def _values(self, block: Block) -> tuple[list[str], list[int], str | None]:
        """The values that follow, where each begins, and the first syntax error in them."""
        values: list[str] = []
        starts: list[int] = []
        fault = None
        while self._token is not None and self._token.kind not in ("tag", "keyword", "openfield"):
            token = self._token
            if token.kind in ("open", "multiline") and fault is None:
                block.has_faults = True
                fault = (
                    f"truncated or damaged: line {self._line(token.start)}, a quoted text is not "
                    f"closed ('{' '.join(token.text[:40].split())}')"
                )
            values.append(token.text)
            starts.append(token.start)
            self._advance()
        return values, starts, fault

    def _read_pair(self, block: Block) -> None:
        assert self._token is not None
        tag, start = self._token.text, self._token.start
        self._advance()
        values, starts, fault = self._values(block)
        incomplete = fault is not None or (not values and tag.lower() not in _END_TAGS)
        block.ends_incomplete = f"line {self._line(start)}, {tag[:60]}" if incomplete else None
        if not values:
            fault = f"truncated or damaged: line {self._line(start)}, {tag[:60]} has no value"
        elif len(values) > 1:
            # Text that should be quoted: F m -3 m.
            one_line = "\n" not in self._text[start : starts[-1]]
            if fault is None and one_line and _UNQUOTED_NAMES.match(tag):
                values = ["'" + " ".join(values).replace("'", "") + "'"]
            elif fault is None:
                line = self._line(starts[1])
                fault = (
                    f"CIF syntax: line {line}, '{values[1][:40]}' follows the value of {tag[:60]}"
                )
        block.add(Item(tag, NO_LOOP, tuple(values[:1]), fault=fault))

    def _read_loop(self, block: Block) -> None:
        assert self._token is not None
        line = self._line(self._token.start)
        tags: list[str] = []
        while (token := self._advance()) is not None and token.kind == "tag":
            tags.append(token.text)
        values, _, fault = self._values(block)
        if values and len(values) % max(len(tags), 1):
            fault = (
                f"damaged loop: the values of the loop at line {line} do not fill its columns "
                "(a ragged row, or a truncated file)"
            )
        complete = tags and values and fault is None
        block.ends_incomplete = None if complete else f"the loop at line {line}"
        # A loop whose rows are all gone is no syntax error of its own: its columns are empty.
        block.has_faults = block.has_faults or fault is not None or not tags
        for column, tag in enumerate(tags):
            block.add(Item(tag, self._loops, values, column, len(tags), fault))
        self._loops += 1
