"""Text tables: as wide as they are off a terminal, as wide as it is on one."""

from __future__ import annotations

import sys

import pytest

from phase2hpc.utils import tables

HEADER = ("run", "state", "job", "epochs", "detail")
ROWS = [
    ("20260101-000000-abcdef", "finished", "-", "3/3", "models/multitask_std_e3nn/run_1"),
    ("20260101-000000-fedcba", "failed", "-", "1/3", "out of memory: " + "batch of 16 " * 6),
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    def of(width: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))

    return of


def test_off_a_terminal_a_table_is_whole(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = tables.aligned(HEADER, ROWS, left=5).splitlines()
    assert len(lines) == 4 and lines[0].split() == list(HEADER)
    assert lines[3].endswith("batch of 16")


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_a_table_on_a_terminal(width, terminal) -> None:
    whole = tables.aligned(HEADER, ROWS, left=5)
    terminal(width)
    fitted = tables.aligned(HEADER, ROWS, left=5)
    assert max(map(len, fitted.splitlines())) <= width
    assert (fitted == whole) == (width == 200)
    # Nothing but columns without a value is lost.
    assert [w for w in " ".join(fitted.split()).split() if w == "batch"] == ["batch"] * 6
    for row in ROWS:
        for cell in (row[0], row[1], row[3]):
            assert cell in fitted
    assert ("job" in fitted) == (width == 200)


def test_numbers_are_not_wrapped(terminal) -> None:
    header = ("property", *(f"error {number}" for number in range(12)))
    terminal(80)
    text = tables.aligned(header, [("band_gap", *["1.234 ± 0.012"] * 12)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and lines[0] == "property band_gap"
    assert text.count(": 1.234 ± 0.012") == 12 and "error 11: 1.234 ± 0.012" in text
