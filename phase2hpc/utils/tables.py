"""Plain text and Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "-"


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
    """A plain-text table with a ruled header; the first ``left`` columns are left-aligned."""
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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are left-aligned."""
    rule = ["---" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))
