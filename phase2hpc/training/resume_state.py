"""Restoring a trainer from the newest checkpoint of its run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from phase2hpc.checkpointing.manager import best_epoch, load_newest
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.runs.manifest import Manifest
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.trainer import Trainer
from phase2hpc.training.trainer_state import (
    DRAWS_UNLABELLED,
    NUMERICS_VERSION,
    load_state_dict,
    order_of,
)
from phase2hpc.utils.dependencies import installed_versions
from phase2hpc.utils.error_text import first_line

log = logging.getLogger(__name__)

# Packages whose version may change results.
PACKAGES_OF_RESULTS = ("phase2hpc", "torch", "e3nn", "numpy")


def check_store(run: RunDirectory, manifest: Manifest, store: Store, accept_changes: bool) -> None:
    """Raise InputError where the run was trained on a store with another content hash and that is
    not accepted. A submitted run has no hash yet."""
    if manifest.store_hash in (None, store.content_hash):
        return
    difference = (
        f"run {run.id} is trained on another store ({manifest.store}, content hash "
        f"{str(manifest.store_hash)[:12]}; {store.path} has {store.content_hash[:12]})"
    )
    if not accept_changes:
        raise InputError(
            f"--resume: {difference}: give its store with --store, or accept this one with "
            "--accept-changes"
        )
    print(difference)


def restore(trainer: Trainer, run: RunDirectory, *, accept_changes: bool) -> bool:
    """Load the run's newest checkpoint into the trainer; False if it has no checkpoint.

    Raises InputError for a checkpoint that does not match the model or needs accepted changes.
    """
    # On one rank: another node may still see an older state of the file system.
    saved, manifest, found = trainer.world.run_on_main(
        lambda: (run.read_config(), run.read_manifest(), load_newest(run))
    )
    if found is None and manifest.state == "finished":
        raise InputError(
            f"--resume: run {run.id} is finished and has no checkpoint to resume from: start a new "
            f"run from its weights by --init-from {run.path}"
        )
    if found is None:
        if manifest.state != "submitted":
            print(f"run {run.id} has no checkpoint yet: it starts from the beginning")
        return False
    state, step, path = found
    other_crystals = _check_numerics_version(trainer, state, path, accept_changes)
    # The checkpoint's own: a process killed before its first one leaves its settings in the
    # directory.
    order = state.get("order") or order_of(saved, manifest.store_hash)
    restart = other_crystals or order != order_of(trainer.config, trainer.store.content_hash)
    try:
        load_state_dict(trainer, state, restart_epoch=restart)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: does not fit the model of run {run.id} ({first_line(error)})"
        ) from error
    _replace_lost_best(trainer, run)
    before, epochs = saved.training.epochs, trainer.settings.epochs
    if epochs != before:
        if epochs < trainer.epoch:
            raise InputError(f"--epochs {epochs}: run {run.id} has done {trainer.epoch} already")
        print(f"epochs {before} -> {epochs}: the learning rate schedule is stretched to fit")
    if manifest.processes != trainer.world.size:
        print(
            f"processes {manifest.processes} -> {trainer.world.size}: same weights and crystals, "
            "but the result is not identical bit by bit"
        )
    _print_version_changes(manifest)
    print(f"resuming from step {step} of {trainer.total_steps} ({path.name})")
    return True


def _replace_lost_best(trainer: Trainer, run: RunDirectory) -> None:
    """Replace a missing or damaged best.pt by the current weights."""
    world = trainer.world
    if not trainer.best_epoch or world.run_on_main(lambda: best_epoch(run)) is not None:
        return
    lost, trainer.best_epoch = trainer.best_epoch, trainer.epoch
    trainer.best_score = trainer.history[-1]["val_score"]
    world.run_on_main(lambda: trainer.trained_model().save(run))
    if world.is_main:
        log.warning(
            "%s: the weights of epoch %d are lost and replaced by those of epoch %d",
            run.best, lost, trainer.epoch,
        )  # fmt: skip


def _check_numerics_version(
    trainer: Trainer, state: dict[str, Any], path: Path, accept_changes: bool
) -> bool:
    """True where the version that wrote the state drew other crystals.

    Raises InputError where its steps differ from this version's and that is not accepted.
    """
    there: int = state["numerics_version"]
    if there == NUMERICS_VERSION:
        return False
    unlabelled = trainer.crystals_without_label
    if there == DRAWS_UNLABELLED and not unlabelled:
        return False
    difference = f"numerics version {there} there, {NUMERICS_VERSION} here"
    if unlabelled:
        difference += (
            f"; crystals without a label of the run's properties, here {unlabelled:,}, are left out"
        )
    if not accept_changes:
        raise InputError(
            f"--resume: {path} was written by a phase2hpc whose steps compute other numbers "
            f"({difference}): resume with that version, or with this one and --accept-changes"
        )
    return unlabelled > 0


def _print_version_changes(manifest: Manifest) -> None:
    now = installed_versions()
    pairs = [
        f"{name} {manifest.versions[name]} -> {now.get(name, 'none')}"
        for name in PACKAGES_OF_RESULTS
        if name in manifest.versions and manifest.versions[name] != now.get(name)
    ]
    if pairs:
        print(f"package versions changed ({', '.join(pairs)}): results may differ in the last bits")
