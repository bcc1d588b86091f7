"""Tasks of ``--shards`` jobs: importable functions with plain arguments.

They run in the working directory of the command, so that relative source paths hold. Existing
shards are kept, so every call may run again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.cluster.node.train_task import exit_codes
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.shard_folder import ShardFolder

if TYPE_CHECKING:
    from phase2hpc.data.convert import Converter


def prepare_shard(
    cwd: str,
    folder: str,
    count: int,
    shard: int,
    sources: list[str],
    options: dict[str, Any],
    workers: int | None,
) -> None:
    """Prepare one shard. options: as in ``converter``. workers: default: the job's cores."""
    with _working_directory(cwd):
        from phase2hpc.data.sharded_prepare import write_shard
        from phase2hpc.utils.progress import Progress

        with Progress(f"shard {shard} of {count}", None, "crystals") as progress:
            write_shard(
                ShardFolder(Path(folder), count), shard, sources, converter(options),
                workers=workers or int(os.environ.get("SLURM_CPUS_PER_TASK") or 0) or None,
                progress=progress.advance,
            )  # fmt: skip


def merge_prepared(
    cwd: str,
    folder: str,
    count: int,
    sources: list[str],
    store: str,
    options: dict[str, Any],
    overwrite: bool,
) -> None:
    """Merge all shards into the store."""
    with _working_directory(cwd):
        from phase2hpc.data.sharded_prepare import merge_shards
        from phase2hpc.utils.progress import Progress

        with Progress("merging", None, "crystals") as progress:
            summary = merge_shards(
                ShardFolder(Path(folder), count), sources, Path(store), converter(options),
                overwrite=overwrite, progress=progress.advance,
            )  # fmt: skip
        print(summary, flush=True)


def converter(options: dict[str, Any]) -> Converter:
    """A Converter from options: ``graph`` (given settings), ``split``, ``seed``, ``float64`` and,
    if given, ``labels`` (a path), ``rename`` and ``columns`` (as on the command line), ``folds``
    and ``max_atoms``.


    Raises InputError for invalid ones.
    """
    from phase2hpc.config.properties import parse_columns, parse_renames
    from phase2hpc.data.convert import Converter
    from phase2hpc.data.graph import GraphError, GraphSettings
    from phase2hpc.data.validation import DEFAULT_LIMITS

    try:
        settings = GraphSettings(**options["graph"])
    except GraphError as error:
        raise InputError(str(error)) from None
    return Converter(
        settings, options["split"], options["seed"], options["float64"], options.get("labels"),
        parse_renames(options.get("rename") or ()), parse_columns(options.get("columns") or ()),
        options.get("folds"), options.get("max_atoms", DEFAULT_LIMITS.max_atoms),
    )  # fmt: skip


def predict_shard(
    cwd: str,
    folder: str,
    count: int,
    shard: int,
    inputs: list[str],
    plain_folder: bool,
    runs: list[str],
    device: str,
    threads: int,
    max_atoms: int | None = None,
    interval: float = 0.9,
) -> None:
    """Predict one shard."""
    with _working_directory(cwd):
        from phase2hpc.inference.predictor import load_predictor
        from phase2hpc.inference.sharded_predict import predict_shard as run
        from phase2hpc.runs.run_directory import RunDirectory

        models = [RunDirectory(Path(run)) for run in runs]
        predictor = load_predictor(models, device, threads, max_atoms, interval)
        part = ShardFolder(Path(folder), count)
        run(part, shard, predictor, inputs, id_prop=not plain_folder)


def join_predictions(
    cwd: str, folder: str, count: int, inputs: list[str], runs: list[str], output: str
) -> None:
    """Join all shards into one table; exit code 2 if nothing could be predicted."""
    with _working_directory(cwd):
        from phase2hpc.inference.prediction_table import summary_line
        from phase2hpc.inference.sharded_predict import join_shards
        from phase2hpc.runs.model_selection import describe_model
        from phase2hpc.runs.run_directory import RunDirectory

        counts = join_shards(ShardFolder(Path(folder), count), inputs, Path(output))
        models = [RunDirectory(Path(run)) for run in runs]
        print(summary_line(counts, describe_model(models), Path(output)), flush=True)
        if not counts["ok"]:
            raise InputError(f"nothing could be predicted: see the reasons in {output}")


@contextmanager
def _working_directory(cwd: str) -> Iterator[None]:
    """Work in this directory; a signal ends the process, which leaves no partial shard."""
    with exit_codes():
        signal.signal(signal.SIGTERM, _exit_on_signal)
        signal.signal(signal.SIGUSR2, _raise_time_limit)
        os.chdir(cwd)
        yield


def _exit_on_signal(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _raise_time_limit(number: int, frame: object) -> None:
    raise Phase2Error(
        "the job's time limit is near and this shard is not done: give more --shards, or more hours"
        " in the profile"
    )
