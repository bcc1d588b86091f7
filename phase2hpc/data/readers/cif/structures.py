"""Crystals in CIF files: each data block with sites becomes a whole crystal or one clear reason.

Parsers take what they can of a broken file: gemmi gives a file without a cell one of 1 x 1 x 1
and makes atoms of '?', pymatgen takes a cell of nan and says of most else only that the file has
no structures. Reasons have the form ``kind: detail``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import gemmi
import numpy as np
import numpy.typing as npt

from phase2hpc.data.crystal import RawCrystal, UnreadableRecord
from phase2hpc.data.readers.cif.block import NO_LOOP, Block, CifError, number_in
from phase2hpc.data.readers.cif.consistency import (
    check_density,
    check_formula,
    check_units_of_unstated_symmetry,
    check_volume,
    makes_formula,
)
from phase2hpc.data.readers.cif.operations import arrays_of, check_metric, expand
from phase2hpc.data.readers.cif.sites import Sites, read_sites, refuse_macromolecular
from phase2hpc.data.readers.cif.space_groups import OpenSettingError, SymmetryError
from phase2hpc.data.readers.cif.symmetry import stated_symmetry
from phase2hpc.data.readers.cif.syntax import parse
from phase2hpc.data.readers.cif.unstated_symmetry import (
    refuse_evidence_against_p1,
    refuse_modulated,
)
from phase2hpc.data.readers.truncation import ends_openly, looks_truncated
from phase2hpc.data.shared_sites import is_ordered, with_whole_sites

MAX_IMAGES = 100_000

_CELL_TAGS = tuple(
    f"_cell_{part}"
    for part in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)


def structures_in_cif(data: bytes, name: str, source: str) -> list[RawCrystal | UnreadableRecord]:
    """The crystals of a CIF: one item for each data block with sites, at least one item in all.

    One block takes ``name`` as its id, several take ``name#block``; a block name that occurs
    again gets a number, ``name#block(2)``. ``source`` is the ``input`` of the items, with the
    same suffix. Never raises for what is in ``data``.
    """
    try:
        document = parse(data)
    except CifError as error:
        return [UnreadableRecord(name, source, str(error))]
    blocks, others = _structure_blocks(document)
    items: list[RawCrystal | UnreadableRecord] = []
    for block, suffix in zip(blocks, _suffixes(blocks), strict=True):
        try:
            if block is document[-1] and ends_openly(data):
                _refuse_cut_value(block)
            items.append(_crystal(block, others, name + suffix, source + suffix))
        except (CifError, SymmetryError) as error:
            items.append(UnreadableRecord(name + suffix, source + suffix, str(error)))
    return items


def _structure_blocks(document: Sequence[Block]) -> tuple[list[Block], list[Block]]:
    """Blocks with sites, and the others.

    If no block has sites, the one whose lack of them is worth reporting.
    """
    with_sites = [block for block in document if _has_category(block, "_atom_site_")]
    if not with_sites:
        with_cell = [block for block in document if _has_category(block, "_cell_")]
        return with_cell[:1] or [document[0]], []
    if len(with_sites) == len(document):
        return with_sites, []
    return with_sites, [b for b in document if not _has_category(b, "_atom_site_")]


def _has_category(block: Block, prefix: str) -> bool:
    return any(tag.startswith(prefix) for tag in block.items)


def _suffixes(blocks: Sequence[Block]) -> list[str]:
    if len(blocks) == 1:
        return [""]
    suffixes: list[str] = []
    used: set[str] = set()
    for block in blocks:
        suffix, count = f"#{block.name}", 1
        while suffix in used:
            count += 1
            suffix = f"#{block.name}({count})"
        used.add(suffix)
        suffixes.append(suffix)
    return suffixes


def _refuse_cut_value(block: Block) -> None:
    """Refuse a block whose last value, the file's last bytes, is shorter than it should be."""
    if block.ends_incomplete is not None:
        raise CifError(
            f"truncated: the file ends within {block.ends_incomplete} (if it is whole, end it "
            "with a line end)"
        )
    items = [(tag, item) for tag, item in block if item.loop == block.last_loop != NO_LOOP]
    if not items:
        return
    columns = {tag: item.values() for tag, item in items}
    last_tag, last_item = items[-1]
    column = columns[last_tag]
    if not column:
        return
    cut = looks_truncated(column[-1], column[:-1])
    if last_tag == "_atom_site_type_symbol" and "_atom_site_label" in columns:
        # "Na1 ... N" of "Na1 ... Na".
        label = re.match(r"[A-Z][a-z]?", columns["_atom_site_label"][-1])
        cut = label is not None and label[0] != column[-1] and label[0].startswith(column[-1])
    if cut:
        raise CifError(
            f"truncated: the file ends in '{column[-1][:20]}', which looks cut, of "
            f"{last_item.tag[:40]} (if the file is whole, end it with a line end)"
        )


def _crystal(block: Block, others: Sequence[Block], name: str, source: str) -> RawCrystal:
    refuse_macromolecular(block)
    refuse_modulated((block, *others))
    cell = _cell(block)
    sites = read_sites(block)
    lattice = np.array(gemmi.UnitCell(*cell).orth.mat).T
    volume = abs(float(np.linalg.det(lattice)))
    if not np.isfinite(lattice).all() or volume < 1e-6:
        raise CifError(f"bad cell: {', '.join(f'{x:g}' for x in cell)} has no volume")
    check_volume(block, volume)
    try:
        group = stated_symmetry(block, cell)
    except OpenSettingError as error:
        return _by_formula(block, sites, lattice, cell, error, name, source)
    if group is None:
        refuse_evidence_against_p1(block, others, len(sites.symbols))
    raw = _expanded(sites, lattice, cell, group, name, source)
    if is_ordered(raw):
        check_formula(block, raw.species)
        if group is None:
            check_density(block, raw.species, volume)
            check_units_of_unstated_symmetry(block, raw.species)
    return raw


def _expanded(
    sites: Sites,
    lattice: npt.NDArray[np.float64],
    cell: Sequence[float],
    group: gemmi.GroupOps | None,
    name: str,
    source: str,
) -> RawCrystal:
    """All atoms of the cell that the group makes of the sites; without a group, the sites."""
    if group is None:
        rotations, translations = np.eye(3)[None], np.zeros((1, 3))
    else:
        rotations, translations = arrays_of(group)
        if len(rotations) > 1:
            check_metric(rotations, cell)
    if len(rotations) * len(sites.frac) > MAX_IMAGES:
        raise CifError(
            f"too many atoms: {len(sites.frac)} sites times {len(rotations)} symmetry operations"
        )
    positions, site = expand(sites.frac, lattice, rotations, translations)
    return with_whole_sites(
        RawCrystal(
            id=name,
            input=source,
            lattice=lattice,
            species=[sites.symbols[i] for i in site],
            frac_coords=positions,
            occupancies=sites.occupancies[site].tolist(),
        )
    )


def _by_formula(
    block: Block,
    sites: Sites,
    lattice: npt.NDArray[np.float64],
    cell: Sequence[float],
    error: OpenSettingError,
    name: str,
    source: str,
) -> RawCrystal:
    """The crystal in the one origin choice that makes Z and formula of the file.

    Raises the error itself where neither does, or both.
    """
    crystals = [
        _expanded(sites, lattice, cell, setting.operations(), name, source)
        for setting in error.settings
    ]
    agreeing = [raw for raw in crystals if is_ordered(raw) and makes_formula(block, raw.species)]
    if len(agreeing) != 1:
        raise error
    return agreeing[0]


def _cell(block: Block) -> list[float]:
    """a, b, c in angstrom and alpha, beta, gamma in degrees."""
    cell = []
    for tag in _CELL_TAGS:
        text = block.text(tag)
        if text is None:
            raise CifError(f"no cell: {tag} is missing or unknown")
        if len(set(block.column(tag))) > 1:
            raise CifError(f"several cells: {tag} has more than one value (one block for each)")
        value = number_in(text)
        if not 0.0 < value < math.inf:
            raise CifError(f"bad cell: {tag} is '{text[:30]}'")
        if tag.startswith("_cell_angle") and value >= 180.0:
            raise CifError(f"bad cell: {tag} is {value:g} degrees")
        cell.append(value)
    a, b, g = (math.cos(math.radians(angle)) for angle in cell[3:])
    if 1.0 - a * a - b * b - g * g + 2.0 * a * b * g <= 1e-9:
        raise CifError(f"bad cell: angles {cell[3]:g}, {cell[4]:g}, {cell[5]:g} close no cell")
    return cell
