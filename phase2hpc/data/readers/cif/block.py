"""Data block of a CIF: its items by canonical tag, each checked when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from gemmi import cif

from phase2hpc.utils.text_cache import cached_for_short_text

# Loop number of tags that stand outside loops.
NO_LOOP = -1


class CifError(ValueError):
    """No crystal can be read from this CIF; the message is ``kind: detail``, one line."""


@cached_for_short_text
def canonical(tag: str) -> str:
    """The name under which a tag is looked up.

    Dictionaries in DDLm and mmCIF write a dot between category and object
    (``_cell.length_a``), core CIF an underscore; tags are case-insensitive.
    """
    return tag.lower().replace(".", "_")


@dataclass(slots=True)
class Item:
    """One tag of a block. ``fault`` is the syntax error in it, raised when the item is used."""

    tag: str
    loop: int = NO_LOOP
    source: _Loop | Sequence[str] = ()
    column: int = 0
    width: int = 1
    fault: str | None = None

    def values(self) -> list[str]:
        """Values as written, quotes included."""
        flat = self.source.values if isinstance(self.source, _Loop) else self.source
        return list(flat[self.column :: self.width])


class _Loop:
    """Values of a loop, taken from gemmi once, when the first of its columns is used."""

    def __init__(self, loop: cif.Loop) -> None:
        self._loop = loop

    @cached_property
    def values(self) -> Sequence[str]:
        return self._loop.values


@dataclass
class Block:
    """Items of a data block by canonical tag, in the order of the file.

    ``ends_incomplete`` names the last item of the block if that lacks values, ``last_loop`` is
    the number of its loop.
    """

    name: str
    items: dict[str, list[Item]] = field(default_factory=dict)
    has_faults: bool = False
    ends_incomplete: str | None = None
    last_loop: int = NO_LOOP

    def add(self, item: Item) -> None:
        self.items.setdefault(canonical(item.tag), []).append(item)
        self.last_loop = item.loop
        self.has_faults = self.has_faults or item.fault is not None

    def __contains__(self, tag: str) -> bool:
        return tag in self.items

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        return ((tag, item) for tag, items in self.items.items() for item in items)

    def item(self, tag: str) -> Item | None:
        """The item of a tag on which the structure depends, None where it is absent.

        Raises CifError for a syntax error in the item, and for a tag that occurs twice with
        different values.
        """
        items = self.items.get(tag)
        if items is None:
            return None
        for item in items:
            if item.fault is not None:
                raise CifError(item.fault)
        if len(items) > 1:
            known = [item for item in items if not all(map(cif.is_null, item.values()))]
            if any(item.values() != known[0].values() for item in known[1:]) or (
                any(item.loop != items[0].loop for item in items)
            ):
                raise CifError(
                    f"CIF syntax: duplicate tag {items[1].tag[:60]} with different values "
                    "(keep the right one)"
                )
            return known[0] if known else items[0]
        return items[0]

    def column(self, tag: str) -> list[str]:
        """Values of a tag as written, empty where the block has none; errors as ``item``."""
        item = self.item(tag)
        return [] if item is None else item.values()

    def text(self, *tags: str) -> str | None:
        """The first value of any of the tags; None if all are absent, '.', '?' or blank."""
        for tag in tags:
            if tag in self.items:
                for value in self.column(tag):
                    known = plain_text(value)
                    if known:
                        return known
        return None

    def undisputed_text(self, tag: str) -> str | None:
        """As ``text`` for a tag that only serves as a check: damaged or contradictory is None."""
        try:
            return self.text(tag)
        except CifError:
            return None


@cached_for_short_text
def plain_text(value: str) -> str:
    """A value without quotes and repeated blanks, empty for '.' and '?'."""
    return "" if cif.is_null(value) else " ".join(cif.as_string(value).split())


def number_in(text: str) -> float:
    """A CIF number, its standard uncertainty in brackets dropped; nan for what is none."""
    return cif.as_number(cif.as_string(text))


def from_gemmi(document: Iterable[cif.Block]) -> list[Block]:
    """The blocks of a document that gemmi parsed; frames (``save_``) are left out."""
    return [_from_gemmi(block) for block in document]


def _from_gemmi(source: cif.Block) -> Block:
    block = Block(source.name.strip())
    for number, entry in enumerate(source):
        if entry.pair is not None:
            tag, value = cast(Sequence[str], entry.pair)
            # With check_level=0 gemmi takes a tag without a value.
            fault = None if value else f"truncated or damaged: {tag[:60]} has no value"
            block.add(Item(tag, source=(value,), fault=fault))
        elif entry.loop is not None:
            tags, loop = entry.loop.tags, _Loop(entry.loop)
            for column, tag in enumerate(tags):
                block.add(Item(tag, number, loop, column, len(tags)))
    return block
