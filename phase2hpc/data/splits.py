"""Which crystals train, which choose the best epoch, which judge: train, val and test.

The default is a hash of the reduced formula, so that polymorphs and duplicates of a compound
never straddle two splits, in any source and on any machine.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from phase2hpc.data.composition import AtomicNumbers, composition_key
from phase2hpc.data.crystal import Crystal
from phase2hpc.errors import InputError
from phase2hpc.utils.text import one_line

SPLITS = ("train", "val", "test")
TRAIN_FRACTION, VAL_FRACTION = 0.8, 0.1

_ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val"}
_EXPECTED = "expected train, val or test"

Splitter = Callable[[Crystal], str]


class UnknownSplit(InputError):
    """A source or a file gives a crystal a split that is none of the three."""


def canonical_split(name: str) -> str:
    """ "train", "val" or "test" for a split as people write it; raises UnknownSplit."""
    text = name.strip().lower()
    text = _ALIASES.get(text, text)
    if text not in SPLITS:
        raise UnknownSplit(f"unknown split '{one_line(name[:40])}': {_EXPECTED}")
    return text


def formula_split(numbers: AtomicNumbers) -> str:
    """Split of a compound, by the SHA-256 of its reduced formula: 80% train, 10% val, 10% test."""
    return _hash_split(f"phase2:{composition_key(numbers)}")


def random_split(identifier: str, seed: int = 0) -> str:
    """Split of one structure by a hash of its id and a seed.

    Each structure falls where it falls whatever else is in the data set, but polymorphs of a
    compound may straddle train and test: errors then look better than they are.
    """
    return _hash_split(f"phase2:{seed}:{identifier}")


@lru_cache(maxsize=1 << 16)
def _hash_split(key: str) -> str:
    position = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
    if position < TRAIN_FRACTION:
        return "train"
    return "val" if position < TRAIN_FRACTION + VAL_FRACTION else "test"


def read_split_file(path: str | Path) -> dict[str, str]:
    """Split by id from a CSV of two columns, id and split, with or without a header.

    Raises InputError, with the line, for a missing file, an unknown split, or an id in two splits.
    """
    path = Path(path)
    splits: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            for line, row in enumerate(csv.reader(handle), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if not splits and [cell.lower() for cell in cells[:2]] == ["id", "split"]:
                    continue
                if len(cells) != 2 or not cells[0]:
                    raise InputError(f"{path}, line {line}: expected two columns, id and split")
                try:
                    split = canonical_split(cells[1])
                except InputError as error:
                    raise InputError(f"{path}, line {line}: {error}") from None
                if splits.setdefault(cells[0], split) != split:
                    raise InputError(f"{path}, line {line}: '{cells[0]}' is in two splits")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable split file ({error})") from None
    if not splits:
        raise InputError(f"{path}: no line with an id and a split")
    return splits


def make_splitter(rule: str | None = None, seed: int = 0) -> Splitter:
    """What gives each crystal its split under ``rule``.

    None: the source's own split where it has one, else by formula. "formula", "random" (by id
    and ``seed``), "column" (the source's own, required), or the path of a CSV of id and split.
    Raises InputError for an unknown rule; the splitter raises it for a crystal without a split,
    UnknownSplit for one whose split is no split.
    """
    if rule is None:
        return lambda crystal: (
            canonical_split(crystal.split) if crystal.split else formula_split(crystal.numbers)
        )
    if rule == "formula":
        return lambda crystal: formula_split(crystal.numbers)
    if rule == "random":
        return lambda crystal: random_split(crystal.id, seed)
    if rule == "column":
        return _by_column
    if not Path(rule).exists():
        raise InputError(
            f"unknown split rule '{rule}': use formula, random, column, or the path of a CSV file "
            "with columns id and split"
        )
    return _by_table(read_split_file(rule), rule)


def _by_column(crystal: Crystal) -> str:
    if not crystal.split:
        raise InputError(
            f"the source gives no split for '{crystal.id}': use --split formula, random or a file"
        )
    return canonical_split(crystal.split)


def _by_table(splits: dict[str, str], name: str) -> Splitter:
    def split(crystal: Crystal) -> str:
        if crystal.id not in splits:
            raise InputError(f"{name} gives no split for '{crystal.id}': every id needs a line")
        return splits[crystal.id]

    return split
