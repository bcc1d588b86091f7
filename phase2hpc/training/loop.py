"""Training loop of every algorithm, level and number of processes.

Stopping after any optimiser step and resuming gives the same weights, metrics and history (but for
wall-clock fields) as not stopping. All that a later step depends on is therefore in the trainer's
state. The stop flag and the clock are polled between steps, and between the batches of a validation
or an evaluation, which has no state of its own and begins anew.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from phase2hpc.checkpointing.manager import load_newest, save_checkpoint
from phase2hpc.errors import Phase2Error, StoppedEarly
from phase2hpc.inference.batched import Outputs
from phase2hpc.models.multitask import MultiTaskModel
from phase2hpc.runs.lease import Lease
from phase2hpc.runs.run_directory import RunDirectory
from phase2hpc.training.heartbeat import Heartbeat
from phase2hpc.training.loggers.epoch_logger import EpochLoggers, LoggedRun
from phase2hpc.training.metrics import metrics_by_property, score
from phase2hpc.training.nonfinite_steps import LOWER_RATE, MAX_CONSECUTIVE, RollbackRequired
from phase2hpc.training.stop_request import StopRequest
from phase2hpc.training.trainer import Interrupted, Trainer
from phase2hpc.training.trainer_state import load_state_dict, state_dict
from phase2hpc.utils.atomic_io import write_atomically
from phase2hpc.utils.progress import Progress
from phase2hpc.utils.time_format import format_duration

log = logging.getLogger(__name__)

# Crystals named in an error.
MAX_NAMED = 8


def epoch_line(
    record: dict[str, Any], epochs: int, best_epoch: int, seconds_left: float | None = None
) -> str:
    """One line per finished epoch. seconds_left: to the end of the run."""
    mae = "  ".join(
        f"{name} {value:.4g}" for name, value in record["val_mae"].items() if value is not None
    )
    mark = " *" if best_epoch == record["epoch"] else ""
    skipped = f"  ({record['skipped_steps']} steps skipped)" if record["skipped_steps"] else ""
    left = f"  {format_duration(seconds_left)} left" if seconds_left else ""
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  "
        f"val {record['val_score']:.4f}{mark}  {record['crystals_per_second']:.0f}/s  MAE: {mae}"
        f"{skipped}{left}"
    )


class TrainingLoop:
    """Trains to the last epoch and writes checkpoints and logs to the run directory.

    Every rank runs it; the main rank alone holds the ``lease`` and writes.
    """

    def __init__(
        self, trainer: Trainer, run: RunDirectory, stop: StopRequest, lease: Lease | None
    ) -> None:
        self.trainer, self.run, self.stop, self.lease = trainer, run, stop, lease
        self.settings, self.runtime = trainer.settings, trainer.config.runtime
        self._heartbeat = Heartbeat(trainer, lease)
        self._last_save = time.monotonic()
        # Wall-clock time and speed of this epoch since it was begun or resumed.
        self._seconds = self._per_second = 0.0
        self._validation_seconds = 0.0

    def fit(self) -> None:
        """Train to the last epoch.

        Raises StoppedEarly after saving the state where a stop is requested, and Phase2Error where
        steps are still not finite after the rollback.
        """
        trainer = self.trainer
        if trainer.step == 0:
            self._save()
        # A stop requested before now takes effect after one step: even with a time limit hardly
        # longer than the start-up, every restart makes progress.
        with self._loggers() as loggers:
            while trainer.epoch < self.settings.epochs and not self._out_of_patience():
                try:
                    # After a stop during validation the epoch is trained and not yet finished.
                    if trainer.loader.sampler.epoch == trainer.epoch:
                        self._train_epoch()
                except RollbackRequired:
                    self._roll_back()
                    continue
                self._end_epoch(loggers)
                self._stop_if_requested()
                if not trainer.skipped.consecutive or trainer.epoch == self.settings.epochs:
                    self._save()

    def _loggers(self) -> AbstractContextManager[EpochLoggers | None]:
        if self._writes:
            logged = LoggedRun(self.run, self.trainer.config, self.trainer.step)
            return EpochLoggers(self.runtime.log, logged)
        return nullcontext()

    @property
    def _writes(self) -> bool:
        return self.trainer.world.is_main

    def _train_epoch(self) -> None:
        trainer, crystals = self.trainer, len(self.trainer.train)
        done = min(trainer.loader.sampler.position * self.settings.batch_size, crystals)
        label = f"epoch {trainer.epoch + 1}/{self.settings.epochs}"
        trainer.train_mode()
        self._last_save = time.monotonic()
        with Progress(label, crystals, "crystals", done=done, quiet=not self._writes) as progress:
            for parts in trainer.loader.microbatches(self.settings.max_edges):
                size = min(self.settings.batch_size, crystals - progress.done)
                due = self._save_is_due()
                flags = self._flags(bool(self.stop), due)
                trainer.optimise(parts, size, flags)
                progress.advance(size, lambda: self._position_text(progress))
                self._heartbeat.beat(
                    progress, self._seconds_left(progress.per_second, progress.done)
                )
                ended = progress.done == crystals
                sync = ended or trainer.step % trainer.steps_between_syncs == 0
                stop, save = False, due
                # A single process has no other ranks to agree with.
                if flags is None:
                    stop = bool(self.stop)
                elif sync or self._is_step_of_a_save(trainer.step):
                    stop, save = map(bool, flags.tolist())
                if sync or stop or save:
                    self._count_steps()
                if ended:
                    continue  # The end of an epoch is saved after its validation.
                if stop:
                    self._save_and_stop()
                # Not between bad steps: a rollback to such a state would fail again.
                if save and not trainer.skipped.consecutive:
                    self._save()
            self._seconds, self._per_second = progress.seconds, progress.per_second

    def _save_is_due(self) -> bool:
        """True if the next step is followed by a save; False on all ranks but the main one."""
        by_step = self._is_step_of_a_save(self.trainer.step + 1)
        by_time = time.monotonic() - self._last_save > 60 * self.runtime.checkpoint_minutes
        return self._writes and (by_step or by_time)

    def _is_step_of_a_save(self, step: int) -> bool:
        every = self.runtime.checkpoint_steps
        return every is not None and step % every == 0

    def _flags(self, *flags: bool) -> torch.Tensor | None:
        """The flags that all ranks add up in the next step; None for a single process."""
        trainer = self.trainer
        if trainer.world.size == 1:
            return None
        return torch.tensor(flags, dtype=trainer.dtype, device=trainer.device)

    def _count_steps(self) -> None:
        """Count the steps since the last sync; as ``_skip_step`` for those that were not finite."""
        for step, good in self.trainer.outcomes():
            if not good:
                self._skip_step(step)

    def _skip_step(self, step: int) -> None:
        """Count a nonfinite step; roll back or raise Phase2Error after too many in a row."""
        trainer = self.trainer
        too_many = trainer.skipped.count()
        batch = self._names_of_batch(step)
        message = f"step {step}: the loss or its gradient is not finite"
        if self._writes:
            log.warning("%s: step skipped (crystals %s)", message, batch)
        if not too_many:
            return
        if not trainer.skipped.rolled_back:
            raise RollbackRequired
        raise Phase2Error(
            f"{message} for {MAX_CONSECUTIVE} steps in a row, and again after a rollback to a "
            f"lower learning rate; last batch: crystals {batch}. Check these crystals and their "
            "labels, or resume at a lower rate: --resume --accept-changes --lr RATE"
        )

    def _names_of_batch(self, step: int) -> str:
        """The crystals of a step of this epoch."""
        sampler = self.trainer.loader.sampler
        begin = (sampler.position - 1 - (self.trainer.step - step)) * sampler.batch_size
        indices = sampler.order(sampler.epoch)[begin : begin + sampler.batch_size]
        names = self.trainer.store.ids(indices[:MAX_NAMED])
        more = f" and {len(indices) - MAX_NAMED} more" if len(indices) > MAX_NAMED else ""
        return ", ".join(names) + more

    def _roll_back(self) -> None:
        """Continue from the last good checkpoint at a lower learning rate."""
        trainer, skipped = self.trainer, self.trainer.skipped
        found = trainer.world.run_on_main(lambda: load_newest(self.run))
        if found is None:
            raise Phase2Error(f"{self.run.path}: no checkpoint left to roll back to")
        total = skipped.total
        load_state_dict(trainer, found[0])
        trainer.skipped.total = total
        trainer.skipped.roll_back()
        # Saved at once, so that a restart does not use the higher rate again.
        self._save()
        if self._writes:
            log.warning(
                "%d steps in a row were not finite: rolled back to step %d, the learning rate is "
                "%g times the scheduled one from here on",
                MAX_CONSECUTIVE, trainer.step, LOWER_RATE,
            )  # fmt: skip

    def _end_epoch(self, loggers: EpochLoggers | None) -> None:
        trainer = self.trainer
        self._heartbeat.beat(phase="validating")
        begin, label = time.monotonic(), f"epoch {trainer.epoch + 1}/{self.settings.epochs} on val"
        outputs = self.infer_or_stop(trainer.averaged.module, trainer.val, label)
        self._validation_seconds = time.monotonic() - begin
        metrics = metrics_by_property(
            trainer.properties,
            outputs.physical(trainer.scaler),
            trainer.labels(trainer.val),
            trainer.labels(trainer.train),
        )
        losses = (trainer.loss_sums / max(1, trainer.counted)).tolist()
        last_rate = trainer.optimizer.param_groups[0]["lr"]
        record = {
            "epoch": trainer.epoch + 1,
            "step": trainer.step,
            "lr": last_rate,
            "train_loss": losses[0],
            "train_losses": dict(zip(trainer.outputs, losses[1:], strict=True)),
            "val_mae": {name: values["mae"] for name, values in metrics.items()},
            "val_score": score(metrics),
            "skipped_steps": trainer.skipped.in_epoch,
            "seconds": self._seconds,
            "crystals_per_second": self._per_second,
        }
        trainer.history.append(record)
        trainer.loss_sums.zero_()
        trainer.counted = trainer.skipped.in_epoch = 0
        if record["val_score"] < trainer.best_score:
            trainer.best_score, trainer.best_epoch = record["val_score"], trainer.epoch
            if self._writes:
                self.check_lease()
                trainer.trained_model().save(self.run, self.runtime.keep_best)
        left = self._seconds_left(self._per_second)
        if loggers is not None:
            loggers.write(record)
            line = epoch_line(record, self.settings.epochs, trainer.best_epoch, left)
            print(line, flush=True)

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.trainer.epoch - self.trainer.best_epoch >= patience

    def infer_or_stop(
        self, model: MultiTaskModel, indices: npt.NDArray[np.int64], label: str = "evaluating"
    ) -> Outputs:
        """``Trainer.infer_on_all_ranks`` that saves and stops between two batches where a stop is
        requested; an evaluation has no state of its own."""
        ranks = self.trainer.world.size
        with Progress(label, len(indices), "crystals", quiet=not self._writes) as progress:

            def before_each(done: int) -> None:
                if self.stop:
                    raise Interrupted
                # The other ranks have as much to do.
                progress.advance(min(done * ranks, len(indices)) - progress.done)

            try:
                return self.trainer.infer_on_all_ranks(model, indices, before_each)
            except Interrupted:
                self._save_and_stop()

    def _stop_if_requested(self) -> None:
        requested = torch.tensor([float(bool(self.stop))])
        self.trainer.world.all_reduce(requested)
        if requested.item():
            self._save_and_stop()

    def _save_and_stop(self) -> NoReturn:
        """Save and raise StoppedEarly on every rank, with the cause of the first rank with one."""
        self._save()
        trainer = self.trainer
        cause = next(filter(None, trainer.world.all_gather(self.stop.cause)))
        stopped = StoppedEarly(
            f"{cause.message}: state saved at step {trainer.step} of {trainer.total_steps}",
            cause.reason,
        )
        stopped.already_reported = not self._writes
        raise stopped

    def _save(self) -> None:
        state = state_dict(self.trainer)
        if self._writes:
            self.check_lease()
            write_atomically(self.run.history, json.dumps(self.trainer.history, indent=1) + "\n")
            save_checkpoint(self.run, state, self.trainer.step, self.runtime.keep_checkpoints)
            self.run.update_manifest(**self.progress())
        self._last_save = time.monotonic()

    def check_lease(self) -> None:
        """Raise LeaseLost if another process has taken the run."""
        if self.lease is not None:
            self.lease.check()

    def _position_text(self, progress: Progress) -> str:
        left = self._seconds_left(progress.per_second, progress.done)
        eta = "" if left is None else f", run {format_duration(left)} left"
        return f"loss {self.trainer.mean_loss():.4f}{eta}"

    def _seconds_left(self, per_second: float, done: int = 0) -> float | None:
        """To the end of the run, with validations as long as the last one; None if unknown.

        done: crystals of the present epoch.
        """
        epochs = self.settings.epochs - self.trainer.epoch
        crystals = epochs * len(self.trainer.train) - done
        return crystals / per_second + epochs * self._validation_seconds if per_second else None

    def progress(self) -> dict[str, Any]:
        """Progress of training, as keys of the manifest."""
        trainer = self.trainer
        scored = trainer.best_epoch > 0
        return {
            "step": trainer.step,
            "epoch": trainer.epoch,
            "best_score": trainer.best_score if scored else None,
            "best_epoch": trainer.best_epoch if scored else None,
            "skipped_steps": trainer.skipped.total,
        }
