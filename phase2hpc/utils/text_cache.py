"""Cache of functions of short texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

Result = TypeVar("Result")

# Longer texts are rare, and would keep much memory.
MAX_CACHED_LENGTH = 80


def cached_for_short_text(function: Callable[[str], Result]) -> Callable[[str], Result]:
    """Remember results for the texts that files repeat, such as tags and symbols."""
    cached = lru_cache(maxsize=8192)(function)

    @wraps(function)
    def call(text: str) -> Result:
        return cached(text) if len(text) <= MAX_CACHED_LENGTH else function(text)

    return call
