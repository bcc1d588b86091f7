"""Options that several commands share.

A group of options is a frozen dataclass whose fields are annotated like typer parameters. A
command with a parameter of such a class, decorated with ``expand``, has one option per field and
is called with the dataclass.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.training.request import TrainRequest

ModelsDir = Annotated[Path, typer.Option("--models-dir", help="Folder of all runs.")]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Graph store (.h5).")]
Shards = Annotated[
    int | None,
    typer.Option(min=1, help="Split the work into this many shards, each resumable."),
]
ShardProfile = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Site profile for the jobs of --shards; without it they run here."
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxAtoms = Annotated[
    int | None,
    typer.Option(min=1, help="Most atoms in a cell; default 1000. Memory grows with it."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME:unit=U,min=X,scale=S",
        help="Unit, lower bound and scale (linear, log, asinh, auto) of a label column.",
    ),
]
RunArgument = Annotated[str, typer.Argument(help="Run directory or id.")]


class RunCommand(TyperCommand):
    """A command with ``--algorithm`` and ``--level``, whose help lists what is installed."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from phase2hpc.config.algorithms import ALGORITHMS, LEVEL_NAMES
        from phase2hpc.config.plugins import plugin_entry_points

        names = {"algorithm": {**ALGORITHMS, **plugin_entry_points()}, "level": LEVEL_NAMES}
        for parameter in self.params:
            if parameter.name in names:
                *most, last = names[parameter.name]
                parameter.help = f"{', '.join(most)} or {last}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each dataclass parameter of a command by one parameter per field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        kind = groups[parameter.name]
        annotations = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=_default(field),
                    annotation=annotations[field.name],
                )
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in groups.items():
            fields = dataclasses.fields(kind)
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields})
        command(**values)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _default(field: dataclasses.Field[Any]) -> Any:
    """Default of the parameter of a field; a field without a default is a required option."""
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


@dataclass(frozen=True)
class RunOptions:
    """Options of ``train`` and ``submit`` that select the run."""

    algorithm: Annotated[str, typer.Option(help="Algorithm.")] = "e3nn"
    level: Annotated[str, typer.Option(help="Level.")] = "std"
    all_properties: Annotated[bool, typer.Option("--all-properties", help="All nine.")] = False
    properties: Annotated[
        str | None,
        typer.Option(help="core4, priority7, secondary2, all9, or names with commas."),
    ] = None
    auxiliary: Annotated[
        str | None,
        typer.Option(help="Label columns that are trained but neither scored nor reported."),
    ] = None
    column: Columns = None
    fold: Annotated[
        int | None, typer.Option(help="Fold to test on, of a store prepared with --folds.")
    ] = None
    store: StoreOption = None
    models_dir: ModelsDir = Path("models")
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False
    run_id: Annotated[str | None, typer.Option(help="Name of the run.")] = None
    init_from: Annotated[str | None, typer.Option(help="Run to take initial weights from.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")] = None
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with changed settings, data or code.")
    ] = False


def _setting(help: str, *names: str, metavar: str | None = None) -> Any:
    panel = "Settings (default: by level)"
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


@dataclass(frozen=True)
class SettingOptions:
    """Settings that have their own flag; a flag overrides the setting of the same name."""

    epochs: Annotated[int | None, _setting("Passes over the training crystals.")] = None
    batch_size: Annotated[int | None, _setting("Crystals per step.")] = None
    lr: Annotated[float | None, _setting("Peak learning rate.")] = None
    preset: Annotated[str | None, _setting("Model size: small, medium or large.")] = None
    max_samples: Annotated[int | None, _setting("Maximum number of training crystals.")] = None
    max_edges: Annotated[int | None, _setting("Maximum edges at once; bounds memory.")] = None
    patience: Annotated[int | None, _setting("Epochs without improvement before stopping.")] = None
    threads: Annotated[int | None, _setting("CPU threads.")] = None
    device: Annotated[str | None, _setting("auto, cpu or cuda.")] = None
    max_hours: Annotated[float | None, _setting("Save and stop after this many hours.")] = None
    checkpoint_minutes: Annotated[float | None, _setting("Minutes between checkpoints.")] = None
    checkpoint_steps: Annotated[int | None, _setting("Steps between checkpoints.")] = None
    keep_best: Annotated[int | None, _setting("Number of best weights kept.")] = None
    log: Annotated[
        str | None,
        _setting("Loggers: csv, tensorboard, wandb, mlflow, or none.", metavar="NAME,NAME"),
    ] = None
    assignments: Annotated[
        list[str] | None,
        _setting("Any setting; see `levels --settings`.", "--set", metavar="KEY=VALUE"),
    ] = None

    def overrides(self) -> dict[str, Any]:
        """Values of the flags and of ``--set``, by setting name.

        Raises InputError for a setting that is given twice, or by ``--set`` although it has
        another flag.
        """
        from phase2hpc.config.run_config import parse_assignments
        from phase2hpc.training.request import OWN_FLAGS

        settings = parse_assignments(self.assignments or [])
        for key in OWN_FLAGS:
            if key in settings:
                raise InputError(f"--set {key}: use --{key.replace('_', '-')}")
        flags = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "assignments" and (value := getattr(self, field.name)) is not None
        }
        for key in flags.keys() & settings.keys():
            raise InputError(f"--{key.replace('_', '-')} and --set {key}: give only one of them")
        return {**flags, **settings}


def train_request(run: RunOptions, settings: SettingOptions) -> TrainRequest:
    """The request from the options, checked as far as it can be before a store is read.

    Raises InputError.
    """
    from phase2hpc.training import request

    return request.train_request(**vars(run), settings=settings.overrides())
