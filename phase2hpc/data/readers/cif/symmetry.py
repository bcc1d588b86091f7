"""Space-group symmetry that a CIF block states in operations, symbols and numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import gemmi

from phase2hpc.data.readers.cif.block import Block, plain_text
from phase2hpc.data.readers.cif.operations import (
    group_of,
    group_of_magnetic,
    operation_set,
    point_group_signature,
)
from phase2hpc.data.readers.cif.space_groups import (
    NamedGroup,
    SymmetryError,
    by_hall,
    by_name,
    by_number,
    number_of,
    refuse_open_setting,
)

OPERATION_TAGS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
MAGNETIC_OPERATION_TAG = "_space_group_symop_magn_operation_xyz"
MAGNETIC_CENTRING_TAG = "_space_group_symop_magn_centering_xyz"
HALL_TAGS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
SYMBOL_TAGS = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m",
    "_symmetry_space_group_name_h-m_alt",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
    "_symmetry_pdbx_full_space_group_name_h-m",
)
# The symbol of the reference setting tells the type of the group as the number does.
REFERENCE_TAG = "_space_group_name_h-m_ref"
NUMBER_TAGS = (
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_symmetry_space_group_it_number",
    "_symmetry_it_number",
)
SETTING_TAGS = ("_space_group_it_coordinate_system_code",)
_NUMBER = re.compile(r"(?:no\.?\s*|#\s*)?(\d{1,3})(?:\.0*)?", re.IGNORECASE)


@dataclass(frozen=True)
class _Statement:
    """Statement of one tag: the group of a symbol, the operations of a Hall symbol, or nothing."""

    source: str
    named: NamedGroup | None = None
    operations: gemmi.GroupOps | None = None

    @property
    def number(self) -> int | None:
        if self.named is not None:
            return self.named.number
        return number_of(self.operations) if self.operations is not None else None


def stated_symmetry(block: Block, cell: Sequence[float]) -> gemmi.GroupOps | None:
    """The group that the block states, None where it states none.

    Listed operations come first, then symbols, then the number. ``cell`` is a, b, c in angstrom
    and three angles in degrees. Raises SymmetryError where statements contradict each other, form
    no group or name no known group, OpenSettingError where they leave its origin open.
    """
    listed = _listed_operations(block)
    setting = block.text(*SETTING_TAGS)
    number = _number(block)
    symbols = [
        _symbol_statement(f"symbol {text}", text, cell, setting, strict=listed is None)
        for text in _texts(block, *SYMBOL_TAGS)
    ]
    halls = [
        _Statement(f"Hall symbol {text}", operations=by_hall(text))
        for text in _texts(block, *HALL_TAGS)
    ]
    standard: list[_Statement] = []
    for text in _texts(block, REFERENCE_TAG):
        standard.append(
            _symbol_statement(f"symbol {text}", text, cell, setting, strict=listed is None)
        )
    if number is not None:
        named = by_number(number, cell, setting if listed is None else None)
        standard.append(_Statement(f"number {number}", named))
    if listed is not None:
        _check_listed(listed, [*symbols, *standard], halls)
        return listed
    return _by_names(symbols, halls, standard)


def _texts(block: Block, *tags: str) -> list[str]:
    texts = [plain_text(value) for tag in tags if tag in block for value in block.column(tag)]
    return [text for text in dict.fromkeys(texts) if text]


def _number(block: Block) -> int | None:
    """The stated number of the space group; 0 stands for unknown."""
    numbers = set()
    for text in _texts(block, *NUMBER_TAGS):
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise SymmetryError(f"unknown space group: number '{text[:20]}'")
        numbers.add(int(match[1]))
    numbers.discard(0)
    if len(numbers) > 1:
        first, second = sorted(numbers)[:2]
        raise SymmetryError(f"conflicting symmetry: number {first} and number {second}")
    return numbers.pop() if numbers else None


def _symbol_statement(
    source: str, text: str, cell: Sequence[float], setting: str | None, *, strict: bool
) -> _Statement:
    try:
        return _Statement(source, by_name(text, cell, setting))
    except SymmetryError:
        # Beside listed operations, a setting that is not in the tables does no harm.
        if strict:
            raise
        return _Statement(source)


def _listed_operations(block: Block) -> gemmi.GroupOps | None:
    groups = []
    for tag in OPERATION_TAGS:
        triplets = [text for text in map(plain_text, block.column(tag)) if text]
        if triplets:
            groups.append(group_of(triplets))
    magnetic = [text for text in map(plain_text, block.column(MAGNETIC_OPERATION_TAG)) if text]
    if magnetic:
        centrings = [text for text in map(plain_text, block.column(MAGNETIC_CENTRING_TAG)) if text]
        groups.append(group_of_magnetic(magnetic, centrings))
    if len({operation_set(group) for group in groups} if len(groups) > 1 else groups) > 1:
        raise SymmetryError(
            "conflicting symmetry: two lists of symmetry operations differ (keep the right one)"
        )
    return groups[0] if groups else None


def _check_listed(
    listed: gemmi.GroupOps, named: Sequence[_Statement], halls: Sequence[_Statement]
) -> None:
    # A Hall symbol is often wrong: beside operations it counts only where nothing else does.
    known = [statement for statement in named if statement.named is not None] or [
        statement for statement in halls if statement.operations is not None
    ]
    own = number_of(listed)
    statements = [_Statement("the listed operations", operations=listed), *known]
    _refuse_different_numbers(statements)
    if own is None:
        signature = point_group_signature(listed)
        for statement in known:
            group = statement.operations or (
                statement.named.group.operations() if statement.named else listed
            )
            if point_group_signature(group) != signature:
                raise SymmetryError(
                    "conflicting symmetry: the listed operations have another point group than "
                    f"{statement.source[:40]}"
                )
    unknown = [*named, *halls]
    if own == 1 and unknown and not known:
        raise SymmetryError(
            f"conflicting symmetry: only x,y,z is listed, but {unknown[0].source[:40]} is stated"
        )


def _refuse_different_numbers(statements: Sequence[_Statement]) -> None:
    numbers = {s.source: s.number for s in statements if s.number is not None}
    if len(set(numbers.values())) > 1:
        said = ", ".join(f"{source[:40]}: No. {number}" for source, number in numbers.items())
        raise SymmetryError(f"conflicting symmetry: {said[:180]}")


def _by_names(
    symbols: Sequence[_Statement], halls: Sequence[_Statement], standard: Sequence[_Statement]
) -> gemmi.GroupOps | None:
    _refuse_different_numbers([*symbols, *halls, *standard])
    settled = [(hall.source, hall.operations) for hall in halls if hall.operations is not None]
    settled += [
        (symbol.source, symbol.named.group.operations())
        for symbol in symbols
        if symbol.named is not None and not symbol.named.open_setting
    ]
    if settled:
        source, group = settled[0]
        for other, operations in settled[1:]:
            if operation_set(operations) != operation_set(group):
                raise SymmetryError(
                    f"conflicting symmetry: {source[:40]} and {other[:40]} are different settings"
                )
        return group
    meant = {s.named.group.hm: s.source for s in symbols if s.named is not None}
    if len(meant) > 1:
        first, second = list(meant.values())[:2]
        raise SymmetryError(
            f"conflicting symmetry: {first[:40]} and {second[:40]} are different settings"
        )
    for statement in [*symbols, *standard]:
        if statement.named is None:
            raise SymmetryError(
                f"unknown space group: '{statement.source.removeprefix('symbol ')[:30]}', and no "
                "symmetry operations are listed"
            )
        refuse_open_setting(statement.named, statement.source.removeprefix("symbol "))
    if standard and standard[0].named is not None:
        return standard[0].named.group.operations()
    if halls:
        raise SymmetryError(f"unknown space group: {halls[0].source[:40]}")
    return None
