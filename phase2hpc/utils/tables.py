"""Plain text and Markdown tables; those on a terminal fit its width."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

ABSENT = "-"
# Characters of a wrapped column.
_MIN_WRAPPED = 24


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits, or a dash for None."""
    if value is None:
        return ABSENT
    if 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def with_error(value: float | None, error: float | None) -> str:
    """``value ± error``, or the value alone."""
    return number(value) + (f" ± {number(error, 2)}" if error is not None else "")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A plain-text table with a ruled header; the first ``left`` columns are left-aligned.

    On a terminal that is too narrow for it, columns without a value are left out, then the last
    column is wrapped, and where that is not enough a row is a paragraph. Elsewhere it is as wide as
    it needs to be.
    """
    table, width = _aligned(header, rows, left), terminal_width()
    if width is None or _fits(table, width):
        return table
    used = [c for c in range(len(header)) if c == 0 or any(row[c] != ABSENT for row in rows)]
    header, rows = [header[c] for c in used], [[row[c] for c in used] for row in rows]
    left = sum(c < left for c in used)
    table = _aligned(header, rows, left)
    if not _fits(table, width):
        table = _wrapped(header, rows, left, width) or _paragraphs(header, rows, width)
    return table


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None if it is none, or is closed."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def _fits(table: str, width: int) -> bool:
    return max(map(len, table.splitlines())) <= width


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([padded[0], rule, *padded[1:]])


def _wrapped(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int, width: int
) -> str | None:
    """The table with its last column wrapped; None if that is of numbers, or too little is left."""
    others = _aligned(header[:-1], [row[:-1] for row in rows], left).splitlines()[1]
    room = width - len(others) - 2
    if left < len(header) or room < max(_MIN_WRAPPED, len(header[-1])):
        return None
    lines: list[Sequence[str]] = []
    for row in rows:
        first, *more = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        lines.append([*row[:-1], first])
        lines += [[*[""] * (len(row) - 1), part] for part in more]
    return _aligned(header, lines, left)


def _paragraphs(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Each row as its first cell and, indented, ``name: value`` of the others."""
    lines = []
    for row in rows:
        lines.append(f"{header[0]} {row[0]}")
        line = ""
        for name, cell in zip(header[1:], row[1:], strict=True):
            pair = f"  {name}: {cell}"
            if cell == ABSENT:
                continue
            if line and len(line) + len(pair) > width:
                lines.append(line)
                line = ""
            line += pair
            if len(line) > width:
                *full, line = textwrap.wrap(
                    line.strip(), width, initial_indent="  ", subsequent_indent="    "
                )
                lines += full
        lines += [line] if line else []
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are left-aligned."""
    rule = ["---" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))
