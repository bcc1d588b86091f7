"""``predict`` and ``export``: what is done with a trained model."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir, RunArgument, ShardProfile, Shards
from phase2hpc.errors import InputError
from phase2hpc.utils.container_image import unseen
from phase2hpc.utils.output_path import check_output, warn_if_lost


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
    shards: Shards = None,
    profile: ShardProfile = None,
) -> None:
    """Predict the properties of structures with a trained model."""
    from phase2hpc.runs.registry import runs_to_predict_with

    if sum(map(bool, (cif, folder, sources))) != 1:
        raise InputError("give one of --cif FILE, --dir FOLDER, or SOURCE...")
    if cif is not None and not cif.is_file():
        why = " (a folder)" if cif.is_dir() else unseen()
        raise InputError(f"--cif {cif}: no such file{why}")
    if folder is not None and not folder.is_dir():
        raise InputError(f"--dir {folder}: no such folder{unseen()}")
    inputs = [str(path) for path in (cif, folder) if path] or list(sources or [])
    if profile is not None and shards is None:
        raise InputError("--profile: only with --shards; without, this is one process here")
    runs = runs_to_predict_with(models_dir, run)
    if shards is not None:
        if output is None:
            raise InputError("--shards: say by --output where the table goes")
        check_output(output)
        from phase2hpc.cluster.submit.job_array import run_sharded
        from phase2hpc.cluster.submit.sharded_work import predict_in_shards

        work = predict_in_shards(
            inputs, output, runs, shards,
            plain_folder=folder is not None, device=device, threads=threads,
        )  # fmt: skip
        run_sharded(work, profile)
        return
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.inference.predictor import (
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
    counts = Counter(row.status for row in rows)
    print(summary_line(counts, runs, output), file=sys.stderr)
    if not counts["ok"]:
        raise typer.Exit(InputError.exit_code)


def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Write a finished run's model to a folder of its own, to hand on and to predict with."""
    from phase2hpc.runs.registry import find_run

    found = find_run(models_dir, run)
    from phase2hpc.inference.export import export_run

    warn_if_lost(folder)
    print(f"exported: {export_run(found, folder).path}")
