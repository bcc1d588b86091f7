"""``train``."""

from __future__ import annotations

from typing import Annotated

import typer

from phase2hpc.cli.options import RunOptions, SettingOptions, train_request


def train(
    run: RunOptions,
    settings: SettingOptions,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Ensemble, one run per seed in turn: 0-4, or 1,3,7.",
            metavar="SEEDS",
        ),
    ] = None,
) -> None:
    """Train a model or an ensemble, or continue an interrupted run.

    Example: phase2hpc train --algorithm e3nn --level lite --store data/mine.h5
    """
    request = train_request(run, settings, seeds)
    # These take seconds, so they come after what can be wrong in the request.
    from phase2hpc.analysis.report import write_report_of
    from phase2hpc.training.runner import train as run_train

    run_train(request, at_end=write_report_of)
