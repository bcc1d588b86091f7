"""Chemical formulas from atomic numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import numpy as np
import numpy.typing as npt

from phase2hpc.data.elements import SYMBOLS

AtomicNumbers = Sequence[int] | npt.NDArray[np.uint8]


def reduced_composition(numbers: AtomicNumbers) -> tuple[tuple[str, int], ...]:
    """(symbol, count) in alphabetical order, counts over their greatest common divisor."""
    values, counts = np.unique(np.asarray(numbers), return_counts=True)
    divisor = gcd(*counts.tolist())
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return tuple(sorted((SYMBOLS[z], count // divisor) for z, count in pairs))


def composition_key(numbers: AtomicNumbers) -> str:
    """The reduced composition as text, counts of 1 written too: Al4O6 is ``Al2O3``, Na4Cl4 is
    ``Cl1Na1``. The split by formula is a hash of it, so it never changes."""
    return "".join(f"{symbol}{count}" for symbol, count in reduced_composition(numbers))


def reduced_formula(numbers: AtomicNumbers) -> str:
    """Reduced formula in pymatgen's notation, ``LiFePO4`` or ``Ca3(PO4)2``, which is that of the
    Materials Project (``formula_pretty``): tables of both can be joined on it."""
    return _pymatgen_formula(reduced_composition(numbers))


@lru_cache(maxsize=1 << 16)
def _pymatgen_formula(composition: tuple[tuple[str, int], ...]) -> str:
    from pymatgen.core import Composition

    return str(Composition(dict(composition)).reduced_formula)
