"""A training run from its request to its results: begin or resume, train, evaluate, write."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phase2hpc.config.run_config import RunConfig
from phase2hpc.data.prepare import prepare
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import trust
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.runs.job_id import current_job_id
from phase2hpc.runs.lease import Lease, LeaseLost
from phase2hpc.runs.manifest import Manifest, RecordedState
from phase2hpc.runs.run_directory import RunDirectory, check_place_of_runs, family_folder
from phase2hpc.training.distributed.process_group import process_group
from phase2hpc.training.distributed.shared_store import open_shared_store
from phase2hpc.training.distributed.world import World, describe_error
from phase2hpc.training.evaluation import evaluate
from phase2hpc.training.loop import TrainingLoop
from phase2hpc.training.request import TrainRequest, new_config
from phase2hpc.training.resume_config import resumed_config, run_to_resume
from phase2hpc.training.resume_state import is_another_store, restore
from phase2hpc.training.run_setup import never_began, new_directory, write_first_files
from phase2hpc.training.stop_request import StopRequest
from phase2hpc.training.trainer import Trainer
from phase2hpc.utils.atomic_io import clear_partials
from phase2hpc.utils.os_errors import refused
from phase2hpc.utils.output_path import warn_if_lost
from phase2hpc.utils.package_files import default_store, sample_source
from phase2hpc.utils.progress import Progress

log = logging.getLogger(__name__)


def train(request: TrainRequest) -> RunDirectory:
    """Train as requested; the run directory of the finished run.

    Raises StoppedEarly after a signal or the time limit, with the state saved, and InputError
    for what the user can put right.
    """
    device = str(request.overrides.get("device") or "auto")
    with StopRequest() as stop, process_group(device) as world:
        if world.is_main:
            warn_if_lost(request.models_dir)
        if request.resume:
            run, config = world.run_on_main(lambda: _to_resume(request))
            return _go_on(run, config, world, stop, request.accept_changes)
        return _begin(request, world, stop)


@dataclass(frozen=True)
class JobLife:
    """One life of a batch job that trains a run.

    hours: from now until it should have stopped by itself, None for no limit. at_start: called on
    the main rank as soon as the run is this job's; what it raises ends the run.
    """

    hours: float | None
    at_start: Callable[[RunDirectory], None]


def go_on(
    run: RunDirectory, job: JobLife, config: RunConfig | None = None, accept_changes: bool = False
) -> RunDirectory:
    """Begin a run that was submitted, or go on with it, under its own configuration.

    config: instead of the run's, as ``resumed_config`` made it. Raises as ``train``.
    """
    config = config or run.read_config()
    with StopRequest() as stop, process_group(config.runtime.device) as world:
        return _go_on(run, config, world, stop, accept_changes, job)


def _to_resume(request: TrainRequest) -> tuple[RunDirectory, RunConfig]:
    run = run_to_resume(request)
    if never_began(run):
        raise InputError(
            f"--resume: run {run.id} was ended before it began, there is nothing to go on from: "
            "leave --resume out to start it"
        )
    return run, resumed_config(request, run)


def _begin(request: TrainRequest, world: World, stop: StopRequest) -> RunDirectory:
    """A new run. Its directory is made last: a request that does not fit leaves none."""
    family = family_folder(request.algorithm, request.level)
    world.run_on_main(lambda: check_place_of_runs(request.models_dir, family))
    path = world.run_on_main(lambda: _ready_store(request.store))
    store = open_shared_store(path, world)
    config = new_config(request, store.path, list(store.labels))
    trainer = _trainer(config, store, world)
    if config.init_from is not None:
        trainer.initialise_from(TrainedModel.load(RunDirectory(Path(config.init_from)).best))
    run = world.run_on_main(lambda: new_directory(request.models_dir, family, request.run_id))

    def begin() -> None:
        manifest = Manifest.for_run(run, config, store.path, store.content_hash)
        write_first_files(run, config, manifest)

    with _held(run, world, stop) as lease:
        world.run_on_main(begin)
        return _carry_out(trainer, run, stop, lease)


def _go_on(
    run: RunDirectory,
    config: RunConfig,
    world: World,
    stop: StopRequest,
    accept_changes: bool,
    job: JobLife | None = None,
) -> RunDirectory:
    """A run that is there, from its newest state on. The lease comes before anything is read."""
    with _held(run, world, stop) as lease:
        try:
            with world.fail_on_all_ranks():
                if job is not None:
                    world.run_on_main(lambda: job.at_start(run))
                trainer = _restored(run, config, world, accept_changes)
        except BaseException as error:
            # Resumed by hand, a mistake in the request is none of the run's.
            if job is not None or not isinstance(error, InputError):
                _record_failure(run, lease, world, error)
            raise
        if trainer is None:
            return run
        return _carry_out(trainer, run, stop, lease, None if job is None else job.hours)


def _restored(
    run: RunDirectory, config: RunConfig, world: World, accept_changes: bool
) -> Trainer | None:
    """The trainer in the run's newest state; None where the run is finished."""
    manifest = world.run_on_main(run.read_manifest)
    if manifest.state == "finished" and manifest.epochs >= config.training.epochs:
        if world.is_main:
            print(f"run {run.id} is finished already, nothing to resume: {run.path}")
        return None
    store = open_shared_store(world.run_on_main(lambda: _ready_store(config.runtime.store)), world)
    new_store = is_another_store(run, manifest, store, accept_changes)
    trainer = _trainer(config, store, world)
    restored = restore(trainer, run, accept_changes=accept_changes, new_store=new_store)
    if config.init_from is not None and not restored:
        trainer.initialise_from(TrainedModel.load(RunDirectory(Path(config.init_from)).best))
    return trainer


def _held(
    run: RunDirectory, world: World, stop: StopRequest
) -> AbstractContextManager[Lease | None]:
    """The lease of the run directory, which the main rank holds for all."""
    held: list[Lease] = []

    def take() -> None:
        held.append(Lease.acquire(run, current_job_id(), stop=lambda: bool(stop)))
        # What killed holders were writing.
        clear_partials(run.path)

    world.run_on_main(take)
    return held[0] if held else nullcontext()


def _trainer(config: RunConfig, store: Store, world: World) -> Trainer:
    torch.set_num_threads(config.runtime.threads)
    return Trainer(config, store, world)


def _carry_out(
    trainer: Trainer,
    run: RunDirectory,
    stop: StopRequest,
    lease: Lease | None,
    job_hours: float | None = None,
) -> RunDirectory:
    """Train to the end and evaluate, the manifest saying how it went."""
    world = trainer.world
    loop = TrainingLoop(trainer, run, stop, lease)
    stop.limit(trainer.config.runtime.max_hours, job_hours)
    try:
        with world.fail_on_all_ranks():
            loop.check_lease()
            if world.is_main:
                _take_over(trainer, run)
            loop.fit()
            evaluate(trainer, run, loop.predict, loop.check_lease)
            world.run_on_main(lambda: _record(run, lease, "finished", "", **loop.progress()))
    except OSError as error:
        _record_failure(run, lease, world, error, **loop.progress())
        then, note = f"go on by --resume --run-id {run.id}", "what was saved is intact"
        raise refused(error, then=then, note=note) from error
    except BaseException as error:
        _record_failure(run, lease, world, error, **loop.progress())
        raise
    if world.is_main:
        print(f"\nresults: {run.path}", flush=True)
    return run


def _take_over(trainer: Trainer, run: RunDirectory) -> None:
    """Say in the run directory that this process trains the run now, and how."""
    run.write_config(trainer.config)
    run.take_over(current_job_id())
    run.update_manifest(
        epochs=trainer.settings.epochs,
        properties=list(trainer.properties),
        store=str(trainer.store.path.resolve()),
        store_hash=trainer.store.content_hash,
        device=str(trainer.device),
        processes=trainer.world.size,
    )
    print(f"run {run.id} in {run.path}", flush=True)


def _record(
    run: RunDirectory, lease: Lease | None, state: RecordedState, message: str, **progress: Any
) -> None:
    """Say in the manifest how it ended, unless the run belongs to another process by now."""
    if lease is not None:
        lease.check()
    run.update_manifest(state=state, message=message, **progress)


def _record_failure(
    run: RunDirectory, lease: Lease | None, world: World, error: BaseException, **progress: Any
) -> None:
    """As ``_record``; where that fails too (a full disk), ``error`` is the one to be told."""
    if isinstance(error, LeaseLost) or not world.is_main:
        return
    state: RecordedState = (
        "stopped" if isinstance(error, (StoppedEarly, KeyboardInterrupt)) else "failed"
    )
    try:
        # One that has its results keeps them.
        if run.read_manifest().state != "finished":
            _record(run, lease, state, describe_error(error), **progress)
    except OSError as second:
        log.warning("%s: not written (%s)", run.manifest, second.strerror)
    except Phase2Error as second:
        log.warning("%s: not written (%s)", run.manifest, second)


def _ready_store(path: Path | None) -> Path:
    """The store asked for, verified unless it was before; else the shipped sample's, prepared if
    it is not there yet."""
    target = path or default_store()
    if path is None and not target.exists():
        print(f"no --store given: preparing the shipped sample as {target}", flush=True)
        with Progress("preparing", None, "crystals") as progress:
            print(prepare([sample_source()], target, progress=progress.advance), flush=True)
    trust(target)
    return target
