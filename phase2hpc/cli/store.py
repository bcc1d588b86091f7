"""``prepare`` and ``store``: graph stores from crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phase2hpc.cli.options import Columns, ShardProfile, Shards, StoreOption
from phase2hpc.errors import InputError
from phase2hpc.utils.output_path import warn_if_lost

store_app = typer.Typer(help="Look into, check and join graph stores.", no_args_is_help=True)


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
            help="formula, random (each also with shares: formula:70/15/15), column, or a CSV of "
            "id and split. Default: the source's own column, else formula."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a random split.")] = 0,
    folds: Annotated[
        int | None, typer.Option(help="Folds by formula, for train --fold (3 to 100).")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Table of labels of a folder, in place of its id_prop.csv."),
    ] = None,
    column: Columns = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="[SOURCE:]OLD=NEW", help="New name of a label column."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: the cores, up to 8.")
    ] = None,
    float64: Annotated[bool, typer.Option("--float64", help="Keep double precision.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store made otherwise.")
    ] = False,
    shards: Shards = None,
    profile: ShardProfile = None,
) -> None:
    """Read crystals, validate them, build their graphs and write one HDF5 store."""
    from phase2hpc.utils.package_files import default_store, sample_source

    given: dict[str, Any] = {}
    if cutoff is not None:
        given["cutoff"] = cutoff
    if max_neighbors is not None:
        given["max_neighbors"] = max_neighbors or None
    target = store or (_store_of(sources[0]) if sources else default_store())
    if shards is not None:
        from phase2hpc.cluster.submit.job_array import prepare_sharded

        options: dict[str, Any] = {"graph": given, "split": split, "seed": seed, "float64": float64}
        further: dict[str, Any] = {"rename": rename, "columns": column, "folds": folds}
        further["labels"] = None if labels is None else str(labels)
        options |= {key: value for key, value in further.items() if value is not None}
        read = sources or [str(sample_source())]
        prepare_sharded(
            read, target, options, shards, profile, workers=workers, overwrite=overwrite
        )
        return
    if profile is not None:
        raise InputError("--profile: only with --shards; without, this is one process here")
    if store is not None:
        warn_if_lost(store)
    from phase2hpc.config.properties import parse_columns, parse_renames
    from phase2hpc.data.graph import GraphError, GraphSettings
    from phase2hpc.data.prepare import prepare as run_prepare
    from phase2hpc.utils.progress import Progress

    try:
        settings = GraphSettings(**given)
    except GraphError as error:
        raise InputError(str(error)) from None
    columns, renames = parse_columns(column or ()), parse_renames(rename or ())
    with Progress("preparing", None, "crystals") as progress:
        summary = run_prepare(
            sources or [sample_source()],
            target,
            settings,
            split=split,
            seed=seed,
            float64=float64,
            labels=labels,
            rename=renames,
            columns=columns,
            folds=folds,
            workers=workers,
            overwrite=overwrite,
            progress=progress.advance,
        )
    print(summary)


def _store_of(source: str) -> Path:
    """The default store of a source: data/<name>.h5 in the working directory."""
    name = Path(source.replace(":", "_")).name
    return Path("data") / f"{name.split('.')[0] or name}.h5"


@store_app.command("info")
def store_info(file: Path) -> None:
    """Contents of a store and how it was made."""
    from phase2hpc.data.store.layout import info_lines
    from phase2hpc.data.store.verify import inspect

    print("\n".join(info_lines(inspect(file))))


@store_app.command("verify")
def store_verify(file: Path) -> None:
    """Check every chunk's checksum, the content hash, and that the indices are valid."""
    from phase2hpc.data.store.verify import verify_store

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
    from phase2hpc.data.store.merge import merge_stores

    print("\n".join(merge_stores(files, store).lines()))
