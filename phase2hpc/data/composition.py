"""Chemical formulas from atomic numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import gcd, inf, isnan

import numpy as np
import numpy.typing as npt

from phase2hpc.data.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITY, SYMBOLS

AtomicNumbers = Sequence[int] | npt.NDArray[np.uint8]


def reduced_composition(numbers: AtomicNumbers) -> tuple[tuple[str, int], ...]:
    """(symbol, count) in alphabetical order, counts over their greatest common divisor."""
    counts = Counter(numbers.tolist() if isinstance(numbers, np.ndarray) else numbers)
    divisor = gcd(*counts.values())
    return tuple(sorted((SYMBOLS[z], count // divisor) for z, count in counts.items()))


def composition_key(numbers: AtomicNumbers) -> str:
    """The reduced composition as text, counts of 1 written too: Al4O6 is ``Al2O3``, Na4Cl4 is
    ``Cl1Na1``. The split by formula is a hash of it, so it never changes."""
    return "".join(f"{symbol}{count}" for symbol, count in reduced_composition(numbers))


def reduced_formula(numbers: AtomicNumbers) -> str:
    """Reduced formula in pymatgen's notation, ``LiFePO4`` or ``Ca3(PO4)2``, which is that of the
    Materials Project (``formula_pretty``): tables of both can be joined on it."""
    return _pymatgen_formula(reduced_composition(numbers))


# What pymatgen does not reduce: peroxides, and elements that are molecules.
_NOT_REDUCED = {
    "LiO": "Li2O2", "NaO": "Na2O2", "KO": "K2O2", "HO": "H2O2", "CsO": "Cs2O2", "RbO": "Rb2O2",
    "O": "O2", "N": "N2", "F": "F2", "Cl": "Cl2", "H": "H2",
}  # fmt: skip
# Two last elements that differ by less in electronegativity are a polyanion.
_POLYANION = 1.65


@lru_cache(maxsize=1 << 10)  # for neighbours in a file; more would keep each crystal's formula
def _pymatgen_formula(composition: tuple[tuple[str, int], ...]) -> str:
    """The rule of pymatgen's ``Composition.reduced_formula``, which takes seconds to import."""
    parts = sorted(composition, key=lambda part: (_order(part[0]), part[0]))
    polyanion = ""
    if len(parts) >= 3:
        (a, n), (b, m) = parts[-2:]
        times = gcd(n, m)
        if times > 1 and _negativity(b) - _negativity(a) < _POLYANION:
            inner = _written(a, n // times) + _written(b, m // times)
            polyanion, parts = f"({inner}){times}", parts[:-2]
    formula = "".join(_written(symbol, count) for symbol, count in parts) + polyanion
    return _NOT_REDUCED.get(formula, formula)


def _written(symbol: str, count: int) -> str:
    return symbol if count == 1 else f"{symbol}{count}"


def _negativity(symbol: str) -> float:
    return ELECTRONEGATIVITY[ATOMIC_NUMBERS[symbol]]


def _order(symbol: str) -> float:
    value = _negativity(symbol)
    return inf if isnan(value) else value
