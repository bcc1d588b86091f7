"""Tabulated properties of the elements, standardised, as input of the models.

The values are pymatgen's (``element_descriptors.csv``; how it was made:
benchmarks/element_descriptors.py). Units: electronegativity on Pauling's scale; radii in angstrom
(empirical, Slater; and calculated, Clementi); mass in u; energies in eV; molar volume in
cm^3/mol; melting point in K. Oxidation states are the highest and lowest of the common ones. The
block s, p, d, f is 0, 1, 2, 3.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from phase2hpc.data.elements import MAX_ATOMIC_NUMBER

_LOGARITHMIC = "atomic_mass"
# Mean and spread are over H to Pu: beyond it most values are missing.
_LAST_STANDARDISED = 94


@lru_cache
def element_descriptors() -> NDArray[np.float32]:
    """Descriptors by atomic number, (MAX_ATOMIC_NUMBER + 1, D): mean 0, standard deviation 1.

    A missing value is 0, the mean. Row 0 is no element.
    """
    text = files("phase2hpc.data").joinpath("element_descriptors.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = lines[0].split(",")[2:]
    table = np.full((MAX_ATOMIC_NUMBER + 1, len(names)), np.nan)
    for line in lines[1:]:
        number, _symbol, *values = line.split(",")
        table[int(number)] = [float(value) if value else np.nan for value in values]
    mass = names.index(_LOGARITHMIC)
    table[:, mass] = np.log(table[:, mass])
    known = table[1 : _LAST_STANDARDISED + 1]
    table = (table - np.nanmean(known, axis=0)) / np.nanstd(known, axis=0)
    standardised: NDArray[np.float32] = np.nan_to_num(table, nan=0.0).astype(np.float32)
    standardised.flags.writeable = False  # shared by all callers
    return standardised
