"""The command line. Every command is a few lines that call the parts below; heavy imports wait
until a command needs them, so that ``--help`` is quick on a login node."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phase2hpc.errors import InputError, Phase2Error

app = typer.Typer(
    name="phase2hpc",
    help="Multi-task learning of crystal properties as batch jobs on HPC clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(help="Look into, check and join graph stores.", no_args_is_help=True)
runs_app = typer.Typer(help="Training runs.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(runs_app, name="runs")

# What a shell says of a command that SIGINT ended.
INTERRUPTED = 130

# Which extra brings a module that a login node's install is without.
EXTRA_OF_MODULE = dict.fromkeys(("numpy", "h5py", "vesin", "gemmi", "pymatgen", "ase"), "data")
EXTRA_OF_MODULE |= dict.fromkeys(("torch", "torch_geometric", "e3nn", "tensorboard"), "train")
# Settings that have flags of their own and are not set by --set.
OWN_FLAGS = (
    "store", "models_dir", "seed", "properties", "algorithm", "level", "run_id", "init_from",
)  # fmt: skip

ModelsDir = Annotated[Path, typer.Option("--models-dir", help="Folder of all runs.")]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Graph store (.h5).")]


def _version(asked: bool) -> None:
    if asked:
        from phase2hpc import __version__

        print(f"phase2hpc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def prepare(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="What to read: files, folders; the shipped sample if left out."),
    ] = None,
    store: StoreOption = None,
    cutoff: Annotated[float | None, typer.Option(help="Longest edge, angstrom.")] = None,
    max_neighbors: Annotated[
        int | None, typer.Option(help="Neighbours an atom has at most, but for ties; 0: no limit.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="formula, random, column, or a CSV of id and split. Default: the "
            "source's own column, else formula."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a random split.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: the cores, up to 8.")
    ] = None,
    float64: Annotated[bool, typer.Option("--float64", help="Keep double precision.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store made otherwise.")
    ] = False,
) -> None:
    """Read crystals, validate them, build their graphs and write one HDF5 store."""
    from phase2hpc.data.graph import GraphError, GraphSettings
    from phase2hpc.data.prepare import prepare as run_prepare
    from phase2hpc.progress import Progress
    from phase2hpc.resources import default_store, sample_source

    given: dict[str, Any] = {}
    if cutoff is not None:
        given["cutoff"] = cutoff
    if max_neighbors is not None:
        given["max_neighbors"] = max_neighbors or None
    try:
        settings = GraphSettings(**given)
    except GraphError as error:
        raise InputError(str(error)) from None
    target = store or (_store_of(sources[0]) if sources else default_store())
    with Progress("preparing", None, "crystals") as progress:
        summary = run_prepare(
            sources or [sample_source()],
            target,
            settings,
            split=split,
            seed=seed,
            float64=float64,
            workers=workers,
            overwrite=overwrite,
            progress=progress.advance,
        )
    print(summary)


def _store_of(source: str) -> Path:
    """Where a source's store goes if nobody says: data/<name>.h5 in the working directory."""
    name = Path(source.replace(":", "_")).name
    return Path("data") / f"{name.split('.')[0] or name}.h5"


@store_app.command("info")
def store_info(file: Path) -> None:
    """What a store holds and how it was made."""
    from phase2hpc.data.store_layout import info_lines, read_info

    print("\n".join(info_lines(read_info(file))))


@store_app.command("verify")
def store_verify(file: Path) -> None:
    """Read every chunk with its checksum, the content hash, and whether the indices make sense."""
    from phase2hpc.data.verify import verify_store

    report = verify_store(file)
    print("\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


@store_app.command("merge")
def store_merge(
    files: Annotated[list[Path], typer.Argument(help="Stores; the first comes first.")],
    store: Annotated[Path, typer.Option("--store", help="The store to write.")],
) -> None:
    """Join stores into one: ids stay unique, splits stay as they are."""
    from phase2hpc.data.merge import merge_stores

    print("\n".join(merge_stores(files, store).lines()))


@app.command()
def train(
    algorithm: Annotated[str, typer.Option(help="e3nn or cgcnn.")] = "e3nn",
    level: Annotated[str, typer.Option(help="smoke, lite, std, pro or max.")] = "std",
    all_properties: Annotated[bool, typer.Option("--all-properties", help="All nine.")] = False,
    properties: Annotated[
        str | None,
        typer.Option(help="core4, priority7, secondary2, all9, or a comma list of names."),
    ] = None,
    store: StoreOption = None,
    models_dir: ModelsDir = Path("models"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    run_id: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Run whose weights to start from.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="Stop, saved, after so long.")] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(help="Save at least so often.")
    ] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Save every so many steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training crystals.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crystals a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    preset: Annotated[str | None, typer.Option(help="Size: small, medium or large.")] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="At most so many training crystals.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without improvement.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting (`levels --settings`)."),
    ] = None,
) -> None:
    """Train a model, or go on with an interrupted run."""
    from phase2hpc.config import algorithm_named, level_named, parse_assignments
    from phase2hpc.registry import find_run

    level_named(algorithm_named(algorithm), level)
    if all_properties and properties:
        raise InputError("--all-properties and --properties: give one of them")
    if resume and init_from:
        raise InputError("--resume goes on with a run's own weights: leave --init-from out")
    settings = parse_assignments(assignments or [])
    for key in OWN_FLAGS:
        if key in settings:
            raise InputError(f"--set {key}: give it by --{key.replace('_', '-')}")
    initial = find_run(models_dir, init_from) if init_from else None
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.training.session import TrainRequest
    from phase2hpc.training.session import train as run_train

    options = {
        "threads": threads,
        "device": device,
        "max_hours": max_hours,
        "checkpoint_minutes": checkpoint_minutes,
        "checkpoint_steps": checkpoint_steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "preset": preset,
        "max_samples": max_samples,
        "patience": patience,
    }
    flags = {key: value for key, value in options.items() if value is not None}
    for key in flags.keys() & settings.keys():
        raise InputError(f"--{key.replace('_', '-')} and --set {key}: give one of them")
    request = TrainRequest(
        algorithm=algorithm,
        level=level,
        store=store,
        models_dir=models_dir,
        properties="all9" if all_properties else properties,
        resume=resume,
        run_id=run_id,
        init_from=initial,
        seed=seed,
        overrides={**flags, **settings},
    )
    run_train(request)


@app.command()
def predict(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Anything that `prepare` reads.")
    ] = None,
    cif: Annotated[Path | None, typer.Option("--cif", help="One CIF file.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of CIF and POSCAR files, not recursive.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Run directory or id, several with commas (their mean, and "
            "their spread as sigma). Default: the newest finished run.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="CSV, or JSON (.json), with a row an input.")
    ] = None,
    models_dir: ModelsDir = Path("models"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Predict the properties of structures with a trained model."""
    from phase2hpc.registry import runs_to_predict_with

    if sum(map(bool, (cif, folder, sources))) != 1:
        raise InputError("give one of --cif FILE, --dir FOLDER, or SOURCE...")
    if cif is not None and not cif.is_file():
        raise InputError(f"--cif {cif}: no such file" + (" (a folder)" if cif.is_dir() else ""))
    if folder is not None and not folder.is_dir():
        raise InputError(f"--dir {folder}: no such folder")
    inputs = [str(path) for path in (cif, folder) if path] or list(sources or [])
    runs = runs_to_predict_with(models_dir, run)
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.predict import (
        check_output,
        load_predictor,
        predict_all,
        summary_line,
        table,
        write_predictions,
    )

    if output is not None:
        check_output(output)
    predictor = load_predictor(runs, device, threads)
    rows = predict_all(predictor, inputs, plain_folder=folder is not None)
    if output is None:
        print(table(rows, predictor.properties))
    else:
        write_predictions(output, rows, predictor.properties)
    print(summary_line(rows, runs, output), file=sys.stderr)
    if not any(row.status == "ok" for row in rows):
        raise typer.Exit(InputError.exit_code)


@runs_app.command("list")
def runs_list(models_dir: ModelsDir = Path("models")) -> None:
    """All runs, read from their manifests."""
    from phase2hpc.registry import list_text, registry

    runs = registry(models_dir)
    print(list_text(runs) if runs else f"no runs in {models_dir}")


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="Run directory or id.")],
    hand_over: Annotated[
        bool, typer.Option("--handoff", help="The hand-off checklist as Markdown.")
    ] = False,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """One run: settings, state and errors."""
    from phase2hpc.registry import find_run, handoff, show

    found = find_run(models_dir, run)
    print(handoff(found) if hand_over else show(found))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Run directory or id.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Write a finished run's model to a folder of its own, to hand on and to predict with."""
    from phase2hpc.registry import find_run

    found = find_run(models_dir, run)
    from phase2hpc.export import export_run

    print(f"exported: {export_run(found, folder).path}")


@app.command()
def levels(
    settings: Annotated[
        bool, typer.Option("--settings", help="Also every setting with its meaning and default.")
    ] = False,
) -> None:
    """The algorithms and levels with the settings that are in force."""
    from phase2hpc.level_tables import level_table, settings_table

    print(level_table())
    if settings:
        print()
        print(settings_table())


def main() -> None:
    """Run the command line; an expected error is one line and its exit code."""
    logging.basicConfig(format="phase2hpc: %(levelname)s: %(message)s")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of it
            raise KeyboardInterrupt
        sys.exit(code)
    except Phase2Error as error:
        print(f"phase2hpc: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA_OF_MODULE:
            raise
        module = error.name.partition(".")[0]
        print(
            f"phase2hpc: this command needs {module}, which is not installed here: "
            f"pip install 'phase2hpc[{EXTRA_OF_MODULE[module]}]'",
            file=sys.stderr,
        )
        sys.exit(InputError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("phase2hpc: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # A wrong option or value. Typer's versions take these classes from different packages,
        # and show them as a box of several lines.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        if message := error.format_message().strip():
            print(f"phase2hpc: {' '.join(message.split())} (see --help)", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
