"""Label values as files write them, and what is known to be wrong with some of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from statistics import median
from typing import Any

from phase2hpc.config.properties import canonical_name

# Above this median (eV/atom) a column cannot be energy above hull; the 2022 edition has 0.1.
EHULL_MEDIAN_LIMIT = 0.5
_EHULL_MIN_VALUES = 20


def label_value(value: Any) -> float | None:
    """The finite number a cell holds; None for "na", "", NaN, inf, other text and truth values."""
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def labels_in(columns: Mapping[str, Any], skip: Iterable[str] = ()) -> dict[str, float]:
    """Labels by property name: numeric columns, JARVIS fields renamed, others as they are."""
    skipped = set(skip)
    labels = {}
    for name, value in columns.items():
        if name and name not in skipped and (number := label_value(value)) is not None:
            labels[canonical_name(name)] = number
    return labels


def ehull_warning(values: Iterable[float]) -> str | None:
    """What to tell the user if these ``ehull`` values (eV/atom) are no energies above hull.

    The 2021 edition of JARVIS dft_3d has another quantity in that field, with a median of 1.6.
    """
    known = list(values)
    if len(known) < _EHULL_MIN_VALUES or median(known) <= EHULL_MEDIAN_LIMIT:
        return None
    return (
        f"the median of ehull is {median(known):.2f} eV/atom: this is not the energy above hull "
        "(the 2021 edition of JARVIS dft_3d has another quantity under that name); use the 2022 "
        "edition or leave ehull out"
    )
