"""Symbols of space groups as people write them."""

from __future__ import annotations

import gemmi
import pytest

from phase2hpc.data.readers.cif.operations import group_of, operation_set
from phase2hpc.data.readers.cif.space_groups import by_name

SYMBOLS = {
    "P2_1/c": "P 1 21/c 1", "P 2(1)/c": "P 1 21/c 1", "P21/c:c3": "P 1 1 21/b",
    "P 21/n": "P 1 21/n 1", "C 2/c :b3": "I 1 2/a 1", "P 21/n 21/m 21/a": "P n m a",
    "Pnma:cab": "P b n m", "C m c e": "C m c a", "p 63 / m m c": "P 63/m m c",
    "P 63/m 2/m 2/c": "P 63/m m c", "P -3 2/m 1": "P -3 m 1", "R -3 2/m": "R -3 m:H",
    "R -3 m H": "R -3 m:H", "R-3m:h": "R -3 m:H", "H -3 m": "R -3 m:H", "R -3 m R": "R -3 m:R",
    "F d -3 m Z": "F d -3 m:2", "Fd-3mS": "F d -3 m:1", "F 41/d -3 2/m :2": "F d -3 m:2",
    "F d -3 m (origin choice 2)": "F d -3 m:2", "P 3 2 1": "P 3 2 1", "P m 3 m": "P m -3 m",
    "I 41/a -3 2/d": "I a -3 d", "P b a n:2cab": "P n c b:2", "P 1 1 2": "P 1 1 2",
}  # fmt: skip


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_symbols_as_people_write_them(symbol: str) -> None:
    gamma = 120.0 if symbol[0] in "RH" else 90.0
    named = by_name(symbol, [4.0, 4.0, 6.0, 90.0, 90.0, gamma])
    assert named is not None and not named.open_setting
    assert named.group.xhm() == SYMBOLS[symbol]


def test_all_groups_of_the_tables_are_groups_and_found_by_their_names() -> None:
    for entry in gemmi.spacegroup_table():
        triplets = [op.triplet() for op in entry.operations()]
        group = group_of(triplets)
        assert operation_set(group) == operation_set(entry.operations())
        if entry.ext in ("1", "2", "H", "R") or ":" not in entry.xhm():
            cell = [4.0, 4.0, 4.0, 90.0, 90.0, 120.0 if entry.ext == "H" else 90.0]
            named = by_name(entry.xhm(), cell)
            assert named is not None and named.group.xhm() == entry.xhm()


BETA, GAMMA, ALPHA = ((5.0, 6.0, 7.0, *angles) for angles in (
    (90.0, 99.0, 90.0), (90.0, 90.0, 99.0), (99.0, 90.0, 90.0)
))  # fmt: skip


@pytest.mark.parametrize(
    ("symbol", "cell", "expected"),
    [
        ("P 21/b", GAMMA, "P 1 1 21/b"), ("P21/a", GAMMA, "P 1 1 21/a"), ("P 2", GAMMA, "P 1 1 2"),
        ("p 2/M", GAMMA, "P 1 1 2/m"), ("P 2/m", ALPHA, "P 2/m 1 1"), ("B b", GAMMA, "B 1 1 b"),
        ("P 21/b", ALPHA, "P 21/b 1 1"), ("P 2", BETA, "P 1 2 1"), ("P 21/a", BETA, "P 1 21/a 1"),
        ("P 21/c", BETA, "P 1 21/c 1"), ("P 21/c 1", BETA, "P 1 21/c 1"),
        ("P21/n 1", BETA, "P 1 21/n 1"), ("P 21 / c", BETA, "P 1 21/c 1"),
        # No group of a c axis: as the symbol is read without a cell.
        ("P 21/c", GAMMA, "P 1 21/c 1"), ("P 1 21/c 1", GAMMA, "P 1 21/c 1"),
        ("R -3 c (H)", (5.0, 5.0, 7.0, 90.0, 90.0, 120.0), "R -3 c:H"),
        ("R -3 c (R)", (5.0, 5.0, 5.0, 60.0, 60.0, 60.0), "R -3 c:R"),
    ],
)  # fmt: skip
def test_the_cell_tells_the_unique_axis(
    symbol: str, cell: tuple[float, ...], expected: str
) -> None:
    named = by_name(symbol, cell)
    assert named is not None and named.group.xhm() == expected


def test_a_symbol_that_no_axis_of_the_cell_fits_is_unknown() -> None:
    assert by_name("P 21/b", BETA) is None
    assert by_name("P 21/b", (5.0, 6.0, 7.0, 90.0, 90.0, 90.0)) is None
