"""Classes of commands and groups: their help, and commands that are built when they run.

typer builds the parameters of all commands at each start. Here a group knows of a command its name
and its docstring, which is all that ``--help`` lists.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.models import CommandInfo

from phase2hpc.cli.option_groups import expand

# Inherited by all commands below the root.
CONTEXT = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command that shows no type behind its flags: what follows an option is its value."""

    def get_params(self, ctx: Any) -> Any:
        return _with_metavars_only(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, shown as ``Command`` is."""

    def get_params(self, ctx: Any) -> Any:
        return _with_metavars_only(super().get_params(ctx))


class _Listed(TyperCommand):
    """A command as its group lists it; the command itself is built when it is called."""

    def __init__(self, info: CommandInfo) -> None:
        assert info.callback is not None
        panel = info.rich_help_panel
        super().__init__(
            info.name or info.callback.__name__,
            help=inspect.getdoc(info.callback),
            # Another object stands for a panel that is not given.
            rich_help_panel=panel if isinstance(panel, str) else None,
        )
        self._function, self._class = info.callback, info.cls or Command

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        alone = typer.Typer(add_completion=False)
        alone.command(self.name, cls=self._class)(expand(self._function))
        command = get_command(alone)
        return command.make_context(info_name, args, parent=parent, **extra)


def command_line(app: typer.Typer) -> TyperGroup:
    """The program: as ``typer.main.get_command``, but commands are built when they are called."""
    root = typer.Typer(cls=Group)
    root.info, root.registered_callback = app.info, app.registered_callback
    group = get_command(root)
    assert isinstance(group, TyperGroup)
    group.commands.update(_listed(app))
    for sub in app.registered_groups:
        below = sub.typer_instance
        assert below is not None and isinstance(sub.name, str)
        group.commands[sub.name] = Group(
            name=sub.name,
            commands=_listed(below),
            help=str(below.info.help),
            no_args_is_help=True,
            rich_help_panel=str(sub.rich_help_panel),
        )
    return group


def _listed(app: typer.Typer) -> dict[str, Any]:
    commands = [_Listed(info) for info in app.registered_commands]
    return {str(command.name): command for command in commands}


def _usage_of(argument: Any, ctx: Any) -> list[str]:
    """An argument in the usage line: ``RUN``, ``SOURCE...``, in brackets where it is optional."""
    several = "..." if argument.nargs != 1 else ""
    text = f"{argument.metavar}{several}"
    return [text if argument.required else f"[{text}]"]


def _with_metavars_only(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            # Newer versions of typer show it besides the metavar.
            parameter.display_type_rich = lambda ctx: ""
            # Versions of typer differ in what they put around it.
            parameter.get_usage_pieces = partial(_usage_of, parameter)
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
