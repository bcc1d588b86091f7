"""A training run from its request to its results: begin or resume, train, evaluate, write."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc import properties as property_table
from phase2hpc.config import RunConfig, algorithm_named, build_config, level_named
from phase2hpc.data.prepare import prepare
from phase2hpc.data.store import Store
from phase2hpc.data.verify import trust
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.files import write_atomically
from phase2hpc.levels import ALGORITHMS
from phase2hpc.progress import Progress
from phase2hpc.registry import find_run, newest_to_resume, refuse_if_running
from phase2hpc.resources import default_store, sample_source
from phase2hpc.runs import Manifest, RunDirectory, State, create_run, family_folder
from phase2hpc.training.best import BestModel
from phase2hpc.training.checkpoint import load_newest
from phase2hpc.training.loop import Trainer
from phase2hpc.training.metrics import (
    PropertyMetrics,
    constant_by_property,
    metrics_by_property,
    metrics_table,
    write_metrics,
)
from phase2hpc.training.stopping import StopRequest

# A resumed run may be trained for more epochs; all else that changes the result must be as it was.
MAY_CHANGE_ON_RESUME = frozenset({"epochs"})


@dataclass(frozen=True)
class TrainRequest:
    """What ``phase2hpc train`` was asked for; None and absent keys: the level's default, or, with
    ``resume``, what the run has.

    store: None for the shipped sample's, which is prepared where it is not there yet. overrides:
    flat settings by name, ``preset`` among them. init_from: the run whose weights to start from.
    """

    algorithm: str
    level: str
    models_dir: Path
    store: Path | None = None
    properties: str | None = None
    resume: bool = False
    run_id: str | None = None
    init_from: RunDirectory | None = None
    seed: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def train(request: TrainRequest) -> RunDirectory:
    """Train as requested; the run directory of the finished run.

    Raises StoppedEarly after a signal or the time limit, with the state saved, and InputError
    for what the user can put right.
    """
    run = run_to_resume(request) if request.resume else None
    if run is None:
        store = _open_store(request.store)
        config = new_config(request, store)
    else:
        config = resumed_config(request, run)
        manifest = run.read_manifest()
        if manifest.state == "finished" and manifest.epochs >= config.training.epochs:
            print(f"run {run.id} is finished already, nothing to resume: {run.path}")
            return run
        store = _open_store(config.runtime.store)
        _refuse_another_store(run, manifest, store)
    torch.set_num_threads(config.runtime.threads)
    # Before the run directory exists: a store or setting that does not fit leaves no empty run.
    trainer = Trainer(config, store)
    restored = run is not None and _restore(trainer, run)
    if config.init_from is not None and not restored:
        trainer.initialise_from(BestModel.load(RunDirectory(Path(config.init_from)).best))
    if run is None:
        run = create_run(
            request.models_dir, family_folder(config.algorithm, config.level), request.run_id
        )
        run.write_manifest(Manifest.for_run(run, config, store.path, store.content_hash))
    run.write_config(config)
    run.take_over(os.environ.get("SLURM_JOB_ID"))
    run.update_manifest(epochs=config.training.epochs)
    print(f"run {run.id} in {run.path}", flush=True)
    try:
        with StopRequest(config.runtime.max_hours) as stop:
            trainer.fit(run, stop)
            # A signal from here on waits: the evaluation is short, and ends the run.
            evaluate(trainer, run)
    except StoppedEarly as stopped:
        _record(trainer, run, "stopped", str(stopped))
        raise
    except BaseException as error:
        _record(trainer, run, "failed", f"{type(error).__name__}: {error}")
        raise
    _record(trainer, run, "finished")
    print(f"\nresults: {run.path}", flush=True)
    return run


def _open_store(path: Path | None) -> Store:
    """The store asked for, verified unless it was before; else the shipped sample's, prepared if
    it is not there yet."""
    target = path or default_store()
    if path is None and not target.exists():
        print(f"no --store given: preparing the shipped sample as {target}", flush=True)
        with Progress("preparing", None, "crystals") as progress:
            print(prepare([sample_source()], target, progress=progress.advance), flush=True)
    trust(target)
    return Store.open(target)


def new_config(request: TrainRequest, store: Store) -> RunConfig:
    """The level's settings with the request's on top."""
    row = level_named(algorithm_named(request.algorithm), request.level)
    names = property_table.resolve(request.properties or row.properties, list(store.labels))
    return build_config(
        request.algorithm,
        request.level,
        names,
        {
            **request.overrides,
            # A resume may come from another working directory.
            "store": store.path.resolve(),
            "models_dir": request.models_dir.resolve(),
        },
        seed=request.seed or 0,
        init_from=None if request.init_from is None else str(request.init_from.path.resolve()),
    )


def run_to_resume(request: TrainRequest) -> RunDirectory:
    """The run that ``--resume`` goes on with: ``--run-id``, else the family's newest unfinished,
    else its newest. Raises InputError where there is none, or where it is being trained."""
    family = family_folder(request.algorithm, request.level)
    if not request.run_id:
        return newest_to_resume(request.models_dir, family)
    run = find_run(request.models_dir / family, request.run_id)
    refuse_if_running(run)
    return run


def resumed_config(request: TrainRequest, run: RunDirectory) -> RunConfig:
    """The run's own settings with the request's on top.

    Raises InputError with the difference where a setting that changes the result is another one.
    """
    saved = run.read_config()
    if (saved.algorithm, saved.level) != (request.algorithm, request.level):
        raise InputError(
            f"--resume: run {run.id} is {saved.algorithm} {saved.level}, not {request.algorithm} "
            f"{request.level}: give its --algorithm and --level"
        )
    groups = (saved.training, saved.model, saved.runtime)
    flat = {key: value for group in groups for key, value in group.model_dump().items()}
    # A preset asked for anew counts as its settings do.
    flat |= ALGORITHMS[request.algorithm].presets.get(request.overrides.get("preset", ""), {})
    names = saved.properties
    if request.properties:
        names = tuple(property_table.resolve(request.properties, list(saved.properties)))
    config = build_config(
        request.algorithm,
        request.level,
        names,
        {
            **flat,
            **request.overrides,
            "store": request.store.resolve() if request.store else saved.runtime.store,
            "models_dir": request.models_dir.resolve(),
        },
        seed=saved.seed if request.seed is None else request.seed,
        init_from=saved.init_from,
    )
    before, now = saved.identity(), config.identity()
    changed = [key for key in before if before[key] != now[key] and key not in MAY_CHANGE_ON_RESUME]
    if changed:
        difference = "; ".join(f"{key}: {before[key]} there, {now[key]} here" for key in changed)
        raise InputError(f"--resume: run {run.id} was started with other settings ({difference})")
    return config


def _refuse_another_store(run: RunDirectory, manifest: Manifest, store: Store) -> None:
    if manifest.store_hash != store.content_hash:
        raise InputError(
            f"--resume: run {run.id} is trained on another store ({manifest.store}, content hash "
            f"{str(manifest.store_hash)[:12]}; {store.path} has {store.content_hash[:12]}): give "
            "its store by --store"
        )


def _restore(trainer: Trainer, run: RunDirectory) -> bool:
    """Bring the trainer to the run's newest checkpoint; False where there is none."""
    before = run.read_config().training.epochs
    found = load_newest(run)
    if found is None and run.read_manifest().state == "finished":
        raise InputError(
            f"--resume: run {run.id} is finished and has no checkpoint to go on from: start a new "
            f"run from its weights by --init-from {run.path}"
        )
    if found is None:
        print(f"run {run.id} has no checkpoint yet: it begins again")
        return False
    state, step, path = found
    trainer.load_state(state)
    epochs = trainer.settings.epochs
    if epochs != before:
        if epochs < trainer.epoch:
            raise InputError(f"--epochs {epochs}: run {run.id} has done {trainer.epoch} already")
        print(f"epochs {before} -> {epochs}: the learning rate schedule is stretched to fit")
    print(f"resuming from step {step} of {trainer.total_steps} ({path.name})")
    return True


def evaluate(trainer: Trainer, run: RunDirectory) -> None:
    """Errors of the best weights on val and test, the test predictions, and the table of it all."""
    best = BestModel.load(run.best, trainer.device)
    reference = trainer.labels(trainer.train)
    metrics: dict[str, dict[str, PropertyMetrics]] = {}
    for split in ("val", "test"):
        indices = trainer.store.split_indices(split)
        labels = trainer.labels(indices)
        prediction = trainer.predict(best.model, indices)
        metrics[split] = metrics_by_property(trainer.properties, prediction, labels, reference)
        constant = constant_by_property(trainer.properties, labels, reference)
        print(f"\n{split}: {len(indices)} crystals, weights of epoch {best.epoch}")
        print(metrics_table(metrics[split], constant), flush=True)
        if split == "test":
            _write_predictions(trainer, run, prediction, indices)
    write_metrics(run, metrics)


def _write_predictions(
    trainer: Trainer,
    run: RunDirectory,
    prediction: npt.NDArray[np.float64],
    indices: npt.NDArray[np.int64],
) -> None:
    labels = trainer.labels(indices)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}{kind}" for name in trainer.properties for kind in ("", "_target")]
    writer.writerow(["id", *columns])
    for row, name in enumerate(trainer.store.ids(indices)):
        pairs = zip(prediction[row].tolist(), labels[row].tolist(), strict=True)
        values = ["" if math.isnan(value) else f"{value:.7g}" for pair in pairs for value in pair]
        writer.writerow([name, *values])
    write_atomically(run.predictions_test, text.getvalue())


def _record(trainer: Trainer, run: RunDirectory, state: State, message: str = "") -> None:
    run.update_manifest(state=state, message=message, **trainer.progress())
