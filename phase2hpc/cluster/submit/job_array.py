"""``--shards``: one command as a job array and a last job that puts its parts together.

Nothing is read of the sources here, and neither numpy nor torch is needed: the nodes do the work.
The last job starts when every shard has ended, however it ended, and names those that failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phase2hpc.cluster.node import shard_task
from phase2hpc.cluster.profiles.profile import Profile, find_profile
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.submit.batch_script import chosen_container, job_script
from phase2hpc.cluster.submit.local_executor import run_calls
from phase2hpc.cluster.submit.plan import with_partition_limit
from phase2hpc.cluster.submit.resources import ResourceOverrides, allocate
from phase2hpc.cluster.submit.sbatch_options import start_after
from phase2hpc.cluster.submit.slurm_executor import BatchExecutor, Call, JobScript
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.utils.shard_folder import MAX_SHARDS, ShardFolder, fingerprints

HOURS = 4.0
SHARD_MEMORY_GB, LAST_MEMORY_GB = 16, 8
PREPARE_CPUS = 8


@dataclass(frozen=True)
class ShardedWork:
    """What is shared. target: the result. shards: the call of each shard. last: the call that
    puts them together, named ``join``. seen: folders that are read or written. extra: the install
    that the work needs."""

    name: str
    target: Path
    folder: ShardFolder
    shards: tuple[Call, ...]
    last: Call
    join: str
    seen: tuple[Path, ...]
    resources: Resources
    wanted: ResourceOverrides
    extra: str

    @property
    def logs(self) -> Path:
        """Scripts and logs of the jobs; they stay."""
        return self.target.with_name(f"{self.target.name}.jobs").resolve()


def prepare_work(
    sources: Sequence[str],
    store: Path,
    options: Mapping[str, Any],
    shards: int,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> ShardedWork:
    """A preparation. options: as of ``shard_task.converter``. Raises InputError."""
    _check(shards, sources)
    made_from: dict[str, Any] = {"sources": fingerprints(sources), **options}
    rule, table = options["split"], options.get("labels")
    files = [name for name in (rule, table) if name and Path(name).exists()]
    made_from["files"] = fingerprints(files)
    folder = ShardFolder.beside(store, shards, made_from)
    place, path = os.getcwd(), str(folder.path)
    calls: list[Call] = [
        (shard_task.prepare_shard, (place, path, shards, k, list(sources), dict(options), workers))
        for k in range(shards)
    ]
    last = (place, path, shards, list(sources), str(store), dict(options), overwrite)
    return ShardedWork(
        name="prepare",
        target=store,
        folder=folder,
        shards=tuple(calls),
        last=(shard_task.merge_prepared, last),
        join="merge",
        seen=_seen(store, [*sources, *files]),
        resources=Resources(HOURS, workers or PREPARE_CPUS, SHARD_MEMORY_GB, 0),
        wanted=ResourceOverrides(nodes=1, gpus_per_node=0, tasks_per_node=1, cpus=workers),
        extra="data",
    )


def prepare_sharded(
    sources: Sequence[str],
    store: Path,
    options: Mapping[str, Any],
    shards: int,
    profile: str | None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """``prepare`` by shards; a store that is there already is left, as without them."""
    work = prepare_work(sources, store, options, shards, workers=workers, overwrite=overwrite)
    if store.exists() and not overwrite:
        try:
            from phase2hpc.data.prepare import existing_store, preparation
        except ModuleNotFoundError as error:
            raise InputError(
                f"{store} is there already, and whether it is the one asked for cannot be seen here"
                f" (no {error.name}): replace it with --overwrite or give another --store"
            ) from None
        print(existing_store(store, preparation(sources, shard_task.converter(dict(options)))))
        return
    with suppress(ModuleNotFoundError):  # then the nodes will tell
        _ = shard_task.converter(dict(options)).splitter
    run_sharded(work, profile)


def predict_work(
    inputs: Sequence[str],
    output: Path,
    runs: Sequence[RunDirectory],
    shards: int,
    *,
    plain_folder: bool,
    device: str,
    threads: int,
    max_atoms: int | None = None,
) -> ShardedWork:
    """Predictions with the best models of these runs. Raises InputError."""
    _check(shards, inputs)
    made_from = {
        "inputs": fingerprints(inputs),
        "plain_folder": plain_folder,
        "models": [hashlib.sha256(run.best.read_bytes()).hexdigest() for run in runs],
        "device": device,
        "threads": threads,
        "max_atoms": max_atoms,
    }
    folder = ShardFolder.beside(output, shards, made_from)
    place, path, models = os.getcwd(), str(folder.path), [str(run.path) for run in runs]
    further = (list(inputs), plain_folder, models, device, threads, max_atoms)
    calls: list[Call] = [
        (shard_task.predict_shard, (place, path, shards, k, *further)) for k in range(shards)
    ]
    return ShardedWork(
        name="predict",
        target=output,
        folder=folder,
        shards=tuple(calls),
        last=(
            shard_task.join_predictions,
            (place, path, shards, list(inputs), models, str(output)),
        ),
        join="join",
        seen=_seen(output, [*inputs, *models]),
        resources=Resources(HOURS, threads, SHARD_MEMORY_GB, int(device == "cuda")),
        wanted=ResourceOverrides(
            nodes=1, gpus_per_node=0 if device == "cpu" else None, cpus=threads
        ),
        extra="train",
    )


def run_sharded(work: ShardedWork, profile_name: str | None) -> None:
    """Submit what is missing, or make it here where the profile is a local one, or none is given.

    Raises InputError or Phase2Error where that fails; then no job waits.
    """
    profile = find_profile(profile_name) if profile_name else Profile(executor="local")
    profile = with_partition_limit(profile)
    _refuse_if_queued(work)
    missing = work.folder.missing()
    array, last = scripts(work, profile, len(missing))
    if there := work.folder.count - len(missing):
        print(f"{there} of {work.folder.count} shards are there already", flush=True)
    if profile.executor == "local":
        _run_here(work, array, last, missing)
    else:
        _submit(work, array, last, missing, str(profile_name))


def scripts(work: ShardedWork, profile: Profile, count: int) -> tuple[JobScript, JobScript]:
    """Of the array with ``count`` shards, and of the last job. Raises InputError."""
    if "%" in str(work.logs):
        raise InputError(f"{work.logs}: Slurm cannot write logs below a name with '%'")
    container = chosen_container(profile, None)
    # A process a GPU is what a profile's number means; a shard is one process.
    profile = profile.model_copy(update={"gpus": profile.gpus and 1})
    allocation = allocate(work.resources, profile, work.wanted, None)
    name, seen = f"phase2hpc-{work.name}", list(work.seen)
    array = job_script(profile, allocation, container, f"{name}-shards", {}, seen)
    array = replace(array, folder=work.logs, count=count, extra=work.extra)
    alone = Resources(HOURS, 1, LAST_MEMORY_GB, 0)
    wanted = ResourceOverrides(nodes=1, gpus_per_node=0, tasks_per_node=1, cpus=1)
    allocation = allocate(alone, profile, wanted, None)
    last = job_script(profile, allocation, container, f"{name}-{work.join}", {}, seen)
    return array, replace(last, folder=work.logs, extra=work.extra)


def _run_here(work: ShardedWork, array: JobScript, last: JobScript, missing: Sequence[int]) -> None:
    again = "what is done is kept, the same command again makes the rest"
    try:
        if missing:
            run_calls(array, [work.shards[k] for k in missing], 1, lambda ids: None)
        array = last
        run_calls(last, [work.last], 1, lambda ids: None)
    except StoppedEarly:
        raise StoppedEarly(f"stopped: {again}") from None
    except Phase2Error as error:
        raise type(error)(f"{error}; {again}" if array is not last else str(error)) from None
    shutil.rmtree(work.logs, ignore_errors=True)


def _submit(
    work: ShardedWork, array: JobScript, last: JobScript, missing: Sequence[int], profile: str
) -> None:
    ids: list[str] = []
    new = not work.logs.exists()
    try:
        if missing:
            calls = [work.shards[k] for k in missing]
            ids = BatchExecutor(array).submit_calls(calls, lambda ids: None)
            last = start_after(last, [_number(ids[0])], however_they_ended=True)

        def record(last_ids: list[str]) -> None:
            work.folder.path.mkdir(parents=True, exist_ok=True)
            work.folder.jobs.write_text(json.dumps([*ids, *last_ids]))

        (join,) = BatchExecutor(last).submit_calls([work.last], record)
    except BaseException:
        if ids:
            slurm.cancel([_number(ids[0])])
        elif new:
            shutil.rmtree(work.logs, ignore_errors=True)
        raise
    print("\n".join(_summary(work, ids, join, missing, profile)))


def _summary(
    work: ShardedWork, ids: Sequence[str], join: str, missing: Sequence[int], profile: str
) -> list[str]:
    lines = []
    if ids:
        lines.append(f"array {_number(ids[0])} of {len(ids)} shards submitted (profile {profile})")
    if len(missing) < work.folder.count:
        lines += [f"  {job}: shard {k}" for job, k in zip(ids, missing, strict=True)]
    jobs = ",".join([*([_number(ids[0])] if ids else []), join])
    return [
        *lines,
        f"job {join} makes {work.target} of them when all have ended",
        "follow it:",
        f"  squeue --jobs={jobs}",
        f"  logs: {work.logs}",
        "should a shard fail, the same command again makes it alone",
    ]


def _refuse_if_queued(work: ShardedWork) -> None:
    """Two at once would make everything twice. Parts of another request are cleared away."""
    for folder in sorted(work.folder.path.parent.glob("*")):
        if alive := _alive(folder / work.folder.jobs.name):
            raise InputError(
                f"job {', '.join(alive)} is still to make {work.target}: wait for it, or cancel it"
                f" (scancel {' '.join(dict.fromkeys(map(_number, alive)))})"
            )
        if folder != work.folder.path:
            shutil.rmtree(folder, ignore_errors=True)


def _alive(jobs: Path) -> list[str]:
    try:
        ids = json.loads(jobs.read_text())
    except (OSError, ValueError):
        return []
    if not slurm.slurm_available():
        return []
    return [job for job, state in slurm.queue_states(ids).items() if not state.over]


def _number(job_id: str) -> str:
    return job_id.partition("_")[0]


def _check(shards: int, sources: Sequence[str]) -> None:
    if shards > MAX_SHARDS:
        raise InputError(f"--shards {shards}: {MAX_SHARDS} at most")
    for source in sources:
        # What is no file can only be a name that is known to ``sources.read``.
        if not Path(source).exists() and ":" not in source:
            raise InputError(f"{source}: no such file or folder")


def _seen(target: Path, sources: Sequence[str]) -> tuple[Path, ...]:
    paths = [Path(source) for source in sources if Path(source).exists()]
    return (target.parent, *(path if path.is_dir() else path.parent for path in paths))
