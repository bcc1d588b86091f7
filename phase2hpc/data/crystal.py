"""A crystal, as read from a source and as accepted by validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class RawCrystal:
    """A crystal as its source has it, before validation.

    ``lattice`` is (3, 3) in angstrom, rows are vectors; ``species`` are element names as
    written ("Fe", "Fe3+", "D"); ``frac_coords`` is (n, 3). ``occupancies`` is None where the
    format has none. ``input`` is its place in the source (a file, ``file#block``, ``file:line``).
    ``note`` is one line on what was read otherwise than written, or not at all, for a warning.
    """

    id: str
    input: str
    lattice: Any
    species: Sequence[str]
    frac_coords: Any
    occupancies: Sequence[float] | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None
    note: str = ""


@dataclass(frozen=True)
class UnreadableRecord:
    """An input a source could not turn into a structure at all, and why (one line).

    ``labels``: its label cells, for the report of those that are not numbers.
    """

    id: str
    input: str
    reason: str
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Crystal:
    """A crystal that validation accepted.

    ``lattice`` (3, 3) float64 angstrom, rows are vectors; ``numbers`` (n,) uint8 atomic numbers;
    ``frac_coords`` (n, 3) float64 wrapped into [0, 1); ``labels`` finite values by property name.
    """

    id: str
    lattice: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.uint8]
    frac_coords: npt.NDArray[np.float64]
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None
