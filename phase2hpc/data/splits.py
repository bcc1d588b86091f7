"""Train, val and test splits and cross-validation folds.

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
# Shares of train, val and test.
Fractions = tuple[float, float, float]
FRACTIONS: Fractions = (0.8, 0.1, 0.1)
MIN_FOLDS, MAX_FOLDS = 3, 100

_ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val"}
_EXPECTED = "expected train, val or test"

Splitter = Callable[[Crystal], str]


class UnknownSplit(InputError):
    """A source or a file assigns a crystal to an unknown split."""


def canonical_split(name: str) -> str:
    """Canonical split name, "train", "val" or "test". Raises UnknownSplit."""
    text = name.strip().lower()
    text = _ALIASES.get(text, text)
    if text not in SPLITS:
        raise UnknownSplit(f"unknown split '{one_line(name[:40])}': {_EXPECTED}")
    return text


def formula_split(numbers: AtomicNumbers, fractions: Fractions = FRACTIONS) -> str:
    """Split of a compound by the SHA-256 of its reduced formula; by default 80/10/10."""
    return _hash_split(f"phase2:{composition_key(numbers)}", fractions)


def random_split(identifier: str, seed: int = 0, fractions: Fractions = FRACTIONS) -> str:
    """Split of one structure by a hash of its id and a seed.

    The split does not depend on the rest of the data set, but polymorphs of a compound may be in
    both train and test, which understates test errors.
    """
    return _hash_split(f"phase2:{seed}:{identifier}", fractions)


def formula_fold(numbers: AtomicNumbers, folds: int) -> int:
    """Fold (1 to ``folds``) of a compound by the SHA-256 of its reduced formula.

    It is independent of ``formula_split``, so that folds are also unbiased within a split.
    """
    return 1 + int(_hash_position(f"phase2:fold:{composition_key(numbers)}") * folds)


def split_in_fold(own: int, fold: int, folds: int) -> str:
    """Split in run ``fold`` of a crystal of fold ``own``: test, val if it is the next, or train."""
    if own == fold:
        return "test"
    return "val" if own == fold % folds + 1 else "train"


def _hash_split(key: str, fractions: Fractions) -> str:
    position = _hash_position(key)
    if position < fractions[0]:
        return "train"
    return "val" if position < fractions[0] + fractions[1] else "test"


@lru_cache(maxsize=1 << 10)  # for neighbours in a file; more would keep each crystal's formula
def _hash_position(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


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


def make_splitter(rule: str | None = None, seed: int = 0, folds: int | None = None) -> Splitter:
    """Make the function that assigns a split to each crystal.

    None: the source's own split where it has one, else by formula. "formula", "random" (by id
    and ``seed``), each also with shares as in "formula:70/15/15", "column" (the source's own,
    required), or the path of a CSV of id and split. folds: number of folds by formula; the
    splits are those of the first fold. Raises InputError for an unknown rule; the splitter raises
    InputError for a crystal without a split and UnknownSplit for an unknown split.
    """
    if folds is not None:
        if not MIN_FOLDS <= folds <= MAX_FOLDS:
            raise InputError(f"--folds {folds}: give {MIN_FOLDS} to {MAX_FOLDS}")
        if rule not in (None, "formula"):
            raise InputError(f"--folds assigns crystals by formula: leave --split {rule} out")
        return lambda crystal: split_in_fold(formula_fold(crystal.numbers, folds), 1, folds)
    if rule is None:
        return lambda crystal: (
            canonical_split(crystal.split) if crystal.split else formula_split(crystal.numbers)
        )
    if (hashed := hash_rule(rule)) is not None:
        name, fractions = hashed
        if name == "formula":
            return lambda crystal: formula_split(crystal.numbers, fractions)
        return lambda crystal: random_split(crystal.id, seed, fractions)
    if rule == "column":
        return _by_column
    if not Path(rule).exists():
        raise InputError(
            f"unknown split rule '{rule}': use formula, random (each also as formula:70/15/15), "
            "column, or the path of a CSV file with columns id and split"
        )
    return _by_table(read_split_file(rule), rule)


def hash_rule(rule: str) -> tuple[str, Fractions] | None:
    """Name and fractions of a "formula" or "random" rule, None for another rule.

    Raises InputError for shares that are not three positive numbers that add up to 100 (or 1).
    """
    name, colon, text = rule.partition(":")
    if name not in ("formula", "random"):
        return None
    if not colon:
        return name, FRACTIONS
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    total = sum(shares)
    if (
        len(shares) != 3
        or not all(share > 0 for share in shares)
        or not any(abs(total - whole) < 1e-6 * whole for whole in (1, 100))
    ):
        raise InputError(
            f"--split {rule}: give shares of train, val and test that add up to 100, as in "
            f"{name}:70/15/15"
        )
    return name, (shares[0] / total, shares[1] / total, shares[2] / total)


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
