"""What runs on the node for ``--shards``: importable functions with plain arguments.

The working directory is the one of the command, so that sources have the names that the user gave
them. A part that is there already is left, so every call may run again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phase2hpc.cluster.node.train_task import for_a_shell
from phase2hpc.errors import InputError, Phase2Error
from phase2hpc.utils.shard_folder import ShardFolder

if TYPE_CHECKING:
    from phase2hpc.data.convert import Converter


def prepare_shard(
    place: str,
    folder: str,
    count: int,
    shard: int,
    sources: list[str],
    options: dict[str, Any],
    workers: int | None,
) -> None:
    """Make one shard of a preparation. options: as of ``converter``. workers: None for as many
    as the job has cores."""
    with _in(place):
        from phase2hpc.data.sharding import make_shard
        from phase2hpc.utils.progress import Progress

        with Progress(f"shard {shard} of {count}", None, "crystals") as progress:
            make_shard(
                ShardFolder(Path(folder), count), shard, sources, converter(options),
                workers=workers or int(os.environ.get("SLURM_CPUS_PER_TASK") or 0) or None,
                progress=progress.advance,
            )  # fmt: skip


def merge_prepared(
    place: str,
    folder: str,
    count: int,
    sources: list[str],
    store: str,
    options: dict[str, Any],
    overwrite: bool,
) -> None:
    """Make the store of all shards."""
    with _in(place):
        from phase2hpc.data.sharding import merge_shards
        from phase2hpc.utils.progress import Progress

        with Progress("merging", None, "crystals") as progress:
            summary = merge_shards(
                ShardFolder(Path(folder), count), sources, Path(store), converter(options),
                overwrite=overwrite, progress=progress.advance,
            )  # fmt: skip
        print(summary, flush=True)


def converter(options: dict[str, Any]) -> Converter:
    """options: ``graph`` (settings that were given), ``split``, ``seed`` and ``float64``; if given
    ``labels`` (a path), ``rename`` and ``columns`` (as on the command line), ``folds`` and
    ``max_atoms``.

    Raises InputError where they are wrong.
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
    place: str,
    folder: str,
    count: int,
    shard: int,
    inputs: list[str],
    plain_folder: bool,
    runs: list[str],
    device: str,
    threads: int,
    max_atoms: int | None = None,
) -> None:
    """Make one shard of predictions."""
    with _in(place):
        from phase2hpc.inference.predictor import load_predictor
        from phase2hpc.inference.sharding import predict_shard as run
        from phase2hpc.runs.run_directory import RunDirectory

        models = [RunDirectory(Path(run)) for run in runs]
        predictor = load_predictor(models, device, threads, max_atoms)
        part = ShardFolder(Path(folder), count)
        run(part, shard, predictor, inputs, id_prop=not plain_folder)


def join_predictions(
    place: str, folder: str, count: int, inputs: list[str], runs: list[str], output: str
) -> None:
    """Write the table of all shards; exit code 2 where nothing could be predicted."""
    with _in(place):
        from phase2hpc.inference.prediction_table import summary_line
        from phase2hpc.inference.sharding import join_shards
        from phase2hpc.runs.model_selection import describe_model
        from phase2hpc.runs.run_directory import RunDirectory

        counts = join_shards(ShardFolder(Path(folder), count), inputs, Path(output))
        models = [RunDirectory(Path(run)) for run in runs]
        print(summary_line(counts, describe_model(models), Path(output)), flush=True)
        if not counts["ok"]:
            raise InputError(f"nothing could be predicted: {output} says why")


@contextmanager
def _in(place: str) -> Iterator[None]:
    """In this working directory; a signal ends the work, which leaves no half part behind."""
    with for_a_shell():
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGUSR2, _say_that_time_is_over)
        os.chdir(place)
        yield


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _say_that_time_is_over(number: int, frame: object) -> None:
    raise Phase2Error(
        "the job's time is nearly over and this part is not done: give more --shards, or more hours"
        " in the profile"
    )
