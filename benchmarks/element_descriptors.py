"""Write the table of element descriptors from pymatgen's element data.

python benchmarks/element_descriptors.py > phase2hpc/data/element_descriptors.csv

The table in the package is the one that models are trained with: a model carries its own copy, so
a new table changes new models only.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from pymatgen.core import Element

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER

BLOCKS = {"s": 0, "p": 1, "d": 2, "f": 3}

DESCRIPTORS: dict[str, Callable[[Element], Any]] = {
    "electronegativity": lambda e: e.X,
    "atomic_radius": lambda e: e.atomic_radius,
    "calculated_radius": lambda e: e.atomic_radius_calculated,
    "group": lambda e: e.group,
    "period": lambda e: e.row,
    "mendeleev_number": lambda e: e.mendeleev_no,
    "atomic_mass": lambda e: e.atomic_mass,
    "first_ionization_energy": lambda e: e.ionization_energies[0],
    "electron_affinity": lambda e: e.electron_affinity,
    "molar_volume": lambda e: e.molar_volume,
    "melting_point": lambda e: e.melting_point,
    "max_oxidation_state": lambda e: max(e.common_oxidation_states),
    "min_oxidation_state": lambda e: min(e.common_oxidation_states),
    "block": lambda e: BLOCKS[e.block],
}


def main() -> None:
    warnings.simplefilter("ignore")
    out = csv.writer(sys.stdout, lineterminator="\n")
    print(f"# pymatgen {version('pymatgen')}, written by benchmarks/element_descriptors.py")
    out.writerow(["atomic_number", "symbol", *DESCRIPTORS])
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        element = Element.from_Z(number)
        out.writerow([number, element.symbol, *(value(element, f) for f in DESCRIPTORS.values())])


def value(element: Element, read: Callable[[Element], Any]) -> str:
    """A number as text, or nothing where pymatgen has none."""
    try:
        number = float(read(element))
    except (TypeError, ValueError, KeyError, IndexError):
        return ""
    return f"{number:.6g}" if number == number else ""


if __name__ == "__main__":
    main()
