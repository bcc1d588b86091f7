"""A model in training: one optimiser step, and the whole state that a later step depends on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from phase2hpc.checkpointing.rng_state import rng_state, set_rng_state
from phase2hpc.config.algorithms import ALGORITHMS
from phase2hpc.config.run_config import RunConfig
from phase2hpc.data.loader import CrystalData, make_loader
from phase2hpc.data.sampler import draw_subset
from phase2hpc.data.store.reader import Store
from phase2hpc.errors import InputError
from phase2hpc.inference.batched import compositions, predict
from phase2hpc.inference.devices import choose_device
from phase2hpc.inference.out_of_memory import naming_the_batch
from phase2hpc.inference.trained_model import TrainedModel
from phase2hpc.models.multitask import MultiTaskModel, build_model
from phase2hpc.training.compile import compiled, naming_the_compiler
from phase2hpc.training.distributed.world import World
from phase2hpc.training.ema import AveragedModel
from phase2hpc.training.loss import MultiTaskLoss
from phase2hpc.training.lr_schedule import learning_rate, parameter_groups
from phase2hpc.training.nonfinite_steps import NonfiniteSteps
from phase2hpc.training.target_scaler import TargetScaler, composition_baseline

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}
# Raised whenever a step computes other numbers than before: a run begun under another value is
# not resumed in silence. 1: phase2hpc 0.1.
NUMERICS_VERSION = 1


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed all generators whose state a checkpoint keeps; weights and dropout use torch's.

    Weights are equal on all ranks without this, so ``rank`` only matters for dropout.
    """
    key = seed if rank == 0 else int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key)


def _has_batch_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


class Interrupted(Exception):
    """A stop was asked for between two batches of an evaluation, on this rank or another."""


class Trainer:
    """Everything that a step needs and a resume restores.

    history: one record a finished epoch (``history.json``). best_score: the lowest mean over
    properties of val MAE / MAD so far, of epoch ``best_epoch`` (from 1; 0: none yet).
    loss_sums: (1 + P,) sums over this epoch's crystals of the loss and each property's;
    ``counted`` crystals went into it.
    """

    def __init__(self, config: RunConfig, store: Store, world: World | None = None) -> None:
        self.config, self.store, self.world = config, store, world or World()
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
        self._set_scaler(TargetScaler.fit(self.properties, labels))
        self.loader = make_loader(
            store,
            self.train,
            batch_size=self.settings.batch_size,
            seed=config.seed,
            dtype=self.dtype,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        seed_everything(config.seed)
        self.model = build_model(
            ALGORITHMS[config.algorithm], config.model, store.graph_settings, self.properties
        ).to(self.device, self.dtype)
        if self.world.size > 1 and self.settings.max_edges and _has_batch_statistics(self.model):
            raise InputError(
                f"--max-edges: {config.algorithm} normalises over the batch, which several "
                "processes can only do together: leave it out, or use more processes instead"
            )
        # Once: a store that does not fit the memory is read through for it.
        composition = compositions(store, self.train)
        self.elements: list[int] = np.flatnonzero(composition.sum(axis=0)).tolist()
        if self.settings.element_baseline:
            baseline = composition_baseline(composition, self.scaler.transform(labels))
            self.model.element.weight.data.copy_(baseline)
        # Nodes of other makes may round the first weights otherwise.
        self.world.broadcast(iter(self.model.state_dict().values()))
        if self.world.rank > 0:
            seed_everything(config.seed, self.world.rank)
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
        self.forward: Callable[[CrystalData], Tensor] = self.model
        if self.settings.compile:
            self.forward = compiled(self.model, self.device)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best_score = math.inf
        self.best_epoch = 0
        self.skipped = NonfiniteSteps()
        # Without a synchronisation a step.
        self.loss_sums = torch.zeros(
            1 + len(self.properties), device=self.device, dtype=torch.float64
        )
        self.counted = 0

    def _set_scaler(self, scaler: TargetScaler) -> None:
        self.scaler = scaler
        scaled = scaler.transform(self.labels(np.arange(len(self.store))))
        self.targets = torch.tensor(scaled, dtype=self.dtype, device=self.device)

    def labels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Labels (n, P) of crystals, NaN where missing."""
        missing = np.full(len(self.store), np.nan, dtype=np.float32)
        columns = [self.store.labels.get(p, missing)[indices] for p in self.properties]
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def epoch(self) -> int:
        """Epochs that are done, validation included."""
        return len(self.history)

    @property
    def total_steps(self) -> int:
        return len(self.loader) * self.settings.epochs

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        planned = learning_rate(self.settings, self.step, self.total_steps)
        return planned * self.skipped.rate_factor

    def initialise_from(self, best: TrainedModel) -> None:
        """Start from another run's weights: the encoder's, and heads of properties it shares."""
        best.copy_into(self.model)
        self.averaged = AveragedModel(self.model, self.settings.ema_decay)

    def optimise(
        self, parts: Iterator[CrystalData], global_batch_size: int, flags: Tensor | None = None
    ) -> bool:
        """One step on this rank's share of a batch, in parts whose gradients are added.

        False where the loss or the gradient was not finite: then nothing but the step number has
        changed. flags: summed over all ranks, in place.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(1 + len(self.properties), device=self.device, dtype=self.dtype)
        for part in parts:
            with naming_the_batch(part), naming_the_compiler():
                batch = part.to(self.device)
                with self._autocast():
                    prediction = self.forward(batch)
                loss, by_property = self.loss(
                    prediction.to(self.dtype),
                    self.targets[batch.index],
                    batch.weight,
                    global_batch_size,
                )
                loss.backward()
                sums += torch.cat([loss.detach().reshape(1), by_property])
        if flags is None:
            flags = sums.new_zeros(0)
        exchanged = torch.cat([sums, flags])
        self.world.all_reduce_gradients(
            [*self.model.parameters(), *self.loss.parameters()], exchanged
        )
        sums = exchanged[: len(sums)]
        flags.copy_(exchanged[len(sums) :])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        good = bool(torch.isfinite(norm + sums[0]))
        if good:
            self.optimizer.step()
            self.averaged.update(self.model, self.step)
            self.skipped.in_row = 0
            self.loss_sums += (sums * global_batch_size).to(self.loss_sums.dtype)
            self.counted += global_batch_size
        else:
            # Running statistics have seen the bad batch; the average has those of before.
            pairs = zip(self.model.buffers(), self.averaged.module.buffers(), strict=True)
            for buffer, before in pairs:
                buffer.copy_(before)
        self.step += 1
        return good

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    def predict(
        self,
        model: MultiTaskModel,
        indices: npt.NDArray[np.int64],
        before_each: Callable[[], None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Predictions (n, P) in physical units; never in bf16, as the predict command.

        Each rank computes its share and has the whole. before_each: called before each batch; if it
        raises Interrupted on one rank, every rank does once its share is done.
        """
        rows = np.arange(self.world.rank, len(indices), self.world.size)
        out = torch.zeros(len(indices), len(self.properties), dtype=torch.float64)
        interrupted = torch.zeros(1)
        try:
            out[rows] = torch.from_numpy(
                predict(
                    model,
                    self.scaler,
                    self.store,
                    indices[rows],
                    device=self.device,
                    dtype=self.dtype,
                    max_edges=self.settings.max_edges,
                    before_each=before_each,
                )
            )
        except Interrupted:
            interrupted += 1
        self.world.all_reduce(interrupted)
        if interrupted.item():
            raise Interrupted
        self.world.all_reduce(out)
        return out.numpy()

    def best_model(self) -> TrainedModel:
        """The averaged weights of now, with all that inference needs."""
        return TrainedModel(
            self.config,
            self.store.graph_settings,
            self.scaler,
            self.averaged.module,
            elements=self.elements,
            epoch=self.epoch,
            score=self.best_score,
        )

    def state(self) -> dict[str, Any]:
        """All that a later step depends on; every rank has to ask for it."""
        return {
            "numerics_version": NUMERICS_VERSION,
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.module.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sampler": self.loader.sampler.state_dict(),
            "rng": self.world.all_gather(rng_state()),
            "history": self.history,
            "loss_sums": self.loss_sums,
            "counted": self.counted,
            "skipped": self.skipped.state_dict(),
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
        }

    def load_state(self, state: dict[str, Any], *, restart_epoch: bool = False) -> None:
        """Go on where ``state`` was taken.

        restart_epoch: the order of crystals has changed since, so the epoch begins anew.
        """
        self.model.load_state_dict(state["model"])
        self.averaged.module.load_state_dict(state["averaged"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._set_scaler(TargetScaler.from_state_dict(state["scaler"]))
        self.history = state["history"]
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.step = state["step"]
        self.skipped = NonfiniteSteps(**state["skipped"])
        sampler = self.loader.sampler
        if restart_epoch:
            sampler.epoch, sampler.position = self.epoch, 0
            self.loss_sums.zero_()
            self.counted = self.skipped.in_epoch = 0
        else:
            sampler.load_state_dict(state["sampler"])
            self.loss_sums = state["loss_sums"].to(self.device)
            counted: int | None = state["counted"]
            begun = sampler.position * self.settings.batch_size
            self.counted = min(begun, len(self.train)) if counted is None else counted
        # With another number of ranks the first goes on with its numbers, the others begin new
        # ones: right, but not to the bit what it would have been.
        states = state["rng"]
        if self.world.rank < len(states):
            set_rng_state(states[self.world.rank])
        else:
            seed_everything(self.config.seed + self.step, self.world.rank)
