"""``prepare`` and ``store``: from crystals to a graph store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phase2hpc.cli.options import MaxAtoms, ShardProfile, Shards, StoreOption
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
            help="formula, random, column, or a CSV of id and split. Default: the "
            "source's own column, else formula."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a random split.")] = 0,
    max_atoms: MaxAtoms = None,
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
    limit = {} if max_atoms is None else {"max_atoms": max_atoms}
    target = store or (_store_of(sources[0]) if sources else default_store())
    if shards is not None:
        from phase2hpc.cluster.submit.job_array import prepare_sharded

        options = {"graph": given, "split": split, "seed": seed, "float64": float64, **limit}
        read = sources or [str(sample_source())]
        prepare_sharded(
            read, target, options, shards, profile, workers=workers, overwrite=overwrite
        )
        return
    if profile is not None:
        raise InputError("--profile: only with --shards; without, this is one process here")
    if store is not None:
        warn_if_lost(store)
    from phase2hpc.data.graph import GraphError, GraphSettings
    from phase2hpc.data.prepare import prepare as run_prepare
    from phase2hpc.utils.progress import Progress

    try:
        settings = GraphSettings(**given)
    except GraphError as error:
        raise InputError(str(error)) from None
    with Progress("preparing", None, "crystals") as progress:
        summary = run_prepare(
            sources or [sample_source()],
            target,
            settings,
            split=split,
            seed=seed,
            float64=float64,
            **limit,
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
    from phase2hpc.data.store.layout import info_lines
    from phase2hpc.data.store.verify import inspect

    print("\n".join(info_lines(inspect(file))))


@store_app.command("verify")
def store_verify(file: Path) -> None:
    """Read every chunk with its checksum, the content hash, and whether the indices make sense."""
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
