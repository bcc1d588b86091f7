"""One-line texts of exceptions, for messages and reports."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from phase2hpc.utils.text import one_line

if TYPE_CHECKING:
    from pydantic import ValidationError

_MAX_VALUE_LENGTH = 60
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _MAX_VALUE_LENGTH


def first_line(error: BaseException) -> str:
    """The first line of the message, control characters escaped; the class name if it is empty."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


def type_and_message(error: BaseException, max_length: int = 120) -> str:
    """``ValueError, could not convert ...``: class and whole message as one line, cut to length."""
    words = " ".join(str(error).split())
    name = type(error).__name__
    return one_line(f"{name}, {words}" if words else name)[:max_length]


def first_problem(
    error: ValidationError,
    noun: str,
    *,
    flat: bool = False,
    unknown: Callable[[list[str]], str] | None = None,
) -> str:
    """The first problem of a pydantic validation in one line, as in ``setting 'lr' = -1: ...``.

    noun: the kind of entry that was validated. flat: name an entry by itself, without the groups
    that it is in. unknown: the text for an entry that the model does not have, from its path.
    """
    # An entry that was not recognised explains what is then missing.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = [str(part) for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    message = one_line(message[:1].lower() + message[1:])
    if not path:
        return message
    if flat:
        named = [part for part in problem["loc"] if isinstance(part, str)]
        name = one_line(named[-1] if named else path[-1])
    else:
        name = one_line(".".join(path))
    if problem["type"] == "extra_forbidden":
        return unknown(path) if unknown is not None else f"unknown {noun} '{name}'"
    if problem["type"] == "missing":
        return f"{noun} '{name}' is missing"
    if problem["type"] in ("model_type", "dict_type"):
        message = "must hold 'name: value' pairs"
    return f"{noun} '{name}' = {_shown(problem['input'])}: {message}"


def _shown(value: Any) -> str:
    text = one_line(_values.repr(value))
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."
