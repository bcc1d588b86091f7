"""Elements of CIF sites from type symbols and labels."""

from __future__ import annotations

import re

from gemmi import cif

from phase2hpc.data.elements import ATOMIC_NUMBERS, atomic_number
from phase2hpc.data.readers.cif.block import CifError
from phase2hpc.utils.text_cache import cached_for_short_text

# Names of scattering factors for bonded atoms (International Tables C; SHELX): valence carbon.
_SCATTERING_FACTOR = re.compile(r"([A-Z][a-z]?)(?:val|va|iso|\.)")
_VACANCY = re.compile(r"(?:vac|vacancy)[\d_]*", re.IGNORECASE)
# Of a label, Va may be a site of vanadium.
_VACANCY_TYPE = re.compile(r"Va\d*")
# What follows an element in a label, as AMCSD writes them: a site (FeT, CaM1, AlVI, AlOct, Ala), a
# number. More small letters make another word (Site, Cen).
_ELEMENT_AND_SITE = re.compile(r"([A-Z][a-z])(?:[A-Z]*|[a-d]|Oct|Tet)(?![A-Za-z])")
# Water, hydroxyl and lettered sites of oxygen and hydrogen: Ow1, Oa, Hw.
_ANION_AND_SITE = re.compile(r"([OH]|D(?=w))[a-z](?![A-Za-z])")


def is_vacancy(type_symbol: str | None, label: str | None) -> bool:
    """True for a site that is declared as empty."""
    if type_symbol is not None and not cif.is_null(type_symbol):
        return _is_vacancy_type(type_symbol)
    return label is not None and _is_vacancy_name(label)


@cached_for_short_text
def _is_vacancy_name(name: str) -> bool:
    return _VACANCY.fullmatch(cif.as_string(name)) is not None


@cached_for_short_text
def _is_vacancy_type(name: str) -> bool:
    return _VACANCY_TYPE.fullmatch(cif.as_string(name)) is not None or _is_vacancy_name(name)


@cached_for_short_text
def element_of_type(type_symbol: str) -> str:
    """Element in ``_atom_site_type_symbol``, as written where it is none (validation says so).

    Raises CifError for mixtures and for T, which may be tritium or a tetrahedral site.
    """
    text = cif.as_string(type_symbol)
    if " + " in text:
        raise CifError(f"disordered: the type symbol '{text[:30]}' is a mixture")
    if atomic_number(text) is None:
        match = _SCATTERING_FACTOR.fullmatch(text)
        return match[1] if match is not None and match[1] in ATOMIC_NUMBERS else text
    if re.fullmatch(r"[Tt]\d*", text):
        raise CifError(
            f"ambiguous element: type symbol '{text}' may be tritium or a tetrahedral site; write "
            "the element (H for tritium)"
        )
    return text


def element_of_label(label: str) -> str:
    """Element of a site that has only a label: Fe1 is Fe, CA1 could be carbon or calcium.

    Raises CifError for labels that are ambiguous or name no element.
    """
    text = cif.as_string(label)
    site = _ELEMENT_AND_SITE.match(text)
    if site is not None and site[1] in ATOMIC_NUMBERS:
        return site[1]
    letters = re.match(r"[A-Za-z]*", text)
    word = letters[0] if letters else ""
    anion = _ANION_AND_SITE.match(text)
    if anion is not None and atomic_number(word) is None:
        return anion[1]
    if word in ("T", "t"):
        raise CifError(
            f"ambiguous element: label {text[:20]} may be tritium or a tetrahedral site; give "
            "_atom_site_type_symbol"
        )
    if len(word) > 1 and word[1].isupper():
        # "OW1": the second capital may begin a name of the site, or be the element's.
        readings = [x for x in (word[0], word[:2].capitalize()) if x in ATOMIC_NUMBERS]
        if len(readings) > 1:
            raise CifError(
                f"ambiguous element: label {text[:20]} may be {readings[0]} or {readings[1]}; "
                "give _atom_site_type_symbol"
            )
        word = readings[0] if readings else word
    if atomic_number(word) is None:
        raise CifError(f"unknown element: label '{text[:20]}' and no _atom_site_type_symbol")
    return word
