"""Commands ``predict``, ``calibrate`` and ``export``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import (
    Device,
    JsonOutput,
    MaxAtoms,
    ModelsDir,
    RunArgument,
    ShardProfile,
    Shards,
    Threads,
)
from phase2hpc.cli.site_options import SiteOptions
from phase2hpc.errors import InputError
from phase2hpc.inference.coverage import DEFAULT_COVERAGE


def predict(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE", help="Anything that prepare reads.")
    ] = None,
    cif: Annotated[Path | None, typer.Option("--cif", metavar="FILE", help="One CIF file.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Folder of CIF and POSCAR files, not recursive."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Run, ensemble or exported model; several with commas: their mean; best: the best "
            "validation score. Default: the newest finished run at level std, pro or max, else the "
            "shipped model.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="CSV, or JSON (.json), a row per structure."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", metavar="FILE", help="HDF5 file for the crystal vectors of one model."
        ),
    ] = None,
    json_output: JsonOutput = False,
    models_dir: ModelsDir = Path("models"),
    device: Device = "auto",
    threads: Threads = 1,
    max_atoms: MaxAtoms = None,
    interval: Annotated[
        float,
        typer.Option(metavar="COVERAGE", help="Share of crystals that the intervals cover."),
    ] = DEFAULT_COVERAGE,
    workers: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Processes that read and predict; with --output."),
    ] = 1,
    shards: Shards = None,
    profile: ShardProfile = None,
    *,
    site: SiteOptions,
) -> None:
    """Predict the properties of structures with a trained model.

    Example: phase2hpc predict --dir structures --output predictions.csv
    """
    from phase2hpc.utils.container_image import mount_hint
    from phase2hpc.utils.output_path import check_output

    if sum(map(bool, (cif, folder, sources))) != 1:
        raise InputError("give one of --cif FILE, --dir FOLDER, or SOURCE...")
    if cif is not None and not cif.is_file():
        why = " (a folder)" if cif.is_dir() else mount_hint()
        raise InputError(f"--cif {cif}: no such file{why}")
    if folder is not None and not folder.is_dir():
        raise InputError(f"--dir {folder}: no such folder{mount_hint()}")
    inputs = [str(path) for path in (cif, folder) if path] or list(sources or [])
    site.refuse_without_jobs(profile, shards)
    from phase2hpc.runs.model_selection import describe_model, runs_to_predict_with

    if json_output and output is not None:
        raise InputError("--json: without --output; --output FILE.json writes the same")
    runs = runs_to_predict_with(models_dir, None if run is None else run.split(","))
    if workers > 1 and (output is None or shards is not None or features is not None):
        raise InputError("--workers: with --output, and without --shards and --features")
    if features is not None:
        if len(runs) > 1:
            raise InputError(
                f"--features: the vectors of {len(runs)} models are unrelated: name one by --run, "
                f"as {runs[0].path}"
            )
        if shards is not None:
            raise InputError("--features: not with --shards; leave one of them out")
        check_output(features, (".h5", ".hdf5"), "--features")
    if shards is not None:
        if output is None:
            raise InputError("--shards: say by --output where the table goes")
        check_output(output)
        from phase2hpc.cluster.submit.job_array import ShardJobs, run_sharded
        from phase2hpc.cluster.submit.sharded_work import predict_in_shards

        work = predict_in_shards(
            inputs, output, runs, shards,
            plain_folder=folder is not None, device=device, threads=threads, max_atoms=max_atoms,
            interval=interval,
        )  # fmt: skip
        run_sharded(work, ShardJobs(profile, site.fields(), site.memory_gb(), site.hours()))
        return
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.api import load_model
    from phase2hpc.inference import prediction_table

    if output is not None:
        check_output(output)
    if output is not None and features is None:
        from phase2hpc.inference.prediction_request import PredictionRequest
        from phase2hpc.inference.resumable_predict import predict_table

        paths = tuple(str(run.path) for run in runs)
        request = PredictionRequest(
            tuple(inputs), paths, folder is None, device, threads, max_atoms, interval
        )
        counts = predict_table(request, output, workers)
        _report(counts, describe_model(runs), output)
        return
    model = load_model(runs, device=device, threads=threads, max_atoms=max_atoms, interval=interval)
    rows = model.predict_all(inputs, id_prop=folder is None)
    if features is not None:
        from phase2hpc.inference.feature_file import write_features

        write_features(features, rows, model.vectors(rows), describe_model(runs))
    if json_output:
        import json

        print(json.dumps(list(prediction_table.as_records(rows, model.properties)), indent=2))
    elif output is None:
        print(prediction_table.table(rows, model.properties, model.units, interval))
    else:
        prediction_table.write_predictions(output, rows, model.properties)
    counts = Counter[str]()
    for record in prediction_table.as_records(rows, model.properties):
        prediction_table.count_record(counts, record)
    _report(counts, describe_model(runs), output)


def _report(counts: Counter[str], model: str, output: Path | None) -> None:
    """Say what came out; exit code 2 where nothing could be predicted."""
    from phase2hpc.inference.prediction_table import summary_line

    print(summary_line(counts, model, output), file=sys.stderr)
    if not counts["ok"]:
        raise typer.Exit(InputError.exit_code)


def calibrate(
    run: RunArgument,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FILE",
            help="Store it was trained on; default: as recorded by the run.",
        ),
    ] = None,
    models_dir: ModelsDir = Path("models"),
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Measure a finished model's errors and domain, for sigma, intervals and in_domain.

    Training does this at its end; a model of an older version needs it once.

    Example: phase2hpc calibrate RUN
    """
    from phase2hpc.runs.registry import find_run

    found = find_run(models_dir, run)
    from phase2hpc.api import calibrate as calibrate_run

    print(f"calibrated: {calibrate_run(found, store, device=device, threads=threads)}")


def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="LICENCE", help="Licence of the weights, for the card."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="ORIGIN", help="Origin and terms of the training data, for the card."
        ),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Export a finished model to a new folder, which predict --run reads.

    Example: phase2hpc export RUN my-model
    """
    from phase2hpc.runs.model_selection import runs_to_predict_with

    found = runs_to_predict_with(models_dir, run.split(","))
    from phase2hpc.inference.export import export_runs
    from phase2hpc.utils.output_path import warn_if_lost

    warn_if_lost(folder)
    print(f"exported: {export_runs(found, folder, licence=licence, data=data).path}")
