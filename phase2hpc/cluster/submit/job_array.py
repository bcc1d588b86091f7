"""Submission of sharded work: a job array and a last job that joins the shards.

The last job starts when every shard has ended, even if some failed, and names those.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phase2hpc.cluster.node import shard_task
from phase2hpc.cluster.profiles.profile import Profile, find_profile
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.submit.array_size import refuse_large_array
from phase2hpc.cluster.submit.batch_script import chosen_container, job_script
from phase2hpc.cluster.submit.local_executor import run_calls
from phase2hpc.cluster.submit.partition_limit import with_partition_limit
from phase2hpc.cluster.submit.resources import AUTO, ResourceOverrides, allocate
from phase2hpc.cluster.submit.sbatch_options import start_after, with_options
from phase2hpc.cluster.submit.sharded_work import SHARD_HOURS, ShardedWork, prepare_in_shards
from phase2hpc.cluster.submit.slurm_executor import BatchExecutor, JobIdUnknown, JobScript
from phase2hpc.config.algorithms import Resources
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs.job_id import array_id

LAST_MEMORY_GB = 8


@dataclass(frozen=True)
class ShardJobs:
    """Jobs of sharded work: the profile (None: they run here), and over it fields by flags of the
    same name, memory (GiB per node) and time (hours, or auto), of the last job too."""

    profile: str | None = None
    fields: Mapping[str, str | None] = field(default_factory=dict)
    memory_gb: float | None = None
    time: float | str = AUTO


def prepare_sharded(
    sources: Sequence[str],
    store: Path,
    options: Mapping[str, Any],
    shards: int,
    jobs: ShardJobs,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """``prepare --shards``; an existing store is kept, as without shards."""
    work = prepare_in_shards(sources, store, options, shards, workers=workers, overwrite=overwrite)
    if store.exists() and not overwrite:
        try:
            from phase2hpc.data.preparation_record import existing_store, preparation
        except ModuleNotFoundError as error:
            raise InputError(
                f"{store} exists already, and this install cannot read it (no {error.name}) to see "
                "whether it is up to date: replace it with --overwrite or give another --store"
            ) from None
        print(existing_store(store, preparation(sources, shard_task.converter(dict(options)))))
        return
    with suppress(ModuleNotFoundError):  # otherwise the jobs check the options
        _ = shard_task.converter(dict(options)).splitter
    run_sharded(work, jobs)


def run_sharded(work: ShardedWork, jobs: ShardJobs) -> None:
    """Submit the missing shards and the last job, or run them here without a Slurm profile.

    Raises InputError or Phase2Error; then no job is left in the queue.
    """
    profile = find_profile(jobs.profile) if jobs.profile else Profile(executor="local")
    profile, _ = with_options(profile, (), jobs.fields)
    profile = with_partition_limit(profile)
    _refuse_if_queued(work)
    missing = work.folder.missing()
    if profile.executor == "slurm":
        refuse_large_array(len(missing))
    array, last = scripts(work, profile, len(missing), jobs)
    if done := work.folder.count - len(missing):
        print(f"{done} of {work.folder.count} shards exist already", flush=True)
    if profile.executor == "local":
        _run_here(work, array, last, missing)
    else:
        _submit(work, array, last, missing, str(jobs.profile))


def scripts(
    work: ShardedWork, profile: Profile, count: int, jobs: ShardJobs
) -> tuple[JobScript, JobScript]:
    """Batch scripts of an array with ``count`` shards and of the last job. Raises InputError."""
    if "%" in str(work.logs):
        raise InputError(f"{work.logs}: Slurm cannot write logs to a path with '%'")
    container = chosen_container(profile, None)
    # A profile's number of GPUs is one of processes, and a shard is one process.
    profile = profile.model_copy(update={"gpus": profile.gpus and 1})
    asked: dict[str, Any] = {"memory_gb": jobs.memory_gb, "time": jobs.time}
    allocation = allocate(work.resources, profile, replace(work.wanted, **asked), None)
    name, folders = work.name, list(work.folders)
    array = job_script(profile, allocation, container, f"{name}-shards", {}, folders)
    array = replace(array, folder=work.logs, count=count, extra=work.extra)
    alone = Resources(SHARD_HOURS, 1, LAST_MEMORY_GB, 0)
    wanted = ResourceOverrides(nodes=1, gpus_per_node=0, tasks_per_node=1, cpus=1, **asked)
    allocation = allocate(alone, profile, wanted, None)
    last = job_script(profile, allocation, container, f"{name}-{work.join}", {}, folders)
    return array, replace(last, folder=work.logs, extra=work.extra)


def _run_here(work: ShardedWork, array: JobScript, last: JobScript, missing: Sequence[int]) -> None:
    retry = "finished shards are kept, repeat the command for the rest"
    joining = False
    try:
        if missing:
            run_calls(array, [work.shards[k] for k in missing], 1, lambda ids: None)
        joining = True
        run_calls(last, [work.last], 1, lambda ids: None)
    except StoppedEarly:
        raise StoppedEarly(f"stopped: {retry}") from None
    except Phase2Error as error:
        raise type(error)(f"{error}; {retry}" if not joining else str(error)) from None
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
            last = start_after(last, [array_id(ids[0])], even_if_failed=True)

        def record(last_ids: list[str]) -> None:
            work.folder.path.mkdir(parents=True, exist_ok=True)
            work.folder.jobs.write_text(
                json.dumps({"cluster": chosen_cluster(), "jobs": [*ids, *last_ids]}),
                encoding="utf-8",
            )

        (join,) = BatchExecutor(last).submit_calls([work.last], record)
    except JobIdUnknown:
        raise
    except BaseException:
        if ids:
            slurm.cancel([array_id(ids[0])])
        elif new:
            shutil.rmtree(work.logs, ignore_errors=True)
        raise
    print("\n".join(_summary(work, ids, join, missing, profile)))


def _summary(
    work: ShardedWork, ids: Sequence[str], join: str, missing: Sequence[int], profile: str
) -> list[str]:
    lines = []
    if ids:
        lines.append(f"array {array_id(ids[0])} of {len(ids)} shards submitted (profile {profile})")
    if len(missing) < work.folder.count:
        lines += [f"  {job}: shard {k}" for job, k in zip(ids, missing, strict=True)]
    jobs = ",".join([*([array_id(ids[0])] if ids else []), join])
    return [
        *lines,
        f"job {join} joins them into {work.target} when all have ended",
        "to follow it:",
        f"  squeue --jobs={jobs}",
        f"  logs: {work.logs}",
        "if a shard fails, repeat the command: only failed shards run again",
    ]


def _refuse_if_queued(work: ShardedWork) -> None:
    """Refuse to run the same work twice at once; remove shards of other requests."""
    for folder in sorted(work.folder.path.parent.glob("*")):
        if active := _active_jobs(folder / work.folder.jobs.name):
            raise InputError(
                f"job {', '.join(active)} already works on {work.target}: wait for it, or cancel it"
                f" (scancel {' '.join(dict.fromkeys(map(array_id, active)))})"
            )
        if folder != work.folder.path:
            shutil.rmtree(folder, ignore_errors=True)


def _active_jobs(jobs: Path) -> list[str]:
    try:
        known = json.loads(jobs.read_text(encoding="utf-8"))
        cluster, ids = known["cluster"], known["jobs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not slurm.slurm_available():
        return []
    return [job for job, state in slurm.queue_states(ids, cluster).items() if not state.over]
