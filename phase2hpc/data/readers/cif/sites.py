"""The atom sites of a CIF block: elements, coordinates and occupancies, all of them or a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from gemmi import cif

from phase2hpc.data.elements import ATOMIC_NUMBERS, atomic_number
from phase2hpc.data.readers.cif.syntax import CifError, column, number_in

MAX_SITES = 20_000
# A double this large has no digits left behind its point.
NO_FRACTION = 1e15
_FRACTIONAL = ("fract_x", "fract_y", "fract_z")


def read_sites(
    block: cif.Block,
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Symbols as written, fractional coordinates (n, 3) and occupancies (n,) of the sites."""
    axes = [column(block, axis) for axis in _FRACTIONAL]
    labels, types = column(block, "label"), column(block, "type_symbol")
    n = len(axes[0])
    if not all(axes):
        if column(block, "Cartn_x"):
            raise CifError("no fractional coordinates: the sites have only Cartesian ones")
        if any(axes) or labels or types:
            raise CifError("no coordinates: _atom_site_fract_x, _y, _z must all be there")
        raise CifError("no atoms: the file lists no _atom_site_ (was it cut short?)")
    if n > MAX_SITES:
        raise CifError(f"too many atoms: {n} sites")
    columns = [*axes, labels, types, column(block, "occupancy")]
    if any(column and len(column) != n for column in columns):
        raise CifError("damaged loop: the columns of _atom_site_ differ in length")
    if not labels and not types:
        raise CifError("unknown element: the sites have neither type symbols nor labels")
    names = labels or types
    frac = np.array([[number_in(text) for text in axis] for axis in axes]).T
    bad = np.argwhere(~(np.abs(frac) < NO_FRACTION))
    if len(bad):
        site, axis = bad[0]
        text = cif.as_string(axes[axis][site])[:20] or axes[axis][site]
        raise CifError(
            f"bad coordinates: _atom_site_{_FRACTIONAL[axis]} of {names[site][:20]} is '{text}'"
        )
    _refuse_missing_hydrogens(block, names)
    symbols = [
        cif.as_string(types[i]) if types and not cif.is_null(types[i]) else _from_label(labels[i])
        for i in range(n)
    ]
    return symbols, frac, _occupancies(column(block, "occupancy"), names)


def _occupancies(column: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.float64]:
    # The CIF dictionary's default, for a missing column as for '.' and '?', is a full site.
    values = np.ones(len(names))
    for i, text in enumerate(column):
        if not cif.is_null(text):
            values[i] = number_in(text)
            if not np.isfinite(values[i]):
                raise CifError(f"bad occupancy: of {names[i][:20]}, it is '{text[:20]}'")
    return values


def _refuse_missing_hydrogens(block: cif.Block, names: Sequence[str]) -> None:
    for name, text in zip(names, column(block, "attached_hydrogens"), strict=False):
        if number_in(text) > 0:
            raise CifError(f"missing atoms: {name[:20]} has attached hydrogens without coordinates")


def _from_label(label: str) -> str:
    """Element of a site that has only a label: Fe1 is Fe, CA1 could be carbon or calcium."""
    letters = re.match(r"[A-Za-z]*", cif.as_string(label))
    word = letters[0] if letters else ""
    if len(word) > 1 and word[1].isupper():
        # "OW1": the second capital may begin a name of the site, or be the element's.
        readings = [x for x in (word[0], word[:2].capitalize()) if x in ATOMIC_NUMBERS]
        if len(readings) > 1:
            raise CifError(
                f"ambiguous element: label {label[:20]} may be {readings[0]} or {readings[1]}; "
                "give _atom_site_type_symbol"
            )
        word = readings[0] if readings else word
    if atomic_number(word) is None:
        raise CifError(f"unknown element: label '{label[:20]}' and no _atom_site_type_symbol")
    return word
