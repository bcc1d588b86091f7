"""Command ``evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import Device, JsonOutput, MaxAtoms, ModelsDir, Threads


def evaluate(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run, ensemble or shipped model, as of predict.")
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Structures with labels, as for prepare, or a store (.h5)."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="FILE", help="Table of labels of a folder, instead of id_prop.csv."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="COLUMN=PROPERTY", help="Label column of a property."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Crystals of a store: test (default), val, train or all.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="CSV or JSON: label, prediction, error of each structure.",
        ),
    ] = None,
    models_dir: ModelsDir = Path("models"),
    device: Device = "auto",
    threads: Threads = 1,
    max_atoms: MaxAtoms = None,
    json_output: JsonOutput = False,
) -> None:
    """Predict for structures with labels, and show the errors.

    Example: phase2hpc evaluate e3nn-std data.jsonl --output errors.csv
    """
    import json

    from phase2hpc.config.properties import parse_renames
    from phase2hpc.runs.model_selection import describe_model, runs_to_predict_with
    from phase2hpc.utils.output_path import check_output

    renames = parse_renames(rename or ())
    if output is not None:
        check_output(output)
    runs = runs_to_predict_with(models_dir, run.split(","))
    # This takes seconds, so it comes after what can be wrong in the request.
    from phase2hpc.analysis.source_evaluation import evaluate_sources
    from phase2hpc.inference.prediction_table import summary_line
    from phase2hpc.inference.predictor import load_predictor
    from phase2hpc.utils.record_files import write_records

    predictor = load_predictor(runs, device=device, threads=threads, max_atoms=max_atoms)
    found = evaluate_sources(predictor, sources, labels=labels, rename=renames, split=split)
    if output is not None:
        write_records(output, found.records(), found.header)
    for line in found.cells.lines():
        print(f"warning: {line}", file=sys.stderr)
    print(json.dumps(found.as_json(), indent=2) if json_output else found.text())
    print(summary_line(found.counts, describe_model(runs), output), file=sys.stderr)
