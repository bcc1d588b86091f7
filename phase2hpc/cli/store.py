"""``prepare`` and ``store``: graph stores from crystals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phase2hpc.cli.command_line import Command, Group
from phase2hpc.cli.options import Columns, JsonOutput, MaxAtoms, ShardProfile, Shards, StoreOption
from phase2hpc.cli.site_options import SiteOptions
from phase2hpc.errors import InputError

if TYPE_CHECKING:
    from phase2hpc.data.prepare import PrepareSummary
    from phase2hpc.data.store.merge import MergeSummary
    from phase2hpc.data.store.verify import VerifyReport

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Graph store (.h5).")]
store_app = typer.Typer(
    name="store", cls=Group, help="Inspect, verify and merge graph stores.", no_args_is_help=True
)


def prepare(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Files or folders; default: the shipped sample."),
    ] = None,
    store: StoreOption = None,
    cutoff: Annotated[
        float | None, typer.Option(metavar="X", help="Longest edge, angstrom.")
    ] = None,
    max_neighbors: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Neighbours an atom has at most, but for ties; 0: no limit."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="formula, random (each also with shares: formula:70/15/15), column, or a CSV of "
            "id and split. Default: the source's own column, else formula.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of a random split.")] = 0,
    max_atoms: MaxAtoms = None,
    folds: Annotated[
        int | None, typer.Option(metavar="N", help="Folds by formula, for train --fold (3 to 100).")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Table of labels of a folder, in place of its id_prop.csv."
        ),
    ] = None,
    column: Columns = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="[SOURCE:]OLD=NEW", help="New name of a label column."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes; default: the cores, up to 8.")
    ] = None,
    float64: Annotated[bool, typer.Option("--float64", help="Keep double precision.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store made otherwise.")
    ] = False,
    shards: Shards = None,
    profile: ShardProfile = None,
    json_output: JsonOutput = False,
    *,
    site: SiteOptions,
) -> None:
    """Read crystals, validate them, build their graphs and write one HDF5 store.

    Example: phase2hpc prepare structures --store data/mine.h5
    """
    from phase2hpc import api

    site.refuse_without_jobs(profile, shards)
    target = api.store_of(sources or [], store)
    if shards is not None:
        if json_output:
            raise InputError("--json: not with --shards; see store info --json")
        from phase2hpc.cluster.submit.job_array import ShardJobs, prepare_sharded
        from phase2hpc.utils.package_files import sample_source

        given = api.graph_settings_given(cutoff, max_neighbors)
        options: dict[str, Any] = {"graph": given, "split": split, "seed": seed, "float64": float64}
        further: dict[str, Any] = {
            "rename": rename,
            "columns": column,
            "folds": folds,
            "max_atoms": max_atoms,
        }
        further["labels"] = None if labels is None else str(labels)
        options |= {key: value for key, value in further.items() if value is not None}
        read = sources or [str(sample_source())]
        prepare_sharded(
            read, target, options, shards,
            ShardJobs(profile, site.fields(), site.memory_gb(), site.hours()),
            workers=workers, overwrite=overwrite,
        )  # fmt: skip
        return
    if store is not None:
        from phase2hpc.utils.output_path import warn_if_lost

        warn_if_lost(store)
    from phase2hpc.utils.progress import Progress

    with Progress("preparing", None, "crystals") as progress:
        summary = api.prepare(
            sources,
            target,
            cutoff=cutoff,
            max_neighbors=max_neighbors,
            split=split,
            seed=seed,
            float64=float64,
            max_atoms=max_atoms,
            labels=labels,
            columns=column,
            rename=rename,
            folds=folds,
            workers=workers,
            overwrite=overwrite,
            progress=progress.advance,
        )
    _print(summary, json_output)


@store_app.command("info", cls=Command)
def store_info(file: StoreArgument, json_output: JsonOutput = False) -> None:
    """Show the content of a store.

    Example: phase2hpc store info data/mine.h5
    """
    from phase2hpc.data.store.info import info_json, info_lines
    from phase2hpc.data.store.verify import inspect

    info = inspect(file)
    if json_output:
        import json

        print(json.dumps(info_json(info), indent=2))
    else:
        print("\n".join(info_lines(info)))


@store_app.command("verify", cls=Command)
def store_verify(file: StoreArgument, json_output: JsonOutput = False) -> None:
    """Verify a store: checksums of all chunks, content hash, indices.

    Example: phase2hpc store verify data/mine.h5
    """
    from phase2hpc.data.store.verify import verify_store

    report = verify_store(file)
    _print(report, json_output)
    if not report.ok:
        raise typer.Exit(1)


@store_app.command("merge", cls=Command)
def store_merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="STORE", help="Stores; the first comes first.")
    ],
    store: Annotated[Path, typer.Option("--store", metavar="FILE", help="The store to write.")],
    json_output: JsonOutput = False,
) -> None:
    """Merge stores into one: ids stay unique, splits stay as they are.

    Example: phase2hpc store merge a.h5 b.h5 --store both.h5
    """
    from phase2hpc.data.store.merge import merge_stores

    _print(merge_stores(files, store), json_output)


def _print(report: PrepareSummary | VerifyReport | MergeSummary, json_output: bool) -> None:
    if json_output:
        import json

        print(json.dumps(report.as_json(), indent=2))
    else:
        print("\n".join(report.lines()))
