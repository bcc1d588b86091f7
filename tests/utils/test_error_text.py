"""Exceptions as one line."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from phase2hpc.utils.error_text import first_line, first_problem, type_and_message


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one \ntwo"), "one "),
        (ValueError("red \x1b[31m"), "red \\x1b[31m"),
        (ValueError("a\x85b"), "a"),
        (KeyError(), "KeyError"),
        (RuntimeError(" \n "), "RuntimeError"),
    ],
)
def test_first_line(error, line):
    assert first_line(error) == line


def test_type_and_message():
    assert type_and_message(ValueError("a  b\n c")) == "ValueError, a b c"
    assert type_and_message(ZeroDivisionError()) == "ZeroDivisionError"
    assert type_and_message(ValueError("\x1b[31m")) == "ValueError, \\x1b[31m"
    assert len(type_and_message(ValueError("x" * 1000))) == 120


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=1)
    kinds: tuple[int, ...] = ()
    name: str = "a"

    @field_validator("name")
    @classmethod
    def short(cls, name: str) -> str:
        if len(name) > 100:
            raise ValueError("Is too long")
        return name


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inner: Inner
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def ordered(self) -> "Outer":
        if self.low > self.high:
            raise ValueError("Low is above high")
        return self


@pytest.mark.parametrize(
    ("value", "nested", "flat"),
    [
        ({"inner": {"size": 0}}, "key 'inner.size' = 0: input should be", "key 'size' = 0: input"),
        ({"inner": {}}, "key 'inner.size' is missing", "key 'size' is missing"),
        # What was not recognised, rather than what is missing for it.
        ({"inner": {"sise": 1}}, "unknown key 'inner.sise'", "unknown key 'sise'"),
        ({"inner": 3}, "key 'inner' = 3: must hold 'name: value' pairs", "key 'inner' = 3: must"),
        (
            {"inner": {"size": 1, "kinds": ["x"]}},
            "key 'inner.kinds.0' = 'x'",
            "key 'kinds' = 'x",
        ),
        ({"inner": {"size": 1}, "low": 2}, "low is above high", "low is above high"),
        (
            {"inner": {"size": 1, "\x1b[0m": 1}},
            "unknown key 'inner.\\x1b[0m'",
            "unknown key '\\x1b",
        ),
    ],
)
def test_first_problem(value, nested, flat):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    assert first_problem(caught.value, "key").startswith(nested)
    assert first_problem(caught.value, "key", flat=True).startswith(flat)


def test_a_large_value_is_not_repeated_whole():
    with pytest.raises(ValidationError) as caught:
        Inner(size=1, name="\x1b" * 100_000)
    text = first_problem(caught.value, "key")
    assert len(text) < 120 and text.isprintable() and text.endswith(": is too long")


def test_text_that_is_not_json():
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate_json('{"size":')
    assert first_problem(caught.value, "key").startswith("invalid JSON: EOF")


def test_unknown_entries_are_named_by_the_caller():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"size": 1, "x": 2}})
    assert first_problem(caught.value, "key", unknown="/".join) == "inner/x"
