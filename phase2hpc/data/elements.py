"""Chemical symbols, covalent radii and electronegativities of the elements up to lawrencium."""

from __future__ import annotations

import re

import numpy as np

# The heaviest element with tabulated data; models embed atomic numbers 1 to 103.
MAX_ATOMIC_NUMBER = 103

# Index is the atomic number; "X" stands at 0, which is no element.
SYMBOLS: tuple[str, ...] = tuple(
    """
    X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se
    Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy
    Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    Es Fm Md No Lr
    """.split()  # noqa: SIM905
)

ATOMIC_NUMBERS: dict[str, int] = {
    symbol: number for number, symbol in enumerate(SYMBOLS) if number > 0
}

# In angstrom, index is the atomic number: Cordero et al., Dalton Trans. 2832 (2008), which ends
# at curium; the value of curium stands for the elements after it.
COVALENT_RADII = np.array(
    [
        0.0, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11,
        1.07, 1.05, 1.02, 1.06, 2.03, 1.76, 1.7, 1.6, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32,
        1.22, 1.22, 1.2, 1.19, 1.2, 1.2, 1.16, 2.2, 1.95, 1.9, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42,
        1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.4, 2.44, 2.15, 2.07, 2.04, 2.03, 2.01,
        1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.9, 1.87, 1.87, 1.75, 1.7, 1.62, 1.51,
        1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.4, 1.5, 1.5, 2.6, 2.21, 2.15, 2.06, 2.0,
        1.96, 1.9, 1.87, 1.8, 1.69, *[1.69] * 7,
    ]
)  # fmt: skip

# Pauling's scale as pymatgen has it, index is the atomic number; nan where no value is known.
_UNKNOWN = float("nan")
ELECTRONEGATIVITY: tuple[float, ...] = (
    _UNKNOWN, 2.2, _UNKNOWN, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _UNKNOWN, 0.93, 1.31, 1.61,
    1.9, 2.19, 2.58, 3.16, _UNKNOWN, 0.82, 1, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88,
    1.91, 1.9, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3, 0.82, 0.95, 1.22, 1.33, 1.6,
    2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79,
    0.89, 1.1, 1.12, 1.13, 1.14, 1.13, 1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25,
    1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2, 1.62, 2.33, 2.02, 2, 2.2,
    2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3,
    1.3, 1.3,
)  # fmt: skip

# "Fe", "Fe3+", "Fe+3", "O2-", "Fe2.5+", "Fe1" (a label where a symbol belongs).
_SPECIES = re.compile(r"([A-Za-z]{1,2})(?:\d{0,3}(?:\.\d+)?[+-]?|[+-]\d{1,2}(?:\.\d+)?)")
_HYDROGEN_ISOTOPES = {"D": 1, "T": 1}


def atomic_number(species: str) -> int | None:
    """Atomic number of an element as files write it; None for anything but H to Lr.

    Oxidation states ("Fe3+", "O-2"), trailing numbers ("Fe1") and what follows a comma
    ("Fe2+,spin=5") are dropped; deuterium and tritium are hydrogen; case does not matter.
    """
    known = ATOMIC_NUMBERS.get(species)
    if known is not None:
        return known
    match = _SPECIES.fullmatch(species.split(",")[0].strip())
    if match is None:
        return None
    symbol = match[1].capitalize()
    return ATOMIC_NUMBERS.get(symbol, _HYDROGEN_ISOTOPES.get(symbol))
