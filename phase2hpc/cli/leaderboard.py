"""Command ``leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phase2hpc.cli.options import ModelsDir
from phase2hpc.errors import InputError


def leaderboard(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Evaluated runs; of matbench one per fold.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    matbench: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Record of this matbench task, as matbench_mp_gap."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="NAME", help="Data set's name on the JARVIS-Leaderboard.")
    ] = "dft_3d",
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Write test predictions in the formats of the JARVIS-Leaderboard and of matbench.

    Example: phase2hpc leaderboard e3nn-1 contribution
    """
    from phase2hpc.runs.registry import find_run

    found = [find_run(models_dir, run) for run in runs]
    from phase2hpc.analysis import leaderboards
    from phase2hpc.inference.labelled_predictions import read_labelled_predictions
    from phase2hpc.runs.model_selection import describe_model

    tables = [read_labelled_predictions(run.predictions("test")) for run in found]
    if matbench is not None:
        parameters = [
            {"algorithm": run.read_config().algorithm, **run.read_config().identity()}
            for run in found
        ]
        record = leaderboards.matbench_record(matbench, tables, parameters)
        files = {f"{matbench}.json": leaderboards.as_json(record)}
    elif len(found) > 1:
        raise InputError("several runs: only with --matbench TASK, one for each fold")
    else:
        files = leaderboards.jarvis_files(tables[0], dataset)
        metadata = leaderboards.jarvis_metadata(found[0].id, describe_model(found))
        files["metadata.json"] = leaderboards.as_json(metadata)
    leaderboards.write_files(folder, files)
    print("\n".join(f"written: {folder / name}" for name in files))
