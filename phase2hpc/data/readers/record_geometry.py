"""Geometry of one record, before validation, and the error of a record without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class RecordError(ValueError):
    """A record has no structure that can be read; the message is ``kind: detail``, one line."""


@dataclass(frozen=True)
class Geometry:
    """Lattice (angstrom, rows are vectors), species, fractional coordinates and occupancies as
    the record has them; validation checks them.

    occupancies: None where the format has none. note: as of ``RawCrystal``.
    """

    lattice: Any
    species: Any
    frac_coords: Any
    occupancies: list[float] | None = None
    note: str = ""
