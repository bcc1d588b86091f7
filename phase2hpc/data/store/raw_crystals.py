"""Crystals of a store as raw crystals with their labels, as the readers of sources give them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import RawCrystal
from phase2hpc.data.elements import SYMBOLS
from phase2hpc.data.readers.labels import Labels
from phase2hpc.data.store.reader import Store


def raw_crystals(store: Store, chosen: npt.NDArray[np.bool_]) -> Iterator[RawCrystal]:
    """The crystals with a true entry in ``chosen`` (N,), in order, placed at ``store.h5#row``.

    Coordinates are as precise as in the store.
    """
    units = {name: unit for name, unit in store.info.units.items() if unit}
    first = 0
    for block in store.blocks():
        for i in np.flatnonzero(chosen[first : first + len(block)]).tolist():
            atoms = slice(int(block.node_ptr[i]), int(block.node_ptr[i + 1]))
            cells = {name: float(column[i]) for name, column in block.labels.items()}
            labels = Labels({name: v for name, v in cells.items() if math.isfinite(v)})
            labels.missing = tuple(cells.keys() - labels.keys())
            labels.units = units
            yield RawCrystal(
                block.id(i),
                f"{store.path.name}#{first + i}",
                block.lattice[i],
                [SYMBOLS[number] for number in block.atomic_number[atoms]],
                block.frac_coords[atoms].astype(np.float64),
                labels=labels,
            )
        first += len(block)
