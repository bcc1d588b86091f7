"""Options that several commands share, each defined once.

A group of options is a frozen dataclass whose fields are annotated as typer's parameters are. A
command decorated with ``expand`` that has a parameter of such a class shows one option a field
and is called with the dataclass.
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

from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.training.request import TrainRequest

ModelsDir = Annotated[Path, typer.Option("--models-dir", help="Folder of all runs.")]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Graph store (.h5).")]
Shards = Annotated[
    int | None,
    typer.Option(min=1, help="Share the work among so many jobs, or processes in turn here."),
]
ShardProfile = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Site profile of the jobs of --shards; without one they run here."
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RunArgument = Annotated[str, typer.Argument(help="Run directory or id.")]


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a dataclass by one parameter for each of its fields."""
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
    """Of a parameter; a field without one is an option that must be given."""
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


@dataclass(frozen=True)
class RunOptions:
    """Which run: what ``train`` and ``submit`` ask for beside settings."""

    algorithm: Annotated[str, typer.Option(help="e3nn or cgcnn.")] = "e3nn"
    level: Annotated[str, typer.Option(help="smoke, lite, std, pro or max.")] = "std"
    all_properties: Annotated[bool, typer.Option("--all-properties", help="All nine.")] = False
    properties: Annotated[
        str | None,
        typer.Option(help="core4, priority7, secondary2, all9, or a comma list of names."),
    ] = None
    store: StoreOption = None
    models_dir: ModelsDir = Path("models")
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False
    run_id: Annotated[str | None, typer.Option(help="Name of the run.")] = None
    init_from: Annotated[str | None, typer.Option(help="Run whose weights to start from.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")] = None
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although the result changes.")
    ] = False


def _setting(help: str, *names: str, metavar: str | None = None) -> Any:
    panel = "Settings (the level's unless given)"
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


@dataclass(frozen=True)
class SettingOptions:
    """Settings with a flag of their own: a field here is a flag, and overrides the setting of the
    same name."""

    epochs: Annotated[int | None, _setting("Passes over the training crystals.")] = None
    batch_size: Annotated[int | None, _setting("Crystals a step.")] = None
    lr: Annotated[float | None, _setting("Peak learning rate.")] = None
    preset: Annotated[str | None, _setting("Size: small, medium or large.")] = None
    max_samples: Annotated[int | None, _setting("At most so many training crystals.")] = None
    max_edges: Annotated[int | None, _setting("Edges computed at once: less memory.")] = None
    patience: Annotated[int | None, _setting("Stop after epochs without improvement.")] = None
    threads: Annotated[int | None, _setting("CPU threads.")] = None
    device: Annotated[str | None, _setting("auto, cpu or cuda.")] = None
    max_hours: Annotated[float | None, _setting("Stop, saved, after so long.")] = None
    checkpoint_minutes: Annotated[float | None, _setting("Save at least so often.")] = None
    checkpoint_steps: Annotated[int | None, _setting("Save every so many steps.")] = None
    keep_best: Annotated[int | None, _setting("Best weights kept.")] = None
    assignments: Annotated[
        list[str] | None,
        _setting("Any setting (`levels --settings`).", "--set", metavar="KEY=VALUE"),
    ] = None

    def overrides(self) -> dict[str, Any]:
        """The given flags and ``--set`` in one, by setting name. Raises InputError for one that
        has a flag elsewhere, or is given twice."""
        from phase2hpc.config.run_config import parse_assignments
        from phase2hpc.training.request import OWN_FLAGS

        settings = parse_assignments(self.assignments or [])
        for key in OWN_FLAGS:
            if key in settings:
                raise InputError(f"--set {key}: give it by --{key.replace('_', '-')}")
        flags = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "assignments" and (value := getattr(self, field.name)) is not None
        }
        for key in flags.keys() & settings.keys():
            raise InputError(f"--{key.replace('_', '-')} and --set {key}: give one of them")
        return {**flags, **settings}


def train_request(run: RunOptions, settings: SettingOptions) -> TrainRequest:
    """What was asked for, checked as far as it can be before a store is read.

    Raises InputError.
    """
    from phase2hpc.config.run_config import algorithm_named, level_named
    from phase2hpc.runs.registry import find_run
    from phase2hpc.training.request import TrainRequest

    level_named(algorithm_named(run.algorithm), run.level)
    if run.all_properties and run.properties:
        raise InputError("--all-properties and --properties: give one of them")
    if run.resume and run.init_from:
        raise InputError("--resume goes on with a run's own weights: leave --init-from out")
    return TrainRequest(
        algorithm=run.algorithm,
        level=run.level,
        store=run.store,
        models_dir=run.models_dir,
        properties="all9" if run.all_properties else run.properties,
        resume=run.resume,
        run_id=run.run_id,
        seed=run.seed,
        accept_changes=run.accept_changes,
        overrides=settings.overrides(),
        init_from=find_run(run.models_dir, run.init_from) if run.init_from else None,
    )
