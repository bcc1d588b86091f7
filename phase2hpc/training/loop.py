"""The training loop: one class for every algorithm, level and restart.

Stopping after any optimiser step and resuming gives the same weights, metrics and history (but
for wall-clock fields) as not stopping. So all that a later step depends on is in
``Trainer.state``, and the loop looks at the stop flag and the clock only between steps.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from phase2hpc.config import RunConfig
from phase2hpc.data.batches import CrystalData, make_loader
from phase2hpc.data.sampling import draw_subset
from phase2hpc.data.store import Store
from phase2hpc.errors import InputError, StoppedEarly
from phase2hpc.files import write_atomically
from phase2hpc.levels import ALGORITHMS
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.progress import Progress
from phase2hpc.runs import RunDirectory
from phase2hpc.training.best import BestModel
from phase2hpc.training.checkpoint import rng_state, save_checkpoint, set_rng_state
from phase2hpc.training.ema import AveragedModel
from phase2hpc.training.inference import choose_device, compositions, predict
from phase2hpc.training.loss import MultiTaskLoss
from phase2hpc.training.metrics import metrics_by_property, score
from phase2hpc.training.optimisation import learning_rate, parameter_groups
from phase2hpc.training.scalars import ScalarLog
from phase2hpc.training.scaling import Scaler, composition_baseline
from phase2hpc.training.stopping import StopRequest

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


def seed_everything(seed: int) -> None:
    """Seed all generators whose state a checkpoint keeps; weights and dropout use torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_line(record: dict[str, Any], epochs: int, best_epoch: int) -> str:
    """One line a finished epoch."""
    mae = "  ".join(
        f"{name} {value:.4g}" for name, value in record["val_mae"].items() if value is not None
    )
    mark = " *" if best_epoch == record["epoch"] else ""
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  "
        f"val {record['val_score']:.4f}{mark}  {record['crystals_per_second']:.0f}/s  MAE: {mae}"
    )


class Trainer:
    """A model in training: everything a step needs and everything a resume restores.

    history: one record a finished epoch (``history.json``). best_score: the lowest mean over
    properties of val MAE / MAD so far, of epoch ``best_epoch`` (from 1; 0: none yet).
    """

    def __init__(self, config: RunConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.settings = config.training
        self.device = choose_device(config.runtime.device)
        self.dtype = DTYPES[self.settings.precision]
        self.properties = config.properties
        self.val = store.split_indices("val")
        self.train = draw_subset(
            store.split_indices("train"), self.settings.max_samples, config.seed
        )
        for name, indices in (("train", self.train), ("val", self.val)):
            if len(indices) == 0:
                raise InputError(f"{store.path}: its {name} split is empty, prepare it again")
        if not np.isfinite(self.labels(self.val)).any():
            raise InputError(
                f"{store.path}: no crystal of its val split has a label of "
                f"{', '.join(self.properties)}, so there is no best epoch to choose: prepare it "
                "with another --split"
            )
        labels = self.labels(self.train)
        self.scaler = Scaler.fit(self.properties, labels)
        scaled = self.scaler.transform(self.labels(np.arange(len(store))))
        self.targets = torch.tensor(scaled, dtype=self.dtype, device=self.device)
        self.loader = make_loader(
            store,
            self.train,
            batch_size=self.settings.batch_size,
            seed=config.seed,
            dtype=self.dtype,
        )
        seed_everything(config.seed)
        self.model = build_model(
            ALGORITHMS[config.algorithm], config.model, store.graph_settings, self.properties
        ).to(self.device, self.dtype)
        # Once: a store that does not fit the memory is read through for it.
        composition = compositions(store, self.train)
        self.elements: list[int] = np.flatnonzero(composition.sum(axis=0)).tolist()
        if self.settings.element_baseline:
            baseline = composition_baseline(composition, self.scaler.transform(labels))
            self.model.element.weight.data.copy_(baseline)
        self.loss = MultiTaskLoss(
            torch.tensor(self.scaler.label_fraction, dtype=self.dtype),
            huber_delta=self.settings.huber_delta,
            learned_weights=self.settings.task_weights == "learned",
            label_weight_power=self.settings.label_weight_power,
        ).to(self.device)
        self.averaged = AveragedModel(self.model, self.settings.ema_decay)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.loss, self.settings.weight_decay),
            lr=self.settings.lr,
        )
        self.forward: Callable[[CrystalData], torch.Tensor] = self.model
        if self.settings.compile:
            self.forward = torch.compile(self.model, dynamic=True)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best_score = math.inf
        self.best_epoch = 0
        # Of the epoch in work since it was begun or resumed; the only fields that time enters.
        self.seconds = self.crystals_per_second = 0.0
        # Sums over this epoch's crystals of the loss and of each property's, without a sync a step.
        self.loss_sums = torch.zeros(
            1 + len(self.properties), device=self.device, dtype=torch.float64
        )

    def labels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Labels (n, P) of crystals, NaN where missing."""
        missing = np.full(len(self.store), np.nan, dtype=np.float32)
        columns = [self.store.labels.get(p, missing)[indices] for p in self.properties]
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def total_steps(self) -> int:
        return len(self.loader) * self.settings.epochs

    def initialise_from(self, best: BestModel) -> None:
        """Start from another run's weights: the encoder's, and heads of properties it shares."""
        best.copy_into(self.model)
        self.averaged = AveragedModel(self.model, self.settings.ema_decay)

    def fit(self, run: RunDirectory, stop: StopRequest) -> None:
        """Train to the last epoch, keeping everything in ``run``.

        Raises StoppedEarly once the state is saved, when ``stop`` is set.
        """
        with ScalarLog(run.tensorboard, self.step) as scalars:
            while self.epoch < self.settings.epochs and not self._out_of_patience():
                self._train_epoch(run, stop)
                self._end_epoch(run, scalars)
                self._save(run)
                self._stop_if_asked(run, stop)

    def _train_epoch(self, run: RunDirectory, stop: StopRequest) -> None:
        runtime = self.config.runtime
        crystals = len(self.train)
        done = min(self.loader.sampler.position * self.settings.batch_size, crystals)
        label = f"epoch {self.epoch + 1}/{self.settings.epochs}"
        self.model.train()
        last_save = time.monotonic()
        with Progress(label, crystals, "crystals", done=done) as progress:
            for batch in self.loader:
                size = min(self.settings.batch_size, crystals - progress.done)
                self._optimise(batch.to(self.device), size)
                progress.advance(size, lambda: self._loss_text(progress.done))
                if progress.done == crystals:
                    continue  # The end of an epoch is saved after its validation.
                due = time.monotonic() - last_save > 60 * runtime.checkpoint_minutes
                if due or (runtime.checkpoint_steps and self.step % runtime.checkpoint_steps == 0):
                    self._save(run)
                    last_save = time.monotonic()
                self._stop_if_asked(run, stop)
            self.seconds, self.crystals_per_second = progress.seconds, progress.per_second

    def _optimise(self, batch: CrystalData, global_batch_size: int) -> None:
        rate = learning_rate(self.settings, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast():
            prediction = self.forward(batch)
        target = self.targets[batch.index]
        loss, by_property = self.loss(
            prediction.to(self.dtype), target, batch.weight, global_batch_size
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.averaged.update(self.model, self.step)
        self.step += 1
        summed = torch.cat([loss.detach().reshape(1), by_property]) * global_batch_size
        self.loss_sums += summed.to(self.loss_sums.dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    def _loss_text(self, done: int) -> str:
        return f"loss {self.loss_sums[0].item() / done:.4f}"

    def _end_epoch(self, run: RunDirectory, scalars: ScalarLog) -> None:
        prediction = self.predict(self.averaged.module, self.val)
        metrics = metrics_by_property(
            self.properties, prediction, self.labels(self.val), self.labels(self.train)
        )
        losses = (self.loss_sums / len(self.train)).tolist()
        record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": learning_rate(self.settings, self.step - 1, self.total_steps),
            "train_loss": losses[0],
            "train_losses": dict(zip(self.properties, losses[1:], strict=True)),
            "val_mae": {name: values["mae"] for name, values in metrics.items()},
            "val_score": score(metrics),
            "seconds": self.seconds,
            "crystals_per_second": self.crystals_per_second,
        }
        self.history.append(record)
        self.loss_sums.zero_()
        if record["val_score"] < self.best_score:
            self.best_score, self.best_epoch = record["val_score"], self.epoch
            self.best_model().save(run)
        scalars.write(record)
        print(epoch_line(record, self.settings.epochs, self.best_epoch), flush=True)

    def predict(
        self, model: MultiTaskModel, indices: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Predictions (n, P) in physical units; never in bf16, as the predict command."""
        return predict(
            model, self.scaler, self.store, indices, device=self.device, dtype=self.dtype
        )

    def best_model(self) -> BestModel:
        """The averaged weights of now, with all that inference needs."""
        return BestModel(
            self.config,
            self.store.graph_settings,
            self.scaler,
            self.averaged.module,
            elements=self.elements,
            epoch=self.epoch,
            score=self.best_score,
        )

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.epoch - self.best_epoch >= patience

    def _stop_if_asked(self, run: RunDirectory, stop: StopRequest) -> None:
        if stop:
            self._save(run)
            raise StoppedEarly(
                f"{stop.reason}: state saved at step {self.step} of {self.total_steps}"
            )

    def _save(self, run: RunDirectory) -> None:
        write_atomically(run.history, json.dumps(self.history, indent=1) + "\n")
        save_checkpoint(run, self.state(), self.step, self.config.runtime.keep_checkpoints)
        run.update_manifest(**self.progress())

    def progress(self) -> dict[str, Any]:
        """How far training is, as the manifest says it."""
        scored = self.best_epoch > 0
        return {
            "step": self.step,
            "epoch": self.epoch,
            "best_score": self.best_score if scored else None,
            "best_epoch": self.best_epoch if scored else None,
        }

    def state(self) -> dict[str, Any]:
        """All that a later step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sampler": self.loader.sampler.state_dict(),
            "rng": rng_state(),
            "history": self.history,
            "loss_sums": self.loss_sums,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.model.load_state_dict(state["model"])
        self.averaged.module.load_state_dict(state["averaged"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler = Scaler.from_state_dict(state["scaler"])
        self.loader.sampler.load_state_dict(state["sampler"])
        set_rng_state(state["rng"])
        self.history = state["history"]
        self.loss_sums = state["loss_sums"].to(self.device)
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.step = state["step"]
