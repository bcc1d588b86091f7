"""Command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir


def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs or ensembles; several are shown side by side."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="HTML file; default: report.html in the run directory, of several runs here.",
        ),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Write a page of results: errors, parity plots, learning curves, worst structures.

    Example: phase2hpc report RUN1 RUN2 --output compared.html
    """
    from phase2hpc.utils.output_path import check_output

    if output is not None:
        check_output(output, (".html", ".htm"))
    from phase2hpc.analysis.report import write_report

    print(f"report: {write_report(models_dir, runs, output)}")
