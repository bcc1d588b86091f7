"""Options that several commands share.

A group of options is a frozen dataclass whose fields are annotated like typer parameters. A
command with a parameter of such a class has one option per field and is called with the dataclass
(option_groups.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phase2hpc.cli.command_line import Command
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.training.request import TrainRequest

ModelsDir = Annotated[Path, typer.Option("--models-dir", metavar="DIR", help="Folder of all runs.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", metavar="FILE", help="Graph store (.h5).")
]
Shards = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Split the work into this many shards, each resumable."),
]
ShardProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="SITE",
        help="Site profile for the jobs of --shards; without it they run here.",
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads.")]
MaxAtoms = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Most atoms in a cell; default 1000. Memory grows with it."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME:KEY=VALUE,...",
        help="Unit, lower bound and scale of a label column: NAME:unit=U,min=X,scale=S; scales are "
        "linear, log, asinh and auto.",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run directory or id.")]


class RunCommand(Command):
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


@dataclass(frozen=True)
class RunOptions:
    """Options of ``train`` and ``submit`` that select the run."""

    algorithm: Annotated[str, typer.Option(metavar="NAME", help="Algorithm.")] = "e3nn"
    level: Annotated[str, typer.Option(metavar="LEVEL", help="Level.")] = "std"
    all_properties: Annotated[bool, typer.Option("--all-properties", help="All nine.")] = False
    properties: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="core4, priority7, secondary2, all9, or names with commas."
        ),
    ] = None
    auxiliary: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Label columns that are trained but neither scored nor reported."
        ),
    ] = None
    column: Columns = None
    fold: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fold to test on, of a store prepared with --folds."),
    ] = None
    store: StoreOption = None
    models_dir: ModelsDir = Path("models")
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False
    run_id: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run.")] = None
    init_from: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run or shipped model to start from.")
    ] = None
    freeze: Annotated[
        str | None,
        typer.Option(
            metavar="encoder[:N]",
            help="Keep the encoder of --init-from as it is, or for the first N epochs.",
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, order and dropout.")
    ] = None
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with changed settings, data or code.")
    ] = False


def _setting(help: str, *names: str, metavar: str | None = None) -> Any:
    panel = "Settings (default: by level)"
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


@dataclass(frozen=True)
class SettingOptions:
    """Settings that have their own flag; a flag overrides the setting of the same name."""

    epochs: Annotated[int | None, _setting("Passes over the training crystals.", metavar="N")] = (
        None
    )
    batch_size: Annotated[int | None, _setting("Crystals per step.", metavar="N")] = None
    lr: Annotated[float | None, _setting("Peak learning rate.", metavar="RATE")] = None
    preset: Annotated[
        str | None, _setting("Model size: small, medium or large.", metavar="SIZE")
    ] = None
    max_samples: Annotated[
        int | None, _setting("Maximum number of training crystals.", metavar="N")
    ] = None
    max_edges: Annotated[
        int | None, _setting("Maximum edges at once; bounds memory.", metavar="N")
    ] = None
    patience: Annotated[
        int | None, _setting("Epochs without improvement before stopping.", metavar="N")
    ] = None
    threads: Annotated[int | None, _setting("CPU threads.", metavar="N")] = None
    device: Annotated[str | None, _setting("auto, cpu or cuda.", metavar="DEVICE")] = None
    max_hours: Annotated[
        float | None, _setting("Save and stop after this many hours.", metavar="HOURS")
    ] = None
    checkpoint_minutes: Annotated[
        float | None, _setting("Minutes between checkpoints.", metavar="MINUTES")
    ] = None
    checkpoint_steps: Annotated[int | None, _setting("Steps between checkpoints.", metavar="N")] = (
        None
    )
    keep_best: Annotated[int | None, _setting("Number of best weights kept.", metavar="N")] = None
    log: Annotated[
        str | None,
        _setting("Loggers: csv, tensorboard, wandb, mlflow, or none.", metavar="NAME,NAME"),
    ] = None
    assignments: Annotated[
        list[str] | None,
        _setting("Any setting; see: phase2hpc levels --settings.", "--set", metavar="KEY=VALUE"),
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


def train_request(
    run: RunOptions, settings: SettingOptions, seeds: str | None = None
) -> TrainRequest:
    """The request from the options, checked as far as it can be before a store is read.

    Raises InputError.
    """
    from phase2hpc.training import request

    return request.train_request(**vars(run), settings=settings.overrides(), seeds=seeds)
