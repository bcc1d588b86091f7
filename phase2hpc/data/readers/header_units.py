"""Units in column headers, as in ``Eg (eV)`` or ``K [GPa]``."""

from __future__ import annotations

import re

_PREFIXES = ("", "m", "k", "M", "G", "T", "c", "d", "u", "\u00b5", "\u03bc", "n", "p", "f", "h")
_PREFIXED = ("eV", "Pa", "J", "cal", "m", "g", "s", "Hz", "C", "V", "N", "W", "K", "A", "S", "F",
             "T", "bar", "mol", "L", "Ry", "Ha", "H", "Ohm", "ohm", "\u03a9", "D")  # fmt: skip
_PLAIN = (
    "atom", "atoms", "at", "at.", "f.u.", "fu", "cell", "unitcell", "u.c.", "formula", "site",
    "ion", "electron", "e", "\u00c5", "\u212b", "Ang", "angstrom", "Angstrom", "bohr", "Bohr",
    "\u03bcB", "\u00b5B", "uB", "mu_B", "muB", "Hartree", "hartree", "rad", "deg", "degree",
    "\u00b0", "\u00b0C", "degC", "%", "wt%", "at%", "min", "hour", "day", "amu", "u", "Da",
    "a.u.", "au", "dimensionless", "unitless", "-", "1", "arb.",
)  # fmt: skip
_KNOWN = {prefix + unit for prefix in _PREFIXES for unit in _PREFIXED} | set(_PLAIN)
_HEADER = re.compile(r"(?P<name>.*?\S)\s*[(\[]\s*(?P<unit>[^()\[\]]+?)\s*[)\]]")
_SEPARATOR = re.compile(r"\s*(?:/|\*|\u00b7|\u22c5|\^|\bper\b|\s)\s*")
_EXPONENT = re.compile(r"(?:\^|\*\*)?[-\u2212\u207b+]?(?:\d+|[\u00b9\u00b2\u00b3\u2070-\u2079]+)$")


def split_unit(header: str) -> tuple[str, str]:
    """Name and unit of a column header; the unit is "" where none is recognised.

    Only what consists of known units is one: ``gap (PBE)`` and ``d(110)`` are names.
    """
    found = _HEADER.fullmatch(header)
    if found is None or not _is_unit(found["unit"]):
        return header, ""
    unit = found["unit"]
    return found["name"], "" if unit in ("-", "1", "dimensionless", "unitless") else unit


def same_unit(first: str, second: str) -> bool:
    """True for two spellings of one unit: ``eV per atom`` is ``eV/atom``."""
    return _normal(first) == _normal(second)


def _normal(unit: str) -> str:
    text = re.sub(r"\s*(?:\bper\b|/)\s*", "/", unit.strip())
    text = re.sub(r"[\s*\u00b7\u22c5]*atoms?\^?[-\u2212\u207b](?:1|\u00b9)", "/atom", text)
    return re.sub(r"\s+", " ", text.replace("/atoms", "/atom").replace("/at.", "/atom"))


def _is_unit(text: str) -> bool:
    if text in _KNOWN:
        return True
    parts = [part for part in _SEPARATOR.split(text) if part]
    symbols = [_EXPONENT.sub("", part) for part in parts]
    # A number by itself is an exponent only behind a symbol, as in "g cm -3".
    known = [symbol for symbol in symbols if symbol]
    return bool(symbols and symbols[0]) and all(symbol in _KNOWN for symbol in known)
