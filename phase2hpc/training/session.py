"""A training run from its request to its results: begin or resume, train, evaluate, write."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from phase2hpc.config import RunConfig
from phase2hpc.data.prepare import prepare
from phase2hpc.data.store import Store
from phase2hpc.data.verify import trust
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.files import clear_partials
from phase2hpc.lease import Lease, LeaseLost, current_job_id
from phase2hpc.progress import Progress
from phase2hpc.resources import default_store, sample_source
from phase2hpc.runs import RunDirectory, State
from phase2hpc.system_errors import refused
from phase2hpc.training.beginning import never_began, new_directory, write_first_files
from phase2hpc.training.best import BestModel
from phase2hpc.training.distributed import World, joined_world
from phase2hpc.training.evaluation import evaluate
from phase2hpc.training.loop import TrainingLoop
from phase2hpc.training.request import TrainRequest, new_config
from phase2hpc.training.restoring import is_another_store, restore
from phase2hpc.training.resuming import resumed_config, run_to_resume
from phase2hpc.training.sharing import open_together
from phase2hpc.training.stopping import StopRequest
from phase2hpc.training.trainer import Trainer

log = logging.getLogger(__name__)


def train(request: TrainRequest) -> RunDirectory:
    """Train as requested; the run directory of the finished run.

    Raises StoppedEarly after a signal or the time limit, with the state saved, and InputError
    for what the user can put right.
    """
    device = str(request.overrides.get("device") or "auto")
    with StopRequest() as stop, joined_world(device) as world:
        if request.resume:
            run, config = world.on_main(lambda: _to_resume(request))
            return _go_on(run, config, world, stop, accept_changes=request.accept_changes)
        return _begin(request, world, stop)


def go_on(
    run: RunDirectory,
    max_hours: float | None = None,
    at_start: Callable[[RunDirectory], None] | None = None,
    config: RunConfig | None = None,
    accept_changes: bool = False,
) -> RunDirectory:
    """Begin a run that was submitted, or go on with it, under its own configuration.

    max_hours: instead of the configuration's, where it is the shorter. at_start: called on the
    main rank as soon as the run is its own; what it raises ends the run. config: instead of the
    run's, as ``resumed_config`` made it. Raises as ``train``.
    """
    config = config or run.read_config()
    hours = [h for h in (max_hours, config.runtime.max_hours) if h is not None]
    with StopRequest() as stop, joined_world(config.runtime.device) as world:
        return _go_on(
            run,
            config,
            world,
            stop,
            accept_changes=accept_changes,
            max_hours=min(hours, default=None),
            at_start=at_start,
        )


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
    path = world.on_main(lambda: _ready_store(request.store))
    store = open_together(path, world)
    config = new_config(request, store.path, list(store.labels))
    trainer = _trainer(config, store, world)
    if config.init_from is not None:
        trainer.initialise_from(BestModel.load(RunDirectory(Path(config.init_from)).best))
    run = world.on_main(lambda: new_directory(request, config))
    with _held(run, world, stop) as lease:
        world.on_main(lambda: write_first_files(run, config, store))
        return _carry_out(trainer, run, stop, lease)


def _go_on(
    run: RunDirectory,
    config: RunConfig,
    world: World,
    stop: StopRequest,
    *,
    accept_changes: bool = False,
    max_hours: float | None = None,
    at_start: Callable[[RunDirectory], None] | None = None,
) -> RunDirectory:
    """A run that is there, from its newest state on. The lease comes before anything is read."""
    with _held(run, world, stop) as lease:
        if at_start is not None:
            world.on_main(lambda: at_start(run))
        manifest = world.on_main(run.read_manifest)
        if manifest.state == "finished" and manifest.epochs >= config.training.epochs:
            if world.is_main:
                print(f"run {run.id} is finished already, nothing to resume: {run.path}")
            return run
        store = open_together(world.on_main(lambda: _ready_store(config.runtime.store)), world)
        new_store = is_another_store(run, manifest, store, accept_changes)
        trainer = _trainer(config, store, world)
        restored = restore(trainer, run, accept_changes=accept_changes, new_store=new_store)
        if config.init_from is not None and not restored:
            trainer.initialise_from(BestModel.load(RunDirectory(Path(config.init_from)).best))
        return _carry_out(trainer, run, stop, lease, max_hours)


def _held(
    run: RunDirectory, world: World, stop: StopRequest
) -> AbstractContextManager[Lease | None]:
    """The lease of the run directory, which the main rank holds for all."""
    held: list[Lease] = []

    def take() -> None:
        held.append(Lease.acquire(run, current_job_id(), stop=lambda: bool(stop)))
        # What killed holders were writing.
        clear_partials(run.path)

    world.on_main(take)
    return held[0] if held else nullcontext()


def _trainer(config: RunConfig, store: Store, world: World) -> Trainer:
    torch.set_num_threads(config.runtime.threads)
    return Trainer(config, store, world)


def _carry_out(
    trainer: Trainer,
    run: RunDirectory,
    stop: StopRequest,
    lease: Lease | None,
    max_hours: float | None = None,
) -> RunDirectory:
    """Train to the end and evaluate, the manifest saying how it went."""
    config, world = trainer.config, trainer.world
    loop = TrainingLoop(trainer, run, stop, lease)
    stop.limit(max_hours if max_hours is not None else config.runtime.max_hours)
    try:
        with world.failing_together():
            loop.check_lease()
            if world.is_main:
                _take_over(trainer, run)
            loop.fit()
            evaluate(trainer, run, loop.predict, loop.check_lease)
            world.on_main(lambda: _record(loop, "finished"))
    except OSError as error:
        _record_failure(loop, error)
        then, note = f"go on by --resume --run-id {run.id}", "what was saved is intact"
        raise refused(error, then=then, note=note) from error
    except BaseException as error:
        _record_failure(loop, error)
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


def _record(loop: TrainingLoop, state: State, message: str = "") -> None:
    """Say in the manifest how it ended, unless the run belongs to another process by now."""
    loop.check_lease()
    if loop.trainer.world.is_main:
        loop.run.update_manifest(state=state, message=message, **loop.progress())


def _record_failure(loop: TrainingLoop, error: BaseException) -> None:
    """As ``_record``; where that fails too (a full disk), ``error`` is the one to be told."""
    if isinstance(error, LeaseLost):
        return
    state: State = "stopped" if isinstance(error, (StoppedEarly, KeyboardInterrupt)) else "failed"
    message = str(error) if isinstance(error, StoppedEarly) else f"{type(error).__name__}: {error}"
    try:
        _record(loop, state, message)
    except OSError as second:
        log.warning("%s: not written (%s)", loop.run.manifest, second.strerror)
    except Phase2Error as second:
        log.warning("%s: not written (%s)", loop.run.manifest, second)


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
