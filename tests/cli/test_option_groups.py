"""Parameters of commands as typer gets them."""

from __future__ import annotations

import inspect
from typing import Annotated, get_args

import pytest
import typer
from typer.models import OptionInfo

from phase2hpc.cli.main import app
from phase2hpc.cli.option_groups import _names, expand

FUNCTIONS = [
    info.callback
    for group in (app, *(sub.typer_instance for sub in app.registered_groups))
    for info in group.registered_commands
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_flags_are_written_out(function) -> None:
    """typer 0.27 makes --LEVEL of an option 'level' whose metavar is LEVEL."""
    for name, parameter in inspect.signature(expand(function)).parameters.items():
        for info in get_args(parameter.annotation)[1:]:
            if isinstance(info, OptionInfo) and info.metavar:
                flags = _names(info)
                assert flags and all(flag == flag.lower() for flag in flags), name


def test_a_flag_that_is_there_stays() -> None:
    def command(
        one: Annotated[int, typer.Option("-n", "--number", metavar="N")] = 1,
        two_words: Annotated[int, typer.Option(metavar="TWO_WORDS")] = 1,
        three: Annotated[bool, typer.Option()] = True,
    ) -> None: ...

    found = [
        _names(get_args(p.annotation)[1])
        for p in inspect.signature(expand(command)).parameters.values()
    ]
    assert found == [["-n", "--number"], ["--two-words"], []]
