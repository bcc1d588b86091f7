"""Submission of a plan: run directories, jobs, and the summary."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from phase2hpc.cluster.node import train_task
from phase2hpc.cluster.slurm import jobs as slurm
from phase2hpc.cluster.slurm.clusters import chosen_cluster
from phase2hpc.cluster.submit.local_executor import local_text, run_calls
from phase2hpc.cluster.submit.plan import ID_OF_PREPARE, Plan, absolute_sources
from phase2hpc.cluster.submit.planned_runs import PlannedRun
from phase2hpc.cluster.submit.shell_variables import script_options, variable_notes
from phase2hpc.cluster.submit.slurm_executor import BatchExecutor, Call, JobIdUnknown
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.runs.job_id import array_id
from phase2hpc.runs.manifest import Manifest, Trial
from phase2hpc.runs.run_directory import RunDirectory, create_run
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.mounts import IN_MEMORY, file_system

log = logging.getLogger(__name__)

# File systems that other machines do not see.
_NOT_SHARED_TYPES = (*IN_MEMORY, "overlay")


def dry_run(plans: Sequence[Plan]) -> str:
    """Configurations and exact scripts as text; writes nothing."""
    parts = []
    prepare = plans[0].prepare
    for plan in plans:
        first = plan.runs[0]
        parts += [
            f"# Configuration of {_named(first)}; nothing is written or submitted.",
            first.config.to_json().rstrip(),
        ]
        if len(plan.runs) > 1:
            others = [f"#   {_named(planned)}" for planned in plan.runs[1:]]
            parts.append("\n".join(["# The same except seed and swept settings:", *others]))
        if plan.space is not None:
            space = [f"#   {line}" for line in plan.space.lines()]
            parts.append("\n".join(["# Settings that each run chooses when it starts:", *space]))
        notes = [*plan.allocation.notes, *filter(None, [plan.image_note])]
        local = plan.profile.executor == "local"
        script = plan.script_after(None if prepare is None else ID_OF_PREPARE)
        if not local:
            notes += variable_notes(script_options(script.text()))
        parts.append("\n".join(f"# {note}" for note in notes))
        if plan.prepare is not None:
            text = local_text(plan.prepare) if local else plan.prepare.text()
            parts += [f"# Script of the first job, which prepares {plan.store}:", text]
        what = "array" if plan.ensemble is not None else "job"
        parts += [f"# Script of the {what}:", local_text(script) if local else script.text()]
    return "\n".join(parts)


def submit(plans: Sequence[Plan]) -> list[str]:
    """Submit the jobs of the plans, or run them here; returns their ids.

    Raises InputError or Phase2Error; then no new run directory and no job is left.
    """
    _refuse_if_queued(plans[0])
    if plans[0].profile.executor == "local":
        return _run_all_here(plans)
    chosen_cluster()  # refuses what could not be found again
    if problem := unshared_reason(plans[0].script.folder):
        log.warning("%s", problem)
    queued: list[str] = []
    with ExitStack() as directories:
        for plan in plans:
            directories.enter_context(_new_directories(plan))
        try:
            prepare_id = None
            if plans[0].prepare is not None:
                (prepare_id,) = BatchExecutor(plans[0].prepare).submit_calls(
                    [_preparation(plans[0])], lambda ids: None
                )
                queued.append(prepare_id)
            submitted = []
            for plan in plans:
                executor = BatchExecutor(plan.script_after(prepare_id))
                ids = executor.submit_calls(_calls(plan), functools.partial(_record, plan))
                queued.append(array_id(ids[0]))
                submitted.append(ids)
        except JobIdUnknown:
            # A job that may be queued needs its store.
            raise
        except BaseException:
            if queued:
                slurm.cancel(queued)
            raise
    for plan, ids in zip(plans, submitted, strict=True):
        print(_summary(plan, ids, prepare_id))
    return [job_id for ids in submitted for job_id in ids]


def _run_all_here(plans: Sequence[Plan]) -> list[str]:
    ids: list[str] = []
    failures: list[Phase2Error] = []
    for plan in plans:
        try:
            ids += _run_here(plan)
        except StoppedEarly:
            raise
        except Phase2Error as error:
            failures.append(error)
    if failures:
        first, *others = failures
        raise type(first)("; ".join(str(error) for error in (first, *others)))
    return ids


def _run_here(plan: Plan) -> list[str]:
    started: list[str] = []

    def begin(ids: list[str]) -> None:
        _record(plan, ids)
        print(_summary(plan, ids, None), flush=True)
        started.extend(ids)

    if plan.prepare is not None:
        run_calls(plan.prepare, [_preparation(plan)], 1, lambda ids: None)
    with _new_directories(plan, keep=lambda: bool(started)):
        run_calls(plan.script, _calls(plan), plan.allocation.tasks, begin)
    return started


def _calls(plan: Plan) -> list[Call]:
    """The call of each job on the node."""
    train = plan.request.train
    hours = None if plan.is_unlimited else plan.hours
    calls: list[Call] = []
    for planned in plan.runs:
        arguments: tuple[object, ...] = (
            str(absolute_path(planned.run.path)), hours, plan.signal_seconds,
        )  # fmt: skip
        if train.resume:
            arguments += (planned.config.to_json(), train.accept_changes)
        calls.append((train_task.run_training, arguments))
    return calls


def _preparation(plan: Plan) -> Call:
    return train_task.run_preparation, (str(plan.store), absolute_sources(plan.request.sources))


@contextmanager
def _new_directories(plan: Plan, keep: Callable[[], bool] = bool) -> Iterator[None]:
    """Create the directories of new runs; remove them if the block fails, unless ``keep`` returns
    true because a job has started, or a job may be queued."""
    models = plan.request.train.models_dir
    family = plan.runs[0].run.path.parent
    added = [folder for folder in (family, models) if not folder.exists()]
    made: list[Path] = []
    try:
        if not plan.request.train.resume:
            for planned in plan.runs:
                run = create_run(models, family.name, planned.run.id)
                made.append(run.path)
                run.write_config(planned.config)
                run.write_manifest(_manifest(plan, run, planned))
            if plan.ensemble is not None:
                made.append(plan.script.folder)
            if plan.space is not None:
                from phase2hpc.training.tuning.study import write_space

                write_space(plan.script.folder, plan.space)
            if plan.prepare is not None:
                made.append(plan.prepare.folder)
        yield
    except JobIdUnknown:
        raise
    except BaseException:
        if not keep():
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
            for folder in added:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        raise


def _manifest(plan: Plan, run: RunDirectory, planned: PlannedRun) -> Manifest:
    manifest = Manifest.for_run(run, planned.config, plan.store, None)
    manifest.state = "submitted"
    manifest.submission = plan.submission
    if plan.ensemble is not None:
        manifest.ensemble = plan.ensemble
        manifest.ensemble_member = planned.member.label
        manifest.ensemble_size = len(plan.runs)
        if planned.member.trial is not None:
            manifest.trial = Trial(number=planned.member.trial)
    return manifest


def _record(plan: Plan, ids: list[str]) -> None:
    """Write each run's job into its manifest, before any of them can start."""
    for planned, job_id in zip(plan.runs, ids, strict=True):
        run = planned.run
        folder = os.path.relpath(plan.script.folder, absolute_path(run.path))
        known = run.read_manifest().job_ids
        run.update_manifest(
            state="submitted",
            job_ids=[*known, job_id],
            cluster=chosen_cluster() if plan.profile.executor == "slurm" else "",
            after=list(plan.dependencies),
            job_folder=folder,
            submission=plan.submission,
            message="",
        )


def _refuse_if_queued(plan: Plan) -> None:
    """Refuse a second job for a run: it would only wait for the first."""
    if not plan.request.train.resume or not slurm.slurm_available():
        return
    run = plan.runs[0].run
    manifest = run.read_manifest()
    for job_id, job in slurm.queue_states(manifest.job_ids, manifest.cluster).items():
        if not job.over:
            raise InputError(
                f"--resume: run {run.id} already has a job ({job_id}, {job.state}): wait for it, "
                f"or cancel it with 'phase2hpc cancel {run.id}'"
            )


def unshared_reason(folder: Path) -> str | None:
    """Reason why nodes will probably not see this folder; None for none."""
    path = folder.resolve()
    own = {
        Path(place).resolve() for place in ("/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())
    }
    kind = file_system(path)
    if kind in _NOT_SHARED_TYPES:
        why = f"is a {kind} of this machine"
    elif any(path.is_relative_to(place) for place in own):
        why = "is for temporary files of this machine"
    else:
        return None
    return (
        f"{path} {why}: a node that does not see it cannot write there, and the job fails without "
        "a log; choose a folder on shared storage with --models-dir"
    )


def _named(planned: PlannedRun) -> str:
    label = f" ({planned.member.label})" if planned.member.label else ""
    return f"run {planned.run.id}{label} in {planned.run.path}"


def _summary(plan: Plan, ids: list[str], prepare_id: str | None) -> str:
    models = plan.request.train.models_dir
    where = "" if models == Path("models") else f" --models-dir {shlex.quote(str(models))}"
    lines = []
    if plan.prepare is not None and prepare_id is not None:
        lines.append(f"job {prepare_id} prepares {plan.store} first (log: {plan.prepare.folder})")
    head = array_id(ids[0])
    what = f"array {head} of {len(ids)} jobs" if plan.ensemble is not None else f"job {head}"
    how = "runs here" if plan.profile.executor == "local" else "submitted"
    after = f", after {', '.join(plan.dependencies)}" if plan.dependencies else ""
    lines.append(f"{what} {how} (profile {plan.request.profile}{after})")
    for planned, job_id in zip(plan.runs, ids, strict=True):
        element = f"{job_id}: " if plan.ensemble is not None else ""
        lines.append(f"  {element}{_named(planned)}")
    lines += [f"  {note}" for note in plan.allocation.notes if not plan.is_unlimited]
    if plan.profile.executor == "slurm":
        lines += [f"  {note}" for note in variable_notes(script_options(plan.script.text()))]
    name = shlex.quote(plan.runs[0].run.id)
    # The best trial so far is among the facts of all of them.
    together = name if plan.space is None or plan.ensemble is None else shlex.quote(plan.ensemble)
    lines += [
        "to follow it:",
        f"  phase2hpc status {together}{where}",
        f"  phase2hpc logs {name} -f{where}",
    ]
    if plan.profile.executor == "slurm":
        lines.append(f"  phase2hpc cancel {together}{where}")
    return "\n".join(lines)
