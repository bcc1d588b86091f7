"""Nominal coverage of intervals; imports nothing, for the command line and the API."""

from __future__ import annotations

# Share of labels that intervals aim at, unless another is asked for.
DEFAULT_COVERAGE = 0.9
