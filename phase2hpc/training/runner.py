"""Training run: start or resume, train, evaluate, and record the outcome in the manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phase2hpc.config.algorithm_registry import algorithm_named
from phase2hpc.config.properties import ColumnSettings
from phase2hpc.config.run_config import RunConfig
from phase2hpc.data.prepare import prepare_store
from phase2hpc.data.store.reader import Store
from phase2hpc.data.store.verify import verify_once
from phase2hpc.errors import InputError, Phase2Error, StoppedEarly
from phase2hpc.inference.trained_model import TrainedModel, graph_differences
from phase2hpc.runs.ensemble import Ensemble
from phase2hpc.runs.job_id import current_job_id
from phase2hpc.runs.lease import Lease, LeaseLost
from phase2hpc.runs.manifest import Manifest, RecordedState
from phase2hpc.runs.run_directory import (
    RunDirectory,
    check_place_of_runs,
    family_folder,
)
from phase2hpc.training.determinism import algorithms_put_back, use_deterministic_algorithms
from phase2hpc.training.distributed.process_group import process_group
from phase2hpc.training.distributed.shared_store import open_shared_store
from phase2hpc.training.distributed.world import World, error_message
from phase2hpc.training.ensemble_results import write_if_complete
from phase2hpc.training.ensemble_setup import create_ensemble, ensemble_to_resume
from phase2hpc.training.evaluation import evaluate
from phase2hpc.training.loop import TrainingLoop
from phase2hpc.training.request import TrainRequest, check_request, new_config
from phase2hpc.training.resume_config import is_complete, resumed_config, run_to_resume
from phase2hpc.training.resume_state import check_store, restore
from phase2hpc.training.run_setup import never_started, new_directory, write_first_files
from phase2hpc.training.stop_request import StopRequest
from phase2hpc.training.trainer import Trainer
from phase2hpc.training.tuning.study import choose_settings, tell_score
from phase2hpc.utils.absolute_path import absolute_path
from phase2hpc.utils.atomic_io import clear_partials
from phase2hpc.utils.os_errors import write_error
from phase2hpc.utils.output_path import warn_if_lost
from phase2hpc.utils.package_files import default_store, sample_source
from phase2hpc.utils.progress import Progress

log = logging.getLogger(__name__)


# Called on the main rank with a run that has its results, and with the folder of an ensemble's.
AtEnd = Callable[[RunDirectory], None]


def train(request: TrainRequest, at_end: AtEnd | None = None) -> RunDirectory:
    """Start or resume a run, train it to its end, and return its run directory.

    The runs of an ensemble are trained one after the other, and the folder of the ensemble's
    results is returned. at_end: called with each run that has its results. Raises StoppedEarly
    after a signal or the time limit, with the state saved, and InputError for an invalid request,
    store or run.
    """
    if not request.resume:
        check_request(request)
    with StopRequest() as stop, process_group(_device(request)) as world, algorithms_put_back():
        if world.is_main:
            warn_if_lost(request.models_dir)
        if not request.resume and not request.seeds:
            return _start_run(request, world, stop, at_end)
        ensemble: Ensemble | None
        if not request.resume:
            ensemble = _new_ensemble(request, world)
        else:
            ensemble = world.run_on_main(lambda: ensemble_to_resume(request))
        if ensemble is None:
            run, config = world.run_on_main(lambda: _run_and_config_to_resume(request))
            return _continue_run(run, config, world, stop, request.accept_changes, at_end=at_end)
        for run in ensemble.members:
            config = world.run_on_main(partial(resumed_config, request, run))
            _continue_run(run, config, world, stop, request.accept_changes, at_end=at_end)
        # Written by the last run to end, unless its process was killed before.
        if world.is_main and not ensemble.results.metrics_json.exists():
            _end_ensemble(ensemble.members[-1], at_end)
        return ensemble.results


def _device(request: TrainRequest) -> str:
    """The requested device, else that of the run to resume."""
    device = request.overrides.get("device")
    if device is None and request.resume:
        # What is wrong with the run is said later, by the main rank.
        with suppress(Phase2Error):
            ensemble = ensemble_to_resume(request)
            run = ensemble.members[0] if ensemble is not None else run_to_resume(request)
            device = run.read_config().runtime.device
    return str(device or "auto")


def _new_ensemble(request: TrainRequest, world: World) -> Ensemble:
    store, columns = _requested_store(request, world)
    # As that of a single run: an invalid request leaves no directory.
    first = replace(request, seed=request.seeds[0])
    _started_trainer(new_config(first, store.path, columns, announce=False), store, world)
    ensemble = world.run_on_main(
        lambda: create_ensemble(request, store.path, store.content_hash, columns)
    )
    if world.is_main:
        print(
            f"ensemble {ensemble.id}: {len(ensemble.members)} runs, one after the other", flush=True
        )
    return ensemble


def _requested_store(
    request: TrainRequest, world: World
) -> tuple[Store, dict[str, ColumnSettings]]:
    """The store of a new run or ensemble, and its ``_labelled_columns``; before that, a check of
    the place where the run's directory is to be."""
    family = family_folder(request.algorithm, request.level)
    world.run_on_main(lambda: check_place_of_runs(request.models_dir, family))
    store = open_shared_store(world.run_on_main(lambda: _verified_store(request.store)), world)
    return store, _labelled_columns(store, request.fold)


@dataclass(frozen=True)
class JobContext:
    """One start of a batch job that trains a run.

    hours: until it should stop by itself, None for no limit. at_start: called on the main rank once
    it holds the lease; an exception ends the run.
    """

    hours: float | None
    at_start: Callable[[RunDirectory], None]


def continue_run(
    run: RunDirectory,
    job: JobContext,
    config: RunConfig | None = None,
    accept_changes: bool = False,
    at_end: AtEnd | None = None,
) -> RunDirectory:
    """Start or resume a submitted run.

    config: replaces the run's own, as made by ``resumed_config``. at_end: as of ``train``. Raises
    as ``train``.
    """
    config = config or run.read_config()
    group = process_group(config.runtime.device)
    with StopRequest() as stop, group as world, algorithms_put_back():
        return _continue_run(run, config, world, stop, accept_changes, job, at_end)


def _run_and_config_to_resume(request: TrainRequest) -> tuple[RunDirectory, RunConfig]:
    run = run_to_resume(request)
    if never_started(run):
        raise InputError(
            f"--resume: run {run.id} was stopped before its manifest was written, so there "
            "is nothing to resume: leave out --resume to start it"
        )
    return run, resumed_config(request, run)


def _start_run(
    request: TrainRequest, world: World, stop: StopRequest, at_end: AtEnd | None
) -> RunDirectory:
    """Start a new run; its directory is created last, so that an invalid request leaves none."""
    store, columns = _requested_store(request, world)
    config = new_config(request, store.path, columns, announce=world.is_main)
    trainer = _started_trainer(config, store, world)
    if world.is_main:
        _say_unlabelled(trainer)
        for name, scale in trainer.scaler.scales.items():
            if config.column(name).scale == "auto":
                print(f"{name}: scale {scale} (auto: chosen by the skew of its labels)", flush=True)
    family = family_folder(request.algorithm, request.level)
    run = world.run_on_main(lambda: new_directory(request.models_dir, family, request.run_id))

    def begin() -> None:
        manifest = Manifest.for_run(run, config, store.path, store.content_hash)
        write_first_files(run, config, manifest)

    with _acquire_lease(run, world, stop) as lease:
        world.run_on_main(begin)
        return _train_and_evaluate(trainer, run, stop, lease, at_end=at_end)


def _continue_run(
    run: RunDirectory,
    config: RunConfig,
    world: World,
    stop: StopRequest,
    accept_changes: bool,
    job: JobContext | None = None,
    at_end: AtEnd | None = None,
) -> RunDirectory:
    """Resume an existing run from its newest state; the lease is taken before anything is read."""
    with _acquire_lease(run, world, stop) as lease:
        try:
            with world.fail_on_all_ranks():
                if job is not None:
                    world.run_on_main(lambda: job.at_start(run))
                config = world.run_on_main(partial(choose_settings, run, config))
                trainer = _restored_trainer(run, config, world, accept_changes)
        except BaseException as error:
            # An invalid request of an interactive resume is not a failure of the run.
            if job is not None or not isinstance(error, InputError):
                _write_failure(run, lease, world, error)
            raise
        if trainer is None:
            return run
        hours = None if job is None else job.hours
        return _train_and_evaluate(trainer, run, stop, lease, hours, at_end)


def _restored_trainer(
    run: RunDirectory, config: RunConfig, world: World, accept_changes: bool
) -> Trainer | None:
    """A trainer with the run's newest state; None where the run is finished."""
    manifest = world.run_on_main(run.read_manifest)
    if is_complete(manifest, config):
        if world.is_main:
            print(f"run {run.id} is already finished, nothing to resume: {run.path}")
        return None
    store = open_shared_store(
        world.run_on_main(lambda: _verified_store(config.runtime.store)), world
    )
    store.use_fold(config.fold)
    check_store(run, manifest, store, accept_changes)
    trainer = _make_trainer(config, store, world)
    restored = restore(trainer, run, accept_changes=accept_changes)
    if not restored:
        if world.is_main:
            _say_unlabelled(trainer)
        _initialise(trainer)
    return trainer


def _started_trainer(config: RunConfig, store: Store, world: World) -> Trainer:
    """A trainer at the start of a run; what it takes over from another is printed."""
    trainer = _make_trainer(config, store, world)
    _initialise(trainer, announce=world.is_main)
    return trainer


def _initialise(trainer: Trainer, *, announce: bool = False) -> None:
    """Take over weights where the run starts from another."""
    if trainer.config.init_from is None:
        return
    source = RunDirectory(Path(trainer.config.init_from))
    best = TrainedModel.load(source.weights)
    taken = trainer.initialise_from(best)
    if not announce:
        return
    print(f"start from {source.path.name}: {taken}", flush=True)
    store = trainer.store
    if differences := graph_differences(best.graph_settings, store.graph_settings):
        log.warning(
            "start from %s: it was trained on other graphs than those of %s (its and "
            "theirs: %s), to which its encoder has to adapt",
            source.path.name, store.path, differences,
        )  # fmt: skip


def _say_unlabelled(trainer: Trainer) -> None:
    if unlabelled := trainer.crystals_without_label:
        whole = len(trainer.store.split_indices("train"))
        print(
            f"{unlabelled:,} of {whole:,} crystals of the train split have no label of "
            "the properties to train and are left out",
            flush=True,
        )


def _acquire_lease(
    run: RunDirectory, world: World, stop: StopRequest
) -> AbstractContextManager[Lease | None]:
    """The lease of the run directory, held by the main rank for all."""
    held: list[Lease] = []

    def take() -> None:
        held.append(Lease.acquire(run, current_job_id(), stop=lambda: bool(stop)))
        # Temporary files of killed writers.
        clear_partials(run.path)

    world.run_on_main(take)
    return held[0] if held else nullcontext()


def _labelled_columns(store: Store, fold: int | None) -> dict[str, ColumnSettings]:
    """Settings of the label columns with a label in the train split of this fold."""
    store.use_fold(fold)
    train = store.split_indices("train")
    return {
        name: settings
        for name, settings in store.info.columns.items()
        if np.isfinite(store.labels[name][train]).any()
    }


def _make_trainer(config: RunConfig, store: Store, world: World) -> Trainer:
    torch.set_num_threads(config.runtime.threads)
    if config.training.deterministic:
        use_deterministic_algorithms()
    return Trainer(config, store, world)


def _train_and_evaluate(
    trainer: Trainer,
    run: RunDirectory,
    stop: StopRequest,
    lease: Lease | None,
    job_hours: float | None = None,
    at_end: AtEnd | None = None,
) -> RunDirectory:
    """Train to the last epoch, evaluate, and record the outcome in the manifest."""
    world = trainer.world
    loop = TrainingLoop(trainer, run, stop, lease)
    stop.limit(trainer.config.runtime.max_hours, job_hours)
    try:
        with world.fail_on_all_ranks():
            loop.check_lease()
            if world.is_main:
                _write_start(trainer, run)
            loop.fit()
            evaluate(trainer, run, loop.infer_or_stop, loop.check_lease)
            world.run_on_main(lambda: _write_end(run, lease, "finished", "", **loop.progress()))
    except OSError as error:
        _write_failure(run, lease, world, error, **loop.progress())
        then, note = f"continue with --resume --run-id {run.id}", "saved checkpoints are intact"
        raise write_error(error, then=then, note=note) from error
    except BaseException as error:
        _write_failure(run, lease, world, error, **loop.progress())
        raise
    if world.is_main:
        # First: who follows the log stops a moment after the run is marked as finished.
        print(f"\nresults: {run.path}", flush=True)
        tell_score(run)
        if at_end is not None:
            at_end(run)
        _end_ensemble(run, at_end)
    return run


def _end_ensemble(run: RunDirectory, at_end: AtEnd | None) -> None:
    """Write the results of the ensemble that this run completes, if any."""
    ensemble = write_if_complete(run)
    if ensemble is None:
        return
    if at_end is not None:
        at_end(ensemble.results)
    print(f"\nensemble {ensemble.id} of {len(ensemble.members)} runs: {ensemble.results.path}")


def _write_start(trainer: Trainer, run: RunDirectory) -> None:
    """Record in the run directory that this process trains the run, and its settings."""
    run.write_config(trainer.config)
    run.take_over(current_job_id())
    algorithm = algorithm_named(trainer.config.algorithm)
    run.update_manifest(
        versions=run.read_manifest().versions | algorithm.provider_version(),
        epochs=trainer.settings.epochs,
        properties=list(trainer.properties),
        store=str(absolute_path(trainer.store.path)),
        store_hash=trainer.store.content_hash,
        training_crystals=len(trainer.train),
        val_crystals=len(trainer.val),
        test_crystals=len(trainer.store.split_indices("test")),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        device=str(trainer.device),
        processes=trainer.world.size,
    )
    print(f"run {run.id} in {run.path}", flush=True)


def _write_end(
    run: RunDirectory, lease: Lease | None, state: RecordedState, message: str, **progress: Any
) -> None:
    """Record the outcome in the manifest, unless another process has taken the lease."""
    if lease is not None:
        lease.check()
    run.update_manifest(state=state, message=message, **progress)


def _write_failure(
    run: RunDirectory, lease: Lease | None, world: World, error: BaseException, **progress: Any
) -> None:
    """As ``_write_end``; if writing fails too (a full disk), only log that."""
    if isinstance(error, LeaseLost) or not world.is_main:
        return
    state: RecordedState = (
        "stopped" if isinstance(error, (StoppedEarly, KeyboardInterrupt)) else "failed"
    )
    try:
        # A finished run stays finished.
        if run.read_manifest().state != "finished":
            _write_end(run, lease, state, error_message(error), **progress)
    except OSError as second:
        log.warning("%s: not written (%s)", run.manifest, second.strerror)
    except Phase2Error as second:
        log.warning("%s: not written (%s)", run.manifest, second)


def _verified_store(path: Path | None) -> Path:
    """The requested store, or that of the shipped sample, prepared if missing; verified once."""
    target = path or default_store()
    if path is None and not target.exists():
        print(f"no --store given: preparing the shipped sample as {target}", flush=True)
        with Progress("preparing", None, "crystals") as progress:
            print(prepare_store([sample_source()], target, progress=progress.advance), flush=True)
    verify_once(target)
    return target
